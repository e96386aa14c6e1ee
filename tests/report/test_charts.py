from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.report.charts import NARROW, WIDE, distance_chart, interval_chart, training_chart
from ffr_dist.report.content import Curve, Distances, Report, StageCurve
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
    assert len([p for p in root.iter(f"{SVG}path") if p.get("class") == "worst-line"]) == 2 * len(curves)


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
