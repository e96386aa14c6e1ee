"""What a recipe says about the labels of one's own data: which class and which bias a text means, and what groups there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import Field

from ffr_dist.datasets.files import SHOWN, Cell, counted
from ffr_dist.groups import LONGEST_NAME, UNKNOWN_BIAS, Group, Groups

Label = Annotated[int, Field(ge=0)]
Bias = Annotated[int, Field(ge=UNKNOWN_BIAS)]
Cells = dict[str, tuple[Label, Bias]]
"""[label, bias] of each group, by name."""
T = TypeVar("T")

_NUMBER = re.compile(r"-?\d{1,9}\Z", re.ASCII)
_TRUTH = {"false": "0", "true": "1"}


def declared_groups(cells: Cells) -> Groups:
    """The groups that a recipe declares."""
    return Groups.of(Group(name, label, bias) for name, (label, bias) in cells.items())


def occurring_groups(cells: Iterable[Cell], classes: Mapping[str, int], biases: Mapping[str, int]) -> Groups:
    """A group for each pair that occurs, called by its class and its bias: ``cat_sofa``, or all of them as in
    ``label_0_bias_1`` where the words of one do not serve.
    """
    cells = sorted(set(cells))
    by_word = [_name(cell, _words(classes), _words(biases)) for cell in cells]
    usable = all(by_word) and len(set(by_word)) == len(cells)
    if not usable:
        from ffr_dist.shards.foreign import group_of  # noqa: PLC0415 (a recipe is read without it)

        return Groups.of(group_of(*cell) for cell in cells)
    return Groups.of(Group(str(word), *cell) for word, cell in zip(by_word, cells, strict=True))


def held_groups(groups: Groups, cells: Iterable[Cell]) -> Groups:
    """Those groups that occur among ``cells``."""
    held = set(cells)
    return Groups.of(group for group in groups if (group.label, group.bias) in held)


def codes(texts: Sequence[str], mapping: Mapping[str, T], column: str, key: str) -> tuple[list[T | None], list[str]]:
    """The mapped value of each cell, and in words the values that ``mapping`` does not know."""
    unknown: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        if text not in mapping:
            unknown.setdefault(text, []).append(row)
    known = ", ".join(repr(value) for value in mapping) or "none"
    problems = [
        f"{column}: {value!r} is not in {key!r} ({counted(len(rows), 'row')}, the first is row {rows[0] + 1}); "
        f"there are {known}"
        for value, rows in list(unknown.items())[:SHOWN]
    ]
    if len(unknown) > SHOWN:
        problems.append(f"{column}: {len(unknown) - SHOWN} more values that are not in {key!r}")
    return [mapping.get(text) for text in texts], problems


def own_codes(columns: Iterable[Sequence[str]], key: str, least: int) -> tuple[dict[str, int], list[str]]:
    """The codes of columns of whole numbers, or of true and false, where a recipe gives none under ``key``; and in words
    what else stands there.
    """
    codes = {text: _TRUTH.get(text, text) for column in columns for text in column}
    other = sorted(text for text, code in codes.items() if not _NUMBER.match(code) or int(code) < least)
    if other:
        shown = ", ".join(map(repr, other[:SHOWN])) + (", …" if len(other) > SHOWN else "")
        return {}, [f"{shown} cannot be taken for numbers from {least}; say under {key!r} what each value means"]
    return {text: int(code) for text, code in codes.items()}, []


def _name(cell: Cell, classes: Mapping[int, str], biases: Mapping[int, str]) -> str | None:
    """The name of a pair by its words, where both have one that is fit for it."""
    label, bias = cell
    parts = [classes.get(label)] + ([] if bias == UNKNOWN_BIAS else [biases.get(bias)])
    name = "_".join(part or "" for part in parts)
    return name if all(parts) and len(name) <= LONGEST_NAME else None


def _words(codes: Mapping[str, int]) -> dict[int, str]:
    """What each code is called; nothing where the texts are numbers themselves, or two mean the same."""
    words = {code: re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") for text, code in codes.items()}
    return {} if len(words) < len(codes) or all(text.isdigit() for text in codes) else words
