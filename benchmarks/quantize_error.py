"""What quantization costs on real weights: a trained Llama, LeNet-5 and ResNet-20.

    python -m benchmarks.quantize_error [--quick] [--json PATH] [--only PART ...]

| part | what | figures |
|---|---|---|
| llama-8, -4, -3, -2 | the trained Llama (260,032 parameters), one width each | perplexity, file bytes |
| lenet5 | the dense LeNet-5 of `benchmarks.pruning_accuracy`, seed 0 | test error on MNIST |
| resnet20 | the dense ResNet-20 of width 8 there | test error on 10,000 images of CIFAR-10 |

Llama: all matrices and the tied embedding are quantized, one scale per output channel and no zero point unless the name
says otherwise; the norms stay float32. Codes are those of format `int_full`, -8 to 7 for 4 bits, as in the NumPy sketch
that set the targets; `rtn` and `narrow` have -7 to 7 (format `int`). Methods calibrate on windows 0-31 of TinyStories,
perplexity is that of windows 32-143; float32 has 5.187. Except for `at once` and AWQ, methods that take data go in
turns: the embedding first, then layer after layer, each fitted to what the quantized ones before it let through.
`refined`: rounds of descent over scales (or levels) and codes after the sweep (`gptq(refine=)`). `best` is the best of
the refined methods with a scale or table per channel, chosen on the windows that are reported; its peer column says
which. Tables of levels are stored as float32: with 64 weights a channel they weigh more than the codes, which the bytes
show.

Images: kernels alone are quantized, biases and batch norm stay float32, activations too. Calibration on 1,024 training
images. `+ bias` is bias correction after the method.

With `--only`, parts run one by one: the kept results exchange the rows of the part and say for each part when and on
what it ran. `--quick` shows that it runs; it keeps nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.parts import run_parts
from benchmarks.quantize_error_images import lenet5_rows, resnet20_rows
from benchmarks.quantize_error_llama import llama_rows

Rows = list[dict[str, Any]]
PARTS: Mapping[str, Callable[..., Rows]] = {
    **{f"llama-{bits}": functools.partial(llama_rows, bits) for bits in (8, 4, 3, 2)},
    "lenet5": lenet5_rows,
    "resnet20": resnet20_rows,
}
QUICK = ("llama-8", "llama-3")


def main(arguments: Sequence[str] | None = None) -> None:
    run_parts("quantize_error", __doc__, PARTS, quick=QUICK, arguments=arguments)


if __name__ == "__main__":
    main()
