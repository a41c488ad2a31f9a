"""The laws of sampling, mutation and crossover, on every example space."""

import functools
from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import export

from jaxcompress.search.genes import Genes
from jaxcompress.search.space import Choice, Conditional, Float, IntRange, Repeated, Space
from tests.search.space.examples import CELL, MIXED, NESTED, SPACES, entries

N = 256
DTYPES = Genes(jnp.int32, jnp.float32)


class Told(NamedTuple):
    """Candidates, which of their genes exist, and their canonical form; codes and values side by side."""

    genes: np.ndarray
    exists: np.ndarray
    canonical: np.ndarray


@functools.cache
def told(name):
    """All that the laws ask of a space, by one program: two parents, three kinds of mutants, children."""
    space = SPACES[name]

    @jax.jit
    def ask(key, rate):
        keys = jax.random.split(key, 6)
        a, b = space.sample(keys[0], N), space.sample(keys[1], N)
        of = {
            "a": a,
            "b": b,
            "one": space.mutate(keys[2], a),
            "each": space.mutate(keys[3], a, rate=rate),
            "beside": space.mutate(keys[4], a, neighbours=True, scale=0.3),
            "child": space.crossover(keys[5], a, b),
        }
        return {name: (genes, space.active(genes), space.canonical(genes)) for name, genes in of.items()}

    answers = ask(jax.random.key(1), jnp.float32(0.2))
    assert all(row.dtype == dtype for genes, *_ in answers.values() for row, dtype in zip(genes, DTYPES, strict=True))
    return {name: Told(*map(side_by_side, answer)) for name, answer in answers.items()}


def side_by_side(rows):
    return np.concatenate([np.asarray(row, np.float64) for row in rows], axis=-1)


@pytest.mark.parametrize("name", SPACES)
def test_everything_is_canonical_and_in_range(name):
    most = np.array([n - 1 for n in SPACES[name].cardinalities] + [1] * SPACES[name].continuous)
    for genes, exists, canonical in told(name).values():
        np.testing.assert_array_equal(genes, canonical)
        assert (genes[exists == 0] == 0).all()
        assert ((genes >= 0) & (genes <= most)).all()


@pytest.mark.parametrize("name", SPACES)
def test_mutation_changes_one_gene_that_exists(name):
    space, parent = SPACES[name], told(name)["a"]
    movable = np.array([n > 1 for n in space.cardinalities] + [True] * space.continuous)
    for kind in ("one", "beside", "each"):
        child = told(name)[kind]
        both = (parent.exists * child.exists).astype(bool)
        changed = ((child.genes != parent.genes) & both).sum(-1)
        expected = (parent.exists.astype(bool) & movable).any(-1)
        assert (changed >= expected).all() if kind == "each" else (changed == expected).all()
        if kind == "beside":
            ordered = np.array([*space.ordered, *[False] * space.continuous], bool)
            assert (np.abs(child.genes - parent.genes)[both & ordered] <= 1).all()


@pytest.mark.parametrize("name", SPACES)
def test_children_have_their_parents_genes(name):
    a, b, child = (told(name)[kind] for kind in ("a", "b", "child"))
    exists, in_a, in_b = (candidates.exists.astype(bool) for candidates in (child, a, b))
    from_a, from_b = child.genes == a.genes, child.genes == b.genes
    assert (from_a | from_b)[exists].all()
    assert from_a[exists & in_a & ~in_b].all()
    assert from_b[exists & in_b & ~in_a].all()
    different = exists & in_a & in_b & (a.genes != b.genes)
    share = from_a[different].mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(different.sum())  # four standard errors of a fair coin


def test_samples_are_uniform_and_reproducible():
    """Every value of every variable is equally likely; the second parents have another key."""
    a, b = told("cell")["a"].genes, told("cell")["b"].genes
    assert (a != b).any()
    again = jax.jit(lambda key: CELL.sample(jax.random.split(key, 6)[0], N))(jax.random.key(1))
    np.testing.assert_array_equal(a, again.codes)
    for value in range(5):
        assert abs((a == value).mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / a.size)


def test_canonical_by_hand():
    raw = Genes(jnp.array([2, 1, 0], jnp.int32), jnp.array([0.7, 0.5, 0.25], jnp.float32))
    assert MIXED.names == ("optimizer", "adam/amsgrad", "constant", "momentum", "adam/b1", "rate")
    canonical, exists = jax.jit(MIXED.canonical), jax.jit(MIXED.active)
    genes = canonical(raw)
    assert genes.codes.tolist() == [2, 1, 0]
    assert genes.values.tolist() == [0.0, 0.5, 0.25]
    active = exists(Genes(raw.codes.at[0].set(0), raw.values))
    assert [row.tolist() for row in active] == [[True, False, True], [True, False, True]]


