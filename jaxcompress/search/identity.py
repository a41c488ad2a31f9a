"""What makes two searches the same: a digest of each part, so that a checkpoint can say which one differs."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.search.problem import Problem
from jaxcompress.search.python_evaluation import PythonEvaluation

_ADDRESS = re.compile(r"0x[0-9a-f]+")


def identity(
    problem: Problem, strategy: Any, key: jax.Array, data: Any, seeds: Any, cache: bool, jaxpr: Any
) -> dict[str, str]:
    """Digests by the name of the argument that they are of.

    A traceable evaluation is known by its jaxpr and the arrays it closes over; a Python function by its name and its
    code, not by what it reads elsewhere.

    Args:
        problem: space, objectives, limits, evaluation.
        strategy: by its ``repr``, as dataclasses have one.
        key: of the search.
        data: by its bytes.
        seeds: by their bytes.
        cache: whether equal candidates are evaluated once.
        jaxpr: closed, of the evaluation of one candidate; None for a Python function.
    """
    space = problem.space
    constraints = [(constraint.name, constraint.bounds) for constraint in space.constraints]
    return {
        "space": digest(repr(space.variables), repr(constraints)),
        "evaluate": _python_digest(problem.evaluate) if jaxpr is None else digest(str(jaxpr.jaxpr), jaxpr.consts),
        "strategy": digest(repr(strategy)),
        "key": digest(problem.key_impl, jax.random.key_data(key)),
        "objectives": digest(repr(problem.objectives)),
        "limits": digest(repr(problem.limits)),
        "data": digest(data),
        "seeds": digest(seeds),
        "cache": digest(repr(cache)),
    }


def digest(*parts: Any) -> str:
    """A digest of texts and trees of arrays; addresses of objects in texts do not count.

    Example:
        >>> digest("<f at 0x12>", {"w": np.ones(2)}) == digest("<f at 0x34>", {"w": np.ones(2)})
        True
        >>> digest({"w": np.ones(2)}) == digest({"w": np.zeros(2)})
        False
    """
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        leaves, treedef = jax.tree.flatten(part)
        found.update(str(treedef).encode())
        for leaf in leaves:
            if isinstance(leaf, str):
                found.update(_ADDRESS.sub("0x", leaf).encode())
                continue
            is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
            found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def _python_digest(evaluate: Any) -> str:
    function = evaluate.evaluate if isinstance(evaluate, PythonEvaluation) else evaluate
    name = getattr(function, "__qualname__", type(function).__qualname__)
    code = getattr(function, "__code__", None)
    return digest(name) if code is None else digest(name, code.co_code.hex(), repr(code.co_names))
