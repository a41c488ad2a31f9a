"""Drawing, changing and mixing candidates: what strategies are made of."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcompress.search.genes import Genes
from jaxcompress.search.space.activity import Activity


@dataclasses.dataclass(frozen=True)
class Operators:
    """The moves in a space, for any leading axes of candidates.

    Attributes:
        cardinalities: int32 ``[discrete]``.
        ordered: bool ``[discrete]``: whether neighbouring codes are neighbouring values.
        continuous: how many continuous variables there are.
        activity: which genes exist.
    """

    cardinalities: np.ndarray
    ordered: np.ndarray
    continuous: int
    activity: Activity

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> Genes:
        """Every gene uniform and independent, then canonical."""
        return self.activity.canonical(self.fresh(key, shape))

    def fresh(self, key: jax.Array, shape: tuple[int, ...]) -> Genes:
        """Every gene uniform and independent, those among them that do not exist."""
        of_codes, of_values = jax.random.split(key)
        codes = (*shape, self.cardinalities.size)
        most = jnp.broadcast_to(self.cardinalities, codes)
        return Genes(
            jax.random.randint(of_codes, codes, 0, most, jnp.int32),
            jax.random.uniform(of_values, (*shape, self.continuous), jnp.float32),
        )

    def mutate(self, key: jax.Array, genes: Genes, rate: ArrayLike | None, neighbours: bool, scale: ArrayLike) -> Genes:
        """Changes some genes that exist; what exists only from now on is drawn anew."""
        of_choice, of_codes, of_values, of_fresh = jax.random.split(key, 4)
        genes = self.activity.canonical(genes)
        exists = self.activity.active(genes)
        chosen_codes, chosen_values = self.choose(of_choice, exists, rate)
        if self.activity.on.size:
            drawn = self.fresh(of_fresh, genes.codes.shape[:-1])
            genes = Genes(*map(jnp.where, exists, genes, drawn))
        return self.activity.canonical(
            Genes(
                jnp.where(chosen_codes, self.other_codes(of_codes, genes.codes, neighbours), genes.codes),
                jnp.where(chosen_values, other_values(of_values, genes.values, scale), genes.values),
            )
        )

    def choose(
        self, key: jax.Array, exists: tuple[jax.Array, jax.Array], rate: ArrayLike | None
    ) -> tuple[jax.Array, jax.Array]:
        """The genes to change: one of those that exist and have another value, or each with a probability."""
        of_one, of_each = jax.random.split(key)
        codes, values = exists
        movable = jnp.concatenate([codes & self.rows(self.cardinalities > 1, codes), values], axis=-1)
        draws = jnp.where(movable, jax.random.uniform(of_one, movable.shape, jnp.float32), -1.0)
        genes = self.rows(np.arange(movable.shape[-1]), movable)
        chosen = movable & (genes == jnp.argmax(draws, axis=-1, keepdims=True))
        if rate is not None:
            chance = jnp.asarray(rate, jnp.float32)
            chance = jnp.broadcast_to(chance[..., None] if chance.ndim else chance, movable.shape)
            each = movable & (jax.random.uniform(of_each, movable.shape, jnp.float32) < chance)
            chosen = jnp.where(jnp.any(each, axis=-1, keepdims=True), each, chosen)
        return chosen[..., : codes.shape[-1]], chosen[..., codes.shape[-1] :]

    def other_codes(self, key: jax.Array, codes: jax.Array, neighbours: bool) -> jax.Array:
        """For every code another one of its variable, uniform; or, where values are ordered, one beside it."""
        of_jump, of_side = jax.random.split(key)
        most = jnp.broadcast_to(self.cardinalities, codes.shape)
        jumped = (codes + jax.random.randint(of_jump, codes.shape, 1, jnp.maximum(most, 2), jnp.int32)) % most
        if not neighbours:
            return jumped
        up = (codes == 0) | (codes < most - 1) & jax.random.bernoulli(of_side, 0.5, codes.shape)
        beside = jnp.clip(codes + jnp.where(up, 1, -1), 0, most - 1)
        return jnp.where(self.rows(self.ordered, codes), beside, jumped)

    def crossover(self, key: jax.Array, a: Genes, b: Genes) -> Genes:
        """Each gene of one parent or the other; one that exists in a single parent comes from there."""
        a, b = self.activity.canonical(a), self.activity.canonical(b)
        in_a, in_b = self.activity.active(a), self.activity.active(b)
        children = map(mixed, jax.random.split(key), in_a, in_b, a, b)
        return self.activity.canonical(Genes(*children))

    @staticmethod
    def rows(row: np.ndarray, like: jax.Array) -> jax.Array:
        """One row per candidate."""
        return jnp.broadcast_to(row, (*like.shape[:-1], row.size))


def other_values(key: jax.Array, values: jax.Array, scale: ArrayLike) -> jax.Array:
    """A normal step, reflected at 0 and 1; never the value itself."""
    moved = values + jnp.asarray(scale, jnp.float32) * jax.random.normal(key, values.shape, jnp.float32)
    moved = jnp.mod(moved, 2.0)
    moved = jnp.where(moved > 1.0, 2.0 - moved, moved)
    return jnp.where(moved == values, jnp.where(values < 0.5, values + 0.25, values - 0.25), moved)


def mixed(key: jax.Array, in_a: jax.Array, in_b: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Each entry of one row or the other; of the row where it exists if that is one only."""
    from_a = jnp.where(in_a == in_b, jax.random.bernoulli(key, 0.5, in_a.shape), in_a)
    return jnp.where(from_a, a, b)
