"""The report: one self-contained HTML page from a folder of saved results.

`build_report(folder)` reads `results.json` and `tables/` and writes `report.html`; nothing in the
page is fetched, and it can be read without scripts (which only sort and filter its tables).
"""

from rlhfsim.report.build import build_report
from rlhfsim.report.claims import claims_section, claims_table
from rlhfsim.report.page import render

__all__ = ["build_report", "claims_section", "claims_table", "render"]
