from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.report.charts import NARROW, WIDE, distance_chart, interval_chart, training_chart
from ffr_dist.report.content import Curve, Distances, Estimate, Report, StageCurve
from ffr_dist.report.lines import lines_of, setting_chart, style_of
from ffr_dist.report.picture import result_picture

SVG = "{http://www.w3.org/2000/svg}"


def drawn(markup: str) -> ET.Element:
    """Every chart is well-formed XML, named and described, with nothing outside its own frame."""
    root = ET.fromstring(markup)
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    assert root.find(f"{SVG}title").text
    assert root.find(f"{SVG}desc").text
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.attrib.get(name, 0)) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.attrib.get(name, 0)) <= height
    return root


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_result_chart_has_a_row_per_cell(sample: Report, width: int) -> None:
    root = drawn(interval_chart(sample.results.cells, sample.results.lead, ident="c", width=width))
    names = [text.text for text in root.iter(f"{SVG}text") if "name" in text.get("class", "")]
    assert names == [cell.name for cell in sample.results.cells]
    dots = list(root.iter(f"{SVG}circle"))
    assert len(dots) == len(names) + 1, "one for each row and one for the legend"
    assert len([e for e in root.iter(f"{SVG}g") if e.get("class") == "leading"]) == 1


def test_a_higher_accuracy_lies_further_to_the_right(sample: Report) -> None:
    root = drawn(interval_chart(sample.results.cells, None, ident="c"))
    xs = [float(circle.get("cx")) for circle in root.iter(f"{SVG}circle")][1:]
    values = [cell.worst_group.value for cell in sample.results.cells]
    assert sorted(range(len(xs)), key=xs.__getitem__) == sorted(range(len(xs)), key=values.__getitem__)


def test_stages_follow_each_other(sample: Report) -> None:
    curves = [curve for curve in sample.curves if (curve.arm, curve.mitigation) == ("ffr", "erm")]
    root = drawn(training_chart(curves, ident="c"))
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"synthetic", "real", "300", "450"} <= set(words)
    kinds = [p.get("class") for p in root.iter(f"{SVG}path")]
    assert [kinds.count(name) for name in ("worst-line", "worst-band", "loss-line", "loss-band")] == [2, 2, 2, 2]
    assert len(list(root.iter(f"{SVG}circle"))) == 2 * len(curves), "each seed's kept weights"
    alone = drawn(training_chart(curves[:1], ident="c"))
    assert not [p for p in alone.iter(f"{SVG}path") if "band" in p.get("class")], "one seed has no spread"


def test_the_line_is_the_mean_of_the_seeds_where_all_have_a_step() -> None:
    def curve(seed: int, *worst: tuple[int, float]) -> Curve:
        stage = StageCurve(name="s", worst_group=worst)
        return Curve(method="m", bias_ratio=0.9, arm="a", mitigation="m", seed=seed, stages=(stage,))

    markup = training_chart([curve(0, (0, 0.2), (10, 0.4), (20, 1.0)), curve(1, (0, 0.4), (10, 0.8))], ident="c")
    root = drawn(markup)
    path = next(p.get("d") for p in root.iter(f"{SVG}path") if p.get("class") == "worst-line")
    assert path == "M40 188.4L330 160.8", "at 0.3 and 0.6 of the height, and nothing where a seed has ended"
    band = next(p.get("d") for p in root.iter(f"{SVG}path") if p.get("class") == "worst-band")
    assert band == "M40 179.2L330 142.4L330 179.2L40 197.6z"
    assert "mean over seeds. s: from 30.0 % to 60.0 %" in root.find(f"{SVG}desc").text


def test_a_single_point_is_seen() -> None:
    stage = StageCurve(name="s", loss=((5, 0.4),))
    curve = Curve(method="m", bias_ratio=0.9, arm="a", mitigation="m", seed=0, stages=(stage,))
    markup = training_chart([curve], ident="c")
    assert '<circle cx="330" cy="24" r="3" class="loss-point">' in markup
    assert "loss-line" not in markup


