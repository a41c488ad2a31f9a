"""Zero-cost proxies: what a network that was never trained tells about how well it would train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxcompress.core.dtypes import wider
from jaxcompress.core.paths import Where, flatten_with_paths, select
from jaxcompress.search.proxies.flow import live_parameters, log_synflow
from jaxcompress.search.proxies.relus import relu_patterns
from jaxcompress.search.proxies.scores import gradient_norm_score, jacobian_covariance_score, log_determinant

NAMES = ("synflow", "nwot", "jacobian_covariance", "gradient_norm")
Loss = Callable[[jax.Array, jax.Array], jax.Array]


class Proxy(NamedTuple):
    """A proxy with the number that it has to beat.

    Attributes:
        score: float ``[]``; higher is better.
        parameters: how many the candidate has: on NAS-Bench-201 this number alone reaches a rank correlation of .74.
    """

    score: jax.Array
    parameters: jax.Array


def measure(
    fn: Callable[..., Any],
    params: Any,
    inputs: Any,
    labels: jax.Array | None = None,
    *,
    proxies: Sequence[str] = NAMES,
    loss: Loss | None = None,
    where: Where = None,
    parameters: Any = None,
) -> dict[str, jax.Array]:
    """Several proxies of one candidate, and its parameter count beside them.

    A genome is what ``fn`` closes over or takes out of ``params``: everything here is arithmetic on runtime arrays, so
    that `jax.jit`, `jax.vmap` over candidates and `jax.lax.map` make one program of a search.

    Args:
        fn: ``(params, inputs) -> outputs [batch, ...]``. Batch normalization: give it as it is at the first training
            step for `nwot` and `gradient_norm`; synaptic flow is meant without it (inference with fresh statistics).
        params: a tree of arrays as initialised.
        inputs: a minibatch: a tree of arrays ``[batch, ...]``.
        labels: of the minibatch, for ``gradient_norm``.
        proxies: which, of ``synflow``, ``nwot``, ``jacobian_covariance``, ``gradient_norm``.
        loss: ``(outputs, labels) -> scalar``; by default the mean cross-entropy with integer labels.
        where: the leaves whose scores are summed by ``synflow`` and ``gradient_norm``; by default float leaves of two
            axes or more (weights without biases and norm scales), as published.
        parameters: the candidate's parameter count, where it is known (a scalar, may be traced); by default the entries
            of ``params`` that have a way to the outputs (see `live_parameters`), which masks in ``fn`` cut.

    Returns:
        ``{name: score, ..., "parameters": count}``, scalars; higher scores are better.

    Raises:
        ValueError: if a proxy is unknown, labels are missing or do not fit the default loss, ``params`` or ``inputs``
            hold NaN or infinity (not seen under ``jit``, where the scores are NaN), or what `nwot` says.

    Example:
        >>> fn = lambda params, x: jax.nn.relu(x @ params["a"]) @ params["b"]
        >>> params = {"a": jax.random.normal(jax.random.key(0), (4, 8)), "b": jnp.ones((8, 2))}
        >>> x = jax.random.normal(jax.random.key(1), (6, 4))
        >>> found = measure(fn, params, x, proxies=("synflow", "nwot"))
        >>> sorted(found), int(found["parameters"])
        (['nwot', 'parameters', 'synflow'], 48)
    """
    unknown = [name for name in proxies if name not in NAMES]
    if unknown or isinstance(proxies, str) or not proxies:
        raise ValueError(f"proxies: takes some of {NAMES}; got {proxies!r}")
    if labels is not None:
        labels = jnp.asarray(labels)
    if "gradient_norm" in proxies and labels is None:
        raise ValueError("labels: gradient_norm needs labels= of the minibatch; give them, or leave it out of proxies=")
    _require_finite("params", params)
    _require_finite("inputs", inputs)
    scores = {
        "synflow": lambda: log_synflow(fn, params, inputs, where=where),
        "nwot": lambda: log_determinant(relu_patterns(fn, params, inputs)),
        "jacobian_covariance": lambda: jacobian_covariance_score(_jacobian(fn, params, inputs)),
        "gradient_norm": lambda: gradient_norm_score(_gradients(fn, params, inputs, labels, loss, where)),
    }
    count = live_parameters(fn, params, inputs) if parameters is None else jnp.asarray(parameters)
    return {**{name: scores[name]() for name in proxies}, "parameters": count}


def synflow(fn: Callable[..., Any], params: Any, inputs: Any, *, where: Where = None, parameters: Any = None) -> Proxy:
    """Synaptic flow: the natural logarithm of ``sum |w * dR/dw|``, ``R`` the flow of ones through absolute weights.

    The logarithm, because the number itself leaves float32 (and for deep networks float64): the ranks are the same, and
    it is computed without ever being formed. Of ``inputs`` only the shape counts; minus infinity where nothing flows.
    Arguments as in `measure`.

    Example:
        >>> found = synflow(lambda p, x: x @ p["w"], {"w": -2 * jnp.ones((3, 4))}, jnp.zeros((1, 3)))
        >>> round(float(jnp.exp(found.score)), 3), int(found.parameters)
        (24.0, 12)

    References:
        Tanaka et al., Pruning neural networks without any data by iteratively conserving synaptic flow, 2020, eq. 2.
        https://arxiv.org/abs/2006.05467. As a proxy: Abdelfattah et al. 2021. https://arxiv.org/abs/2101.08134
    """
    return _one("synflow", fn, params, inputs, where=where, parameters=parameters)


def nwot(fn: Callable[..., Any], params: Any, inputs: Any, *, parameters: Any = None) -> Proxy:
    """NAS without training: ``log |K|`` of how often two examples of a minibatch are on the same side of the ReLUs.

    The ReLUs are found in the trace of ``fn``: ``max(x, 0)`` and ``where(x > 0, ...)`` (leaky ones too), under scans
    and in the branches that run. A unit that is exactly zero in every example is masked and does not count: mask
    *before* the ReLU, and choose operations by `jax.lax.switch`, not by factors. Arguments as in `measure`; see
    `nwot_score`.

    Raises:
        ValueError: if ``fn`` rectifies nothing, or somewhere the examples are no axis of their own.

    Example:
        >>> w = jnp.array([[1.0, -1.0], [1.0, 1.0]])
        >>> found = nwot(lambda w, x: jax.nn.relu(x @ w), w, jnp.array([[1.0, 0.5], [-2.0, 3.0]]))  # [[+, -], [+, +]]
        >>> round(float(found.score), 4), int(found.parameters)  # log(2 * 2 - 1 * 1)
        (1.0986, 4)
    """
    return _one("nwot", fn, params, inputs, parameters=parameters)


def jacobian_covariance(fn: Callable[..., Any], params: Any, inputs: Any, *, parameters: Any = None) -> Proxy:
    """How little the derivatives by the input of different examples correlate. See `jacobian_covariance_score`.

    Works with any activation. Arguments as in `measure`; float inputs are differentiated.

    Raises:
        ValueError: if no input is a float array.

    Example:
        >>> w = jax.random.normal(jax.random.key(0), (4, 64))
        >>> x = jax.random.normal(jax.random.key(1), (3, 4))
        >>> bool(jacobian_covariance(lambda w, x: jnp.tanh(x @ w), w, x).score > -1e4)
        True
        >>> bool(jacobian_covariance(lambda w, x: x @ w, w, x).score < -1e5)  # it has the same derivative everywhere
        True
    """
    return _one("jacobian_covariance", fn, params, inputs, parameters=parameters)


def gradient_norm(
    fn: Callable[..., Any],
    params: Any,
    inputs: Any,
    labels: jax.Array,
    *,
    loss: Loss | None = None,
    where: Where = None,
    parameters: Any = None,
) -> Proxy:
    """The sum over leaves of the norm of the loss's gradient on one minibatch. See `gradient_norm_score`.

    Arguments as in `measure`.

    Example:
        >>> found = gradient_norm(lambda w, x: x @ w, jnp.zeros((2, 2)), jnp.eye(2), jnp.array([0, 1]))
        >>> float(found.score)  # the gradient is (softmax - onehot) / 2 = -+ 0.25
        0.5
    """
    return _one("gradient_norm", fn, params, inputs, labels, loss=loss, where=where, parameters=parameters)


def _one(name: str, *args: Any, **settings: Any) -> Proxy:
    found = measure(*args, proxies=(name,), **settings)
    return Proxy(found[name], found["parameters"])


def _jacobian(fn: Callable[..., Any], params: Any, inputs: Any) -> jax.Array:
    leaves, treedef = jax.tree.flatten(inputs)
    floats = {i: x for i, x in enumerate(leaves) if jnp.issubdtype(jnp.result_type(x), jnp.floating)}
    if not floats:
        raise ValueError("jacobian_covariance: no input is a float array, so there is nothing to differentiate by")

    def total(floats: dict[int, jax.Array]) -> jax.Array:
        outs = fn(params, jax.tree.unflatten(treedef, [floats.get(i, x) for i, x in enumerate(leaves)]))
        first, *others = map(jnp.sum, jax.tree.leaves(outs))
        return sum(others, first)

    found = jax.grad(total)(floats)
    rows = [array.reshape(len(array), -1) for array in found.values()]
    return jnp.concatenate([row.astype(wider(row.dtype, jnp.float32)) for row in rows], 1)


def _gradients(
    fn: Callable[..., Any], params: Any, inputs: Any, labels: Any, loss: Loss | None, where: Where
) -> list[jax.Array]:
    paths, leaves, treedef = flatten_with_paths(params)
    chosen = set(select(params, where))
    picked = {path: leaf for path, leaf in zip(paths, leaves, strict=True) if path in chosen}

    def total(picked: dict[str, jax.Array]) -> jax.Array:
        merged = [picked.get(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
        return (loss or _cross_entropy)(fn(jax.tree.unflatten(treedef, merged), inputs), labels)

    return list(jax.grad(total)(picked).values())


def _cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    if outputs.ndim != 2 or labels.shape != outputs.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels: the cross-entropy takes integer classes [batch] for outputs [batch, classes]; got {labels.dtype} "
            f"of shape {labels.shape} for outputs of shape {outputs.shape}. Give others with a loss= of their own"
        )
    logs = jax.nn.log_softmax(outputs.astype(wider(outputs.dtype, jnp.float32)))
    return -jnp.take_along_axis(logs, labels[:, None], 1).mean()


def _require_finite(name: str, tree: Any) -> None:
    for path, leaf in zip(*flatten_with_paths(tree)[:2], strict=True):
        if isinstance(leaf, Tracer) or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            continue
        with jax.ensure_compile_time_eval():
            finite = bool(jnp.isfinite(leaf).all())
        if not finite:
            raise ValueError(f"{name}: {path or 'the array'!r} holds NaN or infinity")
