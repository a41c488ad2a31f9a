"""Candidates that were not asked for before and keep the constraints of the space, as far as they can be found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.search.genes import Genes
from jaxcompress.search.strategies.members import no_genes
from jaxcompress.search.strategies.memory import Memory, fingerprints, seen

if TYPE_CHECKING:
    from jaxcompress.search.space import Space

ENUMERATED = 1024  # spaces of up to so many candidates are looked through where chance finds nothing new

Propose = Callable[[jax.Array, Genes, jax.Array], Genes]
_State = tuple[jax.Array, Genes, jax.Array, jax.Array]


def fresh(space: Space, key: jax.Array, memory: Memory, n: int, propose: Propose, attempts: int) -> Genes:
    """``[n]`` proposals; those are proposed anew that are remembered, repeat another one, or break constraints.

    Args:
        space: what is searched.
        key: a typed PRNG key.
        memory: what was asked for.
        n: how many.
        propose: ``(key, tried, far) -> [n]``, canonical. ``tried`` ``[n]`` are what was proposed last; ``far`` says
            that half of the attempts are over, so that what is near those may serve as well.
        attempts: how many times at most after the first.

    Returns:
        ``[n]``. What could not be made new, or feasible, stays as it was tried last, or with the least violation.
    """
    search, draw = jax.random.split(key)

    def wanting(genes: Genes) -> tuple[jax.Array, jax.Array]:
        return seen(memory, fingerprints(genes)), _violations(space, genes)

    def proceed(state: _State) -> jax.Array:
        number, _, old, violation = state
        return (number == 0) | ((old | (violation > 0)).any() & (number <= attempts))

    def attempt(state: _State) -> _State:
        number, genes, old, violation = state
        other = propose(jax.random.fold_in(search, number), genes, number > (attempts + 1) // 2)
        if space.constraints:  # a feasible one that is old is no gain
            other_old, other_violation = wanting(_where(old | (violation > 0), other, genes))
            old = old | (~other_old & (other_violation < violation))
        genes = _where(old, other, genes)
        return number + 1, genes, *wanting(genes)

    start = jnp.int32(0), no_genes(space, n), jnp.ones(n, bool), jnp.zeros(n, jnp.float32)
    _, genes, old, _ = lax.while_loop(proceed, attempt, start)
    return _enumerated(space, draw, memory, genes, old) if space.size <= ENUMERATED else genes


def _enumerated(space: Space, key: jax.Array, memory: Memory, genes: Genes, old: jax.Array) -> Genes:
    """Exchanges what is ``old`` against candidates that are not, feasible ones first, for as long as there are any."""
    everything = space.enumerate()

    def exchange(carry: tuple[jax.Array, Genes]) -> tuple[jax.Array, Genes]:
        _, genes = carry
        marks = fingerprints(everything)
        taken = seen(Memory(jnp.concatenate([memory.marks, fingerprints(genes)]), memory.count), marks)
        order = jnp.lexsort((jax.random.uniform(key, (len(marks),)), _violations(space, everything), taken))
        left, nth = (~taken).sum(dtype=jnp.int32), jnp.cumsum(old, dtype=jnp.int32)
        picked = jax.tree.map(lambda rows: rows[order[jnp.minimum(nth, len(marks)) - 1]], everything)
        return jnp.zeros((), bool), _where(old & (nth <= left), picked, genes)

    return lax.while_loop(lambda carry: carry[0], exchange, (old.any(), genes))[1]


def _violations(space: Space, genes: Genes) -> jax.Array:
    if not space.constraints:
        return jnp.zeros(len(genes.codes), jnp.float32)
    return jax.vmap(space.violation)(space.decode(genes))


def _where(choice: jax.Array, first: Genes, second: Genes) -> Genes:
    return jax.tree.map(lambda a, b: jnp.where(choice[:, None], a, b), first, second)