def test_a_line_for_each_arm_over_the_ratios(study: Report) -> None:
    cells = [cell for cell in study.results.cells if not cell.variant]
    by_mitigation = lines_of(cells)
    assert list(by_mitigation) == ["erm", "resample", "groupdro", "dfr", "jtt", "reweight"]
    arms = list(by_mitigation["erm"])
    root = drawn(setting_chart(by_mitigation["erm"], arms, "ffr, erm", ident="r"))
    lines = [p for p in root.iter(f"{SVG}path") if p.get("class") == "line"]
    marks = [p for p in root.iter(f"{SVG}path") if "mark" in p.get("class")]
    assert (len(lines), len(marks)) == (10, 50)
    assert len([e for e in root.iter(f"{SVG}line") if e.get("class") == "bounds"]) == 50
    places = {mark.get("transform") for mark in marks}
    assert len(places) == 50, "no mark hides another"
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"0.9", "0.95", "0.97", "0.99", "0.999", "bias ratio"} <= set(words)
    looks = {(style_of(arm, arms), mark) for arm, mark in zip(arms, (m.get("d") for m in marks[::5]), strict=True)}
    assert len(looks) == 10


def test_an_arm_looks_alike_in_every_chart_and_may_lack_a_ratio() -> None:
    arms = ("none", "usb", "ffr")
    lines = {"ffr": {0.9: Estimate(0.5), 0.99: Estimate(0.4)}, "usb": {0.9: Estimate(0.3, 0.2, 0.4)}}
    root = drawn(setting_chart(lines, arms, "t", ident="r"))
    assert [e.get("class") for e in root.iter(f"{SVG}g")] == ["arm arm1", "arm arm2"]
    assert len([e for e in root.iter(f"{SVG}line") if e.get("class") == "bounds"]) == 1


numbers = st.floats(0, 1) | st.sampled_from([1e-300, 1e30, float("nan"), float("inf")])
lines = st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1)), max_size=5).map(tuple)
losses = st.lists(st.tuples(st.integers(0, 10**6), numbers), max_size=5).map(tuple)
stages = st.builds(
    StageCurve, name=st.just("s"), loss=losses, worst_group=lines, best_step=st.none() | st.integers(0, 9)
)


@given(st.lists(st.lists(stages, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3))
def test_any_curve_can_be_drawn(runs: list[tuple[StageCurve, ...]]) -> None:
    curves = [
        Curve(method="ffr", bias_ratio=0.9, arm="a", mitigation="m", seed=seed, stages=run)
        for seed, run in enumerate(runs)
    ]
    markup = training_chart(curves, ident="c")
    drawn(markup)
    assert not re.search(r"\b(nan|inf)\b", markup)


def test_a_long_curve_is_thinned_to_its_last_point() -> None:
    loss = tuple((step, 1 / (step + 1)) for step in range(100_000))
    curve = Curve(
        method="m", bias_ratio=0.9, arm="a", mitigation="m", seed=0, stages=(StageCurve(name="s", loss=loss),)
    )
    markup = training_chart([curve], ident="c")
    assert len(markup) < 10_000
    path = next(p for p in drawn(markup).iter(f"{SVG}path") if p.get("class") == "loss-line")
    assert path.get("d").split("L")[-1].startswith("330 ")


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_distances_without_a_median_have_a_line_only(width: int) -> None:
    full = Distances(quantiles=(0.0, 0.25, 0.5, 0.75, 1.0), generated=(1, 2, 3, 4, 5), real=(2, 3, 4, 5, 6))
    bare = Distances(quantiles=(0.1, 0.9), generated=(0.0, 0.0), real=(0.0, 0.0))
    assert len(list(drawn(distance_chart(full, ident="d", width=width)).iter(f"{SVG}circle"))) == 1
    assert not list(drawn(distance_chart(bare, ident="d", width=width)).iter(f"{SVG}circle"))


def test_the_picture_brings_its_own_colours_and_no_others_cells(sample: Report) -> None:
    other = tuple(replace(cell, bias_ratio=0.99, arm="elsewhere") for cell in sample.results.cells)
    picture = result_picture(replace(sample.results, cells=sample.results.cells + other))
    drawn(picture)
    assert "elsewhere" not in picture
    used = set(re.findall(r"var\((--\w+)\)", picture))
    assert used <= set(re.findall(r"(--\w+):", picture))
    assert "prefers-color-scheme: dark" in picture
