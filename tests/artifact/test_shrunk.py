"""Shrunk models in files: what they kept comes back, bound to the dense function; lies about it are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcompress.artifact import ArtifactError, container, inspect, keeps, load, manifest, save
from jaxcompress.core.lift import lift
from jaxcompress.core.shrink import shrink
from jaxcompress.quantize.affine import Quantized
from tests.zoo.model import data

WIDTH = 300
KEPT = np.flatnonzero(np.arange(WIDTH) * 7 % 11 < 5)
PARAMS = {"a": {"kernel": data(4, WIDTH)}, "b": {"kernel": data(WIDTH, 3, seed=2)}, "c": data(3, 3, seed=3)}
KEEP = {("a/kernel", 1): KEPT, ("b/kernel", 0): KEPT, ("c", 0): [0, 1], ("b/kernel", 1): [0, 1]}
X = data(5, 4, seed=4)


def fn(params, x):
    return jnp.tanh(x @ params["a"]["kernel"]) @ params["b"]["kernel"] @ params["c"]


@pytest.mark.parametrize("coder", ["zstd", "constriction"])
def test_round_trip(coder, tmp_path):
    small = shrink(fn, PARAMS, KEEP)
    save(tmp_path / "a", small, coder=coder, meta="m")
    artifact = load(tmp_path / "a")
    assert artifact.meta == "m"
    assert artifact.shapes == small.shapes
    assert {key: kept.tolist() for key, kept in artifact.keep.items()} == {
        key: kept.tolist() for key, kept in small.keep.items()
    }
    jax.tree.map(np.testing.assert_array_equal, artifact.params, small.params)
    bound = artifact.bind(fn)
    np.testing.assert_array_equal(bound(X), small.fn(small.params, X))
    np.testing.assert_allclose(bound(X[:2]), bound(X)[:2], rtol=1e-5, atol=1e-5)
    assert inspect(tmp_path / "a")["shrunk"] is True
    save(tmp_path / "b", artifact, coder=coder, meta="m")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_was_kept_costs_a_bitmask_at_most(tmp_path):
    """Two equal sets of 300 are stored once: 38 bytes as base64 in a deflated manifest."""
    small = shrink(fn, PARAMS, KEEP)
    whole, bare = save(tmp_path / "a", small), save(tmp_path / "b", small.params)
    assert bare < whole < bare + 120
    assert inspect(tmp_path / "b")["shrunk"] is False
    assert load(tmp_path / "b").keep == {}


def test_compressed_leaves(tmp_path):
    small = shrink(fn, PARAMS, KEEP)
    kernel = Quantized.create(jnp.ones((4, len(KEPT)), jnp.int8), jnp.full((4, 1), 0.5))
    packed = small.with_params({**small.params, "a": {"kernel": kernel}})
    save(tmp_path / "a", packed, recipe={"stages": [1]})
    artifact = load(tmp_path / "a")
    assert artifact.recipe == {"stages": [1]}
    np.testing.assert_array_equal(artifact.bind(fn)(X), lift(small.fn)(packed.params, X))


def test_shrunk_twice_is_stored_against_the_dense_function(tmp_path):
    small = shrink(fn, PARAMS, KEEP)
    again = shrink(small.fn, small.params, {("a/kernel", 1): [0, 5, 9], ("b/kernel", 0): [0, 5, 9]})
    save(tmp_path / "a", again)
    artifact = load(tmp_path / "a")
    assert artifact.keep["a/kernel", 1].tolist() == KEPT[[0, 5, 9]].tolist()
    np.testing.assert_array_equal(artifact.bind(fn)(X), again.fn(again.params, X))


@pytest.mark.parametrize("kept", [[], [0], [0, 1, 2], [299], range(0, 300, 2), range(10, 290), [0, 5, 6, 7, 200]])
def test_sets_of_indices(kept):
    kept = np.array(kept, np.int64)
    rows = keeps.to_rows({("w", 0): kept}, {"w": (300, 2)}, {"w": (len(kept), 2)})
    keep, shapes = keeps.from_rows(rows, ["w"], [(len(kept), 2)], lambda size: None)
    assert keep["w", 0].tolist() == kept.tolist()
    assert keep["w", 0].dtype == np.int64
    assert shapes == {"w": (300, 2)}


def test_the_shorter_form_is_taken():
    forms = {}
    for name, kept in {"runs": np.arange(100, 200), "bits": np.arange(0, 300, 2)}.items():
        ((_, form, _),) = keeps.to_rows({("w", 0): kept}, {"w": (300,)}, {"w": (len(kept),)})
        forms[name] = form
    assert forms["runs"] == [0, 100, 100, 100] or forms["runs"] == [0, 100, 100, 100][1:]
    assert isinstance(forms["bits"], str)
    assert len(forms["bits"]) == 52  # 38 bytes in base64


def test_parameters_that_were_not_shrunk(tmp_path):
    class Model:
        keep, shapes, params = KEEP, {"a/kernel": (4, WIDTH)}, PARAMS

    with pytest.raises(ValueError, match=r"'a/kernel' has the shape \(4, 300\), but \d+ of 300 are kept along axis 1"):
        save(tmp_path / "a", Model)
    Model.keep, Model.shapes = {("z", 0): [0]}, {"z": (2,)}
    with pytest.raises(ValueError, match="shrunk at 'z', which is no leaf"):
        save(tmp_path / "a", Model)


LIES = {
    "text": "abc",
    "row of text": ["abc"],
    "short row": [[300, [300]]],
    "no size": [["x", [300], [0, 1]]],
    "bool size": [[True, [1], [0, 1]]],
    "negative size": [[-5, [5], [0, 1]]],
    "huge size": [[10**18, [4, 10**18 - 4], [0, 0]]],
    "dense leaf beyond memory": [[10**12, [4, 10**12 - 4], [0, 0]]],
    "runs of other length": [[300, [4, 5], [0, 0]]],
    "negative runs": [[8, [6, -4, 6], [0, 0]]],
    "runs of text": [[8, ["4", 4], [0, 0]]],
    "no base64": [[300, "!!!", [0, 0]]],
    "short bits": [[300, "AAAA", [0, 0]]],
    "bits behind the end": [[4, "/w==", [0, 0]]],
    "null set": [[300, None, [0, 0]]],
    "odd places": [[8, [4, 4], [0]]],
    "no leaf": [[8, [4, 4], [9, 0]]],
    "negative leaf": [[8, [4, 4], [-1, 0]]],
    "no axis": [[8, [4, 4], [0, 2]]],
    "places of text": [[8, [4, 4], ["0", 0]]],
    "unlike the leaf": [[8, [5, 3], [0, 0]]],
    "twice": [[8, [4, 4], [0, 0, 0, 0]]],
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(name, tmp_path):
    save(tmp_path / "a", {"w": jnp.ones((4, 3))})
    with container.open_checked(tmp_path / "a") as (stored, file, offset, _):
        file.seek(offset)
        described, streams = manifest.decode(stored), file.read()
    (tmp_path / "a").write_bytes(b"".join(container.seal(manifest.encode({**described, "w": LIES[name]}), [streams])))
    with pytest.raises(ArtifactError):
        load(tmp_path / "a")
