"""Leaf kinds of the tests of the core: none of them knows anything that a third party could not write."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcompress.core.explain import explain
from jaxcompress.core.leaf import CompressedArray, dense, is_compressed, leaf_kind


@leaf_kind("test_probe", trainable=("value",), priority=3)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Probe(CompressedArray):
    """Holds ``value / 2`` in any shape, and serves every product and convolution: what is not served shows a gap."""

    value: Any
    flavour: str = dataclasses.field(default="plain", metadata={"static": True})

    @classmethod
    def of(cls, x):
        return cls(x / jnp.asarray(2, x.dtype))

    def alignment(self):
        return {"value": tuple(range(len(self.value.shape)))}

    @property
    def dtype(self):
        return self.value.dtype

    def materialize(self):
        return self.value * jnp.asarray(2, self.dtype)

    def matmul(self, x, *, contract, batch, **options):
        out = lax.dot_general(x, self.value, (contract, batch), **options)
        return out * jnp.asarray(2, out.dtype)

    def conv(self, x, **params):
        out = lax.conv_general_dilated_p.bind(x, self.value, **params)
        return out * jnp.asarray(2, out.dtype)

    def astype(self, dtype):
        return self.replace(value=self.value.astype(dtype))


@leaf_kind("test_digits", trainable=("high", "low", "gain"))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Digits(CompressedArray):
    """Row i is ``high[i // n] + low[i % n]``, times ``gain`` where there is one: no slice of a field gives a row."""

    high: Any
    low: Any
    gain: Any = None

    def alignment(self):
        held = {"high": (None, 1), "low": (None, 1)}
        return held if self.gain is None else {**held, "gain": (1,)}

    @property
    def shape(self):
        return self.high.shape[0] * self.low.shape[0], self.high.shape[1]

    @property
    def dtype(self):
        return self.high.dtype

    def map_axis(self, axis, fn):
        return None if axis == 0 else super().map_axis(axis, fn)

    def materialize(self):
        return self.rows(jnp.arange(self.shape[0]))

    def lookup(self, indices, axis):
        return self.rows(jnp.clip(indices, 0, self.shape[0] - 1)) if axis == 0 else None

    def rows(self, i):
        found = self.high[i // self.low.shape[0]] + self.low[i % self.low.shape[0]]
        return found if self.gain is None else found * self.gain[None]


@leaf_kind("test_thin", trainable=("u", "v"), priority=1)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Thin(CompressedArray):
    """``u @ v`` with stack axes in front; serves the products that sum over one side. No cast, no convolution."""

    u: Any
    v: Any

    @classmethod
    def random(cls, seed, *shape, rank=2, dtype=jnp.float32):
        *stack, rows, cols = shape
        u, v = jax.random.split(jax.random.key(seed))
        return cls(jax.random.normal(u, (*stack, rows, rank), dtype), jax.random.normal(v, (*stack, rank, cols), dtype))

    def alignment(self):
        stack = tuple(range(len(self.u.shape) - 2))
        n = len(stack)
        return {"u": (*stack, n, None), "v": (*stack, None, n + 1)}

    @property
    def dtype(self):
        return self.u.dtype

    def materialize(self):
        return jnp.matmul(dense(self.u), dense(self.v))

    def matmul(self, x, *, contract, batch, **options):
        n = len(self.u.shape) - 2
        stack = tuple(range(n))
        if is_compressed(self.u) or is_compressed(self.v) or batch[1] != stack or contract[1] not in ((n,), (n + 1,)):
            return None
        near, far, side = (self.u, self.v, n) if contract[1] == (n,) else (self.v, self.u, n + 1)
        thin = lax.dot_general(x, near, ((contract[0], (side,)), (batch[0], stack)), **options)
        lead = tuple(range(n))
        # The rank is axis n of v and n + 1 of u: where the other factor held the contracted axis.
        return lax.dot_general(thin, far, (((thin.ndim - 1,), (side,)), (lead, stack)), **options)


@leaf_kind("test_grouped", trainable=("scale",))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Grouped(CompressedArray):
    """int8 codes with one scale per group of rows; serves nothing."""

    codes: jax.Array
    scale: jax.Array  # stack + (groups, columns)

    @classmethod
    def of(cls, x, groups):
        *stack, rows, cols = x.shape
        blocks = x.reshape(*stack, groups, rows // groups, cols)
        scale = jnp.max(jnp.abs(blocks), axis=-2) / 127
        codes = jnp.round(blocks / scale[..., None, :]).astype(jnp.int8).reshape(x.shape)
        return cls(codes, scale)

    def alignment(self):
        axes = tuple(range(len(self.codes.shape)))
        return {"codes": axes, "scale": axes}

    @property
    def dtype(self):
        return self.scale.dtype

    def materialize(self):
        repeats = self.codes.shape[-2] // self.scale.shape[-2]
        return self.codes.astype(self.dtype) * jnp.repeat(self.scale, repeats, axis=-2)


def served(fn, params, *inputs, **kwargs):
    """True if every compressed leaf was consumed, and nowhere made dense."""
    lines = explain(fn, params, *inputs, **kwargs)
    ours = [line for line in lines if line.kind != "dense"]
    return bool(ours) and all(line.served for line in ours)


def avals_of(jaxpr):
    """Shape and dtype of every value that a jaxpr and the jaxprs inside it compute."""
    for eqn in jaxpr.eqns:
        for var in eqn.outvars:
            yield var.aval.shape, var.aval.dtype
        for inner in inner_jaxprs(eqn):
            yield from avals_of(inner)


def inner_jaxprs(eqn):
    """The open jaxprs among an equation's parameters."""
    for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)


def all_equations(jaxpr):
    """Every equation, inner ones too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in inner_jaxprs(eqn):
            yield from all_equations(inner)


def floats_of_shape(fn, shape, *args):
    """How many floating values of this shape ``fn(*args)`` computes."""
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    return sum(s == tuple(shape) and jnp.issubdtype(d, jnp.floating) for s, d in avals_of(jaxpr))
