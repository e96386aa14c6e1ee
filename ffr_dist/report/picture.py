"""Results as SVG files of their own, for a README and other pages: the report's charts with its colours inside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from ffr_dist.report.charts import interval_chart
from ffr_dist.report.content import Estimate, Results
from ffr_dist.report.lines import sample, setting_chart, style_of
from ffr_dist.report.markup import Html, el

_CHART = (680, 400)
_LINE = 20


def result_picture(results: Results) -> str:
    """Arms and mitigations of the first setting; light or dark as the reader's system is."""
    cells = [cell for cell in results.cells if cell.setting == results.cells[0].setting]
    return _with_style(interval_chart(cells, results.lead, ident="result"))


def setting_picture(
    lines: Mapping[str, Mapping[float, Estimate]], title: str, setting: str, names: Mapping[float, str] | None = None
) -> str:
    """Worst group over a setting, a line for each way of training, with their names below."""
    ways = list(lines)
    chart = setting_chart(lines, ways, title, ident="curve", setting=setting, names=names, size=_CHART)
    width, height = _CHART
    legend = [
        el(
            "g",
            sample(style_of(way, ways)),
            el("text", way, x=38, y=12, class_="axis"),
            transform=f"translate(36 {height + 8 + _LINE * place})",
        )
        for place, way in enumerate(ways)
    ]
    whole = height + _LINE * len(ways) + 12
    frame = el(
        "svg",
        chart,
        legend,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {whole}",
        width=width,
        height=whole,
        class_="chart",
    )
    return _with_style(frame)


def _with_style(chart: Html) -> str:
    opening, rest = chart.split(">", 1)
    return f"{opening}>{el('style', Html(_style()))}{rest}"


def _style() -> str:
    """The page's colours and what it says of charts; the page around them has no say here."""
    page = files("ffr_dist.report").joinpath("page.css").read_text(encoding="utf-8").split("@media (max-width")[0]
    colours = page[page.index(":root") : page.index("* {")]
    rules = [line for line in page.splitlines() if re.match(r"\.chart [.a-z]|\.chart \.", line)]
    base = ".chart { background: var(--page); font: 13px system-ui, sans-serif; font-variant-numeric: tabular-nums; }"
    return "\n".join([colours.strip(), base, *rules])