def test_what_depends_on_what_does_not_exist():
    """A gene under a condition on a gene that does not exist does not exist, whatever stands there."""
    space = Space(
        {
            "a": Choice((0, 1)),
            "b": Conditional(Choice((0, 1)), on="a", equals=1),
            "c": Conditional(Choice((0, 1)), on="b", equals=0),
        }
    )
    exists, _ = space.active(Genes(jnp.array([[0, 0, 1], [1, 0, 1], [1, 1, 1]], jnp.int32), jnp.zeros((3, 0))))
    assert exists.tolist() == [[True, False, False], [True, True, True], [True, True, False]]


def test_mutation_is_uniform():
    """Over the genes that exist and move, and over the values that a gene has not."""
    inner = Conditional(IntRange(0, 2), on="a", equals="z")
    space = Space({"a": Choice(tuple("wxyz")), "b": Choice((1,)), "c": inner, "d": Choice(("p", "q"))})
    genes = Genes(jnp.tile(jnp.array([3, 0, 1, 0], jnp.int32), (30_000, 1)), jnp.zeros((30_000, 0)))
    child = np.asarray(jax.jit(space.mutate)(jax.random.key(0), genes).codes)
    rows, counts = np.unique(child, axis=0, return_counts=True)
    expected = {
        **{(a, 0, 0, 0): 1 / 9 for a in range(3)},  # "a" moved, and "c" ceased to exist
        **{(3, 0, c, 0): 1 / 6 for c in (0, 2)},
        (3, 0, 1, 1): 1 / 3,
    }
    found = {tuple(row): count / 30_000 for row, count in zip(rows.tolist(), counts, strict=True)}
    assert found.keys() == expected.keys()
    for row, share in expected.items():
        assert abs(found[row] - share) < 4 * np.sqrt(share * (1 - share) / 30_000)


def test_what_begins_to_exist_is_drawn_anew():
    space = Space({"a": Choice((0, 1)), "b": Conditional(IntRange(0, 3), on="a", equals=1)})
    genes = Genes(jnp.zeros((4000, 2), jnp.int32), jnp.zeros((4000, 0)))
    child = np.asarray(jax.jit(space.mutate)(jax.random.key(0), genes).codes)
    assert (child[:, 0] == 1).all()
    shares = np.bincount(child[:, 1], minlength=4) / 4000
    np.testing.assert_allclose(shares, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / 4000))


def test_rate():
    """The share of genes that change: the rate, beside one gene where none would."""
    genes = jax.jit(lambda key: CELL.sample(key, 4000))(jax.random.key(0))
    mutate = jax.jit(lambda rate: CELL.mutate(jax.random.key(1), genes, rate=rate))
    share = lambda rate: (np.asarray(mutate(rate).codes) != np.asarray(genes.codes)).mean()  # noqa: E731
    assert share(jnp.float32(1.0)) == 1.0
    assert share(jnp.float32(0.0)) == 1 / 6
    expected = 0.3 + 0.7**6 / 6
    assert abs(share(jnp.float32(0.3)) - expected) < 4 * np.sqrt(0.3 * 0.7 / 24_000)
    each = mutate(jnp.asarray(np.arange(4000) < 2000, jnp.float32))
    changed = (np.asarray(each.codes) != np.asarray(genes.codes)).sum(-1)
    assert (changed[:2000] == 6).all()
    assert (changed[2000:] == 1).all()


def test_steps_of_numbers():
    """Normal steps of the given scale, reflected at the bounds: no heap on them."""
    space = Space({"x": Float(0, 1)})
    values = jnp.where(jnp.arange(20_000)[:, None] < 10_000, 0.5, 0.0)
    start = Genes(jnp.zeros((20_000, 0), jnp.int32), values)
    mutate = jax.jit(lambda scale: space.mutate(jax.random.key(0), start, scale=scale).values)
    moved = np.asarray(mutate(jnp.float32(0.1)))[:, 0]
    assert abs(moved[:10_000].std() - 0.1) < 4 * 0.1 / np.sqrt(2 * 10_000)
    at_bound = moved[10_000:]
    assert (at_bound > 0).all()  # a folded normal: mean scale * sqrt(2 / pi)
    assert abs(at_bound.mean() - 0.1 * np.sqrt(2 / np.pi)) < 4 * 0.1 * np.sqrt(1 - 2 / np.pi) / 100
    assert (np.asarray(mutate(jnp.float32(0.0))) != np.asarray(start.values)).all()


def test_nothing_to_change():
    space = Space({"a": Choice((1,)), "b": Repeated(Choice(("x",)), 2)})
    moved = jax.jit(lambda key: space.mutate(key, space.sample(key, 3), rate=1.0))(jax.random.key(0))
    assert moved.codes.tolist() == [[0, 0, 0]] * 3


