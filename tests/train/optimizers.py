"""The optimizers that every pruning transformation has to work with: how each is wrapped, and the bare one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

Wrap = Callable[[Any], optax.GradientTransformation]

BOTH = {"inner": True, "outer": True}
LABELS = {"inner": "inner", "outer": "outer"}


def _rates(wrap: Wrap) -> dict[str, optax.GradientTransformation]:
    return {name: wrap(optax.adam(rate)) for name, rate in (("inner", 1e-2), ("outer", 1e-3))}


def _plain(tx: Callable[[], Any]) -> Callable[[Wrap], Any]:
    return lambda wrap: wrap(tx())


OPTIMIZERS: dict[str, Callable[[Wrap], Any]] = {
    "adam": _plain(lambda: optax.adam(1e-2)),
    "adamw": _plain(lambda: optax.adamw(1e-2, weight_decay=0.1)),
    "momentum": _plain(lambda: optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "lion": _plain(lambda: optax.lion(1e-2)),
    "adafactor": _plain(lambda: optax.adafactor(1e-2, min_dim_size_to_factor=4, momentum=0.9)),
    "muon": _plain(lambda: optax.contrib.muon(1e-2)),
    "inject_hyperparams inside": _plain(lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-2)),
    "inject_hyperparams outside": lambda wrap: optax.inject_hyperparams(lambda rate: wrap(optax.adam(rate)))(rate=1e-2),
    "MultiSteps inside": _plain(lambda: optax.MultiSteps(optax.adam(1e-2), 2)),
    "MultiSteps outside": lambda wrap: optax.MultiSteps(wrap(optax.adam(1e-2)), 2),
    "masked inside": _plain(lambda: optax.masked(optax.adam(1e-2), {"inner": True, "outer": False})),
    "masked outside": lambda wrap: optax.masked(wrap(optax.adam(1e-2)), BOTH),
    "chain": lambda wrap: optax.chain(optax.clip(1.0), wrap(optax.adam(1e-2))),
    "partition": lambda wrap: optax.partition(_rates(wrap), LABELS),
}
