"""The report of an attack run: one HTML file that opens offline."""

from uap_jax.reporting.html import Example, ReportData, write_report

__all__ = ["Example", "ReportData", "write_report"]
