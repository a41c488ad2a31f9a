"""The images of `benchmarks.quantize_error`: test errors of LeNet-5 and ResNet-20 with quantized kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcompress as jc
from benchmarks import cifar, mnist
from benchmarks.baselines import train_baseline
from benchmarks.batchnorm_training import Budget, Network, accuracy_percent
from benchmarks.pruning_cifar import Subject
from benchmarks.pruning_lenets import LENET5
from benchmarks.resnet import ResNet20
from benchmarks.results import row
from benchmarks.training import error_percent

Rows = list[dict[str, Any]]
WIDTHS = (8, 4, 3, 2)
CALIBRATION = 1024  # images
KERNELS = "**/kernel"


def lenet5_rows(*, quick: bool) -> Rows:
    """LeNet-5 on MNIST."""
    train, test = mnist.small() if quick else mnist.full()
    apply: Any = LENET5.baseline.model.apply
    params = train_baseline(LENET5.baseline, train, seed=0)
    return _rows("lenet5", apply, params, [train.images[:CALIBRATION]], lambda p: error_percent(apply, p, test))


def resnet20_rows(*, quick: bool) -> Rows:
    """ResNet-20 on a part of CIFAR-10, weights alone: batch norm stays as it is."""
    data = cifar.small() if quick else cifar.subset()
    subject = Subject("resnet20", ResNet20(8), Budget(24))
    network, variables = Network.of(subject.model), subject.dense(data)
    images = jax.jit(lambda images: network.prepare(images, None))(data.train.images[:CALIBRATION])
    batches = [jnp.asarray(part) for part in np.split(np.asarray(images), 8)]
    return _rows(
        "resnet20",
        network.predict,
        variables,
        batches,
        lambda p: 100 - accuracy_percent(network, jc.materialize(p), data.test),
    )


def _rows(name: str, fn: Callable[..., Any], params: Any, batches: list[Any], error: Callable[[Any], float]) -> Rows:
    stats = jc.observe(fn, params, batches, what=("second_moment", "mean"), where=KERNELS)
    sites = jc.sites(fn, params, batches[0])
    dense = error(jc.materialize(params))
    rows = [row(f"{name} dense error", dense, "%", "float32", dense)]
    for bits in WIDTHS:
        for method, make in _methods(params, stats, sites, bits).items():
            value = error(jc.materialize(make()))
            print(f"{name} int{bits} {method}: {value:.2f} %", flush=True)
            rows.append(row(f"{name} int{bits} {method} error", value, "%", "float32", dense))
    return rows


def _methods(params: Any, stats: Any, sites: Any, bits: int) -> dict[str, Callable[[], Any]]:
    quantize = jc.quantize
    rounded = functools.partial(quantize.rtn, params, bits=bits, where=KERNELS, sites=sites)
    found: dict[str, Callable[[], Any]] = {"rtn": rounded}
    if bits == 8:
        return found
    # LeNet-5 applies its second kernel row by row and adds the bias once: no product alone has that bias.
    whole = lambda path, leaf: path in stats and not path.endswith("conv2/kernel")  # noqa: E731
    corrected = functools.partial(quantize.bias_correction, params, stats=stats, where=whole)
    fitted = {"gptq": {}, "gptq refined": {"refine": 4}}
    found |= {"rtn mse": functools.partial(rounded, ranges="mse")}
    if all(_has_bias(params, path) for path in stats):
        found["rtn mse + bias"] = lambda: corrected(quantized=rounded(ranges="mse"))
    found |= {
        name: functools.partial(quantize.gptq, params, stats, bits=bits, where=KERNELS, **options)
        for name, options in fitted.items()
    }
    found["adaround"] = functools.partial(quantize.adaround, params, stats, bits=bits, where=KERNELS)
    return found


def _has_bias(params: Any, path: str) -> bool:
    *folders, _ = path.split("/")
    at = params
    for folder in folders:
        at = at[folder]
    return "bias" in at
