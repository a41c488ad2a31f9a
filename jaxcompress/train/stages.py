"""The training stages of a recipe: data only. `jaxcompress.compress` carries them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import optax

from jaxcompress.prune.finish import finish
from jaxcompress.train.gradual import gradual_pruning

if TYPE_CHECKING:
    from jaxcompress.core.sites import Sites

Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["cosine", "constant"]

_OPTIMIZERS: Mapping[str, Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What every training stage says; `Finetune` is the plain stage, others do something besides.

    Attributes:
        steps: gradient steps, 1 or more.
        learning_rate: peak learning rate.
        optimizer: ``"adam"``, ``"adamw"``, or ``"sgd"`` (Nesterov momentum 0.9).
        schedule: ``"cosine"`` falls to zero over the stage, ``"constant"`` stays.
        warmup_steps: steps of linear rise at the start.
        batch_size: examples in a step, where `jaxcompress.compress` draws the batches.
        where: globs over paths of the leaves that train; None trains every float array that its leaf kind declares
            trainable, except below a ``batch_stats`` collection.
    """

    steps: int
    learning_rate: float = 1e-3
    optimizer: Optimizer = "adam"
    schedule: Schedule = "cosine"
    warmup_steps: int = 0
    batch_size: int = 128
    where: str | Sequence[str] | None = None

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that cannot be carried out."""
        for name, least in (("steps", 1), ("batch_size", 1), ("warmup_steps", 0)):
            if not isinstance(value := getattr(self, name), int) or value < least:
                raise ValueError(f"{name} must be an integer of {least} or more, got {value!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate!r}")
        if self.optimizer not in _OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(_OPTIMIZERS)}, got {self.optimizer!r}")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule must be 'cosine' or 'constant', got {self.schedule!r}")

    def transformation(self) -> optax.GradientTransformation:
        """The optimizer that the fields describe.

        Example:
            >>> state = Finetune(steps=10).transformation().init({"w": jnp.ones(2)})
        """
        return _OPTIMIZERS[self.optimizer](self.rate())

    def rate(self) -> optax.ScalarOrSchedule:
        """The learning rate over the steps.

        Example:
            >>> round(float(Finetune(steps=10, learning_rate=1.0).rate()(5)), 3)
            0.5
        """
        rest = max(self.steps - self.warmup_steps, 1)
        cosine = self.schedule == "cosine"
        after = optax.cosine_decay_schedule(self.learning_rate, rest) if cosine else self.learning_rate
        if not self.warmup_steps:
            return after
        rise = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        flat = after if callable(after) else optax.constant_schedule(after)
        return optax.join_schedules([rise, flat], [self.warmup_steps])

    def around(self, tx: optax.GradientTransformation, sites: Sites | None) -> optax.GradientTransformation:
        """What the stage does besides training, around an optimizer; ``sites`` are None where they were not asked."""
        del sites
        return tx

    def finished(self, params: Any, opt_state: Any, sites: Sites | None) -> Any:
        """The output of the stage, from what was trained and the state of `around`."""
        del opt_state, sites
        return params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune(Training):
    """Trains what the leaves let train: values under their masks, codebooks, factors; dense arrays as a whole.

    Gradients reach a codebook summed over the weights that share an entry.

    Example:
        >>> Finetune(steps=500, learning_rate=1e-3).schedule
        'cosine'

    References:
        Han et al., 2016, section 3.3. https://arxiv.org/abs/1510.00149
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradualPruning(Training):
    """Trains while the sparsity rises along a cubic curve; the tree then holds masked leaves.

    Attributes:
        sparsity: final fraction dropped, or a dict from globs over paths to fractions.
        begin: fraction of the steps after which pruning begins.
        end: fraction of the steps after which the final sparsity holds.
        every: steps between two updates of the masks.
        scope: ``"layer"`` or ``"global"``, as in `jaxcompress.prune.magnitude`.
        prune_where: globs over paths of the leaves to prune; None takes the default of `jaxcompress.prune.magnitude`.

    References:
        Zhu and Gupta, 2017. https://arxiv.org/abs/1710.01878
    """

    sparsity: float | Mapping[str, float]
    begin: float = 0.0
    end: float = 0.75
    every: int = 10
    scope: Literal["layer", "global"] = "layer"
    prune_where: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that cannot be carried out."""
        super().__post_init__()
        if not 0 <= self.begin <= self.end <= 1:
            raise ValueError(f"begin and end must satisfy 0 <= begin <= end <= 1, got {self.begin!r} and {self.end!r}")
        if not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every must be an integer of 1 or more, got {self.every!r}")

    def around(self, tx: optax.GradientTransformation, sites: Sites | None) -> optax.GradientTransformation:
        """Prunes while ``tx`` trains."""
        last = self.steps - 1
        return gradual_pruning(
            tx,
            sparsity=self.sparsity,
            begin_step=min(round(self.begin * self.steps), last),
            end_step=min(round(self.end * self.steps), last),
            every=self.every,
            scope=self.scope,
            where=self.prune_where,
            sites=sites,
        )

    def finished(self, params: Any, opt_state: Any, sites: Sites | None) -> Any:
        """Dropped entries become masked leaves."""
        del sites
        return finish(params, opt_state)
