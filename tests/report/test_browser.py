"""The page in a real Chromium: no complaint, no request, and sorting by mouse and keyboard."""

from __future__ import annotations

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


@pytest.fixture
def page(browser: Chromium, sample: Report, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render(sample), encoding="utf-8")
    return path


def column(browser: Chromium, place: int) -> list[float]:
    return [float(value) for value in browser.run(NUMBERS.format(place)) if value]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_it_loads_without_complaint_or_request_at_any_width(
    browser: Chromium, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width, "only tables scroll sideways"
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    shown = "[...document.querySelectorAll('#results svg')].filter(s => s.getBoundingClientRect().width > 0).length"
    assert browser.run(shown) == 1, "of the wide and the narrow chart one is shown"
    paper, ink = browser.run(LUMINANCE.format("backgroundColor")), browser.run(LUMINANCE.format("color"))
    assert (paper < 60 < 200 < ink) if dark else (ink < 60 < 200 < paper)


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
    assert browser.run("unfolded") == 1
    assert browser.run("document.querySelectorAll('details[open]').length") == 0


def test_one_seed_and_the_picture_are_drawn(browser: Chromium, tmp_path: Path) -> None:
    one = sample_report(seeds=1)
    for name, text in (("one.html", render(one)), ("picture.svg", result_picture(one.results))):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        browser.open(path)
        assert browser.complaints() == []
        assert len(browser.screenshot()) > 10_000