@pytest.mark.slow
@hypothesis.given(entries(), st.integers(0, 2**30))
def test_laws_in_random_spaces(variables, seed):
    """Mutants and children in random nested, conditional spaces: canonical, encoded as they are, rightly different."""
    space = Space(variables)
    keys = jax.random.split(jax.random.key(seed), 4)
    a, b = space.sample(keys[0], 8), space.sample(keys[1], 8)
    mutant, child = space.mutate(keys[2], a), space.crossover(keys[3], a, b)
    for genes in (a, mutant, child):
        np.testing.assert_array_equal(space.canonical(genes).codes, genes.codes)
        np.testing.assert_array_equal(space.encode(space.config(genes)).codes, genes.codes)
    both = np.asarray(space.active(a)[0] & space.active(mutant)[0])
    movable = np.asarray(space.active(a)[0]) & (np.array(space.cardinalities) > 1)
    changed = both & (np.asarray(a.codes) != np.asarray(mutant.codes))
    np.testing.assert_array_equal(changed.sum(-1), movable.any(-1))
    exists = np.asarray(space.active(child)[0])
    taken = (np.asarray(child.codes) == np.asarray(a.codes)) | (np.asarray(child.codes) == np.asarray(b.codes))
    assert taken[exists].all()


def test_one_program_for_every_generation(compilations):
    """A space built anew is the same static argument, and rates are traced."""

    @functools.partial(jax.jit, static_argnames="space")
    def generation(space, key, genes, rate):
        one, two = jax.random.split(key)
        return space.mutate(one, space.crossover(two, genes, genes), rate=rate)

    genes = NESTED.encode([{"stages": [{"width": 16, "blocks": []}] * 2, "head": [1]}] * 16)
    generation(NESTED, jax.random.key(1), genes, 0.1)
    again = Space(NESTED.variables)
    assert again == NESTED
    assert again is not NESTED
    before = compilations("generation")
    generation(again, jax.random.key(2), genes, 0.7)
    assert (before, compilations("generation")) == (1, 1)


def test_any_leading_axes_and_scan():
    """A whole search is a scan, vmapped over seeds: as when every candidate goes alone."""

    def search(key):
        genes = NESTED.sample(key, ())

        def step(genes, key):
            return NESTED.mutate(key, genes, rate=None), NESTED.decode(genes)["head"]["count"]

        return jax.lax.scan(step, genes, jax.random.split(key, 5))

    keys = jax.random.split(jax.random.key(0), 3)
    together, counts = jax.jit(jax.vmap(search))(keys)
    alone, _ = jax.jit(search)(keys[1])
    np.testing.assert_array_equal(side_by_side(together)[1], side_by_side(alone))
    assert counts.shape == (3, 5)
    assert jax.eval_shape(lambda key: NESTED.sample(key, (2, 3)), keys[0]).codes.shape == (2, 3, NESTED.discrete)
    assert set(np.unique(counts)) <= {1, 3}


def test_programs_for_every_platform():
    @jax.jit
    def step(key):
        keys = jax.random.split(key, 4)
        children = NESTED.crossover(keys[0], NESTED.sample(keys[1], 4), NESTED.sample(keys[2], 4))
        return NESTED.decode(NESTED.mutate(keys[3], children, rate=0.1))

    exported = export.export(step, platforms=["cpu", "cuda", "tpu"])(jax.random.key(0))
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_genes_of_another_space_are_refused():
    """Before anything is computed: shapes tell."""
    key, genes = jax.random.key(0), Genes(jnp.zeros((2, 1), jnp.int32), jnp.zeros((2, 0)))
    other = Space({"a": Choice((1, 2)), "b": Float(0, 1)})
    for method in (other.decode, other.config, other.active, other.canonical, lambda g: other.mutate(key, g)):
        with pytest.raises(ValueError, match=r"genes of another space: .* not \[..., 1\], \[..., 1\]"):
            method(genes)
        with pytest.raises(TypeError, match=r"expected Genes, as .* make them, got {'a': 1}"):
            method({"a": 1})
    three, two = (Genes(jnp.zeros((n, 1), jnp.int32), jnp.zeros((n, 1))) for n in (3, 2))
    with pytest.raises(ValueError, match=r"crossover: \(3,\) parents cannot meet \(2,\) partners"):
        other.crossover(key, three, two)
    for rate in (2.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"mutate\(rate={rate}\): a probability"):
            other.mutate(key, two, rate=rate)
    for n in (-1, 2.5, (2, -1), "3"):
        with pytest.raises(ValueError, match="how many candidates, a whole number, or a shape"):
            other.sample(key, n)
    with pytest.raises(TypeError, match="encode: a config is a dict of values by name"):
        other.encode([3, 0.1])
