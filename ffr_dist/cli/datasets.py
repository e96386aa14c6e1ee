"""The verb that tells what data a recipe can name: ``datasets``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from textwrap import fill, indent
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ffr_dist.datasets.catalogue import Entry

_WIDTH = 100


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(datasets)


def datasets(
    kind: Annotated[str | None, typer.Argument(help="Tell all about this one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """List the datasets that a recipe can name, or tell what one of them needs. Downloads nothing."""
    from ffr_dist.datasets.catalogue import catalogue, entry

    if kind is None:
        found = catalogue()
        text = [*(f"{one.kind:18} {one.title}" for one in found), "", "what one needs: ffr datasets KIND"]
        told = json.dumps([asdict(one) for one in found], indent=2)
    else:
        one = entry(kind)
        text = _lines(one)
        told = json.dumps(asdict(one), indent=2)
    sys.stdout.write((told if as_json else "\n".join(text)) + "\n")


def _lines(one: Entry) -> list[str]:
    lines = [one.title, ""]
    for name, text in (("learnt", one.learnt), ("groups", one.groups), ("splits", one.splits), ("from", one.origin)):
        lines.append(fill(" ".join(text.split()), _WIDTH, initial_indent=f"{name:8}", subsequent_indent=" " * 8))
    if one.files:
        lines += ["", "What lies where, as its publisher lays it out:", "", indent(one.files, "  ")]
    return [*lines, "", "In a recipe:", "", "data:", indent(one.data, "  ")]
