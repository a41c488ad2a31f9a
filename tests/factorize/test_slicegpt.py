"""SliceGPT: turning changes nothing, deleting what is empty changes nothing, deleting little changes little."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcompress as jc
from jaxcompress.factorize import slice_residual
from jaxcompress.factorize.slicegpt import principal_directions
from tests.core.rotation.cases import CASES, H, assert_same
from tests.zoo import ZOO
from tests.zoo.model import arrays, data

N, WIDTH = 12, 20


def stream(p, x):
    """A residual stream between two layers, gains of their own."""
    h = x @ p["in"]
    for i in (0, 1):
        norm = h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5) * p[f"gain{i}"][None]
        h = h + jax.nn.silu(norm @ p[f"up{i}"]) @ p[f"down{i}"]
    return h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5) @ p["out"]


SHAPES = {"in": (8, N), "out": (N, 5)}
SHAPES |= {f"{name}{i}": shape for i in (0, 1) for name, shape in
           (("gain", (N,)), ("up", (N, WIDTH)), ("down", (WIDTH, N)))}  # fmt: skip


def correlated(rank=N):
    """Parameters whose stream has most of its energy in a few directions, none in others than ``rank``."""
    params = arrays(**SHAPES)
    basis = np.linalg.qr(np.random.RandomState(3).standard_normal((N, N)))[0][:, :rank]
    squeeze = jnp.asarray(basis * 0.7 ** np.arange(rank) @ basis.T, jnp.float32)
    return {name: leaf @ squeeze if name in ("in", "down0", "down1") else leaf for name, leaf in params.items()}


BATCHES = [data(64, 8, seed=seed) for seed in (1, 2)]
run = jax.jit(stream)


def test_turned_it_computes_the_same_and_less_is_smaller() -> None:
    params = correlated()
    before = jax.tree.map(np.array, params)
    sliced = slice_residual(stream, params, BATCHES, fraction=0.3, round_to=4)
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert sliced.kept == 12 - 4 == 8  # round(3.6) = 4 deleted
    assert {path for path, _ in sliced.keep} == set(SHAPES)
    assert_same(run(sliced.params, BATCHES[0]), run(params, BATCHES[0]))
    small = jc.shrink(stream, sliced.params, sliced.keep)
    assert {name: leaf.shape for name, leaf in small.params.items()} == {
        name: tuple(8 if size == N else size for size in shape) for name, shape in SHAPES.items()
    }
    assert jc.verify(stream, sliced.params, sliced.keep, BATCHES[0])  # the mean of squares keeps the divisor 12
    np.testing.assert_allclose(sliced.matrix.T @ sliced.matrix, np.eye(N), atol=1e-12)
    assert (np.diff(sliced.energies) <= 0).all()
    assert repr(sliced).startswith("Sliced(8 of 12 directions kept, ")
    assert 0 < sliced.lost < 0.1


def test_empty_directions_cost_nothing() -> None:
    params = correlated(rank=7)
    sliced = slice_residual(stream, params, BATCHES, keep=7)
    assert sliced.lost < 1e-6  # of moments in float32
    small = jc.shrink(stream, sliced.params, sliced.keep)
    x = data(9, 8, seed=5)
    assert_same(small.fn(small.params, x), run(params, x))


def output_error(params, keep):
    small = jc.shrink(stream, params, keep)
    x = data(256, 8, seed=9)
    return float(jnp.square(small.fn(small.params, x) - run(correlated(), x)).mean())


def test_principal_directions_lose_less_than_channels() -> None:
    params = correlated()
    sliced = slice_residual(stream, params, BATCHES, keep=9)
    stats = jc.observe(stream, jc.core.rotation.fold_gains(params, sliced.rotation), BATCHES, what="second_moment")
    energy = sum(np.diag(stats[name][0]["second_moment"]) for name in ("up0", "up1", "out"))
    best = np.sort(np.argsort(-energy)[:9])
    channels = output_error(params, dict.fromkeys(sliced.rotation.axes, best))
    last = output_error(sliced.params, dict.fromkeys(sliced.rotation.axes, np.arange(3, N)))
    ours = output_error(sliced.params, sliced.keep)
    assert ours < 0.3 * channels
    assert ours < 0.01 * last


def test_directions_are_those_of_the_data_itself() -> None:
    """Against a singular value decomposition of the rows that meet the kernels, in float64."""
    params = correlated()
    sliced = slice_residual(stream, params, BATCHES, keep=6)
    folded = jc.core.rotation.fold_gains(params, sliced.rotation)
    x = np.concatenate(BATCHES).astype(np.float64)
    p = {name: np.asarray(leaf, np.float64) for name, leaf in folded.items()}
    h, rows = x @ p["in"], []
    for i in (0, 1, None):
        rows.append(h / np.sqrt((h * h).mean(-1, keepdims=True) + 1e-5))
        if i is not None:
            inner = rows[-1] @ p[f"up{i}"]
            h = h + inner / (1 + np.exp(-inner)) @ p[f"down{i}"]
    _, s, vt = np.linalg.svd(np.concatenate(rows) / np.sqrt(3 * len(x)), full_matrices=False)
    np.testing.assert_allclose(sliced.energies, s**2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(sliced.matrix[:, :6] * vt[:6].T, 0)), 1, atol=1e-4)


def test_weights_choose_whose_data_count() -> None:
    params = correlated()
    readers = ("up0", "up1", "out")
    stats = jc.observe(stream, params | {"gain0": jnp.ones(N), "gain1": jnp.ones(N)}, BATCHES, what="second_moment")
    only = slice_residual(stream, params, BATCHES, keep=6, weights={"up1": 0.0, "out": 0.0})
    energies, _ = principal_directions(stats["up0"][0]["second_moment"])
    np.testing.assert_allclose(only.energies, energies, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="weights= names 'in'; the stream is read by"):
        slice_residual(stream, params, BATCHES, keep=6, weights={"in": 2.0})
    with pytest.raises(ValueError, match="must be positive"):
        slice_residual(stream, params, BATCHES, keep=6, weights=dict.fromkeys(readers, 0.0))


@pytest.mark.parametrize(
    "name", [pytest.param("llama_plain", marks=pytest.mark.slow), "llama_flax", "attention_fused_gqa"]
)
def test_models_of_the_zoo(name: str) -> None:
    model = ZOO[name].model
    sliced = slice_residual(model.fn, model.params, [model.inputs], fraction=0.25, round_to=1)
    fn = jax.jit(model.fn)
    assert_same(fn(sliced.params, *model.inputs), fn(model.params, *model.inputs))
    assert jc.verify(model.fn, sliced.params, sliced.keep, *model.inputs, tolerance=1e-4)
    small = jc.shrink(model.fn, sliced.params, sliced.keep)
    assert jc.stored_bytes(small.params) < 0.8 * jc.stored_bytes(model.params)


def test_a_stream_contracted_together_with_another_axis() -> None:
    """Parts of the stream meet a kernel over (parts, channels) at once: the moment is traced over the parts."""

    def fn(p, x):
        return jnp.einsum("bsd,sdo->bo", jnp.einsum("bsi,id->bsd", x, p["in"]), p["out"])

    params, x = arrays(**{"in": (4, 6), "out": (3, 6, 2)}), data(32, 3, 4)
    sliced = slice_residual(fn, params, [x], keep=4)  # of rank 4
    rows = np.asarray(x, np.float64).reshape(-1, 4) @ np.asarray(params["in"], np.float64)
    np.testing.assert_allclose(sliced.energies, np.linalg.eigvalsh(rows.T @ rows / 32)[::-1], rtol=1e-4, atol=1e-5)
    small = jc.shrink(fn, sliced.params, sliced.keep)
    assert_same(small.fn(small.params, x), fn(params, x))


def test_what_follows_takes_the_small_model(tmp_path) -> None:
    sliced = slice_residual(stream, correlated(), BATCHES, keep=8)
    small = jc.shrink(stream, sliced.params, sliced.keep)
    x = BATCHES[0]
    sites = jc.sites(small.fn, small.params, x)
    packed = jc.quantize.rtn(jc.prune.magnitude(small.params, sparsity=0.1, sites=sites), bits=8, sites=sites)
    y = jc.lift(small.fn)(packed, x)
    assert 0 < np.abs(y - small.fn(small.params, x)).max() < 1
    assert not [line for line in jc.explain(small.fn, packed, x).materialized if line.primitive == "-"]
    jc.save(tmp_path / "small.jxc", small.with_params(packed))
    np.testing.assert_array_equal(jc.load(tmp_path / "small.jxc").bind(stream)(x), y)
    stats = jc.observe(stream, sliced.params, BATCHES, what="second_moment")
    refitted = jc.prune.reconstruct(sliced.params, stats, sliced.keep)
    assert output_error(refitted, sliced.keep) < output_error(sliced.params, sliced.keep)


def test_no_second_compilation(compilations) -> None:
    params = correlated()
    method = functools.partial(slice_residual, stream, keep=8)
    method(params, BATCHES)
    others = jax.tree.map(lambda leaf: leaf * 1.5, params)
    before = compilations()
    method(others, BATCHES)
    assert compilations() == before


def test_what_it_refuses() -> None:
    params = correlated()
    cut = functools.partial(slice_residual, stream, params, BATCHES)
    with pytest.raises(ValueError, match="give fraction= or keep=, got fraction=None and keep=None"):
        cut()
    with pytest.raises(ValueError, match=r"fraction must be between 0 and 1, got 1\.0"):
        cut(fraction=1.0)
    with pytest.raises(ValueError, match=r"fraction=0\.1 of 12 directions, rounded to multiples of 8, deletes none"):
        cut(fraction=0.1)
    for keep in (0, N, N + 1):
        with pytest.raises(ValueError, match=f"keep must be from 1 to 11, got {keep}"):
            cut(keep=keep)
    with pytest.raises(ValueError, match="round_to must be positive, got 0"):
        cut(fraction=0.5, round_to=0)
    with pytest.raises(ValueError, match="gave no batch"):
        slice_residual(stream, params, [], keep=4)
    with pytest.raises(ValueError, match=r"met 'up0' .* in batch 1"):
        slice_residual(stream, params, [BATCHES[0], BATCHES[1].at[3].set(jnp.nan)], keep=4)
    with pytest.raises(KeyError, match="0 rotations turn 'nowhere'"):
        cut(keep=4, at="nowhere")


def test_models_without_such_a_stream() -> None:
    x = data(4, 6)
    fn, shapes, _ = CASES["relu"]
    with pytest.raises(ValueError, match=r"no axis of the parameters can be turned:\n  a axis 0: an axis of the input"):
        slice_residual(fn, arrays(**shapes), [x], keep=4)
    fn, shapes, _ = CASES["layer_norm"]
    with pytest.raises(ValueError, match=r"the stream's mean counts \(a sum over it, at cases.py"):
        slice_residual(fn, arrays(**shapes), [x], keep=4)
    fn, shapes, _ = CASES["scores"]
    with pytest.raises(ValueError, match="no kernel contracts the stream"):
        slice_residual(fn, arrays(**shapes), [x], keep=H - 1)


@pytest.mark.slow
def test_principal_directions_by_hand() -> None:
    energies, matrix = principal_directions([[2.0, 1.0], [1.0, 2.0]])  # eigenvectors (1, 1) and (1, -1)
    np.testing.assert_allclose(energies, [3, 1])
    np.testing.assert_allclose(np.abs(matrix), np.sqrt(0.5))
    assert matrix[0, 0] == pytest.approx(matrix[1, 0])
    with pytest.raises(ValueError, match=r"square matrix, got the shape \(2, 3\)"):
        principal_directions(np.ones((2, 3)))
    with pytest.raises(ValueError, match="NaN or infinity"):
        principal_directions(np.full((2, 2), np.inf))
