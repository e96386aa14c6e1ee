from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.report.markup import Html, el, fragment


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))

    def handle_data(self, data):
        self.text += data


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


readable = st.text(st.characters(exclude_categories=("Cc", "Cs")))


@given(readable, readable)
def test_any_text_is_read_back_as_text(child: str, attribute: str) -> None:
    found = read(el("p", child, title=attribute))
    assert found.tags == [("p", [("title", attribute)])]
    assert found.text == child


@given(st.text())
def test_any_text_at_all_gives_markup_that_can_be_written(child: str) -> None:
    markup = el("p", child, title=child)
    markup.encode()
    assert [tag for tag, _ in read(markup).tags] == ["p"]


def test_only_html_passes_as_it_stands() -> None:
    assert fragment(el("b", "x"), "<b>", [Html("<i></i>"), None]) == "<b>x</b>&lt;b&gt;<i></i>"


def test_attributes() -> None:
    assert (
        el("td", class_="n", data_value=0.5, hidden=True, title=None, x=False)
        == '<td class="n" data-value="0.5" hidden></td>'
    )
    assert el("meta", charset="utf-8") == '<meta charset="utf-8">'
