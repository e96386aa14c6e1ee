from __future__ import annotations

from dataclasses import replace

from report_sample import sample_report

from ffr_dist.report.content import Curve, Estimate, Gain, Report, Results, StageCurve
from ffr_dist.report.findings import findings


def curve(*worst: tuple[int, float], seed: int = 0) -> Curve:
    stages = (StageCurve(name="synthetic"), StageCurve(name="real", worst_group=worst))
    return Curve(method="ffr", bias_ratio=0.95, arm="ffr", mitigation="erm", seed=seed, stages=stages)


def results(seeds: int = 3, **worst_groups: float) -> Report:
    sample = sample_report(seeds).results
    assert sample is not None
    cells = []
    for cell in sample.cells:
        if cell.mitigation == "erm":
            value = worst_groups.get(cell.arm, cell.worst_group.value)
            cells.append(replace(cell, worst_group=Estimate(value)))
    return Report(title="t", results=Results(cells=tuple(cells), lead=("ffr", "erm")))


def test_an_empty_report_has_nothing_to_object_to() -> None:
    assert findings(Report(title="t")) == ()


def test_one_seed_is_said_plainly() -> None:
    assert any(
        line.startswith("One seed: differences of a few points are noise") for line in findings(results(seeds=1))
    )
    assert not any("seed" in line for line in findings(results(seeds=3)))
    assert any(line.startswith("Two seeds: ") for line in findings(results(seeds=2)))


def test_a_control_that_wins_or_ties_is_named() -> None:
    won = findings(results(ffr=0.6, generator_data=0.6, synthetic_only=0.5))
    assert len(won) == 1
    assert "generator_data × erm (bias ratio 0.95) reaches 60.0 %" in won[0]
    assert "only passed on what it saw" in won[0]
    assert findings(results(ffr=0.9, generator_data=0.6, synthetic_only=0.5)) == ()


def test_controls_are_compared_within_one_bias_ratio_only() -> None:
    report = results(ffr=0.6, generator_data=0.7, synthetic_only=0.5)
    assert report.results is not None
    cells = tuple(replace(c, bias_ratio=0.99) if c.arm == "generator_data" else c for c in report.results.cells)
    assert findings(replace(report, results=replace(report.results, cells=cells))) == ()


def test_few_samples_in_the_worst_group() -> None:
    report = results(ffr=0.9)
    assert report.results is not None
    cells = tuple(replace(cell, n_worst=18) for cell in report.results.cells)
    found = findings(replace(report, results=replace(report.results, cells=cells)))
    assert found == ("The worst group has only 18 test samples: read its interval before its accuracy.",)


def test_differences_over_fewer_seeds_are_told() -> None:
    report = results(ffr=0.9)
    assert report.results is not None
    gain = Gain(0.1, pairs=1)
    cells = tuple(replace(cell, gain=gain) if cell.arm == "ffr" else cell for cell in report.results.cells)
    assert [line[:48] for line in findings(replace(report, results=replace(report.results, cells=cells)))] == [
        "Some differences rest on fewer than 3 seeds, as "
    ]


def test_a_second_stage_that_hurts_is_told_with_its_seeds() -> None:
    hurt = [curve((0, 0.7), (50, 0.5), (100, 0.6), seed=seed) for seed in (2, 1)]
    fine = curve((0, 0.7), (50, 0.5), (100, 0.71), seed=3)
    assert findings(Report(title="t", curves=(*hurt, fine))) == (
        "Stage 'real' lowered the validation worst group below what it started from: ffr × erm (seeds 1, 2).",
    )


def test_what_the_caller_knows_and_a_failed_audit_come_along() -> None:
    audit = sample_report().audit
    assert audit is not None
    report = Report(
        title="t", warnings=("so it is",), audit=replace(audit, failures=("label accuracy 0.4 is below 0.8",))
    )
    assert findings(report) == ("The audit failed: label accuracy 0.4 is below 0.8", "so it is")
