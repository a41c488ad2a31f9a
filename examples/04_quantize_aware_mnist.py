"""Quantization-aware training in a Flax train loop: two lines changed, one line added.

    python examples/04_quantize_aware_mnist.py

Trains a small network on 4,000 MNIST digits (they come with the `demo` extra), then brings weights and activations to 2
bits: by rounding what was trained, and by training on with the rounding in sight (LSQ). Written are files of integers.
"""

import flax.linen as nn
import jax
import numpy as np
import optax
from flax.training.train_state import TrainState

import jaxcompress as jc
from jaxcompress.cli.digits import load_digits
from jaxcompress.quantize import QAT, Activations

STEPS, BATCH = 600, 100


class Network(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = images.reshape(images.shape[0], -1)
        x = nn.relu(nn.Dense(256)(x))
        x = nn.relu(nn.Dense(128)(x))
        return nn.Dense(10)(x)


@jax.jit
def train_step(state, images, labels):
    def loss(params):
        logits = state.apply_fn(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def trained(state, digits, steps):
    for step in range(steps):
        batch = np.random.default_rng(step).choice(len(digits.train_labels), BATCH)
        state = train_step(state, digits.train_images[batch], digits.train_labels[batch])
    return state


def accuracy(apply_fn, params, digits) -> float:
    return float(np.mean(np.argmax(apply_fn(params, digits.test_images), axis=1) == digits.test_labels))


def main(steps: int = STEPS) -> dict[str, float]:
    digits, model = load_digits(), Network()
    first = digits.train_images[:BATCH]
    variables = model.init(jax.random.key(0), first)
    state = TrainState.create(apply_fn=model.apply, params=variables, tx=optax.adam(1e-3))
    dense = trained(state, digits, steps).params

    sites = jc.sites(model.apply, dense, first)
    stats = jc.observe(model.apply, dense, [first], what="histogram")
    spec = QAT(bits=2, activations=Activations(bits=2))
    prepared = jc.quantize.prepare(dense, spec, sites=sites, stats=stats)
    tx = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    state = TrainState.create(apply_fn=jc.lift(model.apply), params=prepared, tx=tx)
    learned = jc.quantize.convert(trained(state, digits, steps).params)

    rounded = jc.quantize.convert(jc.quantize.prepare(dense, spec, sites=sites, stats=stats))
    run, found = jax.jit(jc.lift(model.apply)), {}
    for name, params in (("float32", dense), ("2 bits, rounded", rounded), ("2 bits, trained", learned)):
        found[name] = accuracy(run, params, digits)
        written = jc.save("digits.jxc", params)
        print(f"{name:<16} accuracy {100 * found[name]:5.1f} %, {written:>9,} bytes")
    return found


if __name__ == "__main__":
    main()
