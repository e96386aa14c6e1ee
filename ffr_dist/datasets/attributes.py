"""CelebA's attributes: the tables that hold them, and the groups that two of them make."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

from pydantic import Field

from ffr_dist.datasets.files import SHOWN, counted, read_file, refuse
from ffr_dist.datasets.tables import read_columns
from ffr_dist.errors import DataError
from ffr_dist.groups import LONGEST_NAME, Group, Groups

CURE = "Take the table as its publisher offers it"

_VALUES = {"1": 1, "-1": 0, "0": 0}
_OPPOSITES = {"male": "female", "young": "old"}

Attribute = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+(_[A-Za-z0-9]+)*$")]
"""An attribute, as the table calls it."""
Pair = tuple[int, int]
"""Label and bias, each 0 or 1."""


def refuse_one_attribute(label: str, bias: str) -> None:
    """An attribute that is its own bias is no bias."""
    if label == bias:
        raise ValueError(f"label and bias are both {label}; name two attributes")


def attribute_groups(label: str, bias: str) -> Groups:
    """The four groups of two attributes: ``not_smiling_female``, ``not_smiling_male``, ``smiling_female``, …"""
    return Groups.of(
        Group(_name(_word(label, has), _word(bias, with_bias)), has, with_bias)
        for has in (0, 1)
        for with_bias in (0, 1)
    )


def read_attributes(root: str, table: str, label: str, bias: str) -> dict[str, Pair]:
    """Two attributes of each file: from a published text table, or from a CSV with the column ``image_id``."""
    url = f"{root.rstrip('/')}/{table}"
    if table.endswith(".csv"):
        columns = read_columns(url, ("image_id", label, bias), CURE)
        rows: Iterable[tuple[str, str, str]] = zip(columns["image_id"], columns[label], columns[bias], strict=True)
    else:
        rows = _text_rows(url, read_lines(root, table), label, bias)
    pairs: dict[str, Pair] = {}
    problems = []
    for file, has, with_bias in rows:
        if file in pairs:
            problems.append(f"{file} is there twice")
        if has in _VALUES and with_bias in _VALUES:
            pairs[file] = _VALUES[has], _VALUES[with_bias]
        else:
            problems.append(f"{file} has {label} {has!r} and {bias} {with_bias!r}, where -1 or 1 (or 0 or 1) is meant")
    more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
    refuse(url, [*problems[:SHOWN], *more])
    return pairs


def read_lines(root: str, file: str) -> list[str]:
    """The lines of a text file of a dataset that are not blank."""
    try:
        text = read_file(root, file).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{root}/{file} is not text: {error}; take the file as its publisher offers it") from error
    return [line for line in text.splitlines() if line.strip()]


def _text_rows(url: str, lines: Sequence[str], label: str, bias: str) -> Iterator[tuple[str, str, str]]:
    """A line with the number of rows, one with the names, then a file and its values in each line."""
    if len(lines) < 2 or not lines[0].strip().isdigit():
        raise DataError(f"{url} does not begin with the number of its rows and the names of attributes. {CURE}")
    names = lines[1].split()
    places = [1 + _place(url, names, name) for name in (label, bias)]
    if len(lines) - 2 != int(lines[0]):
        raise DataError(
            f"{url} says {counted(int(lines[0]), 'row')} and has {len(lines) - 2:,}: it is not whole. {CURE}"
        )
    for number, line in enumerate(lines[2:], start=3):
        cells = line.split()
        if len(cells) != 1 + len(names):
            raise DataError(
                f"{url}: line {number} has {counted(len(cells) - 1, 'value')} for {counted(len(names), 'attribute')}. {CURE}"
            )
        yield cells[0], cells[places[0]], cells[places[1]]


def _place(url: str, names: Sequence[str], name: str) -> int:
    if name in names:
        return names.index(name)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}"
    raise DataError(f"{url} has no attribute {name!r}; {hint}")


def _word(attribute: str, has: int) -> str:
    word = attribute.lower()
    return word if has else _OPPOSITES.get(word, f"not_{word}")


def _name(label: str, bias: str) -> str:
    name = f"{label}_{bias}"
    return name if len(name) <= LONGEST_NAME else f"{label.replace('_', '')}_{bias.replace('_', '')}"
