"""Measurements, tables and the self-contained HTML report of a compression."""

from jaxcompress.report.figures import Curve as Curve
from jaxcompress.report.html import Report as Report
from jaxcompress.report.html import write_report as write_report
from jaxcompress.report.measure import latency_ms as latency_ms
from jaxcompress.report.measure import load_ms as load_ms
from jaxcompress.report.rows import Row as Row
from jaxcompress.report.rows import rows_table as rows_table
