"""What a candidate costs: measured times, a table of its operations' times, XLA's counts."""

from jaxcompress.search.hardware.agreement import Agreement as Agreement
from jaxcompress.search.hardware.agreement import agreement as agreement
from jaxcompress.search.hardware.cost import Cost as Cost
from jaxcompress.search.hardware.cost import cost as cost
from jaxcompress.search.hardware.latency import latencies_ms as latencies_ms
from jaxcompress.search.hardware.latency import latency_ms as latency_ms
from jaxcompress.search.hardware.table import LatencyTable as LatencyTable
from jaxcompress.search.hardware.table import latency_table as latency_table
