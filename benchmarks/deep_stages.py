"""The stages between a dense network and its compressed file: prune, trim, fine-tune, cluster, tune the codebooks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxcompress as jc
from benchmarks.mnist import Images
from benchmarks.training import Apply, fit, shrink_groups, steps_per_epoch

EVERYTHING = "**"  # biases are pruned and clustered too: in a small file they count


@dataclasses.dataclass(frozen=True)
class Training:
    """What all stages of one network share.

    Attributes:
        apply: the function of the network.
        data: training images.
        layers: names of the layers, in order.
        teacher: dense variables of the same network.
        trust: part of the loss that the teacher has.
        shift: pixels that images are moved by.
        batch_size: images in a step.
    """

    apply: Apply
    data: Images
    layers: Sequence[str]
    teacher: Any
    trust: float
    shift: int
    batch_size: int

    def steps(self, epochs: int) -> int:
        return epochs * steps_per_epoch(self.data, self.batch_size)

    def fit(self, params: Any, tx: optax.GradientTransformation, *, key: jax.Array, epochs: int) -> tuple[Any, Any]:
        return fit(
            self.apply,
            params,
            tx,
            self.data,
            key=key,
            epochs=epochs,
            batch_size=self.batch_size,
            shift=self.shift,
            teacher=self.teacher,
            trust=self.trust,
        )


def prune(
    training: Training,
    params: Any,
    *,
    key: jax.Array,
    epochs: int,
    learning_rate: float,
    sparsity: float | Mapping[str, float],
    initial_sparsity: float,
    group_strength: float,
) -> Any:
    """Gradual magnitude pruning over all epochs but the learning rate's last third. Plain arrays with zeros."""
    steps = training.steps(epochs)
    tx = optax.chain(
        optax.scale_by_adam(),
        shrink_groups(group_strength),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(learning_rate, steps, alpha=0.01)),
    )
    tx = jc.train.gradual_pruning(
        tx,
        sparsity=sparsity,
        begin_step=0,
        end_step=2 * steps // 3,
        initial_sparsity=initial_sparsity,
        scope="layer" if isinstance(sparsity, Mapping) else "global",
        where=EVERYTHING,
    )
    return training.fit(params, tx, key=key, epochs=epochs)[0]


def trim(params: Any, layers: Sequence[str]) -> Any:
    """Drops the weights into units that no later weight reads, and their biases; the function stays the same."""
    tree = dict(params["params"])
    for layer, following in reversed(list(itertools.pairwise(layers))):
        kernel, bias = tree[layer]["kernel"], tree[layer]["bias"]
        readers = tree[following]["kernel"]
        units = bias.shape[0]
        # What reads a unit: rows of a kernel; several after a flattened image, whose channels are the last axis.
        read = (readers.reshape(-1, units, readers.shape[-1]) != 0).any((0, 2))
        tree[layer] = {"kernel": kernel * read, "bias": bias * read}
    return params | {"params": tree}


def cluster(
    training: Training,
    params: Any,
    *,
    key: jax.Array,
    tune_epochs: int,
    epochs: int,
    learning_rate: float,
    bits: int,
) -> Any:
    """Fine-tunes under the zeros of ``params``, shares the values of each leaf, tunes those. Codebooks in bfloat16."""
    masked = jc.train.fixed_masks(_falling_adam(learning_rate, training.steps(tune_epochs)), where=EVERYTHING)
    tune_key, share_key = jax.random.split(key)
    params, state = training.fit(params, masked, key=tune_key, epochs=tune_epochs)
    shared = jc.cluster.kmeans(jc.prune.finish(params, state), bits=bits, where=EVERYTHING)
    tx = _falling_adam(learning_rate, training.steps(epochs))
    return _with_short_tables(training.fit(shared, tx, key=share_key, epochs=epochs)[0])


def _falling_adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(learning_rate, max(1, steps)))


def _with_short_tables(params: Any) -> Any:
    """Rounds the codebooks to bfloat16: two bytes a level; what is measured afterwards has them so."""

    def short(leaf: Any) -> Any:
        table = leaf.values.codebook.astype(jnp.bfloat16)
        return leaf.replace(values=leaf.values.replace(codebook=table))

    return jax.tree.map(short, params, is_leaf=jc.is_compressed)
