"""Path patterns: one language for every kind of tree."""

import collections
import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from jaxcompress.core.paths import flatten_with_paths, matches, replace_at, select
from tests.core.kinds import Probe, Thin


class Pair(NamedTuple):
    first: Any
    second: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Block:
    kernel: Any
    bias: Any


def paths_of(tree):
    return flatten_with_paths(tree)[0]


def test_containers():
    tree = {"a": [Pair(jnp.ones(1), jnp.ones(2)), Block(jnp.ones(3), None)], "b": (jnp.ones(4),)}
    tree["od"] = collections.OrderedDict(z=jnp.ones(1), y=jnp.ones(1))
    assert paths_of(tree) == ["a/0/first", "a/0/second", "a/1/kernel", "b/0", "od/z", "od/y"]


def test_a_compressed_leaf_has_the_dense_path():
    tree = {"layer": {"w": Thin(Probe(jnp.ones((3, 2))), jnp.ones((2, 4))), "b": jnp.ones(4)}}
    paths, leaves, treedef = flatten_with_paths(tree)
    assert paths == ["layer/b", "layer/w"]
    assert isinstance(leaves[1], Thin)
    assert jax.tree.structure(jax.tree.unflatten(treedef, leaves)) == jax.tree.structure(tree)


def test_frameworks_agree():
    linen = nn.Dense(2).init(jax.random.key(0), jnp.ones((1, 3)))
    assert paths_of(linen) == ["params/bias", "params/kernel"]
    state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    assert paths_of(state) == ["bias", "kernel"]  # `value` is stripped
    assert paths_of(nnx.to_pure_dict(state)) == ["bias", "kernel"]
    module = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    arrays = eqx.filter(module, eqx.is_array)
    assert paths_of(arrays) == ["layers/0/weight", "layers/0/bias", "layers/1/weight", "layers/1/bias"]


def test_a_dict_key_named_value_stays():
    assert paths_of({"a": {"value": jnp.ones(1)}}) == ["a/value"]


def test_two_leaves_of_one_path_are_refused():
    with pytest.raises(ValueError, match="two leaves of the tree share the path 'a/b'"):
        paths_of({"a": {"b": 1}, "a/b": 2})


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("a/b/c", "a/b/c", True),
        ("a/b/c", "a/*/c", True),
        ("a/b/c", "a/*", False),
        ("a/b/c", "**", True),
        ("a/b/c", "**/c", True),
        ("c", "**/c", True),
        ("a/b/c", "a/**", True),
        ("a/b/c", "**/b/**", True),
        ("a/b/c", "**/c/**", True),
        ("a/b/c", "b/c", False),
        ("a/Dense_10/kernel", "**/Dense_?/kernel", False),
        ("a/Dense_1/kernel", "**/Dense_[0-4]/kernel", True),
        ("a/b", "A/b", False),
        ("a/b", ["x", "a/b"], True),
        ("a/b", ["!a/*"], False),
        ("c/b", ["!a/*"], True),
        ("a/b", ["**/b", "!a/b"], False),
        ("a/b", [], True),
        ("a[0]/b", "a[0]/b", True),
        ("a0/b", "a[0]/b", True),
    ],
)
def test_patterns(path, pattern, fits):
    assert matches(path, pattern) is fits


parts = st.text("ab", min_size=1, max_size=3)


@given(st.lists(parts, min_size=1, max_size=4), st.data())
def test_a_path_fits_what_is_made_of_it(names, data):
    pattern = [data.draw(st.sampled_from([name, "*", name[:-1] + "?", "**"])) for name in names]
    assert matches("/".join(names), "/".join(pattern))
    assert matches("/".join(names), "**/" + "/".join(pattern))


TREE = {"enc": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "steps": jnp.ones((2, 2), jnp.int32)}


def test_select():
    assert select(TREE, None) == ["enc/kernel"]
    assert select(TREE, "**/bias") == ["enc/bias"]
    assert select(TREE, ["enc/*", "!**/bias"]) == ["enc/kernel"]
    assert select(TREE, lambda path, leaf: leaf.dtype == jnp.int32) == ["steps"]
    assert select(TREE, None, default=lambda path, leaf: leaf.ndim == 1) == ["enc/bias"]
    packed = TREE | {"low": Thin.random(0, 4, 4)}
    assert select(packed, None) == ["enc/kernel", "low"]


def test_no_match_lists_the_paths_and_a_near_one():
    with pytest.raises(ValueError, match=r"(?s)where='enc/kernal' matches no leaf. Did you mean 'enc/kernel'.*steps"):
        select(TREE, "enc/kernal")
    with pytest.raises(ValueError, match="matches no leaf"):
        select({"b": jnp.ones(2)}, None)
    with pytest.raises(TypeError, match="where= takes a glob"):
        select(TREE, [1, 2])
    with pytest.raises(TypeError, match="where= takes a glob"):
        select(TREE, 3)


def test_replace_at():
    changed = replace_at(TREE, {"enc/bias": 0})
    assert changed["enc"]["bias"] == 0
    assert changed["enc"]["kernel"] is TREE["enc"]["kernel"]
    assert replace_at(changed, {"enc/bias": TREE["enc"]["bias"]})["enc"]["bias"] is TREE["enc"]["bias"]
    with pytest.raises(KeyError, match=r"no leaf at 'enc/baas'. Did you mean 'enc/bias'"):
        replace_at(TREE, {"enc/baas": 0})
