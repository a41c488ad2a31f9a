"""A table of operations measured once, summed for every candidate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.timing import filled
from jaxcompress.search.hardware.agreement import Agreement, agreement
from jaxcompress.search.hardware.latency import Call, latencies_ms


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyTable:
    """Milliseconds of every choice at every position of a network.

    A candidate's latency is taken to be ``intercept_ms + slope * sum of its operations``: fusion across operations, the
    launch of the program and overlap are not in the table. `calibrated` fits the two numbers on measured candidates and
    says on others how well the sum agrees with the truth.

    Attributes:
        choices: of every position, the names of its choices, in the order of their codes.
        ms: float64 ``[positions, most choices]``; NaN where a position has no such choice.
        device: where it was measured.
        intercept_ms: what every candidate pays.
        slope: factor of the sum.
    """

    choices: Mapping[str, tuple[str, ...]]
    ms: np.ndarray
    device: str
    intercept_ms: float = 0.0
    slope: float = 1.0

    def predict(self, codes: jax.Array) -> jax.Array:
        """Milliseconds of candidates, as arithmetic on runtime arrays.

        Args:
            codes: integers ``[..., positions]``: of every position which choice, from 0. May be traced.

        Returns:
            float32 ``[...]``; NaN, a failed candidate, where a code stands for no measured choice.

        Raises:
            ValueError: if the last axis does not count the positions.

        Example:
            >>> ms = np.array([[0.0, 2.0], [0.0, 3.0]])
            >>> table = LatencyTable({"a": ("skip", "conv"), "b": ("skip", "conv")}, ms, "cpu")
            >>> jax.jit(table.predict)(jnp.array([[1, 1], [1, 0]])).tolist()
            [5.0, 2.0]
        """
        codes = jnp.asarray(codes)
        positions, most = self.ms.shape
        if codes.ndim == 0 or codes.shape[-1] != positions:
            raise ValueError(f"codes: takes [..., {positions}], a code for every position; got shape {codes.shape}")
        known = (codes >= 0) & (codes < most)
        place = jnp.broadcast_to(jnp.arange(positions), codes.shape)
        taken = jnp.asarray(self.ms, jnp.float32)[place, jnp.where(known, codes, 0)]
        taken = jnp.where(known, taken, jnp.nan)
        return self.intercept_ms + self.slope * taken.sum(-1)

    def calibrated(
        self, build: Callable[[np.ndarray], Call], codes: Any, *, samples: int = 11
    ) -> tuple[LatencyTable, Agreement]:
        """Measures whole candidates; fits intercept and slope on every second one, and is judged on the others.

        Args:
            build: ``codes [positions] -> (fn, args)``: the candidate as it would be served.
            codes: integers ``[sample, positions]``: which candidates; 6 at least. Take them at random.
            samples: of the time of each candidate.

        Returns:
            The table with both numbers, and its agreement with the truth on the candidates that were not fitted. Where
            the fit has no positive slope (the sum then says nothing) the slope stays as it was.

        Raises:
            ValueError: if there are fewer than 6 candidates.
        """
        codes = np.asarray(codes)
        if codes.ndim != 2 or len(codes) < 6:
            raise ValueError(f"codes: takes [sample, positions] with 6 candidates at least; got shape {codes.shape}")
        truth = np.array(list(latencies_ms({i: build(row) for i, row in enumerate(codes)}, samples=samples).values()))
        plain = dataclasses.replace(self, intercept_ms=0.0, slope=1.0)
        sums = np.asarray(plain.predict(jnp.asarray(codes)), np.float64)
        fitted = dataclasses.replace(self, **_line(sums[::2], truth[::2], self.slope))
        told = fitted.intercept_ms + fitted.slope * sums[1::2]
        return fitted, agreement(told, truth[1::2])

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON can hold it, NaN as None; `from_dict` is the inverse."""
        rows = [[None if np.isnan(ms) else ms for ms in row] for row in self.ms.tolist()]
        kept = {"device": self.device, "intercept_ms": self.intercept_ms, "slope": self.slope}
        return {"version": 1, "choices": {k: list(v) for k, v in self.choices.items()}, "ms": rows, **kept}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> LatencyTable:
        """The table that `to_dict` wrote.

        Raises:
            ValueError: if it is of another version.
        """
        if stored.get("version") != 1:
            raise ValueError(f"stored: a latency table of version {stored.get('version')!r}; this code reads version 1")
        ms = np.array([[np.nan if v is None else v for v in row] for row in stored["ms"]], np.float64)
        choices = {name: tuple(names) for name, names in stored["choices"].items()}
        return LatencyTable(choices, ms, stored["device"], stored["intercept_ms"], stored["slope"])


def latency_table(
    operation: Callable[[str, str], Call | None], choices: Mapping[str, Sequence[str]], *, samples: int = 11
) -> LatencyTable:
    """Measures every choice at every position, once: programs that are the same are one measurement.

    Args:
        operation: ``(position, choice) -> (fn, args)``, the operation at its shapes there; None where it costs nothing
            (a skip).
        choices: ``{position: names of its choices}``, in the order of their codes.
        samples: of the time of each.

    Returns:
        The table; nothing is fitted yet.

    Raises:
        ValueError: if there is nothing to measure, or a position has no choices.

    Example:
        >>> def operation(position, choice):
        ...     return None if choice == "skip" else (lambda w, x: x @ w, (jnp.ones((64, 64)), jnp.ones((8, 64))))
        >>> table = latency_table(operation, {"first": ("skip", "dense"), "second": ("dense",)}, samples=3)
        >>> bool(table.ms[0, 0] == 0 and table.ms[0, 1] == table.ms[1, 0] > 0)
        True
    """
    if empty := [place for place, names in choices.items() if not names]:
        raise ValueError(f"latency_table: the position {empty[0]!r} has no choices; leave it out, or give it some")
    calls = {(place, name): operation(place, name) for place, names in choices.items() for name in names}
    programs = {at: _program(call) for at, call in calls.items() if call is not None}
    if not programs:
        raise ValueError("latency_table: no position has a choice that is measured, so a sum would mean nothing")
    distinct = {program: call for at, call in calls.items() if call and (program := programs[at])}
    measured = latencies_ms(distinct, samples=samples)
    ms = np.full((len(choices), max(map(len, choices.values()))), np.nan)
    for row, (place, names) in enumerate(choices.items()):
        for column, name in enumerate(names):
            ms[row, column] = measured[programs[place, name]] if (place, name) in programs else 0.0
    device = jax.devices()[0]
    named = {place: tuple(names) for place, names in choices.items()}
    return LatencyTable(named, ms, f"{device.platform}: {device.device_kind}")


def _program(call: Call) -> str:
    fn, args = call

    def operation(*args: Any) -> Any:  # one name for all: it stands in the text of the program
        return fn(*args)

    return jax.jit(operation).lower(*jax.tree.map(filled, tuple(args))).as_text()


def _line(x: np.ndarray, y: np.ndarray, slope: float) -> dict[str, float]:
    """Least squares: intercept and slope; a slope that is not positive is left as it was."""
    spread = np.square(x - x.mean()).sum()
    fitted = float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread else 0.0
    slope = fitted if fitted > 0 else slope
    return {"slope": slope, "intercept_ms": float(y.mean() - slope * x.mean())}
