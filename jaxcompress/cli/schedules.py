"""What the demo does to each network: stages, with the names it shows for them."""

from __future__ import annotations

from typing import Any

from jaxcompress.cluster import KMeans
from jaxcompress.train.stages import Finetune, GradualPruning

Schedule = list[tuple[str, Any]]


def schedule(model: str, *, full: bool) -> Schedule:
    """The stages for ``lenet300`` or ``lenet5``: a minute's worth, or with ``full`` those for the whole of MNIST."""
    train, prune, tune, share = _STEPS[model, full]
    size, rate = 128 if full else 100, _RATE[model]
    pruning = {"sparsity": _SPARSITY[model], "end": 0.9, "schedule": "constant"}
    return [
        ("train", Finetune(steps=train, batch_size=size)),
        ("prune", GradualPruning(steps=prune, batch_size=size, learning_rate=rate, **pruning)),
        ("fine-tune", Finetune(steps=tune, batch_size=size, learning_rate=rate)),
        ("cluster", KMeans(bits=4)),
        ("fine-tune again", Finetune(steps=share, batch_size=size, learning_rate=5e-4)),
    ]


_STEPS = {
    ("lenet300", False): (2_000, 4_000, 2_500, 800),
    ("lenet300", True): (12_000, 20_000, 12_000, 2_000),
    ("lenet5", False): (400, 500, 300, 100),
    ("lenet5", True): (7_000, 9_000, 6_000, 1_500),
}

_RATE = {"lenet300": 2e-3, "lenet5": 1e-3}

_SPARSITY = {
    "lenet300": {"dense_0/kernel": 0.97, "dense_1/kernel": 0.92, "dense_2/kernel": 0.5},
    "lenet5": {"conv_0/kernel": 0.4, "conv_1/kernel": 0.9, "dense_0/kernel": 0.98, "dense_1/kernel": 0.85},
}
