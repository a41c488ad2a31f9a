"""The examples run, at settings that take seconds (the first one runs in `test_readme`)."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.standard_promotion
def test_pruned_fraction_against_accuracy_and_bytes(tmp_path):
    program = runpy.run_path(str(EXAMPLES / "02_prune_mnist.py"))
    out = tmp_path / "figure.png"
    settings = {"levels": (0.0, 0.5, 0.95), "dense_steps": 60, "ramp_steps": 20, "tune_steps": 20}
    points = program["main"](out=str(out), **settings)
    assert [point.sparsity for point in points] == [0.0, 0.5, 0.95]
    whole, half, few = points
    assert whole.cut > 0.8
    assert half.tuned > 0.8
    assert few.tuned > few.cut + 0.1  # fine-tuning repairs
    for ours in ("tuned_bytes", "gradual_bytes"):
        sizes = [getattr(point, ours) for point in points]
        # At least the float32 values that stay and no bit for those that go; zstd finds a little in the exponents.
        assert 0.8 * 4 * 133_100 < sizes[1] < 0.6 * sizes[0]
        assert 0.8 * 4 * 13_310 < sizes[2] < 0.08 * sizes[0]
    header = out.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20], "big") > 1200


@pytest.mark.standard_promotion
def test_training_with_the_rounding_in_sight(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the example writes its file here
    found = runpy.run_path(str(EXAMPLES / "03_quantize_aware_mnist.py"))["main"](steps=80)
    assert found["float32"] > 0.85
    assert found["2 bits, trained"] > 0.85
    assert found["2 bits, trained"] > found["2 bits, rounded"] + 0.02
