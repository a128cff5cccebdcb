"""The report of an attack run: one HTML file that opens offline."""

from uap_jax.reporting.html import Arrival, Example, ReportData, write_report

__all__ = ["Arrival", "Example", "ReportData", "write_report"]
