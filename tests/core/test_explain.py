"""`explain`: nothing is materialized in silence."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxcompress.core.explain import explain
from tests.core.kinds import Grouped, Probe, Thin

PARAMS = {
    "thin": Thin.random(0, 6, 8),
    "grouped": Grouped.of(jnp.ones((8, 4)), 2),
    "dense": jnp.ones((4, 4)),
    "idle": Probe(jnp.ones((2, 2))),
    "bias": jnp.ones(4),
}
X = jnp.ones((3, 6))


def fn(p, x):
    return jnp.tanh(x @ p["thin"]) @ p["grouped"] @ p["dense"] + p["bias"][None]


@pytest.fixture(scope="module")
def explanation():
    return explain(fn, PARAMS, X)


def test_one_line_per_leaf_and_place(explanation):
    lines = {line.path: line for line in explanation}
    assert list(lines) == ["thin", "grouped", "dense", "idle"]  # a bias is no candidate
    assert len(explanation) == 4
    assert lines["thin"].served
    assert lines["thin"].kind == "test_thin"
    assert lines["thin"].shape == (6, 8)
    assert lines["thin"].primitive == "dot_general"
    assert lines["thin"].source.startswith("test_explain.py")
    assert not lines["grouped"].served
    assert "test_grouped" in lines["grouped"].how
    assert (lines["dense"].kind, lines["dense"].served) == ("dense", False)
    assert "no method was applied" in lines["dense"].how
    assert lines["idle"].how == "nothing consumed it"
    assert [line.path for line in explanation.materialized] == ["grouped"]


def test_prints(explanation):
    text = repr(explanation)
    assert "1 uses of compressed leaves served compressed, 1 materialized; 1 leaves are dense." in text
    assert "materialized" in text
    html = explanation._repr_html_()
    assert html.count("<tr>") == 5
    assert explanation[:2] == (explanation[0], explanation[1])


def test_every_consumer_is_a_line():
    def twice(p, x):
        y = x @ p["thin"]
        return y @ p["thin"].T + jnp.sum(jnp.sort(p["thin"], axis=0)), lax.erf(p["thin"])

    lines = explain(twice, {"thin": PARAMS["thin"]}, X)
    assert [line.served for line in lines] == [True, True, False, False]
    assert {line.primitive for line in lines if not line.served} >= {"erf"}
    assert all("sort" in line.how or "erf" in line.how for line in lines.materialized)


def test_nested_kinds_and_abstract_inputs():
    params = {"w": Thin(Grouped.of(jnp.ones((6, 2)), 2), jnp.ones((2, 8)))}
    (line,) = explain(lambda p, x: x @ p["w"], params, jax.ShapeDtypeStruct((3, 6), jnp.float32))
    assert line.kind == "test_thin(test_grouped)"


def test_loops_count_once():
    """JAX may trace a body twice; a place is a place."""
    loop = lambda p, x: lax.scan(lambda c, _: (c @ p["w"], None), x, None, length=3)[0]  # noqa: E731
    assert len(explain(loop, {"w": Thin.random(0, 6, 6)}, X)) == 1
