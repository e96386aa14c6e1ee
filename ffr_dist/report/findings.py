"""What a careful reader would object to, found in the numbers themselves. Pure: a report in, sentences out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ffr_dist.report.content import Cell, Curve, Report, cell_name
from ffr_dist.report.words import count, percent, setting

_FEW_SAMPLES = 100
"""Below this the 95 % interval of an accuracy is up to 20 points wide."""
_FEW_SEEDS = 2
_NAMED = 5


def findings(report: Report) -> tuple[str, ...]:
    """What bears on everything comes first, single trainings last."""
    found: list[str] = []
    if report.audit is not None:
        found += [f"The audit failed: {failure}" for failure in report.audit.failures]
    if report.failed:
        names = ", ".join(missing.cell for missing in report.failed[:_NAMED])
        more = f" and {len(report.failed) - _NAMED} more" if len(report.failed) > _NAMED else ""
        found.append(f"Cells that failed and are in no table: {names}{more}.")
    if report.results is not None:
        found += _results(report.results.cells, report.results.lead)
    found += report.warnings
    found += _curves(report.curves)
    return tuple(dict.fromkeys(found))


def _results(cells: Sequence[Cell], lead: tuple[str, str] | None) -> Iterator[str]:
    most = max((len(cell.seeds) for cell in cells), default=0)
    if most == 1:
        yield (
            "One seed: differences of a few points are noise. Intervals cover the test set's size only, "
            "not what another seed would change."
        )
    if most == _FEW_SEEDS:
        yield (
            "Two seeds: an interval over two is hardly one, and where they agree there is none. Train three or more before "
            "you believe a difference."
        )
    if any(found is not None and found.pairs < most for cell in cells for found in (cell.gain, cell.lead_gain)):
        yield f"Some differences rest on fewer than {most} seeds, as not all cells have all of them; the tables mark them."
    few = min((cell.n_worst for cell in cells), default=_FEW_SAMPLES)
    if few < _FEW_SAMPLES:
        yield f"The worst group has only {count(few)} test samples: read its interval before its accuracy."
    by_key = {(c.setting, c.arm, c.mitigation): c for c in cells}
    for cell in cells:
        if lead is None or (cell.arm, cell.mitigation) != lead:
            continue
        for arm, meaning in (
            ("generator_data", "the generator only passed on what it saw"),
            ("synthetic_only", "training on real images did not help the worst group"),
        ):
            control = by_key.get((cell.setting, arm, cell.mitigation))
            if control is not None and control.worst_group.value >= cell.worst_group.value:
                yield (
                    f"The control {control.name} ({setting(cell.bias_ratio, cell.variant)}) reaches "
                    f"{percent(control.worst_group.value)} % in the worst group, {cell.name} "
                    f"{percent(cell.worst_group.value)} %: as far as this run can tell, {meaning}."
                )


def _curves(curves: Sequence[Curve]) -> Iterator[str]:
    hurt: dict[str, dict[str, list[int]]] = {}
    for curve in curves:
        for stage in curve.stages[1:]:
            before = [value for step, value in stage.worst_group if step == 0]
            after = [value for step, value in stage.worst_group if step > 0]
            if before and after and max(after) < before[0]:
                hurt.setdefault(stage.name, {}).setdefault(cell_name(curve.arm, curve.mitigation), []).append(
                    curve.seed
                )
    for stage_name, cells in hurt.items():
        named = "; ".join(f"{name} ({_seeds(seeds)})" for name, seeds in list(cells.items())[:_NAMED])
        more = f"; and {len(cells) - _NAMED} more cells" if len(cells) > _NAMED else ""
        yield (f"Stage {stage_name!r} lowered the validation worst group below what it started from: {named}{more}.")


def _seeds(found: Sequence[int]) -> str:
    known = sorted(set(found))
    return f"{'seed' if len(known) == 1 else 'seeds'} {', '.join(map(str, known))}"
