"""Self-contained HTML pages: the report of a run, and the comparison of two models."""

from ggam.report.comparison import ComparisonEntry, write_comparison
from ggam.report.run import ReportError, write_report

__all__ = ["ComparisonEntry", "ReportError", "write_comparison", "write_report"]
