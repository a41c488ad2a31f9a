"""Everything a search may vary, as one value: what strategies draw from and evaluations read."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxcompress.core.table import html_table, text_table
from jaxcompress.search.genes import Genes
from jaxcompress.search.space import coding, counting, serialization, table
from jaxcompress.search.space.activity import Activity, activity_of
from jaxcompress.search.space.constraints import Constraint
from jaxcompress.search.space.layout import Layout, lay_out
from jaxcompress.search.space.operators import Operators
from jaxcompress.search.space.structure import frozen


class Space:
    """A search space: named variables, nested as they belong together, and constraints.

    A candidate is a `Genes`: a row of codes and a row of numbers in ``[0, 1]``. All methods on genes take any leading
    axes and work under `jit`, `vmap` and `scan`; the space itself is hashable and equal by value, a static argument.

    Genes that do not exist in a candidate (of a `Conditional` elsewhere, of entries behind the count of a `Repeated`)
    are 0 in its canonical form, so that equal candidates have equal genes. Every method returns canonical genes.

    Args:
        variables: a dict of `Choice`, `IntRange`, `Float`, `LogFloat`, `Conditional`, `Repeated` and dicts of them.
            Their order is the order of the genes.
        constraints: `Constraint`s on the decoded genome.

    Raises:
        TypeError: for an entry that is no variable.
        ValueError: for a condition on a variable or value that is not there, or on itself.

    Example:
        >>> from jaxcompress.search.space import IntRange, LogFloat, Repeated
        >>> space = Space({
        ...     "layers": Repeated({"units": IntRange(16, 64, step=16)}, times=IntRange(1, 3)),
        ...     "rate": LogFloat(1e-4, 1e-1),
        ... })
        >>> genes = space.sample(jax.random.key(0), 8)
        >>> space.decode(genes)["layers"]["units"].shape
        (8, 3)
        >>> space.config(space.encode({"layers": [{"units": 32}], "rate": 0.1}))["layers"]
        [{'units': 32}]
    """

    def __init__(self, variables: Mapping[str, Any], constraints: Sequence[Constraint] = ()) -> None:
        if not isinstance(variables, Mapping):
            raise TypeError(f"Space(variables): a dict of variables, got {variables!r}")
        self._variables = frozen(variables)
        self._layout: Layout = lay_out(self._variables)
        self._constraints = tuple(constraints)
        for constraint in self._constraints:
            if not isinstance(constraint, Constraint):
                raise TypeError(f"Space(constraints=): {constraint!r} is no Constraint(name, function, at_most=...)")

    @property
    def variables(self) -> Mapping[str, Any]:
        """The variables as they were given."""
        return self._variables

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The constraints as they were given."""
        return self._constraints

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The path of every gene: the codes, then the values."""
        return tuple(slot.name for slot in self._layout.rows())

    @functools.cached_property
    def cardinalities(self) -> tuple[int, ...]:
        """How many values each code has."""
        return tuple(variable.cardinality for variable in self._layout.discrete)

    @functools.cached_property
    def ordered(self) -> tuple[bool, ...]:
        """Of each code, whether neighbouring codes are neighbouring numbers."""
        return tuple(variable.ordered for variable in self._layout.discrete)

    @property
    def discrete(self) -> int:
        """How many codes a candidate has."""
        return len(self._layout.codes)

    @property
    def continuous(self) -> int:
        """How many values a candidate has."""
        return len(self._layout.values)

    @property
    def dimensions(self) -> int:
        """How many genes a candidate has."""
        return self.discrete + self.continuous

    @functools.cached_property
    def size(self) -> int | float:
        """How many different candidates there are: exact, or infinite where there is a continuous variable."""
        return math.inf if self.continuous else counting.count(self._layout)

    @functools.cached_property
    def _activity(self) -> Activity:
        return activity_of(self._layout)

    @functools.cached_property
    def _operators(self) -> Operators:
        cardinalities, ordered = np.array(self.cardinalities, np.int32), np.array(self.ordered, bool)
        return Operators(cardinalities, ordered, self.continuous, self._activity)

    def sample(self, key: jax.Array, n: int | tuple[int, ...]) -> Genes:
        """Draws candidates: every gene uniform and independent, those that do not exist set to 0.

        So where there are conditions not every candidate is equally likely: every value of every variable is.

        Args:
            key: consumed.
            n: how many, or a shape; ``()`` for a single one.

        Raises:
            ValueError: if that is no shape.
        """
        shape = n if isinstance(n, tuple) else (n,)
        if not all(isinstance(size, int | np.integer) and size >= 0 for size in shape):
            raise ValueError(f"sample(n={n!r}): how many candidates, a whole number, or a shape")
        return self._operators.sample(key, shape)

    def mutate(
        self,
        key: jax.Array,
        genes: Genes,
        *,
        rate: ArrayLike | None = None,
        neighbours: bool = False,
        scale: ArrayLike = 0.1,
    ) -> Genes:
        """Changes genes that exist, each to a value that it has not.

        A code changes to any other one with equal probability, a value by a normal step that is reflected at the
        bounds. Genes that exist only after the change are drawn anew; a choice of one value never changes.

        Args:
            key: consumed.
            genes: the parents, ``[...]``.
            rate: None changes exactly one gene per candidate; a probability (or one per candidate, ``[...]``) changes
                each gene with it, at least one. May be traced.
            neighbours: ordered codes move to one of their neighbours.
            scale: of the normal steps, a part of the range of a variable. May be traced.

        Raises:
            ValueError: for genes of another space; for a rate, as a Python number, that is no probability.
        """
        self._check(genes, "mutate")
        if isinstance(rate, int | float) and not 0 <= rate <= 1:
            raise ValueError(f"mutate(rate={rate!r}): a probability, in [0, 1]; None changes exactly one gene")
        return self._operators.mutate(key, genes, rate, neighbours, scale)

    def crossover(self, key: jax.Array, a: Genes, b: Genes) -> Genes:
        """Children with each gene from one parent or the other, with equal probability.

        A gene that exists in one parent only comes from there, and is kept where what it depends on came along.

        Args:
            key: consumed.
            a: parents, ``[...]``.
            b: their partners, of the same shape.

        Raises:
            ValueError: for genes of another space, or of different shapes.
        """
        self._check(a, "crossover")
        self._check(b, "crossover")
        if a.codes.shape != b.codes.shape or a.values.shape != b.values.shape:
            raise ValueError(f"crossover: {a.codes.shape[:-1]} parents cannot meet {b.codes.shape[:-1]} partners")
        return self._operators.crossover(key, a, b)

    def active(self, genes: Genes) -> tuple[jax.Array, jax.Array]:
        """Which genes exist in these candidates: bool ``[..., discrete]`` and ``[..., continuous]``."""
        self._check(genes, "active")
        return self._activity.active(genes)

    def canonical(self, genes: Genes) -> Genes:
        """Genes that do not exist set to 0: equal candidates have equal genes."""
        self._check(genes, "canonical")
        return self._activity.canonical(genes)

    def decode(self, genes: Genes) -> dict[str, Any]:
        """The arrays that an evaluation reads, nested as the variables are.

        Numbers as themselves (int32, float32), booleans as bool, other choices as the int32 position of the value.
        Every `Repeated` adds an axis behind those of ``genes``. What does not exist has its first value.

        Raises:
            TypeError: for what is no `Genes`.
            ValueError: for genes of another space.
        """
        self._check(genes, "decode")
        return coding.decode(self._layout, self._activity.canonical(genes))

    def config(self, genes: Genes) -> Any:
        """Plain Python values: choices as they were given, a `Repeated` as a list; what does not exist is left out.

        Several candidates (one leading axis) become a list. Not for use under `jit`.
        """
        self._check(genes, "config")
        codes, values = (np.asarray(row) for row in genes)
        if codes.ndim == 1:
            return coding.config(self._layout, codes, values, self._activity.of_one(codes))
        return [self.config(Genes(*row)) for row in zip(codes, values, strict=True)]

    def encode(self, config: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Genes:
        """The genes of plain values, the inverse of `config`; of a list of configs, ``[n]``.

        Raises:
            TypeError: for what is no config.
            ValueError: for a value outside of the space, a variable that is missing or does not exist.
        """
        if isinstance(config, Mapping):
            genes = coding.encode(self._layout, config)
            coding.check_existing(self._layout, config, self._activity.of_one(np.asarray(genes.codes)))
            return genes
        if not config:
            raise ValueError("encode: an empty list of configs")
        if not all(isinstance(one, Mapping) for one in config):
            raise TypeError(f"encode: a config is a dict of values by name, got {config!r}")
        return jax.tree.map(lambda *rows: jnp.stack(rows), *map(self.encode, config))

    def enumerate(self, limit: int = 1_000_000) -> Genes:
        """Every candidate once, canonical, sorted by codes (the first code is the most significant).

        Raises:
            ValueError: with a continuous variable, or above ``limit`` candidates.
        """
        if self.size > limit:
            raise ValueError(f"enumerate: there are {self.size} candidates, limit={limit}; use sample, or raise limit=")
        return counting.enumerate_all(self._layout)

    def violation(self, genome: Any) -> jax.Array:
        """By how much one decoded genome breaks the constraints in all, relative to the limits; float32, 0 is none."""
        return sum((constraint.violation(genome) for constraint in self._constraints), jnp.zeros((), jnp.float32))

    def to_dict(self) -> dict[str, Any]:
        """The variables as JSON-able values, with a version. Constraints are functions: they are left out.

        Raises:
            ValueError: for a choice of values that JSON has no form for (functions, classes).
        """
        return serialization.to_dict(self._variables)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], constraints: Sequence[Constraint] = ()) -> Space:
        """The space that `to_dict` wrote, with its constraints given again."""
        return cls(serialization.from_dict(data), constraints)

    def _check(self, genes: Any, method: str) -> None:
        """Refuses what are no genes of this space; looks at shapes alone."""
        if not isinstance(genes, Genes):
            raise TypeError(f"{method}: expected Genes, as Space.sample and Space.encode make them, got {genes!r}")
        own, given = (self.discrete, self.continuous), tuple(row.shape[-1:] for row in genes)
        if given != tuple((size,) for size in own):
            shapes = [row.shape for row in genes]
            raise ValueError(f"{method}: genes of another space: shapes {shapes}, not [..., {own[0]}], [..., {own[1]}]")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Space):
            return NotImplemented
        return self._variables == other._variables and self._constraints == other._constraints

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self._variables, self._constraints))

    def __repr__(self) -> str:
        return f"Space({self._variables!r}, constraints={self._constraints!r})"

    def __str__(self) -> str:
        return text_table(table.COLUMNS, table.rows(self._variables), self._notes())

    def _repr_html_(self) -> str:
        return html_table(table.COLUMNS, table.rows(self._variables), self._notes())

    def _notes(self) -> list[str]:
        bounds = {constraint.name: constraint.bounds for constraint in self._constraints}
        return table.notes(self.size, self.discrete, self.continuous, bounds)
