"""The model zoo: small models of every style that a user may bring. `ZOO` maps names to entries."""

from tests.zoo import (
    attention,
    convolution,
    elastic,
    equinox,
    language,
    linen,
    llama,
    moe,
    nnx,
    plain,
    recurrent,
    transforms,
    vision,
)
from tests.zoo.model import Entry, ZooModel

ENTRIES: tuple[Entry, ...] = (
    *linen.MODELS,
    *convolution.MODELS,
    *attention.MODELS,
    *recurrent.MODELS,
    *nnx.MODELS,
    *equinox.MODELS,
    *plain.MODELS,
    *transforms.MODELS,
    *moe.MODELS,
    *llama.MODELS,
    *vision.MODELS,
    *language.MODELS,
    *elastic.MODELS,
)
ZOO: dict[str, Entry] = {entry.name: entry for entry in ENTRIES}

__all__ = ["ENTRIES", "ZOO", "Entry", "ZooModel"]
