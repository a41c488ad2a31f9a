"""The leaf kind of tensor trains: matrices, embeddings and kernels as chains of small cores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.core.leaf import ArrayOrLeaf, CompressedArray, FieldOp, is_compressed, leaf_kind
from jaxcompress.core.roles import Roles
from jaxcompress.factorize import network as networks
from jaxcompress.factorize.digits import Modes, modes_of
from jaxcompress.factorize.network import Network
from jaxcompress.factorize.train_windows import convolve

CORES = 8


@leaf_kind("tensor_train", trainable=tuple(f"core{k}" for k in range(CORES)), priority=2)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TensorTrain(CompressedArray):
    """A chain of cores, each of which holds some digits of the indices of the dense array.

    The digits of an axis, over the cores in order and the most significant first, make its index: a matrix of 784 x 300
    is a chain of four cores ``[r, 7, 5, r'] [r, 4, 5, r'] [r, 7, 4, r'] [r, 4, 3, r']`` (a TT-matrix); a kernel of a
    convolution may be one ``[1, in, r] [r, height, r'] [r', width, r''] [r'', out, 1]``. A contraction meets the cores
    in the order of the fewest multiplications, or multiplied out where the data has so many rows that this is cheaper;
    `jaxcompress.explain` says which. Rows of an embedding are decoded alone.

    Attributes:
        core0: ``stack + (rank,) + digits + (rank,)``; an array, or a leaf again. The outermost ranks are one number: 1
            (more make the chain a ring).
        core1: likewise, and so on; absent ones are None.
        axes: for each core the dense axes, counted after the stack, of which it holds a digit.
        cut: for each dense axis after the stack its size where its digits count further, else None.
    """

    free = True

    core0: ArrayOrLeaf
    core1: ArrayOrLeaf
    core2: ArrayOrLeaf | None = None
    core3: ArrayOrLeaf | None = None
    core4: ArrayOrLeaf | None = None
    core5: ArrayOrLeaf | None = None
    core6: ArrayOrLeaf | None = None
    core7: ArrayOrLeaf | None = None
    axes: tuple[tuple[int, ...], ...] = dataclasses.field(default=((0, 1), (0, 1)), metadata={"static": True})
    cut: tuple[int | None, ...] = dataclasses.field(default=(None, None), metadata={"static": True})

    @classmethod
    def create(
        cls,
        cores: Sequence[ArrayOrLeaf],
        axes: Sequence[Sequence[int]] | None = None,
        sizes: Sequence[int] | None = None,
    ) -> Self:
        """Checks the cores.

        Args:
            cores: 2 to 8 of one float dtype, each ``stack + (rank,) + digits + (rank,)``.
            axes: for each of them the dense axes, counted after the stack, of which it holds a digit; by default rows
                and columns where it has four axes, an axis of its own where it has three.
            sizes: of the dense axes after the stack; by default all that their digits can count.

        Raises:
            TypeError: if a core is not float, or the dtypes differ.
            ValueError: if the number of cores, ``axes``, ``sizes`` or the shapes do not fit.

        Example:
            >>> leaf = TensorTrain.create([jnp.ones((1, 2, 3, 4)), jnp.ones((4, 2, 2, 1))], sizes=(4, 5))
            >>> leaf.shape, leaf.ranks, leaf.stored_bits // 32
            ((4, 5), (1, 4, 1), 40)
        """
        owned = tuple((0, 1) if c.ndim == 4 else (k,) for k, c in enumerate(cores)) if axes is None else axes
        owned = tuple(tuple(own) for own in owned)
        if not 2 <= len(cores) <= CORES:
            raise ValueError(f"cores must be 2 to {CORES}, got {len(cores)}")
        if len({core.dtype for core in cores}) > 1 or not jnp.issubdtype(cores[0].dtype, jnp.floating):
            raise TypeError(f"cores must be of one float dtype, got {[str(core.dtype) for core in cores]}")
        flat = {axis for own in owned for axis in own}
        if (
            len(owned) != len(cores)
            or flat != set(range(len(flat)))
            or any(len(set(own)) < len(own) or not own for own in owned)
        ):
            raise ValueError(f"axes must give each of {len(cores)} cores some dense axes, from 0 on, got {owned}")
        _check_shapes(cores, owned)
        digits: list[int] = [1] * len(flat)
        for core, own in zip(cores, owned, strict=True):
            for axis, size in zip(own, core.shape[-1 - len(own) : -1], strict=True):
                digits[axis] *= size
        wanted = tuple(digits) if sizes is None else tuple(sizes)
        if len(wanted) != len(digits) or any(not 1 <= n <= most for n, most in zip(wanted, digits, strict=True)):
            raise ValueError(f"sizes must be from 1 to {tuple(digits)}, what the digits count, got {wanted}")
        cut = tuple(None if size == most else size for size, most in zip(wanted, digits, strict=True))
        held = [core if is_compressed(core) else jnp.asarray(core) for core in cores]
        return cls(*held, *(None,) * (CORES - len(held)), axes=owned, cut=cut)

    @classmethod
    def init(
        cls,
        key: jax.Array,
        shape: Sequence[int],
        *,
        rank: int | Sequence[int],
        digits: Sequence[Sequence[int]] | None = None,
        cores: int = 3,
        variance: float | None = None,
        dtype: Any = jnp.float32,
    ) -> Self:
        """Random cores, to train a layer of few parameters from scratch.

        Entries of the dense matrix are sums of ``prod(ranks)`` products of one entry of each core: normal cores of
        variance ``(variance / prod(ranks)) ** (1 / cores)`` give it the variance asked for.

        Args:
            key: from `jax.random.key`.
            shape: ``(inputs, outputs)``, or with leading stack axes.
            rank: of the bonds inside, or one for each.
            digits: of the inputs and of the outputs, as many for both; by default as `digits_of` finds them.
            cores: how many, where no digits are given.
            variance: of the dense entries; by default Glorot's ``2 / (inputs + outputs)``.
            dtype: of the cores.

        Raises:
            ValueError: if ``digits`` do not reach the shape, or ``rank`` is not positive or of the wrong length.

        Example:
            >>> leaf = TensorTrain.init(jax.random.key(0), (784, 300), rank=6, digits=((4, 7, 4, 7), (5, 5, 4, 3)))
            >>> leaf.stored_bits // 32, [core.shape for core in leaf.cores][1]
            (2082, (6, 7, 5, 6))

        References:
            Novikov et al., 2015. Tensorizing neural networks, section 3 and 6. https://arxiv.org/abs/1509.06569
        """
        *stack, rows, cols = shape
        layout = modes_of((rows, cols), ((0,), (1,)), digits=digits, cores=cores)
        ranks = layout.feasible(rank)
        own = 2 / (rows + cols) if variance is None else variance
        scale = (own / math.prod(ranks)) ** (0.5 / len(layout.axes))
        shapes = [(*stack, *core) for core in layout.core_shapes(ranks)]
        keys = jax.random.split(key, len(shapes))
        made = [scale * jax.random.normal(k, core, dtype) for k, core in zip(keys, shapes, strict=True)]
        return cls.of_modes(made, layout)

    @classmethod
    def of_modes(cls, cores: Sequence[jax.Array], modes: Modes) -> Self:
        """The leaf of cores that are laid out as ``modes`` says; unchecked."""
        return cls(*cores, *(None,) * (CORES - len(cores)), axes=modes.axes, cut=modes.cut)  # type: ignore[arg-type]

    @property
    def cores(self) -> tuple[ArrayOrLeaf, ...]:
        """Those that there are."""
        return tuple(self.components().values())

    @property
    def ranks(self) -> tuple[int, ...]:
        """Of all bonds, the outermost ones included."""
        return (*(self._rank_axis(k)[0] for k in range(len(self.axes))), self.cores[-1].shape[-1])

    @property
    def stack_ndim(self) -> int:
        """Number of leading axes that hold separate trains."""
        return len(self.core0.shape) - len(self.axes[0]) - 2

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense array: what the digits count, less what is cut off."""
        sizes = [1] * len(self.cut)
        for core, own in zip(self.cores, self.axes, strict=True):
            for axis, size in zip(own, core.shape[self.stack_ndim + 1 : -1], strict=True):
                sizes[axis] *= size
        cut = (size if own is None else own for size, own in zip(sizes, self.cut, strict=True))
        return (*self.core0.shape[: self.stack_ndim], *cut)

    def alignment(self) -> Mapping[str, tuple[int | None, ...]]:
        """Every core holds the stack; an axis that is one digit of one core runs along it, others along none."""
        stack, whole = self.stack_ndim, self._whole()
        return {
            name: (*range(stack), None, *(stack + axis if axis in whole else None for axis in own), None)
            for name, own in zip(self.components(), self.axes, strict=True)
        }

    def field_roles(self, name: str, roles: Roles) -> Roles:
        """A core takes the digits of what is contracted and the rank before it, and gives the others and the next."""
        stack, own = self.stack_ndim, self.axes[int(name.removeprefix("core"))]
        digits = {stack + 1 + i: stack + axis for i, axis in enumerate(own)}
        first, last = stack, stack + 1 + len(own)
        layers = (*range(stack), *(i for i, axis in digits.items() if axis in roles.stack))
        contracting = (first, *(i for i, axis in digits.items() if axis in roles.contracting))
        output = (*(i for i in digits if i not in {*layers, *contracting}), last)
        return Roles(layers, contracting, output, tuple(i for i, axis in digits.items() if axis in roles.spatial))

    @property
    def dtype(self) -> np.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Dtype of the cores."""
        return self.core0.dtype

    def materialize(self) -> jax.Array:
        """The dense array, at the highest precision of the device."""
        arrays = [core.materialize() if isinstance(core, CompressedArray) else core for core in self.cores]
        return networks.materialize(self._network(), arrays)

    def astype(self, dtype: Any) -> Self | None:
        """The same cores in another dtype."""
        cast = {name: core.astype(dtype) for name, core in self.components().items()}
        return None if any(core is None for core in cast.values()) else self.replace(**cast)

    def map_axis(self, axis: int, fn: FieldOp) -> Self | None:
        """Indexes an axis that one core holds whole; None where several hold its digits."""
        inner = axis - self.stack_ndim
        return super().map_axis(axis, fn) if inner < 0 or inner in self._whole() else None

    def lookup(self, indices: jax.Array, axis: int) -> jax.Array:
        """Entries along one axis: of each core the slices at the digits of their indices, multiplied."""
        return networks.rows(self._network(), self.cores, indices, axis)

    def matmul(self, x: jax.Array, **numbers: Any) -> jax.Array | None:
        """One core after the other, in the cheapest order; any axis may be summed or in step."""
        return None if x.dtype != self.dtype else networks.matmul(self._network(), self.cores, x, **numbers)

    def how(self, x: Any, *, contract: Any, batch: Any) -> str:
        """The number of products and of multiplications."""
        return networks.how(self.kind, self._network(), self.cores, x, contract=contract, batch=batch)

    def conv(self, x: jax.Array, **params: Any) -> jax.Array | None:
        """Thin products per pixel around thin convolutions, where the chain goes from the input over the window out."""
        if self.stack_ndim or x.dtype != self.dtype or any(size is not None for size in self.cut):
            return None
        return convolve(self.cores, self.axes, x, params)

    def _whole(self) -> set[int]:
        """Axes after the stack that are one digit of one core, none of it cut off."""
        held = [axis for own in self.axes for axis in own]
        return {axis for axis in held if held.count(axis) == 1 and self.cut[axis] is None}

    def _rank_axis(self, k: int) -> tuple[int, int]:
        shape = self.cores[k].shape
        return shape[self.stack_ndim], shape[-1]

    def _network(self) -> Network:
        stack, count = self.stack_ndim, 0
        numbers: list[list[int]] = [[] for _ in self.cut]
        lengths = list(self.core0.shape[:stack])
        held = []
        for core, own in zip(self.cores, self.axes, strict=True):
            held.append(range(stack + count, stack + count + len(own)))
            for axis, number, length in zip(own, held[-1], core.shape[stack + 1 : -1], strict=True):
                numbers[axis].append(number)
                lengths.append(length)
            count += len(own)
        bond = stack + count
        names = tuple((*range(stack), bond + k, *digits, bond + (k + 1) % len(held)) for k, digits in enumerate(held))
        digits = (*((axis,) for axis in range(stack)), *map(tuple, numbers))
        return Network(names, digits, tuple(lengths), self.shape)


def _check_shapes(cores: Sequence[ArrayOrLeaf], owned: Sequence[tuple[int, ...]]) -> None:
    stacks = [core.ndim - len(own) - 2 for core, own in zip(cores, owned, strict=True)]
    ends = [(core.shape[n], core.shape[-1]) for core, n in zip(cores, stacks, strict=True) if n >= 0]
    fits = len(ends) == len(cores) and len({core.shape[:n] for core, n in zip(cores, stacks, strict=True)}) == 1
    if not fits or any(ends[k - 1][1] != ends[k][0] for k in range(len(ends))):
        raise ValueError(
            f"cores must have the shapes stack + (rank,) + digits + (rank,) with digits of the axes {tuple(owned)} and "
            f"ranks that meet (the first and the last are one), got {[core.shape for core in cores]}"
        )
