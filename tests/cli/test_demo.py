"""The demo from end to end, with a schedule of a few steps."""

import io
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

import jaxcompress as jc
from jaxcompress.artifact import load
from jaxcompress.cli import main
from jaxcompress.cli.demo import Demo
from jaxcompress.cli.lenets import MODELS

pytestmark = pytest.mark.standard_promotion  # optax.adam's bias correction is float ** int32

QUICK = [
    ("train", jc.train.Finetune(steps=30, batch_size=32)),
    ("prune", jc.prune.Magnitude(sparsity=0.9)),
    ("cluster", jc.cluster.KMeans(bits=4, where="dense_0/kernel")),
    ("fine-tune again", jc.train.Finetune(steps=10, batch_size=32)),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two hundred made-up digits: a bright square whose place is the class."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(10, dtype=np.uint8), 20)
    images = rng.integers(0, 60, (200, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 4)
        image[2 + 8 * row : 8 + 8 * row, 2 + 6 * column : 7 + 6 * column] += 190
    path = tmp_path_factory.mktemp("data") / "mnist.npz"
    np.savez(path, x_train=images[:160], y_train=labels[:160], x_test=images[160:], y_test=labels[160:])
    return path


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    import jax

    with jax.numpy_dtype_promotion("standard"):
        code, printed = demo(data, out)
    assert code == 0, printed
    return out, printed


def demo(data, out):
    console = Console(file=io.StringIO(), width=140, highlight=False)
    code = Demo("lenet300", data, out, stages=QUICK, console=console).run()
    return code, console.file.getvalue()


def test_it_prints_every_stage_and_the_check(done):
    _, printed = done
    for name in ("train (float32)", "prune", "cluster", "fine-tune again", "code"):
        assert name in printed
    assert "identical, bit for bit" in printed
    assert "mnist.npz: 160 images, and 40 held out" in printed


def test_the_files_are_there_and_as_large_as_it_says(done):
    out, printed = done
    assert sorted(path.name for path in out.iterdir()) == [
        "lenet300-float32.npz",
        "lenet300.jxc",
        "report.html",
        "state",
    ]
    for name in ("lenet300.jxc", "lenet300-float32.npz"):
        assert f"{os.path.getsize(out / name):,}" in printed
    assert "http" not in (out / "report.html").read_text()


def test_the_file_is_small_and_runs(done, data):
    out, _ = done
    artifact = load(out / "lenet300.jxc")
    assert 20 * os.path.getsize(out / "lenet300.jxc") < os.path.getsize(out / "lenet300-float32.npz")
    assert artifact.meta == {"model": "lenet300"}
    recipe = jc.pipeline.Recipe.from_json(artifact.recipe)
    assert recipe.stages == tuple(stage for _, stage in QUICK)
    with np.load(data) as file:
        images = file["x_test"].astype(np.float32) / 255
    assert artifact.bind(MODELS["lenet300"].fn)(images).shape == (40, 10)


@pytest.mark.slow
def test_a_second_run_says_that_it_goes_on_and_repeats_nothing(done, data):
    out, _ = done
    before = (out / "lenet300.jxc").read_bytes()
    code, printed = demo(data, out)
    assert code == 0
    assert "Going on with the run in" in printed
    assert (out / "lenet300.jxc").read_bytes() == before


def test_inspect_accounts_for_every_byte(done, capsys):
    out, _ = done
    assert main(["inspect", str(out / "lenet300.jxc")]) == 0
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    total = next(line for line in lines if line[:2] == ["whole", "file"])[-1]
    header = next(line for line in lines if line[:1] == ["header"])[-1]
    arrays = [line for line in lines if line and line[0].startswith("dense_")]
    number = lambda text: int(text.replace(",", ""))  # noqa: E731
    assert number(total) == number(header) + sum(number(line[-2]) for line in arrays)
    assert number(total) == os.path.getsize(out / "lenet300.jxc")
    assert "prune.Magnitude" in printed


PROGRAM = """
import signal
import sys
from pathlib import Path
from jaxcompress.cli import command, demo
import jaxcompress as jc
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
demo.schedule = lambda model, full: [("train", jc.train.Finetune(steps=100_000, batch_size=32))]
show = demo.Bars.__call__
demo.Bars.__call__ = lambda self, event: (show(self, event), print("step", event.step, flush=True))
sys.exit(command.main())
"""


def test_ctrl_c_leaves_a_state_to_go_on_from(data, tmp_path):
    def start():
        command = [sys.executable, "-c", PROGRAM, "demo", "--data", str(data), "--out", str(tmp_path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def stop(process, told):
        """Ctrl-C once the training has told of a chunk."""
        printed = ""
        while told not in printed and (line := process.stdout.readline()):
            printed += line
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 130, error
        assert "Run the same command again to go on from here." in error
        return printed + out

    stop(start(), "step 50")
    (checkpoint,) = tmp_path.glob("state/*/training.npz")
    with np.load(checkpoint) as file:
        assert b'"step"' in file["about"].tobytes()
    printed = stop(start(), "step ")
    assert "Going on with the run in" in printed
    assert "Going on with 'train' after step" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--data", "nowhere.npz"], "nowhere.npz: there is no such file"),
        (["demo", "--data", __file__], "cannot be read as an npz file"),
        (["inspect", "nowhere.jxc"], "nowhere.jxc"),
        (["inspect", __file__], "test_demo.py"),
    ],
)
def test_failures_say_why_and_exit_with_1(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_a_missing_package_is_named_before_anything_is_done(monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else find(name))
    assert main(["demo"]) == 1
    assert "pip install 'jaxcompress[demo]'" in capsys.readouterr().err


def test_version_and_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"jaxcompress {jc.__version__}\n"
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--model", "resnet"])
    assert stopped.value.code == 2
