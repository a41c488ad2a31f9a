"""The page: self-contained, complete, and free of what a browser would have to fetch."""

import base64
import html.parser
import re
import time

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

from jaxcompress.report import Curve, Report, Row, latency_ms, load_ms, rows_table, write_report
from jaxcompress.report.figures import curves, histograms, size_and_error, sparsity

ROWS = [
    Row("train", 10_400, 0.031, {1: 0.111, 64: 0.5}, 1.5, 8.0),
    Row("prune & <share>", 1_300, 0.0, {1: 0.2222, 64: 0.6}, 2.5, 0.25),
]
RNG = np.random.default_rng(0)
BEFORE = {"first/kernel": RNG.normal(size=(30, 20)), "second/kernel": RNG.normal(size=(20, 4))}
BOOK = np.array([-1.0, 0.0, 0.5, 1.5])
AFTER = {"first/kernel": RNG.choice(BOOK, (30, 20)), "second/kernel": np.zeros((20, 4))}
CURVES = [Curve("train", [5, 10], [1.0, 0.5], [0.2, 0.1]), Curve("tune", [5], [0.25], [0.05])]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    settings = dict(matplotlib.rcParams)
    report = Report(
        "A <title>", "Summary.", ROWS, BEFORE, AFTER, {"first/kernel": BOOK}, CURVES, ["A note."], {"jax": "9.9"}
    )
    assert write_report(path, report) == path
    assert dict(matplotlib.rcParams) == settings
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


class Reader(html.parser.HTMLParser):
    """Collects tags, cells and images, and complains about tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.images, self.links = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag == "img":
            self.images.append(values)
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_the_page_fetches_nothing(page):
    assert "http" not in page
    assert "<script" not in page
    assert "url(" not in page
    assert all(link.startswith("data:image/svg+xml;base64,") for link in Reader(page).links)


def test_the_page_holds_four_figures_with_descriptions(page):
    images = Reader(page).images
    assert len(images) == 4
    for image in images:
        svg = base64.b64decode(image["src"].partition(",")[2]).decode()
        assert svg.rstrip().endswith("</svg>")
        assert len(image["alt"]) > 20


def test_the_table_shows_what_was_measured(page):
    cells = Reader(page).cells
    assert cells[:3] == ["stage", "bytes", "ratio"]
    assert cells[8:16] == ["train", "10,400", "1.0x", "3.10 %", "0.111", "0.500", "1.5", "8.0"]
    assert cells[16:] == ["prune & <share>", "1,300", "8.0x", "0.00 %", "0.222", "0.600", "2.5", "0.2"]


def test_text_is_escaped(page):
    assert "A &lt;title&gt;" in page
    assert "<share>" not in page


def drawn(svg, gid):
    return len(re.findall(rf'id="{gid}', svg))


def test_figures_draw_one_mark_for_each_thing():
    assert drawn(size_and_error(ROWS * 2), "patch_") > drawn(size_and_error(ROWS), "patch_")
    picture = histograms(BEFORE, AFTER, {"first/kernel": BOOK})
    assert picture.count("#d9622b") >= 3, "the entries that are not zero are marked"
    assert "#d9622b" not in histograms(BEFORE, AFTER, {})
    assert drawn(sparsity(AFTER), "patch_") > drawn(sparsity({"first/kernel": BOOK}), "patch_")
    assert drawn(curves(CURVES), "line2d_") > drawn(curves(CURVES[:1]), "line2d_")


def test_figures_are_reproducible():
    assert size_and_error(ROWS) == size_and_error(ROWS)


def test_rows_refer_to_the_first():
    columns, cells = rows_table(ROWS)
    assert columns == ["stage", "bytes", "ratio", "test error", "batch 1, ms", "batch 64, ms", "load, ms", "seconds"]
    assert [row[2] for row in cells] == ["1.0x", "8.0x"]


def test_times_are_medians_in_milliseconds():
    def load():
        time.sleep(0.004)
        return jnp.ones(2)

    assert (
        4.0 <= load_ms(load, seconds=0.0) < 400.0
    )  # a sleep is at least as long as asked; the top allows a busy machine
    assert 0.0 < latency_ms(lambda x: x + 1, jnp.ones(3), seconds=0.0) < 400.0
