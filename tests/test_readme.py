"""What the two READMEs show is run as it stands, and what they say of other files is read there."""

import json
import re
import runpy
from pathlib import Path

import pytest

import jaxcompress as jc
from benchmarks import readme_tables
from benchmarks.results import RESULTS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "jaxcompress" / "README.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


EXAMPLES = [
    pytest.param(code, id=f"{page.parent.name}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks(page, "python"))
]


def test_there_is_an_example_to_run():
    assert blocks(PAGES[0], "python")


@pytest.mark.standard_promotion
@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize(("number", "name"), [(0, "04_quantize_aware_mnist.py"), (1, "01_wrap_a_train_step.py")])
def test_diff_is_the_example_file(number, name):
    """The lines that the README adds to a train step are lines of the example; those that it takes away are not."""
    example = {line.strip() for line in (ROOT / "examples" / name).read_text().splitlines()}
    diff = blocks(PAGES[0], "diff")[number].splitlines()
    added = [line[1:].strip() for line in diff if line.startswith("+")]
    removed = [line[1:].strip() for line in diff if line.startswith("-")]
    assert added
    assert removed
    assert set(added) <= example
    assert example.isdisjoint(removed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [t for t in targets if not t.startswith("http") and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.standard_promotion
def test_wrapped_train_step_prunes_and_learns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = runpy.run_path(str(ROOT / "examples" / "01_wrap_a_train_step.py"))
    program["main"]()
    pruned = jc.load(tmp_path / "digits.jxc").params
    for layer in ("Dense_0", "Dense_1"):
        kernel = pruned["params"][layer]["kernel"].materialize()
        # the entries that stay are Gaussian draws moved by optimizer steps: never exactly zero
        assert int((kernel == 0).sum()) == round(0.9 * kernel.size)


def test_results_are_those_that_were_kept():
    """Fails when a benchmark was kept and the README not written anew: run `python -m benchmarks.readme_tables`."""
    readme = PAGES[0].read_text()
    assert readme_tables.rewritten(readme, readme_tables.section(RESULTS.glob("*.json"))) == readme
    assert readme_tables.everything(RESULTS.glob("*.json")) == readme_tables.ALL.read_text()


def test_headlines_are_kept():
    """A metric that was renamed would leave the README without a word."""
    kept = {path.stem: json.loads(path.read_text())["results"] for path in RESULTS.glob("*.json")}
    there = {(name, line["metric"]) for name, lines in kept.items() for line in lines}
    assert set(readme_tables.HEADLINES) <= there
