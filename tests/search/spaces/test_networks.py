"""Costs of image blocks and texts, against the very networks built in Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.search.spaces import ImageBlocks, Text
from tests.search.spaces.networks import Images, Texts, counted

pytestmark = pytest.mark.standard_promotion


def test_image_blocks():
    """Every kind with and without a stride; an odd size, so that halves are rounded."""
    family = ImageBlocks(classes=7, channels=1, size=27, widths=(16, 32), stages=2, depth=(1, 4))
    space = family.space()
    plain, residual = {"kind": "plain", "kernel": 5}, {"kind": "residual", "kernel": 3}
    dilated = {"kind": "dilated", "dilation": 4}
    first, *others = ({"kind": "inception", "split": split} for split in ((2, 4, 1, 1), (0, 4, 4, 0), (0, 8, 0, 0)))
    stages = [
        ((16, [residual, plain, first]), (32, [first, dilated, *others])),
        ((32, [dilated]), (16, [residual, plain])),
        ((16, [first]), (16, [residual])),
        ((16, [others[0]]), (32, [plain, residual])),
        ((32, [plain]), (32, [dilated])),
    ]
    configs = [{"stages": [{"width": width, "blocks": blocks} for width, blocks in both]} for both in stages]
    costs = jax.jit(jax.vmap(family.costs))(space.decode(space.encode(configs)))
    x = jnp.zeros((1, 27, 27, 1))
    expected = [counted(Images(config, 7), x) for config in configs]
    assert costs.parameters.tolist() == [parameters for parameters, _ in expected]
    np.testing.assert_allclose(costs.flops, [flops for _, flops in expected], rtol=1e-6)


def test_texts():
    family = Text(vocabulary=500, classes=6, length=12, embeddings=(16, 32), filters=(8, 12), units=(10, 20))
    space = family.space()
    assert space.size == np.inf
    bodies = [
        {"kind": "cnn", "convolutional": {"filters": 8, "layers": 1, "windows": [3, 4, 5]}},
        {"kind": "cnn", "convolutional": {"filters": 12, "layers": 3, "windows": [2]}},
        {"kind": "lstm", "recurrent": {"units": 20, "layers": 2, "both": True}},
        {"kind": "gru", "recurrent": {"units": 20, "layers": 3, "both": True}},
        {"kind": "gru", "recurrent": {"units": 10, "layers": 2, "both": False}},
    ]
    configs = [{"embedding": 16, "dropout": 0.0, **body} for body in bodies]
    costs = jax.jit(jax.vmap(family.costs))(space.decode(space.encode(configs)))
    words = jnp.zeros((1, 12), jnp.int32)
    expected = [counted(Texts(config, 500, 6), words) for config in configs]
    assert costs.parameters.tolist() == [parameters for parameters, _ in expected]
    np.testing.assert_allclose(costs.flops, [flops for _, flops in expected], rtol=1e-6)
