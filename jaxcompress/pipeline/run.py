"""One run of a recipe over a folder: stage after stage, measured, saved, told to the one who watches."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxcompress.artifact import load, save
from jaxcompress.core.leaf import dense, is_compressed
from jaxcompress.core.paths import flatten_with_paths, is_weight
from jaxcompress.core.sites import Sites
from jaxcompress.core.tree import materialize
from jaxcompress.pipeline.recipe import Recipe
from jaxcompress.pipeline.result import Progress, Result, StageRecord
from jaxcompress.pipeline.state import RunFolder, write_npz
from jaxcompress.pipeline.training import Apply, Loss, Moment, Trainer
from jaxcompress.prune.rewind import rewind
from jaxcompress.train.iterative import Rewind
from jaxcompress.train.stages import Training

Evaluate = Callable[[Apply, Any], "Mapping[str, Any] | Any"]
Hook = Callable[[Progress], None]
Curve = list[tuple[int, float, dict[str, float]]]

CHECKPOINT_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Run:
    """What all stages of a run share; the fields are the arguments of `jaxcompress.compress`."""

    recipe: Recipe
    folder: RunFolder
    apply: Apply
    loss: Loss | None
    evaluate: Evaluate | None
    data: Any
    progress: Hook | None
    chunk: int
    evaluate_chunks: bool
    coder: Literal["zstd", "constriction"]
    sites: Sites | None

    def carry_out(self, params: Any, key: jax.Array) -> Result:
        """Does what the folder does not hold yet, and returns the whole."""
        done = [StageRecord.from_json(record) for record in self.folder.records]
        start = params
        if not done:
            began = time.perf_counter()
            size = write_dense(self.folder.file("original.npz"), params)
            done = [self._finish("original", "original.npz", size, params, began, [])]
        if len(done) > 1:
            params = load(self.folder.file(done[-1].file), like=params).params
        for position, record in enumerate(done[1:]):
            self._tell(position, done=record)
        for position in range(len(done) - 1, len(self.recipe)):
            name = self.recipe.names[position]
            began, curve = time.perf_counter(), []
            if isinstance(stage := self.recipe.stages[position], Training):
                params, spent = self._train(position, stage, params, jax.random.fold_in(key, position), curve)
                began = time.perf_counter() - spent
            elif isinstance(stage, Rewind):
                self._tell(position)
                file = self.folder.file(done[stage.to].file)
                params = rewind(params, start if stage.to == 0 else load(file, like=start).params)
            else:
                self._tell(position)
                params = stage(params, sites=self.sites)
            check_finite(f"the result of stage {position + 1} ({name})", params)
            file = f"{position + 1:02d}-{name}.jxc"
            size = save(self.folder.file(file), params, coder=self.coder)
            done.append(self._finish(name, file, size, params, began, curve))
            self._tell(position, done=done[-1])
        return Result(params, self.recipe, done[0], tuple(done[1:]))

    def _train(self, position: int, stage: Training, params: Any, key: jax.Array, curve: Curve) -> tuple[Any, float]:
        """Trains from the checkpoint or the start; fills ``curve``; returns the parameters and the seconds it took."""
        assert self.loss is not None
        options = {"apply": self.apply, "loss": self.loss, "data": self.data, "chunk": self.chunk, "sites": self.sites}
        trainer = Trainer(stage, params, key=key, **options)
        moment = self._restored(position, trainer, curve)
        self._tell(position, moment=moment, resumed=moment is not None)
        saved = time.monotonic()
        try:
            for now in trainer.run(moment):
                moment = now
                metrics = self._metrics(trainer.params(moment.state)) if self.evaluate_chunks else {}
                curve.append((moment.step, moment.loss, metrics))
                self._tell(position, moment=moment, metrics=metrics)
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._keep(position, moment, curve)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            if moment is not None:
                self._keep(position, moment, curve)
            raise
        assert moment is not None
        return trainer.finished(moment.state), moment.seconds

    def _keep(self, position: int, moment: Moment, curve: Curve) -> None:
        curve = [point for point in curve if point[0] <= moment.step]
        about = {"step": moment.step, "loss": moment.loss, "seconds": moment.seconds, "curve": curve}
        self.folder.save_checkpoint(position, about, moment.state)

    def _restored(self, position: int, trainer: Trainer, curve: Curve) -> Moment | None:
        found = self.folder.load_checkpoint(position, trainer.start)
        if found is None:
            return None
        about, state = found
        curve += [(step, loss, metrics) for step, loss, metrics in about["curve"]]
        return Moment(state, about["step"], about["loss"], about["seconds"])

    def _finish(self, name: str, file: str, size: int, params: Any, began: float, curve: Curve) -> StageRecord:
        seconds = time.perf_counter() - began
        record = StageRecord(name, file, size, self._metrics(params), seconds, _sparsity(params), tuple(curve))
        self.folder.add(record.to_json())
        return record

    def _metrics(self, params: Any) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        value = self.evaluate(self.apply, params)
        named = value if isinstance(value, Mapping) else {"error": value}
        return {name: float(number) for name, number in named.items()}

    def _tell(
        self,
        position: int,
        *,
        moment: Moment | None = None,
        metrics: dict[str, float] | None = None,
        resumed: bool = False,
        done: StageRecord | None = None,
    ) -> None:
        if self.progress is None:
            return
        stage, name = self.recipe.stages[position], self.recipe.names[position]
        steps = stage.steps if isinstance(stage, Training) else 0
        step, loss = (0, None) if moment is None else (moment.step, moment.loss)
        self.progress(Progress(position, len(self.recipe), name, step, steps, loss, metrics or {}, resumed, done))


def check_finite(name: str, tree: Any) -> None:
    """Raises ValueError if a float array of the tree holds NaN or infinity."""
    for path, leaf in zip(*flatten_with_paths(tree)[:2], strict=True):
        for array in jax.tree.leaves(leaf):
            if (
                hasattr(array, "dtype")
                and jnp.issubdtype(array.dtype, jnp.floating)
                and not bool(jnp.isfinite(array).all())
            ):
                raise ValueError(f"{name} holds NaN or infinity at {path or 'its only array'!r}")


def _sparsity(params: Any) -> dict[str, float]:
    """Fraction of exact zeros in every weight."""
    paths, leaves, _ = flatten_with_paths(params)
    chosen = [
        (path, leaf) for path, leaf in zip(paths, leaves, strict=True) if is_compressed(leaf) or is_weight(path, leaf)
    ]
    return {path: float(np.mean(np.asarray(dense(leaf)) == 0)) for path, leaf in chosen}


def write_dense(path: Path, params: Any) -> int:
    """Writes the dense arrays by path, uncompressed: the file that ratios refer to. Returns its bytes."""
    paths, leaves, _ = flatten_with_paths(materialize(params))
    return write_npz(path, {name: np.asarray(leaf) for name, leaf in zip(paths, leaves, strict=True)})
