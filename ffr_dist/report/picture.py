"""The main result as an SVG file of its own, for a README: the page's chart with the page's colours inside it."""

from __future__ import annotations

import re
from importlib.resources import files

from ffr_dist.report.charts import interval_chart
from ffr_dist.report.content import Results
from ffr_dist.report.markup import Html, el


def result_picture(results: Results) -> str:
    """Arms and mitigations of the first method and bias ratio; light or dark as the reader's system is."""
    first = results.cells[0]
    cells = [c for c in results.cells if (c.method, c.bias_ratio) == (first.method, first.bias_ratio)]
    chart = interval_chart(cells, results.lead, ident="result")
    opening, rest = chart.split(">", 1)
    return f"{opening}>{el('style', Html(_style()))}{rest}"


def _style() -> str:
    """The page's colours and what it says of charts; the page around them has no say here."""
    page = files("ffr_dist.report").joinpath("page.css").read_text(encoding="utf-8").split("@media (max-width")[0]
    colours = page[page.index(":root") : page.index("* {")]
    rules = [line for line in page.splitlines() if re.match(r"\.chart [.a-z]|\.chart \.", line)]
    base = ".chart { background: var(--page); font: 13px system-ui, sans-serif; font-variant-numeric: tabular-nums; }"
    return "\n".join([colours.strip(), base, *rules])
