"""What the demo does to each network: stages, with the names it shows for them."""

from __future__ import annotations

from typing import Any

from jaxcompress.cluster import KMeans
from jaxcompress.train.stages import Finetune, GradualPruning

Schedule = list[tuple[str, Any]]


def schedule(model: str, *, full: bool) -> Schedule:
    """The stages for ``lenet300`` or ``lenet5``: a minute's worth, or with ``full`` those for the whole of MNIST."""
    batch = 128 if full else 100
    train, prune, tune, share = _STEPS[model, full]
    return [
        ("train", Finetune(steps=train, learning_rate=1e-3, batch_size=batch)),
        ("prune", GradualPruning(steps=prune, learning_rate=1e-3, batch_size=batch, sparsity=_SPARSITY[model])),
        ("fine-tune", Finetune(steps=tune, learning_rate=5e-4, batch_size=batch)),
        ("cluster", KMeans(bits=4)),
        ("fine-tune codebooks", Finetune(steps=share, learning_rate=2e-4, batch_size=batch)),
    ]


_STEPS = {
    ("lenet300", False): (1_500, 2_500, 500, 500),
    ("lenet300", True): (15_000, 25_000, 5_000, 5_000),
    ("lenet5", False): (600, 800, 200, 200),
    ("lenet5", True): (10_000, 15_000, 5_000, 5_000),
}

_SPARSITY = {
    "lenet300": {"dense_0/kernel": 0.97, "dense_1/kernel": 0.94, "dense_2/kernel": 0.6},
    "lenet5": {"conv_0/kernel": 0.4, "conv_1/kernel": 0.93, "dense_0/kernel": 0.985, "dense_1/kernel": 0.9},
}
