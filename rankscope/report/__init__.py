"""The report: one HTML file that shows a comparison, asks no network, and holds the numbers, so that it can be read back.

``page`` puts together what ``content`` gathers; ``static/report.js`` draws it in the browser with uPlot, which lies in ``static/uplot``
as it was released; ``reading`` takes the numbers out again.
"""

from rankscope.report.making import make_report, write_report
from rankscope.report.reading import open_report

__all__ = ["make_report", "open_report", "write_report"]
