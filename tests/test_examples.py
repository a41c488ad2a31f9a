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
def test_pca_svd_and_factor_analysis_in_both_regimes(tmp_path):
    out = tmp_path / "figure.png"
    program = runpy.run_path(str(EXAMPLES / "03_pca_vs_svd.py"))
    many, few = program["main"](out=str(out), counts=(2, 16), few_rows=100, iterations=5)
    assert many.features < many.rows
    assert few.features > few.rows
    for regime in (many, few):
        for name, curve in regime.curves.items():
            assert curve.wrong[1] < 0.6 * curve.wrong[0], name  # more components tell more
            assert curve.lost[1] < curve.lost[0] < 1, name
        pca, svd = regime.curves["PCA"], regime.curves["SVD (not centred)"]
        assert pca.lost[0] < svd.lost[0]  # one of the two directions of an SVD goes to the mean
        assert all(pca.lost[1] < other.lost[1] + 5e-3 for other in regime.curves.values())
    assert many.curves["PCA"].wrong[1] < 0.08
    assert many.pixels_wrong < 0.08
    header = out.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20], "big") > 1200


@pytest.mark.standard_promotion
def test_training_with_the_rounding_in_sight(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the example writes its file here
    found = runpy.run_path(str(EXAMPLES / "04_quantize_aware_mnist.py"))["main"](steps=80)
    assert found["float32"] > 0.85
    assert found["2 bits, trained"] > 0.85
    assert found["2 bits, trained"] > found["2 bits, rounded"] + 0.02


@pytest.mark.standard_promotion
def test_a_search_for_small_networks(tmp_path):
    out = tmp_path / "front.png"
    program = runpy.run_path(str(EXAMPLES / "04_search.py"))
    run = program["main"](out=str(out), budget=16, steps=80, progress=False)
    by_hand = run.archive[0]
    assert by_hand.config == {**program["BY_HAND"], "rate": pytest.approx(1e-3)}
    assert by_hand.metrics["parameters"] == 14 * 14 * 128 + 128 + 128 * 10 + 10
    assert len(run.archive) == 16
    assert run.best().metrics["error"] < 0.2 < 0.5 < run.archive.values("error").max()
    assert run.best("parameters").metrics["parameters"] < 0.2 * by_hand.metrics["parameters"]
    reported = run.report().rows
    assert [row.candidate.number for row in reported] == run.pareto.numbers.tolist()
    assert all(abs(row.metrics["error"] - row.candidate.metrics["error"]) < 0.1 for row in reported)
    assert all(row.metrics["parameters"] == row.candidate.metrics["parameters"] for row in reported)
    assert out.read_bytes().startswith(b"\x89PNG")
