"""Candidates that were not asked for before and keep the constraints of the space, as far as they can be found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.memory import Memory, fingerprints, seen

if TYPE_CHECKING:
    from jaxcompress.search.space import Space

ENUMERATED = 1024  # spaces of up to so many candidates are looked through where chance finds nothing new


def fresh(
    space: Space,
    key: jax.Array,
    memory: Memory,
    genes: Genes,
    again: Callable[[jax.Array, Genes], Genes],
    attempts: int,
) -> Genes:
    """``genes``, those exchanged that are remembered, repeat one before them, or break the constraints of the space.

    Args:
        space: what is searched.
        key: a typed PRNG key.
        memory: what was asked for.
        genes: ``[n]``, canonical.
        again: ``(key, genes) -> genes``: other proposals. After half of the attempts what is left is mutated instead.
        attempts: how many times at most.

    Returns:
        ``[n]``. What could not be made new, or feasible, stays as it was tried last, or with the least violation.
    """
    search, draw = jax.random.split(key)

    def wanting(genes: Genes) -> tuple[jax.Array, jax.Array]:
        return seen(memory, fingerprints(genes)), _violations(space, genes)

    def proceed(carry: tuple[jax.Array, Genes, jax.Array, jax.Array]) -> jax.Array:
        number, _, old, violation = carry
        return (old | (violation > 0)).any() & (number < attempts)

    def attempt(carry: tuple[jax.Array, Genes, jax.Array, jax.Array]) -> tuple[jax.Array, Genes, jax.Array, jax.Array]:
        number, genes, old, violation = carry
        now = jax.random.fold_in(search, number)
        other = lax.cond(number < (attempts + 1) // 2, again, space.mutate, now, genes)
        other_old, other_violation = wanting(_where(old | (violation > 0), other, genes))
        genes = _where(old | (~other_old & (other_violation < violation)), other, genes)
        return number + 1, genes, *wanting(genes)

    genes, old = lax.while_loop(proceed, attempt, (jnp.int32(0), genes, *wanting(genes)))[1:3]
    return _enumerated(space, draw, memory, genes, old) if space.size <= ENUMERATED else genes


def _enumerated(space: Space, key: jax.Array, memory: Memory, genes: Genes, old: jax.Array) -> Genes:
    """Exchanges what is ``old`` against candidates that are not, feasible ones first, for as long as there are any."""
    everything = space.enumerate()

    def exchange(carry: tuple[jax.Array, Genes]) -> tuple[jax.Array, Genes]:
        _, genes = carry
        marks = fingerprints(everything)
        taken = seen(Memory(jnp.concatenate([memory.marks, fingerprints(genes)]), memory.count), marks)
        order = jnp.lexsort((jax.random.uniform(key, (len(marks),)), _violations(space, everything), taken))
        nth = jnp.minimum(jnp.cumsum(old, dtype=jnp.int32) - 1, (~taken).sum(dtype=jnp.int32) - 1)
        picked = jax.tree.map(lambda rows: rows[order[nth % len(marks)]], everything)
        enough = jnp.cumsum(old, dtype=jnp.int32) <= (~taken).sum(dtype=jnp.int32)
        return jnp.zeros((), bool), _where(old & enough, picked, genes)

    return lax.while_loop(lambda carry: carry[0], exchange, (old.any(), genes))[1]


def _violations(space: Space, genes: Genes) -> jax.Array:
    if not space.constraints:
        return jnp.zeros(len(genes.codes))
    return jax.vmap(space.violation)(space.decode(genes))


def _where(choice: jax.Array, first: Genes, second: Genes) -> Genes:
    return jax.tree.map(lambda a, b: jnp.where(choice[:, None], a, b), first, second)
