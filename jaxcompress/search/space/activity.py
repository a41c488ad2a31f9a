"""Which genes exist in a candidate: conditions as one table, looked up for any number of candidates at once."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search.genes import Genes
from jaxcompress.search.space.layout import Condition, Layout


@dataclasses.dataclass(frozen=True)
class Activity:
    """All conditions of a space.

    Attributes:
        on: ``[conditions]``: the code that each looks at.
        allowed: bool ``[conditions, largest cardinality]``: at which of its values it holds.
        asked: bool ``[discrete + continuous, conditions]``: the conditions that a gene needs, those of the genes that
            it depends on among them.
    """

    on: np.ndarray
    allowed: np.ndarray
    asked: np.ndarray

    def active(self, genes: Genes) -> tuple[jax.Array, jax.Array]:
        """Which codes and which values exist, bool, shaped like the genes."""
        codes, values = genes
        if not self.on.size:
            return jnp.ones(codes.shape, bool), jnp.ones(values.shape, bool)
        holds = jnp.asarray(self.allowed)[np.arange(self.on.size), codes[..., self.on]]  # [..., conditions]
        asked = jnp.expand_dims(self.asked, tuple(range(holds.ndim - 1)))
        exists = jnp.all(holds[..., None, :] | ~asked, axis=-1)
        return exists[..., : codes.shape[-1]], exists[..., codes.shape[-1] :]

    def of_one(self, codes: np.ndarray) -> np.ndarray:
        """Which genes of a single candidate exist, outside of programs: codes, then values."""
        holds = self.allowed[np.arange(self.on.size), codes[self.on]]
        return np.all(holds | ~self.asked, axis=-1)

    def canonical(self, genes: Genes) -> Genes:
        """Genes that do not exist become 0."""
        if not self.on.size:
            return genes
        codes, values = self.active(genes)
        return Genes(jnp.where(codes, genes.codes, 0), jnp.where(values, genes.values, 0.0))


def activity_of(layout: Layout) -> Activity:
    """The table of a layout: every different condition once, dependencies followed to their end."""
    needs: dict[int, set[Condition]] = {}
    for i in layout.order:
        own = set(layout.slots[i].conditions)
        needs[i] = own.union(*(needs[condition.on] for condition in own))
    conditions = sorted(set().union(*needs.values()), key=lambda condition: (condition.on, sorted(condition.codes)))
    positions = layout.positions()
    widest = max((variable.cardinality for variable in layout.discrete), default=1)
    allowed = np.zeros((len(conditions), widest), bool)
    for row, condition in enumerate(conditions):
        allowed[row, list(condition.codes)] = True
    rows = (*layout.codes, *layout.values)
    asked = np.array([[condition in needs[i] for condition in conditions] for i in rows], bool)
    on = np.array([positions[condition.on] for condition in conditions], np.int32)
    return Activity(on, allowed, asked.reshape(len(rows), len(conditions)))
