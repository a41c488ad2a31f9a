"""What the benchmarks keep: a run in parts replaces its own part and leaves the others as they were."""

import json

import pytest

from benchmarks import cifar, readme_tables, results


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def keep(part, *values):
    rows = [results.row(f"{part} {i}", value, "%", "peer", 2.0) for i, value in enumerate(values)]
    results.report("bench", rows, json_path=None, keep=True, part=part)


def test_part_replaces_its_own_rows(folder):
    keep("first", 1.0, 2.0)
    keep("second", 3.0)
    keep("first", 4.0)
    kept = json.loads((folder / "bench.json").read_text())
    assert {line["metric"]: line["value"] for line in kept["results"]} == {"second 0": 3.0, "first 0": 4.0}
    assert set(kept["parts"]) == {"first", "second"}
    assert all({"date", "machine", "versions"} <= set(part) for part in kept["parts"].values())
    assert "| first 0 | 4 | % | peer | 2 | 2 |" in "\n".join(readme_tables.table("bench", kept))


def test_whole_run_replaces_everything(folder):
    keep("first", 1.0)
    results.report("bench", [results.row("all", 1.0, "%", "peer", 2.0)], json_path=None, keep=True)
    kept = json.loads((folder / "bench.json").read_text())
    assert [line["metric"] for line in kept["results"]] == ["all"]
    assert "parts" not in kept


def test_quick_run_keeps_nothing(folder):
    results.report("bench", [results.row("all", 1.0, "%", "peer", 2.0)], json_path=None, keep=False, part="first")
    assert not folder.exists()


def test_missing_pictures_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCOMPRESS_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match=r"cifar10_jpegbytes\.npz does not exist"):
        cifar.subset()
