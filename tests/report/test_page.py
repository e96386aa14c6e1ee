from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_sample import sample_report

from ffr_dist.errors import DataError
from ffr_dist.report.content import Check, Estimate, GroupScore, Report, Sheet
from ffr_dist.report.page import render

HOSTILE = "</script></style><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>\"'&\x00\ud800"


class Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


CHOICES = {"kind", "unit"}
"""Fields that hold one of a few words, not text."""


def poisoned(value: Any, poison: str = HOSTILE) -> Any:
    """The same tree with every text replaced."""
    if isinstance(value, str):
        return poison
    if isinstance(value, tuple):
        return tuple(poisoned(item, poison) for item in value)
    if isinstance(value, dict):
        return {poisoned(key, poison): item for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        texts = [field.name for field in fields(value) if field.name not in CHOICES]
        return replace(value, **{name: poisoned(getattr(value, name), poison) for name in texts})
    return value


def test_every_element_is_closed_and_every_id_is_its_own(sample: Report) -> None:
    page = Reader(render(sample))
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = " ".join(a.get("aria-labelledby") or "" for _, a in page.tags).split()
    referred += [(a["href"] or "").removeprefix("#") for a in page.named("a")]
    assert set(referred) <= set(ids)


def test_hostile_text_stays_text_wherever_it_stands(sample: Report) -> None:
    page = render(poisoned(sample))
    page.encode()
    found = Reader(page)
    assert len(found.named("script")) == 1
    assert len(found.named("img")) == len(sample.sheets)
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in found.named("img"))
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert found.text.count("<script>alert(1)</script>") > 50


def test_nothing_is_asked_of_the_network(sample: Report) -> None:
    page = render(sample)
    found = Reader(page)
    urls = [a[name] or "" for _, a in found.tags for name in ("src", "href", "srcset", "action", "poster") if name in a]
    assert all(url.startswith(("data:", "#")) for url in urls)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket", page)


