"""`symmetries`: which positive scales of parameters leave a function as it is."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxcompress.core.leaf import is_compressed
from jaxcompress.core.lift import array_paths, split_static, trace
from jaxcompress.core.rescaling.fields import Equation, Field, Term
from jaxcompress.core.rescaling.result import Excluded, Member, Symmetries, Symmetry
from jaxcompress.core.rescaling.solve import Block, Vector, independent, solve
from jaxcompress.core.rescaling.walk import Walk
from jaxcompress.core.sites import CONTRACTIONS, Site, sites

_LARGEST = 1 << 16
_MOST = 12  # weights of a block among which pairs are sought


@dataclasses.dataclass(frozen=True)
class _Part:
    """Axes of a parameter that are scaled together, entry by entry; their labels begin at ``first``."""

    path: str
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    role: str
    first: int


def symmetries(
    fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    clips: Literal["fix", "pass"] = "fix",
    **kwargs: Any,
) -> Symmetries:
    """Finds the positive scales of parameters under which ``fn`` computes the same.

    The promise: `apply` with any of the symmetries and any positive scales leaves every output of ``fn`` as it is, up
    to rounding. They follow from the trace alone: a ReLU, a pooling, a product, a convolution hand scales on, what is
    summed or contracted must be scaled alike or cancel, and everything that is not known to be homogeneous (a sigmoid,
    a softmax, an epsilon that is added) fixes what meets it. What is not proved is left out and told in ``excluded``.

    Nothing is computed: ``fn`` is traced, so any function that ``jit`` accepts will do, whatever library wrote it.

    Args:
        fn: a function that ``jit`` accepts; non-array arguments are static, as for `jaxcompress.lift`.
        params: its first argument: all variables of the model. Compressed leaves stay as they are.
        *inputs: further positional arguments; may be `jax.ShapeDtypeStruct`.
        clips: ``"pass"`` takes the bounds of a clip (the 6 of a ReLU6) for infinite, as Nagel et al. do: then the
            function changes where activations are beyond them.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        The symmetries; ``print`` shows them.

    Raises:
        ValueError: if ``clips`` is another word.

    Example:
        >>> params = {"a": jnp.ones((3, 8)), "bias": jnp.ones(8), "b": jnp.ones((8, 2))}
        >>> fn = lambda p, x: jax.nn.relu(x @ p["a"] + p["bias"][None]) @ p["b"]
        >>> (found,) = symmetries(fn, params, jnp.ones((5, 3)))
        >>> [(member.path, member.axes, member.exponent) for member in found.members]
        [('a', (1,), 1.0), ('b', (0,), -1.0), ('bias', (0,), 1.0)]

    References:
        Nagel et al., 2019, section 4.1 (the case of two layers). https://arxiv.org/abs/1906.04721
    """
    if clips not in ("fix", "pass"):
        raise ValueError(f"symmetries: clips must be 'fix' or 'pass', got {clips!r}")
    count = len(split_static(fn, (params,), {})[1])
    static, arrays = split_static(fn, (params, *inputs), kwargs)
    names = array_paths(static)
    met = sites(fn, params, *inputs, **kwargs)
    by_path = {name: [site for site in met if site.path == name] for name in names[:count]}
    closed, _ = trace(fn, static, arrays)
    walk, parts = Walk(clips=clips == "pass"), list[_Part]()
    args = []
    for i, (name, array, var) in enumerate(zip(names, arrays, closed.jaxpr.invars, strict=True)):
        scaled = i < count and jnp.issubdtype(var.aval.dtype, jnp.floating) and not is_compressed(array)
        args.append(_argument(walk, parts, name, var.aval.shape, by_path[name]) if scaled else Field(data=i >= count))
    for out in walk.run(closed.jaxpr, closed.consts, args):
        walk.system.zero(out.terms, "it is a result")
    unused = {name for name, arg in zip(names[:count], args, strict=False) if id(arg) not in walk.met}
    gains = np.unique(np.concatenate([labels.ravel() for labels in walk.gains] or [np.zeros(0, int)]))
    told = [dataclasses.replace(p, role="gain") if p.role == "other" and p.first in gains else p for p in parts]
    return _Found(walk, told, unused).symmetries()


def _argument(walk: Walk, parts: list[_Part], path: str, shape: tuple[int, ...], met: Sequence[Site]) -> Field:
    """Unknown scales along every group of axes that a parameter has."""
    terms = []
    for axes, role in _groups(shape, met):
        sizes = tuple(shape[axis] for axis in axes)
        labels = walk.system.fresh(*sizes)
        parts.append(_Part(path, axes, sizes, role, int(labels.flat[0])))
        along = [size if axis in axes else 1 for axis, size in enumerate(shape)]
        terms.append(Term(Fraction(1), labels.reshape(along)))
    return Field(tuple(terms))


def _groups(shape: tuple[int, ...], met: Sequence[Site]) -> Iterable[tuple[tuple[int, ...], str]]:
    """Axes that are scaled together: stack and contracted ones, stack and outputs, all of a bias or a statistic."""
    wide = {axis for axis, size in enumerate(shape) if size > 1}
    contracted = [site for site in met if site.primitive in CONTRACTIONS]  # an axis of length 1 may be missing
    readings = {(site.stack, site.contracting, site.output) for site in contracted}
    if 0 in shape:
        return
    if len(readings) == 1 and not any(site.lookup for site in met):
        first = contracted[0]
        groups = [
            (set(first.contracting) - set(first.spatial), "contracting"),
            (set(range(len(shape))).difference(first.contracting, first.stack), "output"),
        ]
        stack = wide & set(first.stack)
        for axes, role in groups:
            if wide & axes:
                yield tuple(sorted(wide & axes | stack)), role
        if stack and not any(wide & axes for axes, _ in groups):
            yield tuple(sorted(stack)), "other"
    elif met and not readings and not any(site.lookup for site in met) and math.prod(shape) <= _LARGEST:
        if wide:
            yield tuple(sorted(wide)), "other"
    else:
        for axis in sorted(wide):
            yield (axis,), _role(axis, contracted)


def _role(axis: int, contracted: Sequence[Site]) -> str:
    if any(axis in site.contracting for site in contracted):
        return "contracting"
    return "output" if any(axis not in site.stack for site in contracted) else "other"


class _Found:
    """From solutions to symmetries."""

    def __init__(self, walk: Walk, parts: Sequence[_Part], unused: set[str]) -> None:
        self._parts, self._equations = parts, walk.system.equations
        owner = np.full(walk.system.count, -1)
        self._place = np.zeros(walk.system.count, int)
        for number, part in enumerate(parts):
            labels = slice(part.first, part.first + math.prod(part.sizes))
            owner[labels] = number if part.path not in unused else -1
            self._place[labels] = np.arange(math.prod(part.sizes))
        self._rank = np.array([_RANKS[part.role] for part in parts] or [0])
        self._blocks, self._cause = solve(walk.system, owner, self._rank)
        self._unused = unused

    def symmetries(self) -> Symmetries:
        """All that is found."""
        solutions = [[_signed(self._roles(b), vector) for vector in b.basis] for b in self._blocks]
        entries = self._merged([(b, v) for b, vs in zip(self._blocks, solutions, strict=True) for v in vs])
        weights = [i for i, part in enumerate(self._parts) if part.role == "contracting"]
        absorbing = {self._parts[i].path: found for i in weights if (found := self._absorbing(i)) is not None}
        pairs = self._merged([(b, v) for b in self._blocks for v in self._pairs(b)])
        return Symmetries(entries, self._excluded(), absorbing, pairs)

    def _roles(self, block: Block) -> list[str]:
        return [self._parts[owner].role if owner >= 0 else "" for owner in block.owners]

    def _absorbing(self, part: int) -> Symmetry | None:
        """Every unit in which the contracted axes of a weight can be divided by a factor."""
        chosen = []
        for block in self._blocks:
            own = [i for i, owner in enumerate(block.owners) if owner == part]
            touched: set[int] = set()
            for unknown in own:
                vector = None if unknown in touched else block.solution({unknown: -1}, self._costly(block, part))
                if vector is None or any(vector[i] not in (0, -1) for i in own):
                    continue
                support = {i for i, c in enumerate(vector) if c and block.owners[i] >= 0}
                if not support & touched:
                    chosen.append((block, vector))
                    touched |= support
        return self._units(chosen) if chosen else None

    def _costly(self, block: Block, part: int) -> list[int]:
        """Unknowns of a block in the order in which they should stay as they are: gains are the first to give."""
        return self._ordered(block, ("output", "contracting", "other", "gain"), part)

    def _ordered(self, block: Block, roles: Sequence[str], last: int = -1) -> list[int]:
        free = [i for i, owner in enumerate(block.owners) if owner >= 0]

        def key(unknown: int) -> tuple[bool, int, int]:
            part = self._parts[block.owners[unknown]]
            return block.owners[unknown] == last, roles.index(part.role), -math.prod(part.sizes)

        return sorted(free, key=key)

    def _pairs(self, block: Block) -> list[Vector]:
        """Solutions that multiply one weight and divide another, with as few other weights and gains as possible.

        Those with the fewest weights come first, and none is a combination of others.
        """
        calm = self._ordered(block, ("output", "contracting", "gain", "other"))
        roles = self._roles(block)
        alike: dict[Vector, int] = {}  # unknowns that every solution scales alike are one
        for i, role in enumerate(roles):
            if role in ("output", "contracting"):
                alike.setdefault(tuple(vector[i] for vector in block.basis), i)
        weights = list(alike.values())
        found: dict[Vector, None] = {}
        for producer, consumer in itertools.permutations(weights, 2) if len(weights) <= _MOST else ():
            order = [i for i in calm if i not in (producer, consumer)]
            vector = block.solution({producer: 1, consumer: -1}, order)
            if vector is not None and all(abs(vector[i]) <= 1 for i in weights):
                found[_signed(roles, vector)] = None
        return independent(sorted(found, key=lambda vector: sum(vector[i] != 0 for i in weights)))

    def _merged(self, solutions: Sequence[tuple[Block, Vector]]) -> list[Symmetry]:
        """Units that scale the same parameters in the same way are one symmetry, if no two scale the same entry."""
        alike: dict[object, list[tuple[Block, Vector]]] = {}
        for block, vector in solutions:
            key = tuple(sorted({(owner, c) for owner, c in zip(block.owners, vector, strict=True) if c and owner >= 0}))
            turn = 0
            while any(other is block and _overlap(vector, known) for other, known in alike.get((key, turn), ())):
                turn += 1
            alike.setdefault((key, turn), []).append((block, vector))
        return [self._units(group) for group in alike.values()]

    def _units(self, solutions: Sequence[tuple[Block, Vector]]) -> Symmetry:
        arrays: dict[tuple[int, Fraction], np.ndarray] = {}
        size = 0
        for block, vector in solutions:
            units = np.arange(size, size + len(block.labels))
            size += len(block.labels)
            for column, (owner, coefficient) in enumerate(zip(block.owners, vector, strict=True)):
                if coefficient and owner >= 0:
                    part = self._parts[owner]
                    key = owner, coefficient
                    array = arrays.setdefault(key, np.full(math.prod(part.sizes), -1))
                    array[self._place[block.labels[:, column]]] = units
        members = []
        for (owner, coefficient), array in sorted(arrays.items(), key=lambda item: (item[0][0], -item[0][1])):
            part = self._parts[owner]
            members.append(Member(part.path, part.axes, float(coefficient), array.reshape(part.sizes), part.role))
        return Symmetry(size, tuple(members))

    def _excluded(self) -> list[Excluded]:
        """Axes of weights that are scaled nowhere, or not everywhere."""
        free = np.zeros(len(self._cause), bool)
        for block in self._blocks:
            for column in range(len(block.owners)):
                if any(vector[column] for vector in block.basis):
                    free[block.labels[:, column]] = True
        found = []
        for part in self._parts:
            labels = np.arange(part.first, part.first + math.prod(part.sizes))
            fixed = labels[~free[labels]]
            if part.role in ("other", "gain") or not len(fixed):
                continue
            number = int(self._cause[fixed[0]])
            reason = "nothing in this call uses it" if part.path in self._unused else _told(self._equations, number)
            found.append(Excluded(part.path, part.axes, len(fixed), reason))
        return found


def _overlap(a: Vector, b: Vector) -> bool:
    return any(x and y for x, y in zip(a, b, strict=True))


def _told(equations: Sequence[Equation], number: int) -> str:
    return str(equations[number]) if number >= 0 else "it follows from others that are fixed"


def _signed(roles: Sequence[str], vector: Vector) -> Vector:
    """The solution or its inverse: contracted axes are divided, or the first unknown is multiplied."""
    consumed = sum((c for role, c in zip(roles, vector, strict=True) if role == "contracting"), Fraction(0))
    lead = -consumed or _leading([c for role, c in zip(roles, vector, strict=True) if role])
    return vector if lead > 0 else tuple(-c for c in vector)


def _leading(vector: Sequence[Fraction]) -> Fraction:
    return next(c for c in vector if c)


_RANKS = {"other": 0, "gain": 1, "contracting": 2, "output": 3}
