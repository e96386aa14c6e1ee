"""HTML and SVG as nested calls that escape by default.

Only :func:`el` and :func:`fragment` make :class:`Html`; any other string is text and is escaped wherever it lands, so a
prompt or a file name cannot become markup.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Html(str):
    """Markup that is safe to write as it stands."""

    __slots__ = ()


Child = Html | str | Iterable["Child"] | None
Attribute = str | int | float | bool | None

_VOID = frozenset({"br", "img", "link", "meta"})


def el(name: str, /, *children: Child, **attributes: Attribute) -> Html:
    """``el("td", "3", class_="n")`` → ``<td class="n">3</td>``.

    ``_`` in an attribute's name becomes ``-`` and a trailing one falls; None and False leave an attribute out.
    """
    opening = "".join([name, *(_attribute(key, value) for key, value in attributes.items())])
    if name in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{fragment(*children)}</{name}>")


def fragment(*children: Child) -> Html:
    """Children one after another, without an element around them."""
    return Html("".join(_text(child) for child in children))


def _text(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str):
        return escape(_printable(child))
    return "".join(_text(inner) for inner in child)


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{escape(_printable(text))}"'


def _printable(text: str) -> str:
    """Control characters and lone surrogates may not stand in a document, not even escaped."""
    if text.isprintable():
        return text
    kept = (c if c in "\n\t" or not (c < " " or "\x7f" <= c <= "\x9f") else "\ufffd" for c in text)
    return "".join(kept).encode("utf-8", "replace").decode()
