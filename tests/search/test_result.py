"""What a search leaves: the best under bounds, fronts, tables, the plot."""

import jax.numpy as jnp
import numpy as np
import pytest
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from jaxcompress.search import Archive, Choice, Conditional, Float, Genes, IntRange, Run, Space
from jaxcompress.search.archive import Rows
from jaxcompress.search.executors.measured import ExecutorChoice
from jaxcompress.search.pareto import pareto_of
from jaxcompress.search.problem import Problem
from jaxcompress.search.selection import front
from tests.search.climbing import Climb

SPACE = Space({"width": IntRange(1, 50), "kind": Choice(("a", "b")), "rate": Conditional(Float(0.0, 1.0), "kind", "b")})


def archive(objectives=("error", "bytes"), limits=(), violation=None, fidelity=None, **metrics):
    n = len(metrics["error"])
    problem = Problem(SPACE, lambda genome, key: 0, objectives, limits, "threefry2x32", False, False)
    genes = Genes(np.stack([np.arange(n), np.arange(n) % 2], axis=1).astype(np.int32), np.full((n, 1), 0.5, np.float32))
    genes = Genes(genes.codes, np.where(genes.codes[:, 1:] == 1, genes.values, 0))
    known = [np.ones(n) if fidelity is None else fidelity, np.zeros(n) if violation is None else violation]
    fidelity, violation = (np.asarray(row, np.float32) for row in known)
    return Archive(
        problem, 2, Rows(genes, fidelity, {k: np.asarray(v) for k, v in metrics.items()}, violation, np.arange(n))
    )


def finished(table):
    return Run(table, Climb(), None, ExecutorChoice("map", "as asked for"), 1.0, "budget", None)


TABLE = archive(
    error=[0.1, 0.03, 0.02, 0.02, np.nan, 0.01, 0.5, 0.02],
    bytes=[10, 20, 60, 50, 1, 90, 10, 50],
    ms=[1.0, 2.0, 3.0, 1.5, 0.1, 9.0, 0.5, np.inf],
    violation=[0, 0, 0, 0, 0, 0.5, 0, 0],
)


def test_the_best_by_hand():
    run = finished(TABLE)
    assert run.best().number == 3  # error .02: number 2 has more bytes, number 7 came later, number 5 breaks a limit
    assert run.best(error=0.02).number == 3  # fewest bytes
    assert run.best(error=0.03).number == 1
    assert run.best(bytes=20).number == 1  # least error
    assert run.best(error=0.1, bytes=20).number == 1  # every objective is bounded: the first one decides
    assert run.best("ms").number == 6
    assert run.best("ms", error=0.1).number == 0
    assert run.best("bytes").number == 0  # 6 has as few bytes and more error
    with pytest.raises(
        ValueError, match=r"there is no metric 'accuracy'; evaluate= returns \['error', 'bytes', 'ms'\]"
    ):
        run.best(accuracy=0.9)
    with pytest.raises(ValueError, match="there is no metric 'size'"):
        run.best("size")
    with pytest.raises(ValueError, match=r"no candidate keeps error=0.001 \(the least seen: 0.02\)"):
        run.best(error=0.001)


def test_only_full_effort_counts():
    assert finished(archive(error=[0.1, 0.2], bytes=[1, 1], fidelity=[0.5, 1.0])).best().number == 1
    assert finished(archive(error=[0.1, 0.2], bytes=[1, 1], fidelity=[0.5, 0.25])).best().number == 0
    halved = finished(archive(error=[0.1, 0.2, 0.3], bytes=[1, 1, 1], fidelity=[0.5, 1.0, 1.0], violation=[0, 0, 0.1]))
    assert "1 of the 2 with the most effort keep all limits" in str(halved)


def test_none_is_eligible():
    with pytest.raises(ValueError, match=r"none of 2 candidates .* 1 failed, the least violation of the others is 0.2"):
        finished(archive(error=[np.nan, 0.1], bytes=[1, 1], violation=[0.0, 0.2])).best()
    hopeless = finished(archive(error=[0.2, 0.1], bytes=[1, 1], violation=[0.1, 0.2]))
    with pytest.raises(ValueError, match="none of 2"):
        _ = hopeless.pareto
    assert "0 keep all limits" in str(hopeless)


