"""Results of a run and of a study as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ffr_dist.cli.show.words import percent, say

_BESIDE_GROUPS = 20
"""Characters that a table of results takes beside the names of its cells and the columns of its groups."""
_WIDE = 130


def results_table(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Group accuracies of every cell, one line each, averaged over its seeds; the best worst group stands out."""
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault(f"{row['arm']} × {row['mitigation']}", []).append(row)
    of = _over_seeds({len(found) for found in cells.values()})
    table = Table(title=f"Accuracy on test, % ({of})", title_justify="left")
    names = list(rows[0]["groups"])
    first = "trained with"
    taken = _BESIDE_GROUPS + max(map(len, (first, *cells)))
    if taken + sum(3 + max(map(len, name.split("_"))) for name in names) > console.width:
        table.caption = f"{len(names)} groups: the report and results.json have each"
        names = []
    table.add_column(first, no_wrap=True)
    for name in ("worst group", "group mean", *(name.replace("_", " ") for name in names)):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    best = max(_mean(found, "worst_group") for found in cells.values())
    for cell, found in cells.items():
        worst = _mean(found, "worst_group")
        groups = [
            sum(row["groups"][name]["correct"] / row["groups"][name]["count"] for row in found) / len(found)
            for name in names
        ]
        shown = [f"{100 * value:.1f}" for value in (worst, _mean(found, "group_mean"), *groups)]
        shown[0] = f"[bold green]{shown[0]}[/]" if worst == best else shown[0]
        table.add_row(cell, *shown)
    console.print(table)


def study_tables(
    console: Console,
    tables: Sequence[Mapping[str, Any]],
    lead: Any,
    *,
    skipped: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]],
) -> None:
    """A table for each bias ratio and variant, then what has no place in them."""
    for table in tables:
        console.print(_study_table(table, lead, narrow=console.width < _WIDE))
    for what, cells in (("left out", skipped), ("failed", failures)):
        for cell in cells:
            seed = f", seed {cell['seed']}" if "seed" in cell else ""
            why = cell["why"] if "why" in cell else f"{cell['stage']}: {cell['error']}"
            say(console, f"{what}: {cell['arm']} × {cell['mitigation']}, {_study_name(cell)}{seed}: {why}")


def _study_table(table: Mapping[str, Any], lead: Any, *, narrow: bool) -> Table:
    """On a ``narrow`` screen each interval stands below its number, in whole points."""
    lines = table["lines"]
    counts = {len(line["seeds"]) for line in lines}
    title = f"{_study_name(table)}: accuracy on test, % ({_over_seeds(counts)}; in brackets 95 %)"
    shown = Table(title=title, title_justify="left")
    shown.add_column("trained with", no_wrap=True)
    against = {"to_baseline": "to none\n× erm", **({} if lead is None else {"to_lead": _lead_column(lead)})}
    told = [name for name in against if any(line[name] is not None for line in lines)]
    for name in ("worst\ngroup", "n", "group\nmean", *(against[name] for name in told)):
        shown.add_column(name, justify="right", no_wrap=True)
    best = max(line["worst_group"]["mean"] for line in lines)
    for line in lines:
        worst = line["worst_group"]
        shown.add_row(
            f"{line['arm']}{_between_parts(narrow=narrow)}× {line['mitigation']}",
            Text(_with_interval(worst, "", narrow=narrow), style="bold green" if worst["mean"] == best else ""),
            f"{line['n_worst']:,}",
            percent(line["group_mean"]),
            *(_difference(line[name], max(counts), narrow=narrow) for name in told),
        )
    return shown


def _lead_column(lead: Any) -> str:
    return f"to {lead.arm}\n× {lead.mitigation}"


def _over_seeds(counts: set[int]) -> str:
    """What the numbers of a table are, by how many seeds its lines have."""
    most = max(counts)
    if most == 1:
        return "one seed: differences of a few points are noise"
    return f"mean of {'' if len(counts) == 1 else 'up to '}{most} seeds"


def _difference(found: Mapping[str, Any] | None, seeds: int, *, narrow: bool) -> str:
    """Marked where it rests on fewer than the ``seeds`` of its table."""
    if found is None:
        return ""
    pairs = found["pairs"]
    mark = f"{_between_parts(narrow=narrow)}over {pairs}" if pairs < seeds else ""
    return _with_interval(found, "+", narrow=narrow) + mark


def _study_name(cell: Mapping[str, Any]) -> str:
    ratio = "bias as in the data" if cell["bias_ratio"] is None else f"r {cell['bias_ratio']}"
    return f"{ratio}, {cell['variant']}" if cell["variant"] else ratio


def _with_interval(found: Mapping[str, Any], sign: str, *, narrow: bool) -> str:
    """A number and its interval, where it has one, in percent."""
    mean = f"{_no_minus_zero(found['mean'], 1):{sign}.1f}"
    if found["low"] is None:
        return mean
    digits = 0 if narrow else 1
    low, high = (f"{_no_minus_zero(found[name], digits):{sign}.{digits}f}" for name in ("low", "high"))
    return f"{mean}{_between_parts(narrow=narrow)}({low}, {high})"


def _between_parts(*, narrow: bool) -> str:
    return "\n" if narrow else " "


def _no_minus_zero(share: float, digits: int) -> float:
    return round(100 * share, digits) + 0.0


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)
