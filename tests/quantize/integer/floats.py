"""Finds float arithmetic inside of an integer program: what the law of integer-only inference is checked with."""

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

PARAM, RAW, INT, OUT = range(4)  # parameters; float data before it is quantized; integers made of data; dequantized
DEQUANTIZING = {"convert_element_type", "mul", "sub", "broadcast_in_dim", "reshape", "squeeze"}


def float_arithmetic(closed, params):
    """Primitives that compute with floats between quantization and dequantization.

    Data may be float until the first integer is made of it. From an integer that was made of data a float may come
    only by the few primitives of a dequantization, and no integer may come from such a float again. Bodies of control
    flow and calls are entered.

    Args:
        closed: a closed jaxpr.
        params: how many of its arguments, the first ones, are parameters.
    """
    found = []
    marks = [PARAM if at < params else _entering(v.aval) for at, v in enumerate(closed.jaxpr.invars)]
    _walk(closed.jaxpr, marks, found)
    return found


def _entering(aval):
    return RAW if _is_float(aval) else INT


def _is_float(aval):
    return jnp.issubdtype(aval.dtype, jnp.inexact)


def _walk(jaxpr, marks, found):
    env = dict(zip(jaxpr.invars, marks, strict=True)) | dict.fromkeys(jaxpr.constvars, PARAM)
    read = lambda v: PARAM if isinstance(v, Literal) else env[v]  # noqa: E731
    for eqn in jaxpr.eqns:
        entering = [read(v) for v in eqn.invars]
        bodies = list(_bodies(eqn))
        if bodies:
            outs = _inside(eqn, bodies, entering, found)
        else:
            outs = [_mark(eqn, max(entering, default=PARAM), v.aval, found) for v in eqn.outvars]
        env.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _mark(eqn, mark, aval, found):
    if not _is_float(aval):
        if mark == OUT:
            found.append(f"{eqn.primitive.name} makes integers of dequantized floats")
        return mark if mark in (PARAM, OUT) else INT
    if mark in (PARAM, RAW):
        return mark
    if eqn.primitive.name not in DEQUANTIZING:
        found.append(f"{eqn.primitive.name} computes with floats")
    return OUT


def _bodies(eqn):
    for name, value in eqn.params.items():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield name, getattr(part, "jaxpr", part)


def _inside(eqn, bodies, entering, found):
    name = eqn.primitive.name
    if name == "while":
        test, body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carry = entering[test + body :]
        inner = dict(bodies)
        for _ in range(3):  # marks only rise, and there are four
            stepped = _walk(inner["body_jaxpr"], entering[test : test + body] + carry, found)
            carry = [max(pair) for pair in zip(carry, stepped, strict=True)]
        _walk(inner["cond_jaxpr"], entering[:test] + carry, found)
        return carry
    if name == "scan":
        consts, carries = eqn.params["num_consts"], eqn.params["num_carry"]
        carry = entering[consts : consts + carries]
        for _ in range(3):
            outs = _walk(bodies[0][1], entering[:consts] + carry + entering[consts + carries :], found)
            carry = [max(pair) for pair in zip(carry, outs[:carries], strict=True)]
        return carry + outs[carries:]
    if name == "cond":
        found_outs = [_walk(body, entering[1:], found) for _, body in bodies]
        return [max(marks) for marks in zip(*found_outs, strict=True)]
    (_, body), *_ = bodies
    return _walk(body, entering, found)