@pytest.mark.parametrize("metrics", [2, 3])
def test_fronts_are_those_of_pymoo(metrics):
    values = np.random.default_rng(metrics).integers(0, 12, (200, metrics)).astype(np.float64)
    first = {tuple(row): i for i, row in reversed(list(enumerate(values)))}
    theirs = NonDominatedSorting().do(values, only_non_dominated_front=True)
    assert sorted(front(values)) == sorted({first[tuple(values[i])] for i in theirs})
    ordered = values[front(values)].tolist()
    assert ordered == sorted(ordered)


def test_the_front_by_hand_and_over_other_metrics():
    pareto = finished(TABLE).pareto
    assert pareto.numbers.tolist() == [3, 1, 0]
    assert [candidate.config["width"] for candidate in pareto] == [4, 2, 1]
    assert pareto.over("error", "bytes", "ms").numbers.tolist() == [3, 1, 0, 6]
    assert pareto.over("ms", "error").numbers.tolist() == [6, 0, 3]  # an infinite time is no candidate
    with pytest.raises(ValueError, match="there is no metric 'size'"):
        pareto.over("size", "error")
    with pytest.raises(ValueError, match="a front needs metrics"):
        pareto.over()


def test_tables_name_everything():
    run = finished(TABLE)
    lines = str(run.pareto).splitlines()
    assert lines[0].split() == ["number", "error", "bytes", "ms", "config"]
    assert lines[1].split() == ["3", "0.02", "50", "1.5", "width=4", "kind=b", "rate=0.5"]
    assert "least bytes" in str(run)
    assert "8 candidates in 4 generations" in str(run)
    assert run.pareto._repr_html_().count("<tr>") == 1 + 3
    assert "<td>3</td>" in run._repr_html_()
    assert "<td>3</td>" in TABLE._repr_html_()
    assert "8 candidates, 1 failed, 0 from the cache" in str(TABLE)


def test_the_archive_as_a_table():
    numbers = TABLE.to_numpy()
    assert list(numbers)[:3] == ["width", "kind", "rate"]
    assert numbers["generation"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert numbers["failed"].tolist() == [False] * 4 + [True] + [False] * 3
    both = archive(("error",), error=[0.1, 0.2], width=[7, 8]).to_numpy()  # a gene and a metric of one name
    assert (both["gene width"].tolist(), both["width"].tolist()) == ([0, 1], [7, 8])
    rows = TABLE.rows()
    assert rows[1]["config"] == {"width": 2, "kind": "b", "rate": 0.5}
    assert rows[2]["config"] == {"width": 3, "kind": "a"}
    assert rows[1]["metrics"] == {"error": 0.03, "bytes": 20, "ms": 2.0}
    assert TABLE[-1].number == 7
    assert TABLE[1].genome["width"] == jnp.int32(2)
    assert str(TABLE[1]).startswith("candidate 1: error 0.03, bytes 20, ms 2\n")
    with pytest.raises(IndexError, match="there is no 8"):
        TABLE[8]


def test_the_plot(tmp_path):
    pareto = pareto_of(TABLE, ("error", "bytes"))
    figure = pareto.plot(tmp_path / "front.png", log=("bytes",), title="found", marked={"mine": TABLE[0]})
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("bytes", "error", "log")
    assert axes.lines[1].get_xydata().tolist() == [[10.0, 0.1], [20.0, 0.03], [50.0, 0.02]]
    assert axes.lines[2].get_xydata().tolist() == [[10.0, 0.1]]
    assert axes.get_legend().get_texts()[-1].get_text() == "mine"
    assert len(axes.collections[0].get_offsets()) == 6  # every eligible candidate
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert len(pareto.over("error", "bytes", "ms").plot().axes) == 2  # a colour bar
    with pytest.raises(ValueError, match="is a point"):
        pareto.over("error").plot()
    with pytest.raises(ValueError, match="log='ms' is none"):
        pareto.plot(log=("ms",))
