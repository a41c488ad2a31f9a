"""What low rank costs on real networks: a trained Llama; LeNet-5, ResNet-20 and LeNet-300-100 before and after tuning.

    python -m benchmarks.low_rank_accuracy [--quick] [--json PATH] [--only PART ...]

| part | what | figures |
|---|---|---|
| llama-10, -20, -30 | the trained Llama (260,032 parameters) with so many percent fewer | perplexity |
| llama-slice | the same with directions of the residual stream deleted (`low_rank_accuracy_slice`) | perplexity |
| images | LeNet-5 (kernels of 4 and 8 times fewer entries), ResNet-20 (2 times), a TT layer | error, size, time |

Llama: every method factorizes the matrices of the layers; the tied embedding stays dense, for its rows are looked up
too (with it, at equal parts of the break-even and 20 percent fewer parameters, `whitened` has 92 instead of 50).
Parameters are those of the whole model, factors counted as they are. Methods calibrate on windows 0-31 of TinyStories,
perplexity is that of windows 32-143; float32 has 5.187. Ranks are one part of every matrix's break-even, or, where the
name says `budget`, chosen by pooled singular values of the method itself (`jc.factorize.budget`), and matrices may stay
dense. `sequential`: layer after layer, each fitted to what the factorized ones before it let through; the others are
fitted to the dense model. `drone` has the same optimum as `whitened`; `output pca` (AFM) gives every layer a bias,
which counts. `refitted`: the output factors updated in closed form, in turns. `lora`: after it, deltas of rank 4, in
place of as much rank, trained for 48 steps of 8 windows on the calibration windows alone.

Images: LeNet-5 on MNIST (dense: 4 epochs, tuned for 2), ResNet-20 of width 8 on 20,000 images of CIFAR-10 (24, tuned
for 4), one seed each; the dense network tuned as long stands beside them. The dense networks are those of
`pruning_accuracy`. LeNet-300-100 with a tensor train as its first layer trains as long as the dense one, from scratch;
its one setting was not chosen by its error. Times are medians of calls in turn with the dense network.

With `--only`, parts run one by one: the kept results exchange the rows of the part and say for each part when and on
what it ran. `--quick` shows that it runs; it keeps nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import low_rank_accuracy_images, low_rank_accuracy_slice
from benchmarks.low_rank_accuracy_llama import PERCENTS, llama_rows
from benchmarks.parts import run_parts

Rows = list[dict[str, Any]]
PARTS: Mapping[str, Callable[..., Rows]] = {
    **{f"llama-{percent}": functools.partial(llama_rows, percent) for percent in PERCENTS},
    "llama-slice": lambda *, quick: low_rank_accuracy_slice.rows(quick),
    "images": low_rank_accuracy_images.rows,
}
QUICK = ("llama-20",)


def main(arguments: Sequence[str] | None = None) -> None:
    run_parts("low_rank_accuracy", __doc__, PARTS, quick=QUICK, arguments=arguments)


if __name__ == "__main__":
    main()
