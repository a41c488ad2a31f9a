"""AdaRound: the objective against every rounding of a small layer, direction, masks, stacks."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.prune import Masked
from jaxcompress.quantize import adaround, rtn

F, R = 6, 8


def layer(seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(40, F)) @ (np.eye(F) + 0.6 * random.normal(size=(F, F)))
    params = {"w": jnp.asarray(random.normal(size=(F, R)), jnp.float32)}
    x = jnp.asarray(x, jnp.float32)
    return params, x, jc.observe(lambda p, x: x @ p["w"], params, [x], what="second_moment")


def errors(w, q, x):
    """Squared output error of every output, in float64."""
    return np.sum(np.square(np.float64(x) @ (np.float64(w) - np.float64(q))), 0)


def best_of_all(w, scale, x, bits):
    """The least error of the 2^F ways to round a column up or down."""
    top = 2 ** (bits - 1) - 1
    low = np.floor(np.float64(w) / scale)
    ups = np.array(list(itertools.product((0, 1), repeat=F)))  # [ways, F]
    q = np.clip(low[None] + ups[..., None], -top, top) * scale  # [ways, F, R]
    return np.min(np.sum(np.square(np.einsum("nf,wfr->wnr", np.float64(x), np.float64(w)[None] - q)), 1), 0)


def test_near_the_best_of_all_roundings_and_never_worse_than_nearest():
    gaps = []
    for seed in range(3):
        params, x, stats = layer(seed)
        got, plain = adaround(params, stats, ranges="mse")["w"], rtn(params, bits=4, ranges="mse")["w"]
        codes = np.asarray(got.materialize() / got.scale)
        assert np.abs(codes - np.round(codes)).max() < 1e-4
        assert (np.abs(np.float64(params["w"]) / np.float64(got.scale) - codes)[np.abs(codes) < 7] < 1.0001).all()
        same_grid = np.clip(np.round(params["w"] / got.scale), -7, 7) * got.scale  # its scales are weighted by the data
        ours, nearest = (errors(params["w"], q, x) for q in (got.materialize(), same_grid))
        assert (ours <= nearest * (1 + 1e-4)).all()
        best = best_of_all(params["w"], np.float64(got.scale), x, 4)
        assert (ours >= best * (1 - 1e-4)).all()
        gaps.append((ours.sum() - best.sum()) / (nearest.sum() - best.sum()))
        assert ours.sum() < errors(params["w"], plain.materialize(), x).sum()
    assert np.mean(gaps) < 0.4  # of what there is to win over rounding to nearest, more than half is won


def test_masks_and_zero_points():
    params, x, stats = layer(5)
    mask = np.random.default_rng(0).random((F, R)) < 0.6
    masked = {"w": Masked.create(jnp.where(mask, params["w"], 0), jnp.asarray(mask))}
    leaf = adaround(masked, stats)["w"]
    assert (np.asarray(leaf.materialize())[~mask] == 0).all()
    np.testing.assert_array_equal(leaf.mask, mask)
    uneven = {"w": params["w"] + 2}
    leaf = adaround(uneven, stats, bits=3, symmetric=False)["w"]
    plain = rtn(uneven, bits=3, symmetric=False, ranges="mse")["w"]
    assert errors(uneven["w"], leaf.materialize(), x).sum() < errors(uneven["w"], plain.materialize(), x).sum()


def test_layers_of_a_stack_are_as_if_alone():
    (a, _, seen_a), (b, _, seen_b) = layer(6), layer(7)
    stack = {"w": jnp.stack([a["w"], b["w"]])}
    entry, other = seen_a["w"][0], seen_b["w"][0]
    both = np.stack([entry["second_moment"], other["second_moment"]])
    observations = jc.core.observe.Observations(
        [
            jc.core.observe.dataclasses.replace(
                entry, contracting=(1,), stack=(0,), count=np.array([40, 40]), values={"second_moment": both}
            )
        ]
    )
    whole = adaround(stack, observations, steps=100)["w"].materialize()
    for i, (params, stats) in enumerate(((a, seen_a), (b, seen_b))):
        np.testing.assert_array_equal(whole[i], adaround(params, stats, steps=100)["w"].materialize())


def test_bad_options():
    params, _, stats = layer(0)
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        adaround(params, stats, steps=0)
    with pytest.raises(ValueError, match=r"warm_up must be in \[0, 1\], got 2"):
        adaround(params, stats, warm_up=2)
    with pytest.raises(ValueError, match="adaround: bits must be"):
        adaround(params, stats, bits=12)
    for bits in (1, {"**": 1}):
        with pytest.raises(ValueError, match="bits must be 2 or more, got 1"):
            adaround(params, stats, bits=bits)
