"""What a change of the weights does to the outputs on data without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcompress.core.lift import lift


def output_error(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    inputs: Callable[[Any], tuple[Any, ...]] | None = None,
) -> Callable[[Callable[..., Any], Any], jax.Array]:
    """An ``evaluate`` for `rank_sensitivity`: the squared error of the outputs, relative to their squares.

    Args:
        fn: the model, ``fn(params, *inputs)``.
        params: the tree as it is now; its outputs are what others are held against.
        batches: the data; kept, with the outputs.
        inputs: turns a batch into the positional arguments after ``params``, as in `jaxcompress.observe`.

    Returns:
        ``evaluate(apply, params) -> scalar``, traceable. Keep it: a second scan with it compiles nothing.

    Raises:
        ValueError: if there are no batches.

    Example:
        >>> fn, params = (lambda p, x: x @ p["w"]), {"w": jnp.eye(2)}
        >>> float(output_error(fn, params, [jnp.eye(2)])(fn, {"w": jnp.diag(jnp.array([1.0, 0.0]))}))
        0.5
    """
    spread = inputs or (lambda batch: batch if isinstance(batch, tuple) else (batch,))
    given = [spread(batch) for batch in batches]
    if not given:
        raise ValueError("output_error: batches= holds no batch")
    run = jax.jit(lift(fn))
    wanted = [run(params, *arguments) for arguments in given]
    total = _squares(wanted)

    def evaluate(apply: Callable[..., Any], params: Any) -> jax.Array:
        return _squares(
            [
                jax.tree.map(jnp.subtract, apply(params, *arguments), reference)
                for arguments, reference in zip(given, wanted, strict=True)
            ]
        ) / jnp.where(total > 0, total, 1)

    return evaluate


def _squares(tree: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]
    return sum((jnp.sum(jnp.square(x.astype(jnp.float32))) for x in floats), jnp.zeros((), jnp.float32))
