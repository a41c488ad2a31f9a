"""A walk over a trace in which batch normalizations take the statistics of the data that reaches them.

What depends on parameters alone waits until data meets it: by then the statistics in it are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from jaxcompress.core.affine import Key
from jaxcompress.core.dtypes import wider
from jaxcompress.core.interpreter import bind, user_line
from jaxcompress.core.jaxprs import CALLS, called, closed, walk_through

if TYPE_CHECKING:
    from jaxcompress.search.supernet.batchnorm import Normalization

_STEPS = ("add", "sub", "mul", "div")


class Known:
    """A value that depends on parameters and constants alone, computed when it is needed."""

    def __init__(self, leaves: frozenset[Key], compute: Any, leaf: Key | None = None) -> None:
        """Waits to be computed; ``leaf`` says that it is one as it stands."""
        self.leaves, self.leaf = leaves, leaf
        self._compute = compute
        self._value: Any = None

    def value(self) -> Any:
        """The array."""
        if self._compute is not None:
            self._value, self._compute = self._compute(), None
        return self._value


class StatisticsWalk:
    """Evaluates one call.

    Attributes:
        leaves: the parameters by path; statistics are exchanged as data reaches them.
        seen: the means whose normalization was reached.
    """

    def __init__(self, leaves: Mapping[str, Any], found: Sequence[Normalization]) -> None:
        """Starts with the statistics as they are."""
        self.leaves = dict(leaves)
        self.seen: set[Key] = set()
        self._of = {key: one for one in found for key in (one.mean, one.variance)}
        self._stacked = {path for path, layer in self._of if layer}
        for path in {path for path, _ in self._of}:
            self.leaves[path] = self.leaves[path].astype(wider(self.leaves[path].dtype, jnp.float32))
        self._dtypes = {path: leaf.dtype for path, leaf in leaves.items()}

    def start(self, jaxpr: Any, arrays: Sequence[Any], count: int) -> None:
        """Walks a traced call whose first ``count`` arguments are the parameters."""
        known = [self._leaf((path, ())) for path in self._dtypes]
        self.run(jaxpr.jaxpr, jaxpr.consts, [*known, *arrays[count:]])

    def _leaf(self, key: Key) -> Known:
        path, layer = key
        return Known(frozenset([key]), lambda: self.leaves[path][layer].astype(self._dtypes[path]), key)

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Evaluates an open jaxpr."""
        return walk_through(jaxpr, consts, args, self.equation, _constant)

    def equation(self, eqn: JaxprEqn, values: Sequence[Any]) -> Sequence[Any]:
        """Evaluates one equation, or leaves it waiting."""
        name = eqn.primitive.name
        if name in CALLS:
            return self.run(*called(eqn), values)
        if all(isinstance(value, Known) for value in values) and not eqn.effects:
            return _waiting(eqn, values)
        pending = self._pending(values)
        if name == "scan" and (pending or self._scans_statistics(values)):
            return self.scan(eqn, values)
        if pending:
            self._take(eqn, values, pending)
        return bind(eqn, [value.value() if isinstance(value, Known) else value for value in values])

    def _pending(self, values: Sequence[Any]) -> set[Key]:
        """Means of the normalizations that are about to be computed with statistics that are not known yet."""
        leaves = frozenset[Key]().union(*(value.leaves for value in values if isinstance(value, Known)))
        return {self._of[key].mean for key in leaves if key in self._of} - self.seen

    def _scans_statistics(self, values: Sequence[Any]) -> bool:
        return any(isinstance(v, Known) and v.leaf is not None and v.leaf[0] in self._stacked for v in values)

    def _take(self, eqn: JaxprEqn, values: Sequence[Any], pending: set[Key]) -> None:
        """Takes the statistics of the data that meets a normalization first."""
        data = [value for value in values if not isinstance(value, Known)]
        (mean, *others) = pending
        one = self._of[mean]
        if others or len(data) != 1 or eqn.primitive.name not in _STEPS or jnp.ndim(data[0]) != one.ndim:
            raise ValueError(
                f"recalibrated: the statistics at {mean[0]!r} meet data in {eqn.primitive.name} at "
                f"{user_line(eqn.source_info)}, which is no step of one batch normalization outside of control flow"
            )
        x = data[0].astype(wider(data[0].dtype, jnp.float32))
        rest = tuple(axis for axis in range(one.ndim) if axis not in one.channels)
        centre = jnp.mean(x, axis=rest, keepdims=True)
        self._set(one.mean, centre)
        self._set(one.variance, jnp.mean(jnp.square(x - centre), axis=rest))
        self.seen.add(mean)

    def _set(self, key: Key, value: jax.Array) -> None:
        path, layer = key
        leaf = self.leaves[path]
        self.leaves[path] = leaf.at[layer].set(value.reshape(leaf.shape[len(layer) :]).astype(leaf.dtype))

    def scan(self, eqn: JaxprEqn, values: Sequence[Any]) -> list[Any]:
        """Unrolls a scan over layers."""
        params = eqn.params
        n_consts, n_carry, length = params["num_consts"], params["num_carry"], params["length"]
        inner, consts = closed(params["jaxpr"])
        fixed, carry, xs = values[:n_consts], list(values[n_consts : n_consts + n_carry]), values[n_consts + n_carry :]
        rows: list[Any] = [None] * length
        for step in reversed(range(length)) if params["reverse"] else range(length):
            outs = self.run(inner, consts, [*fixed, *carry, *(self._slice(x, step) for x in xs)])
            carry, rows[step] = outs[:n_carry], outs[n_carry:]
        ys = [jnp.stack([_forced(row[i]) for row in rows]) for i in range(len(rows[0]))]
        return [*map(_forced, carry), *ys]

    def _slice(self, x: Any, step: int) -> Any:
        if not isinstance(x, Known):
            return x[step]
        if x.leaf is not None:
            return self._leaf((x.leaf[0], (*x.leaf[1], step)))
        return Known(x.leaves, lambda: x.value()[step])


def _constant(value: Any) -> Known:
    return Known(frozenset(), lambda: value)


def _forced(value: Any) -> Any:
    return value.value() if isinstance(value, Known) else value


def _waiting(eqn: JaxprEqn, values: Sequence[Known]) -> list[Known]:
    """Results of an equation, which is computed once for all of them."""
    leaves = frozenset[Key]().union(*(value.leaves for value in values))
    whole = Known(leaves, lambda: list(bind(eqn, [value.value() for value in values])))
    return [Known(leaves, lambda i=i: whole.value()[i]) for i in range(len(eqn.outvars))]
