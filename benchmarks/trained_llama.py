"""The trained Llama as benchmarks of post-training methods have it: what it is calibrated on, how it is evaluated."""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

import jaxcompress as jc
from benchmarks.pruning_llama import BATCH, DENSE, model, perplexity
from jaxcompress.core.paths import matches
from tests.zoo import llama

CALIBRATION, WINDOWS = 32, 144
TURNS = (("wq", "wk", "wv"), ("wo",), ("w1", "w3"), ("w2",))  # of a layer


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """The trained model with what it is calibrated on and how it is evaluated.

    Attributes:
        fn: ``(params, tokens) -> logits``.
        params: the dense ones.
        data: batches of the calibration windows.
        evaluate: the perplexity of parameters.
        dense: that of the dense ones.
        sites: of ``fn``.
        where: the weights that methods change.
        quick: few windows.
    """

    fn: Callable[..., Any]
    params: Any
    data: list[Any]
    evaluate: Callable[[Any], float]
    dense: float
    sites: Any
    where: Sequence[str]
    quick: bool

    @functools.cached_property
    def stats(self) -> Any:
        """What the dense model meets on the calibration windows."""
        what = ("second_moment", "mean", "mean_abs")
        return jc.observe(self.fn, self.params, self.data, what=what, where=self.where)

    def in_turns(
        self, method: Callable[..., Any], *, what: str | Sequence[str] = "second_moment", **options: Any
    ) -> Any:
        """The embedding first if it is one of the weights, then layer after layer.

        Each is fitted to what the changed ones before it let through. At once where it shall be quick.
        """
        if self.quick:
            return self.at_once(method, **options)
        turns = [["emb"]]
        for i in range(len(self.params["layers"])):
            turns += [[f"layers/{i}/{name}" for name in turn] for turn in TURNS]
        turns = [[path for path in turn if matches(path, self.where)] for turn in turns]
        turns = [turn for turn in turns if turn]
        fitted = functools.partial(method, **options)
        return jc.sequential(self.fn, self.params, self.data, fitted, order=turns, where=self.where, what=what)

    def at_once(self, method: Callable[..., Any], **options: Any) -> Any:
        """All weights, each fitted to what the dense model lets through."""
        return method(self.params, self.stats, **options)


@functools.cache
def subject(quick: bool, where: Sequence[str]) -> Subject:
    """The model with its data; ``quick``: 4 windows to calibrate, 4 to evaluate."""
    calibrating, total = (4, 8) if quick else (CALIBRATION, WINDOWS)
    windows = llama.windows(total)
    fn, params = model()
    batch = min(BATCH, calibrating)
    data = [jnp.asarray(windows[i : i + batch, :-1]) for i in range(0, calibrating, batch)]
    evaluate = perplexity(fn, windows[calibrating:])
    dense = evaluate(params) if quick else DENSE
    return Subject(fn, params, data, evaluate, dense, jc.sites(fn, params, data[0]), where, quick)


def file_bytes(params: Any) -> int:
    """Bytes of the artifact."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.jxc"
        jc.save(path, params)
        return os.path.getsize(path)
