"""Self-contained HTML pages: the report of a run, and the comparison of two models."""

from ggam.report.cards import ReportError
from ggam.report.comparison import ComparisonEntry, write_comparison
from ggam.report.run import write_report

__all__ = ["ComparisonEntry", "ReportError", "write_comparison", "write_report"]
