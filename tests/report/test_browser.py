"""The page in a real Chromium: no complaint, no request, and sorting by mouse and keyboard."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from chromium import Chromium
from report_sample import sample_report
from test_page import HOSTILE, poisoned

from ffr_dist.report.content import Report
from ffr_dist.report.page import render
from ffr_dist.report.picture import result_picture

pytestmark = pytest.mark.browser

COLUMN = "[...document.querySelectorAll('#scores-0 tbody tr')].map(r => r.cells[{}].textContent)"
NUMBERS = "[...document.querySelectorAll('#scores-0 tbody tr')].map(r => r.cells[{}].dataset.value)"
SORTED = "[...document.querySelectorAll('#scores-0 thead th')].map(h => h.getAttribute('aria-sort'))"
LUMINANCE = "getComputedStyle(document.body).{}.match(/[0-9]+/g).map(Number).reduce((a, b) => a + b) / 3"


CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")
"""The words of the page that stand out too little from what is behind them: [text, ratio]."""


@pytest.fixture(scope="module")
def page(sample: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(sample), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def study_page(study: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "report.html"
    path.write_text(render(study), encoding="utf-8")
    return path


def unfold(browser: Chromium) -> None:
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")


def column(browser: Chromium, place: int) -> list[float]:
    return [float(value) for value in browser.run(NUMBERS.format(place)) if value]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False), (360, True)])
def test_it_loads_without_complaint_or_request_at_any_width(
    browser: Chromium, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    unfold(browser)
    assert browser.run("document.documentElement.scrollWidth") <= width, "only tables scroll sideways"
    assert browser.run(CONTRAST) == []
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    shown = "[...document.querySelectorAll('#results svg')].filter(s => s.getBoundingClientRect().width > 0).length"
    assert browser.run(shown) == 1, "of the wide and the narrow chart one is shown"
    paper, ink = browser.run(LUMINANCE.format("backgroundColor")), browser.run(LUMINANCE.format("color"))
    assert (paper < 60 < 200 < ink) if dark else (ink < 60 < 200 < paper)


def test_the_check_of_contrast_sees_what_is_too_faint(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('h1').style.color = '#eee'")
    browser.run("document.querySelector('.chart text').style.fill = '#ddd'")
    assert len(browser.run(CONTRAST)) == 2


def test_a_click_sorts_and_a_second_turns_it_round(browser: Chromium, page: Path) -> None:
    browser.open(page)
    before = column(browser, 2)
    browser.click("#scores-0 thead th:nth-child(3) button")
    assert column(browser, 2) == sorted(before, reverse=True)
    assert browser.run(SORTED)[:4] == ["none", "none", "descending", "none"]
    browser.click("#scores-0 thead th:nth-child(3) button")
    assert column(browser, 2) == sorted(before)
    browser.click("#scores-0 thead th:nth-child(1) button")
    names = browser.run(COLUMN.format(0))
    assert names == sorted(names)
    assert browser.run(SORTED)[:4] == ["ascending", "none", "none", "none"]
    assert browser.complaints() == []


def test_a_missing_number_comes_last_either_way(browser: Chromium, page: Path) -> None:
    browser.open(page)
    for _ in range(2):
        browser.click("#scores-0 thead th:nth-child(4) button")
        assert browser.run(NUMBERS.format(3))[-1] == ""


def test_the_keyboard_reaches_a_header_and_sorts(browser: Chromium, page: Path) -> None:
    browser.open(page)
    focused = "(e => e.closest('table')?.id + '/' + e.textContent)(document.activeElement)"
    for _ in range(40):
        browser.press("Tab", 9)
        if browser.run(focused).startswith("scores-0/Worst group"):
            break
    assert browser.run(focused).startswith("scores-0/Worst group")
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    before = column(browser, 2)
    browser.press("Enter", 13)
    assert column(browser, 2) == sorted(before, reverse=True)
    browser.press(" ", 32)
    assert column(browser, 2) == sorted(before)


def test_a_sorted_table_is_announced(browser: Chromium, page: Path) -> None:
    browser.open(page)
    status = "document.querySelector('[role=status]').textContent"
    assert browser.run(status) == ""
    browser.click("#scores-0 thead th:nth-child(3) button")
    assert browser.run(status) == "Sorted by Worst group, %, descending"
    browser.click("#scores-0 thead th:nth-child(3) button")
    assert browser.run(status) == "Sorted by Worst group, %, ascending"


def test_the_skip_link_is_the_first_stop_and_leads_to_the_content(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.className") == "skip"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0, "seen once it has the focus"
    browser.press("Enter", 13)
    assert browser.run("location.hash") == "#main"


def test_what_a_screen_reader_is_told(browser: Chromium, study_page: Path) -> None:
    """Names as the browser computes them, of everything that is to be heard."""
    browser.open(study_page)
    unfold(browser)
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    by_role: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            name = str(node.get("name", {}).get("value", ""))
            by_role.setdefault(str(node.get("role", {}).get("value", "")), []).append(name.strip())
    assert len(by_role["main"]) == len(by_role["banner"]) == len(by_role["contentinfo"]) == 1
    for role in ("table", "image", "columnheader", "button", "region", "navigation", "link"):
        assert by_role[role], role
        assert all(by_role[role]), role
    assert len(set(by_role["table"])) == len(by_role["table"]), "tables are told apart by their captions"
    levels = browser.run("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
def test_a_study_of_three_hundred_cells_is_readable(
    browser: Chromium, study: Report, study_page: Path, width: int, dark: bool
) -> None:
    assert study.results is not None
    assert len(study.results.cells) > 300
    assert study_page.stat().st_size < 3_000_000, "sheets may add 2.2 MB, and the whole stays below 5"
    browser.open(study_page, width=width, dark=dark)
    unfold(browser)
    assert browser.complaints() == []
    assert browser.requests() == [study_page.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(CONTRAST) == []
    charts = "[...document.querySelectorAll('[id^=ratios-chart]')].filter(e => e.tagName === 'title').length"
    assert browser.run(charts) == 6, "one for each mitigation"
    assert browser.run("document.querySelectorAll('#results .arm .line').length") == 10 * 6 + 10, "and the legend"
    assert browser.run("document.querySelectorAll('.legend li').length") == 10
    looks = "[...document.querySelectorAll('.legend li')].map(e => getComputedStyle(e.querySelector('g')).stroke)"
    assert len(set(browser.run(looks))) == 10


def test_paper_holds_every_table(browser: Chromium, page: Path) -> None:
    browser.open(page, width=718)  # A4 within its margins
    browser.call("Emulation.setEmulatedMedia", media="print")
    unfold(browser)
    too_wide = "[...document.querySelectorAll('table, svg, img')].filter(e => e.getBoundingClientRect().width > 720)"
    assert browser.run(f"{too_wide}.map(e => e.id || e.tagName)") == []
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.run(CONTRAST) == []


def test_hostile_text_runs_nothing(browser: Chromium, sample: Report, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(render(poisoned(sample)), encoding="utf-8")
    browser.open(path)
    assert browser.complaints() == []
    assert browser.requests() == [path.as_uri()]
    assert browser.run("document.scripts.length") == 1
    assert "<script>alert(1)</script>" in browser.run("document.querySelector('h1').textContent")


def test_even_markup_that_got_through_could_not_run(browser: Chromium, sample: Report, tmp_path: Path) -> None:
    path = tmp_path / "injected.html"
    injected = "<script>window.ran = 1</script><img src='https://evil.example/x' onerror='window.ran = 2'>"
    path.write_text(render(sample).replace("</h1>", "</h1>" + injected), encoding="utf-8")
    browser.open(path)
    assert browser.run("window.ran === undefined")
    assert len(browser.complaints()) >= 2, "the policy says what it stopped"
    assert HOSTILE not in path.read_text(encoding="utf-8")


def test_it_prints_with_everything_unfolded(browser: Chromium, page: Path) -> None:
    browser.open(page)
    browser.run(
        "window.unfolded = 0; addEventListener('beforeprint', () => unfolded = document.querySelectorAll('details[open]').length)"
    )
    assert browser.pdf().startswith(b"%PDF-")
    assert browser.run("unfolded") == 2
    assert browser.run("document.querySelectorAll('details[open]').length") == 0


def test_one_seed_and_the_picture_are_drawn(browser: Chromium, tmp_path: Path) -> None:
    one = sample_report(seeds=1)
    for name, text in (("one.html", render(one)), ("picture.svg", result_picture(one.results))):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        browser.open(path)
        assert browser.complaints() == []
        assert len(browser.screenshot()) > 10_000