def test_the_policy_admits_the_page_s_own_script_only(sample: Report) -> None:
    page = render(sample)
    script = page.split("<script>")[1].split("</script>")[0]
    policy = next(a["content"] for a in Reader(page).named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in (policy or "")
    assert "default-src 'none'" in (policy or "")


def test_tables_have_captions_and_headers(sample: Report) -> None:
    found = Reader(render(sample))
    tables = len(found.named("table"))
    assert tables == len(found.named("caption")) >= 7
    assert all(head.get("scope") in {"col", "row"} for head in found.named("th"))
    assert all(head.get("aria-sort") == "none" for head in found.named("th") if head.get("scope") == "col")
    assert all(image.get("alt") for image in found.named("img"))


def test_one_seed_is_said_in_so_many_words() -> None:
    assert "One seed: differences of a few points are noise" in Reader(render(sample_report(seeds=1))).text
    assert "One seed" not in Reader(render(sample_report(seeds=2))).text


def test_the_figures_are_the_declared_cell_and_the_baseline_never_the_best(sample: Report) -> None:
    best = max(sample.results.cells, key=lambda cell: cell.worst_group.value)
    assert best.name == "ffr × groupdro"
    shown = Reader(render(replace(sample, results=replace(sample.results, lead=("usb", "erm"))))).text
    head = shown.split("Before you believe")[0]
    assert "Worst group, usb × erm" in head
    assert "Worst group, none × erm" in head
    assert "groupdro" not in head


def test_each_bias_ratio_has_tables_of_its_own(sample: Report) -> None:
    steeper = tuple(replace(cell, bias_ratio=0.99) for cell in sample.results.cells)
    found = Reader(render(replace(sample, results=replace(sample.results, cells=sample.results.cells + steeper))))
    idents = {table["id"] for table in found.named("table")}
    assert {"scores-0", "scores-1", "groups-0", "groups-1"} <= idents
    assert "method ffr, bias ratio 0.99" in found.text, "ffr alone would read as the arm"


def test_variants_of_one_ratio_stand_apart(sample: Report) -> None:
    head = tuple(replace(cell, variant="head-only") for cell in sample.results.cells)
    text = Reader(render(replace(sample, results=replace(sample.results, cells=sample.results.cells + head)))).text
    assert "ffr, bias ratio 0.95, head-only" in text
    assert "Worst group over the bias ratio" not in text, "there is one ratio only"


def test_a_study_tells_what_is_not_in_its_tables(study: Report) -> None:
    text = Reader(render(study)).text
    assert text.index("Cells that failed and are in no table: asb × dfr, seed 3") < text.index("Results")
    assert "MemoryError: 12 GiB asked for" in text
    assert "group_balanced has a mitigation of its own" in text
    assert f"Shown are 24 of {24 + study.more_curves} cells" in text


def test_every_part_of_the_audit_is_told(sample: Report) -> None:
    found = Reader(render(sample))
    for title in ("tell generated from real", "in features", "carries over", "duplicates", "copied its training"):
        assert title in found.text
    depths = [a["style"] for name, a in found.tags if name == "span" and (a.get("class") or "").startswith("heat")]
    assert len(depths) == 7, "one of the eight gaps could not be measured"
    assert "With labels shuffled (999 times)" in found.text


def test_bounds_on_either_side_are_checked() -> None:
    assert Check(name="n", measured=3, at_most=3).passed
    assert not Check(name="n", measured=3.1, at_most=3).passed
    assert not Check(name="n", measured=0.5, at_least=0.6).passed


def test_of_many_groups_the_lowest_are_shown(sample: Report) -> None:
    groups = tuple(
        GroupScore(group=f"g{place:02d}", accuracy=Estimate(place / 80), correct=place, count=80) for place in range(80)
    )
    cells = tuple(replace(cell, groups=groups) for cell in sample.results.cells)
    page = render(replace(sample, results=replace(sample.results, cells=cells)))
    text = Reader(page).text
    assert "Shown are 16 of 80 groups, the lowest ones on average." in text
    assert "g15, n = 80" in text
    assert "g16, n = 80" not in text


def test_a_failed_audit_is_said_first(sample: Report) -> None:
    audit = replace(sample.audit, failures=("label accuracy of high_flower is 0.61, below 0.85",))
    text = Reader(render(replace(sample, audit=audit))).text
    assert text.index("The audit failed: label accuracy of high_flower") < text.index("Group mean")
    assert "Failed." in text
    assert "Passed." not in text


def test_data_that_is_taken_as_it_is_has_no_ratio(sample: Report) -> None:
    cells = tuple(replace(cell, bias_ratio=None) for cell in sample.results.cells)
    curves = tuple(replace(curve, bias_ratio=None) for curve in sample.curves)
    page = render(replace(sample, results=replace(sample.results, cells=cells), curves=curves))
    assert "ffr, bias as in the data" in page


def test_many_warnings_are_folded_after_the_first(sample: Report) -> None:
    page = render(Report(title="t", warnings=tuple(f"warning {number}." for number in range(9))))
    shown, folded = page.split("<details>")
    assert shown.count("warning ") == 6
    assert folded.count("warning ") == 3
    assert "<summary>3 more</summary>" in folded


def test_what_a_run_does_not_have_is_left_out() -> None:
    found = Reader(render(Report(title="Nothing yet")))
    assert found.named("section") == []
    assert "Nothing yet" in found.text


def test_groups_that_a_cell_lacks_are_blank(sample: Report) -> None:
    cells = list(sample.results.cells)
    scores: tuple[GroupScore, ...] = cells[0].groups[:2]
    cells[0] = replace(cells[0], groups=scores)
    assert "–" in Reader(render(replace(sample, results=replace(sample.results, cells=tuple(cells))))).text


def test_a_sheet_that_is_no_image_is_refused(sample: Report) -> None:
    sheet = Sheet(group="g", image=b"<svg onload='alert(1)'/>", caption="c")
    with pytest.raises(DataError, match="not a PNG"):
        render(replace(sample, sheets=(sheet,)))


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=40))
def test_any_text_gives_a_page_of_the_same_shape(poison: str) -> None:
    plain = Reader(render(poisoned(SMALL, "x")))
    found = Reader(render(poisoned(SMALL, poison)))
    assert {tag for tag, _ in found.tags} <= {tag for tag, _ in plain.tags}
    assert found.open == []


SMALL = replace(sample_report(1), sheets=(), curves=sample_report(1).curves[:1])


def test_the_same_report_gives_the_same_bytes(sample: Report) -> None:
    assert render(sample) == render(sample)


def test_no_torch_and_no_plotting_is_loaded() -> None:
    code = (
        "import sys, ffr_dist.report.page, ffr_dist.report.picture\n"
        "print([m for m in ('torch', 'matplotlib', 'ray', 'diffusers', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
