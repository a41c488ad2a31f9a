"""Gradual pruning in a Flax train loop: one line changed, one line added.

    python examples/01_wrap_a_train_step.py

Trains a small network on 4,000 MNIST digits (they come with the `demo` extra), prunes 90 % of its kernels on the way,
and writes the result to a file.
"""

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.training.train_state import TrainState

import jaxcompress as jc
from jaxcompress.cli.digits import load_digits

STEPS, BATCH = 1000, 100


class Network(nn.Module):
    @nn.compact
    def __call__(self, images):
        flat = images.reshape(images.shape[0], -1)
        return nn.Dense(10)(nn.relu(nn.Dense(256)(flat)))


@jax.jit
def train_step(state, images, labels):
    def loss(params):
        logits = state.apply_fn(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def main() -> None:
    digits = load_digits()
    images, labels, train = digits.train_images, digits.train_labels, len(digits.train_labels)

    model = Network()
    variables = model.init(jax.random.key(0), images[:1])
    tx = jc.train.gradual_pruning(optax.adamw(1e-3), sparsity=0.9, begin_step=100, end_step=800, every=20)
    state = TrainState.create(apply_fn=model.apply, params=variables, tx=tx)
    for step in range(STEPS):
        batch = np.random.default_rng(step).choice(train, BATCH)
        state = train_step(state, images[batch], labels[batch])
    pruned = jc.prune.finish(state.params, state.opt_state)

    logits = jc.lift(model.apply)(pruned, digits.test_images)
    accuracy = float(np.mean(np.argmax(logits, axis=1) == digits.test_labels))
    kernels = [layer["kernel"] for layer in pruned["params"].values()]
    sparsity = 1 - sum(int(kernel.mask.sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)
    written = jc.save("digits.jxc", pruned)
    dense = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    print(
        f"sparsity {100 * sparsity:.2f} %, accuracy {100 * accuracy:.1f} % on {len(digits.test_labels)} digits held out"
    )
    print(f"{dense} bytes of float32 -> {written} bytes in digits.jxc")


if __name__ == "__main__":
    main()
