"""Frameworks whose models need a word of translation: `nnx`. Linen needs none: ``jc.lift(model.apply)``."""
