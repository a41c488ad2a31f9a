"""Networks of cells whose operations are runtime data: one program for every architecture, and for mixtures of them."""

from jaxcompress.search.cells.cell import Cell as Cell
from jaxcompress.search.cells.network import CellNetwork as CellNetwork
from jaxcompress.search.cells.operations import NAS_BENCH_201 as NAS_BENCH_201
from jaxcompress.search.cells.operations import Operation as Operation
