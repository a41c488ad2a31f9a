"""`compress`: carries out a recipe, measures every stage, and can be interrupted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax

from jaxcompress.core.lift import lift
from jaxcompress.core.sites import Sites, sites
from jaxcompress.core.tree import materialize
from jaxcompress.pipeline.batches import batches_of
from jaxcompress.pipeline.recipe import Recipe
from jaxcompress.pipeline.result import Result
from jaxcompress.pipeline.run import Evaluate, Hook, Run, check_finite
from jaxcompress.pipeline.state import RunFolder, fingerprint
from jaxcompress.pipeline.training import Loss
from jaxcompress.train.stages import Training


def compress(
    fn: Callable[..., Any],
    params: Any,
    recipe: Recipe,
    *,
    key: jax.Array,
    loss: Loss | None = None,
    evaluate: Evaluate | None = None,
    data: Any = None,
    inputs: Callable[[Any], tuple[Any, ...]] | None = None,
    state_dir: str | Path | None = None,
    progress: Hook | None = None,
    chunk: int = 50,
    evaluate_chunks: bool = False,
    coder: Literal["zstd", "constriction"] = "zstd",
) -> Result:
    """Carries out a recipe and measures every stage: bytes of a file that is really written, error, seconds, sparsity.

    With ``state_dir`` a run may be interrupted at any time (Ctrl-C, a killed process) and goes on where it stood when
    it is called again with the same arguments; the result is the one of an uninterrupted run.

    Args:
        fn: the model, ``fn(params, *inputs)``, any function that ``jit`` accepts.
        params: tree of float arrays (and others, left alone) or compressed leaves. Not changed.
        recipe: what to do.
        key: seeds the order of the examples and the keys of ``loss``; consumed.
        loss: ``loss(apply, params, batch, key) -> scalar``, traced; ``apply`` is ``lift(fn)``. Training stages need it.
        evaluate: ``evaluate(apply, params) -> error``, or a mapping of named numbers; called after every stage.
        data: what to train on: a pytree of arrays with one leading axis of examples, or ``batch_at(step) -> batch``,
            which must return the same batch for the same step.
        inputs: takes the inputs of ``fn`` out of a batch, ``lambda batch: (batch["image"],)``. Given, the methods are
            told what the axes of each kernel mean (`jaxcompress.sites`), which kernels beyond plain (in, out) need.
        state_dir: folder for the state and the artifact of each stage; without one nothing stays on disk.
        progress: called with a `Progress` when a stage begins, after every chunk of training, and when it is done.
        chunk: training steps between two chances to report, save and stop.
        evaluate_chunks: also evaluate after every chunk.
        coder: entropy coder of the artifacts, as in `jaxcompress.save`.

    Returns:
        The parameters, the recipe, and a record for each stage.

    Raises:
        ValueError: if a weight is NaN or infinite, data or loss are missing where a stage trains, or ``state_dir``
            holds another run.
        FloatingPointError: if training diverges.
        KeyboardInterrupt: passed on, after the state is saved.

    Example:
        >>> fn = lambda params, x: x @ params["w"]
        >>> params = {"w": jax.random.normal(jax.random.key(0), (8, 8))}
        >>> result = compress(fn, params, Recipe([jc.prune.Magnitude(sparsity=0.75)]), key=jax.random.key(1))
        >>> result.records[0].name, result.records[0].sparsity
        ('prune.Magnitude', {'w': 0.75})

    References:
        Han et al., 2016. https://arxiv.org/abs/1510.00149
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"recipe must be a jaxcompress.pipeline.Recipe, got {type(recipe).__name__}: Recipe([stage, ...])"
        )
    if chunk < 1:
        raise ValueError(f"chunk must be 1 or more, got {chunk}")
    if any(isinstance(stage, Training) for stage in recipe) and (loss is None or data is None):
        raise ValueError("the recipe trains: pass loss= and data=")
    check_finite("params", params)
    arrays = None if callable(data) else data
    check_finite("data", arrays)
    identity = fingerprint(recipe.to_json(), key, params, arrays, str(chunk), coder)
    found = None if inputs is None else _sites(fn, params, data, inputs, key)
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch if state_dir is None else state_dir), identity)
        run = Run(recipe, folder, lift(fn), loss, evaluate, data, progress, chunk, evaluate_chunks, coder, found)
        return run.carry_out(params, key)


def _sites(fn: Callable[..., Any], params: Any, data: Any, inputs: Callable[[Any], Any], key: jax.Array) -> Sites:
    if data is None:
        raise ValueError("inputs= takes the inputs of fn out of a batch of data=: pass data= too")
    batches = batches_of(data, batch_size=1, key=key)
    return sites(fn, materialize(params), *inputs(batches.take(batches.arrays, batches.pick(0))))
