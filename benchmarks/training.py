"""The training loop of the benchmarks: one compiled program per epoch, for arrays and compressed leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxcompress as jc
from benchmarks.mnist import Images, shifted

Apply = Callable[[Any, jax.Array], jax.Array]


def decayed(params: Any) -> Any:
    """What weight decay is for: kernels, no biases and gains."""
    return jax.tree.map(lambda x: x.ndim > 1, params)


def fit(
    apply: Apply,
    params: Any,
    tx: optax.GradientTransformation,
    data: Images,
    *,
    key: jax.Array,
    epochs: int,
    batch_size: int,
    shift: int = 0,
    teacher: Any = None,
    trust: float = 0.0,
    temperature: float = 2.0,
) -> tuple[Any, Any]:
    """Trains what the leaves of ``params`` declare trainable.

    The loss is cross-entropy; with a teacher (dense parameters of the same network) the part ``trust`` of it is the
    cross-entropy with the teacher's softened predictions on the same images (Hinton et al. 2015).

    Returns:
        ``(params, opt_state)``.
    """
    lifted = jc.lift(apply)
    trainable, frozen = jc.split_trainable(params)

    def loss(trainable: Any, images: jax.Array, labels: jax.Array, teacher: Any) -> jax.Array:
        logits = lifted(jc.merge(trainable, frozen), images)
        hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        if teacher is None:
            return hard
        wanted = jax.nn.softmax(apply(teacher, images) / temperature)
        soft = optax.softmax_cross_entropy(logits / temperature, wanted).mean() * temperature**2
        return (1 - trust) * hard + trust * soft

    @jax.jit
    def epoch(trainable: Any, opt_state: Any, key: jax.Array, data: Images, teacher: Any) -> tuple[Any, Any]:
        order_key, shift_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(data.labels))

        def step(carry: tuple[Any, Any], index: jax.Array) -> tuple[tuple[Any, Any], None]:
            trainable, opt_state = carry
            rows = jax.lax.dynamic_slice_in_dim(order, index * batch_size, batch_size)
            images, labels = data.images[rows], data.labels[rows]
            if shift:
                images = shifted(images, jax.random.fold_in(shift_key, index), shift)
            grads = jax.grad(loss)(trainable, images, labels, teacher)
            updates, opt_state = tx.update(grads, opt_state, trainable)
            return (optax.apply_updates(trainable, updates), opt_state), None

        steps = jnp.arange(steps_per_epoch(data, batch_size))
        return jax.lax.scan(step, (trainable, opt_state), steps)[0]

    opt_state = tx.init(trainable)
    for epoch_key in jax.random.split(key, epochs):
        trainable, opt_state = epoch(trainable, opt_state, epoch_key, data, teacher)
    return jc.merge(trainable, frozen), opt_state


def steps_per_epoch(data: Images, batch_size: int) -> int:
    return len(data.labels) // batch_size


def error_percent(apply: Apply, params: Any, data: Images, *, batch_size: int = 1000) -> float:
    """Share of wrong predictions, in percent."""
    predict = jax.jit(lambda params, images: jnp.argmax(jc.lift(apply)(params, images), -1))
    starts = range(0, len(data.labels), batch_size)
    wrong = sum(
        int((predict(params, data.images[s : s + batch_size]) != data.labels[s : s + batch_size]).sum()) for s in starts
    )
    return 100 * wrong / len(data.labels)


def shrink_groups(strength: float) -> optax.GradientTransformation:
    """Pulls the rows and columns of kernels towards zero, small ones faster: decoupled group lasso.

    Each weight is decreased by ``strength`` times its share in the norm of its row and of its column, so that units and
    inputs die out as wholes, which makes the positions of the weights that stay cheap to store. Like weight decay in
    `optax.adamw` it goes behind the scaling by Adam and before the learning rate.
    """

    def update(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda u, p: u + strength * _share(p) if p.ndim > 1 else u, updates, params)

    return optax.stateless(update)


def _share(kernel: jax.Array) -> jax.Array:
    w = kernel.reshape(-1, kernel.shape[-1])
    rows = jnp.sqrt(jnp.square(w).sum(1, keepdims=True) + 1e-6)
    columns = jnp.sqrt(jnp.square(w).sum(0, keepdims=True) + 1e-6)
    return (w / rows + w / columns).reshape(kernel.shape)


def nonzero(params: Any) -> Mapping[str, int]:
    """Nonzero entries of every leaf."""
    flat = jax.tree_util.tree_flatten_with_path(jc.materialize(params))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): int(jnp.count_nonzero(leaf)) for path, leaf in flat}
