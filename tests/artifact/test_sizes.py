"""How small files are, against bounds that come from information theory and not from us."""

import os
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.artifact import inspect, load, save
from jaxcompress.artifact.entropy import Decoder, Encoder, plane
from jaxcompress.artifact.masks import mask
from jaxcompress.artifact.tallies import tallies
from jaxcompress.cluster.codebook import Codebook
from jaxcompress.prune.masked import Masked

CODERS = ["zstd", "constriction"]


def entropy_bytes(values):
    """Shannon's bound for independent values of their own frequencies."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


def sparse_mask(rows, columns, density, rng):
    """A mask whose rows and columns differ much in how full they are, and its exact cost under those probabilities."""
    odds = np.outer(rng.gamma(0.3, size=rows), rng.gamma(0.5, size=columns))
    p = np.clip(odds * density / odds.mean(), 1e-9, 0.95)
    drawn = rng.random((rows, columns)) < p
    return drawn, -np.log2(np.where(drawn, p, 1 - p)).sum() / 8


def lenet5(rng):
    """A pruned and clustered LeNet-5 as Deep Compression leaves it, at 0.9 % density."""

    def kernel(shape, density):
        drawn = sparse_mask(int(np.prod(shape[:-1])), shape[-1], density, rng)[0].reshape(shape)
        codes = np.where(drawn, rng.integers(0, 8, shape), 0).astype(np.uint8)
        codebook = jnp.asarray(rng.standard_normal(8), jnp.float32)
        return Masked(Codebook.create(jnp.asarray(codes), codebook), jnp.asarray(drawn))

    shapes = {"Conv_0": (5, 5, 1, 20), "Conv_1": (5, 5, 20, 50), "Dense_0": (800, 500), "Dense_1": (500, 10)}
    densities = {"Conv_0": 0.4, "Conv_1": 0.04, "Dense_0": 0.006, "Dense_1": 0.08}
    return {
        "params": {
            name: {"kernel": kernel(shape, densities[name]), "bias": jnp.zeros(shape[-1])}
            for name, shape in shapes.items()
        }
    }


RECIPE = {
    "version": 1,
    "stages": [
        {"stage": "prune.Magnitude", "version": 1, "sparsity": 0.99, "scope": "global", "where": None},
        {"stage": "train.Finetune", "version": 1, "steps": 2000, "learning_rate": 0.001},
        {"stage": "cluster.KMeans", "version": 1, "bits": 3, "init": "linear", "where": None},
    ],
    "seed": 0,
}


@pytest.fixture(scope="module")
def small():
    return lenet5(np.random.default_rng(0))


def test_overhead_is_small(small, tmp_path):
    """Everything that is not weights: at 300 times, LeNet-5 has 5,750 bytes, of which 5 % is 290."""
    for coder in CODERS:
        save(tmp_path / coder, small, coder=coder)
        assert load(tmp_path / coder).sizes["(header)"] < 160
        save(tmp_path / coder, small, coder=coder, recipe=RECIPE)
        assert load(tmp_path / coder).sizes["(header)"] < 290
    assert load(tmp_path / "constriction").sizes["(header)"] < 190


def test_codes_and_masks_reach_their_entropy(small, tmp_path):
    masks = codes = 0.0
    for layer in small["params"].values():
        keep = np.asarray(layer["kernel"].mask)
        masks += entropy_bytes(keep)
        codes += entropy_bytes(np.asarray(layer["kernel"].values.codes)[keep])
    for coder in CODERS:
        save(tmp_path / coder, small, coder=coder)
        sizes = load(tmp_path / coder).sizes
        spent = {part: sum(n for path, n in sizes.items() if path.endswith(part)) for part in ("mask", "codes", "bias")}
        # zstd: Huffman and whole bytes. constriction: learning 8 frequencies costs 7/2 log2(n) bits a layer, about 20
        # bytes; rows and columns are told apart, so that a mask takes less than independent entries would.
        assert spent["codes"] < codes * (1.12 if coder == "zstd" else 1.03)
        assert spent["mask"] < masks * (1.12 if coder == "zstd" else 0.85)
    assert spent["bias"] <= 16  # four vectors of zeros


def test_strongest_beats_default_beats_zipped_dense(small, tmp_path):
    dense = b"".join(np.asarray(leaf["kernel"].materialize()).tobytes() for leaf in small["params"].values())
    strongest, default = (save(tmp_path / "a", small, coder=coder) for coder in ("constriction", "zstd"))
    assert strongest < 0.9 * default
    assert default < 0.6 * len(zlib.compress(dense, 9))


@pytest.mark.parametrize("coder", CODERS)
def test_same_input_same_bytes(coder, small, tmp_path):
    for name in "ab":
        save(tmp_path / name, small, coder=coder, recipe=RECIPE, meta={"error": 0.8})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_reports_add_up(small, tmp_path):
    size = save(tmp_path / "a", small, coder="constriction")
    artifact = load(tmp_path / "a")
    assert size == os.path.getsize(tmp_path / "a") == artifact.file_bytes == inspect(tmp_path / "a")["file_bytes"]
    assert sum(artifact.stored.values()) == size
    kernel = sum(n for path, n in artifact.sizes.items() if path.startswith("params/Dense_0/kernel/"))
    assert artifact.stored["params/Dense_0/kernel"] == kernel > 2000


def test_recipe_meta_and_versions_come_back(tmp_path):
    class Recipe:
        def to_json(self):
            return '{"stages": [1, 2]}'

    class Result:
        params, recipe = {"w": jnp.ones(2)}, Recipe()

    save(tmp_path / "a", Result(), meta={"seed": 3, "notes": ("å", None, 0.1)})
    artifact = load(tmp_path / "a")
    assert artifact.recipe == {"stages": [1, 2]}
    assert artifact.meta == {"seed": 3, "notes": ["å", None, 0.1]}
    assert artifact.versions["jax"] == jax.__version__
    assert inspect(tmp_path / "a")["recipe"] == artifact.recipe
    save(tmp_path / "a", Result(), recipe=RECIPE)
    assert load(tmp_path / "a").recipe == RECIPE
    save(tmp_path / "a", Result().params)
    assert load(tmp_path / "a").recipe is load(tmp_path / "a").meta is None


def test_bind_runs_the_model(small, tmp_path):
    class LeNet(nn.Module):
        @nn.compact
        def __call__(self, x):
            for features in (20, 50):
                x = nn.max_pool(nn.Conv(features, (5, 5), padding="VALID")(x), (2, 2), (2, 2))
            x = nn.relu(nn.Dense(500)(x.reshape(x.shape[0], -1)))
            return nn.Dense(10)(x)

    save(tmp_path / "a", small)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 28, 28, 1)), jnp.float32)
    dense = jax.tree.map(
        lambda leaf: getattr(leaf, "materialize", lambda: leaf)(), small, is_leaf=lambda n: hasattr(n, "mask")
    )
    expected = LeNet().apply(dense, x)
    # The same numbers are multiplied; XLA may order the sums of up to 800 products differently.
    np.testing.assert_allclose(load(tmp_path / "a").bind(LeNet().apply)(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 100, 20_000])
def test_adaptive_frequencies_cost_little(count):
    """Learning k frequencies costs about (k - 1) / 2 * log2(n) bits (Krichevsky, Trofimov); twice that is allowed."""
    values = np.minimum(np.random.default_rng(2).geometric(0.3, count) - 1, 15).astype(np.uint8)
    io = Encoder()
    plane(io, values, count)
    assert io.cost_bits / 8 < entropy_bytes(values) + 15 / 8 * np.log2(count + 1) + 4
    stored = io.to_bytes()
    assert len(stored) <= io.cost_bits / 8 + 8
    reader = Decoder(stored)
    assert np.array_equal(plane(reader, None, count), values)
    reader.finish()


def test_tallies_of_every_magnitude():
    rng = np.random.default_rng(3)
    values = np.concatenate([np.arange(70), 2 ** rng.integers(0, 40, 50) + rng.integers(0, 9, 50), [2**40]])
    io = Encoder()
    tallies(io, values, values.size, 2**40)
    assert np.array_equal(tallies(Decoder(io.to_bytes()), None, values.size, 2**40), values)


@pytest.mark.parametrize(("rows", "columns", "density"), [(800, 500, 0.006), (300, 200, 0.1), (40, 2000, 0.02)])
def test_masks_cost_what_their_rows_and_columns_leave_open(rows, columns, density):
    """Between the cost under the true probabilities, which nobody knows, and that of independent entries."""
    drawn, known = sparse_mask(rows, columns, density, np.random.default_rng(4))
    io = Encoder()
    mask(io, drawn, drawn.shape)
    assert io.cost_bits / 8 < 0.87 * entropy_bytes(drawn)
    # The rows' and columns' numbers must be told first; with 20 entries in a row on average, that is up to 5 bits each.
    assert io.cost_bits / 8 < known + (rows + columns) * 5 / 8
    reader = Decoder(io.to_bytes())
    assert np.array_equal(mask(reader, None, drawn.shape), drawn)
    reader.finish()


def test_masks_without_structure_cost_no_more_than_independent_entries():
    for density in (0.001, 0.05, 0.5, 0.99):
        drawn = np.random.default_rng(5).random((120, 150)) < density
        io = Encoder()
        mask(io, drawn, drawn.shape)
        assert io.cost_bits / 8 < entropy_bytes(drawn) + 6
