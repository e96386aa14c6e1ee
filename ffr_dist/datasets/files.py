"""Rows of image files to a split: the way of every dataset whose images are files in a folder.

A row is a file with its label and bias. What rows alone can tell is checked before anything is read: names that leave
the folder, files that are not there, cells that no group declares, groups of an evaluated split without an image.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ffr_dist.datasets.source import EVALUATED, Sample, Split
from ffr_dist.errors import DataError
from ffr_dist.groups import Groups
from ffr_dist.store import list_inputs, open_input

SHOWN = 5
"""So many of the same mistake are named; the rest is counted."""

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""How names of image files end, whatever their case."""

Text = Annotated[str, Field(min_length=1)]
"""A path, a URL or a name in a config."""
Cell = tuple[int, int]
"""Label and bias."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """An image file, by its path below the dataset's root, and what its publisher says about it."""

    file: str
    label: int
    bias: int

    @property
    def cell(self) -> Cell:
        return self.label, self.bias


def file_split(
    kind: str,
    name: str,
    root: str,
    rows: Sequence[FileRow],
    groups: Groups,
    sizes: Mapping[str, int],
    extra_identity: Mapping[str, Any] | None = None,
    *,
    skip_bad_images: bool = False,
    left_out: Mapping[str, int] | None = None,
) -> Split:
    """The split of these rows, in their order. ``sizes`` is ``list_inputs(root)``.

    The split is known by its groups, its rows and the files' sizes: change an image in place without changing its size,
    and an earlier import is still taken for this one. ``extra_identity`` is what else determines the images.
    """
    refuse(root, file_problems([row.file for row in rows], sizes, root) + cell_problems(name, rows, groups))
    of_cell = {(group.label, group.bias): (place, group) for place, group in enumerate(groups)}
    found = Counter(row.cell for row in rows)
    content = hashlib.sha256()
    for row in rows:
        content.update(f"{row.file}\0{sizes[row.file]}\0{of_cell[row.cell][0]}\n".encode())

    def samples() -> Iterator[Sample]:
        for row in rows:
            yield Sample(image=read_file(root, row.file), group=of_cell[row.cell][1], name=row.file)

    return Split(
        name=name,
        groups=groups,
        identity={
            "kind": kind,
            "split": name,
            "groups": [[group.name, group.label, group.bias] for group in groups],
            "rows": content.hexdigest(),
            **(extra_identity or {}),
        },
        samples=samples,
        counts=lambda: {group.name: found[group.label, group.bias] for group in groups},
        skip_bad_images=skip_bad_images,
        left_out=left_out or {},
    )


def read_file(root: str, file: str) -> bytes:
    """The bytes of one file of a dataset."""
    with open_input(f"{root.rstrip('/')}/{file}") as opened:
        return opened.read()


def list_below(root: str, folder: str) -> dict[str, int]:
    """Size of every file in a folder (it ends in ``/``) of a dataset, by its path from the root.

    For datasets with much beside the images: what else the root holds is looked at only to say which path was meant.
    """
    try:
        found = list_inputs(f"{root.rstrip('/')}/{folder}")
    except DataError:
        check_level(root, list_inputs(root), folder)
        raise
    return {folder + name: size for name, size in found.items()}


def images_in(folder: str, sizes: Collection[str], root: str) -> list[str]:
    """The image files that lie in one folder of a dataset, by name; there must be some."""
    front = f"{folder}/"
    files = sorted(file for file in sizes if file.startswith(front) and "/" not in file[len(front) :])
    images = [file for file in files if file.lower().endswith(IMAGES) and not file[len(front) :].startswith(".")]
    if not images:
        raise DataError(f"{root} has no image in {folder}; give the whole dataset, as its publisher lays it out")
    return images


def file_problems(files: Sequence[str], sizes: Collection[str], root: str) -> list[str]:
    """What is wrong with the names, in words: a table is data from somebody else."""
    unsafe = [file for file in files if not _stays_inside(file)]
    refused = set(unsafe)
    missing = [file for file in files if file not in sizes and file not in refused]
    twice = [file for file, times in Counter(files).items() if times > 1]
    return [
        *named(unsafe, "not a path below the folder of images", "write relative paths without .. in them"),
        *named(missing, f"not in {root}", "check the path, and whether all files are there"),
        *named(twice, "named twice", "a file that is in two splits would leak from one into the other"),
    ]


def cell_problems(split: str, rows: Sequence[FileRow], groups: Groups) -> list[str]:
    """Cells that no group declares, and what an evaluated split lacks."""
    first = {row.cell: row.file for row in reversed(rows)}
    found = Counter(row.cell for row in rows)
    declared = {(group.label, group.bias): group.name for group in groups}
    undeclared = sorted(set(found) - set(declared))
    problems = [
        f"split {split}: no group declares label {cell[0]} with bias {cell[1]} "
        f"({counted(found[cell], 'image')}, the first is {first[cell]!r})"
        for cell in undeclared[:SHOWN]
    ]
    if len(undeclared) > SHOWN:
        problems.append(f"split {split}: {len(undeclared) - SHOWN} more cells that no group declares")
    empty = [name for cell, name in declared.items() if not found[cell]]
    if empty and rows and split in EVALUATED:
        problems.append(
            f"split {split}: no image of declared group {', '.join(empty)}, so its accuracy cannot be taken; declare the "
            "groups that the split holds, or add images"
        )
    return problems


def check_level(root: str, files: Collection[str], landmark: str) -> None:
    """Refuse a root from which ``landmark`` (a file, or a folder ending in ``/``) is not where its publisher has it.

    The error names the path to give where the landmark is found further down or up.
    """
    folder = landmark.endswith("/")
    if any(file == landmark or (folder and file.startswith(landmark)) for file in files):
        return
    found = (file.partition(f"/{landmark}") for file in files)
    below = sorted({head for head, mark, rest in found if mark and (folder or not rest)})
    if below:
        raise DataError(f"{root} is too high up: {landmark} is further down; give {root.rstrip('/')}/{below[0]}")
    above = _above(root, landmark)
    if above:
        raise DataError(f"{root} is too far down: {landmark} is further up; give {above}")
    raise DataError(f"{root} holds no {landmark}; give the folder that has it, as its publisher lays it out")


def refuse(root: str, problems: Sequence[str]) -> None:
    """DataError that tells all of them, if there are any."""
    if problems:
        raise DataError("\n".join([f"{root} cannot be used:", *(f"  {problem}" for problem in problems)]))


def named(files: Sequence[str], wrong: str, cure: str) -> list[str]:
    """One problem of several files, in words; no problem where there are none."""
    if not files:
        return []
    more = f" and {len(files) - SHOWN:,} more" if len(files) > SHOWN else ""
    return [f"{counted(len(files), 'file')} {wrong}: {', '.join(map(repr, files[:SHOWN]))}{more}; {cure}"]


def counted(number: int, what: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _above(root: str, landmark: str) -> str | None:
    """The folder above ``root`` that has the landmark, as far as names and two tries can tell."""
    parts = root.rstrip("/").split("/")
    if landmark.endswith("/"):
        first = landmark.partition("/")[0]
        return "/".join(parts[: parts.index(first)]) or None if first in parts else None
    for up in (1, 2):
        folder = "/".join(parts[:-up])
        try:
            open_input(f"{folder}/{landmark}").close()
        except DataError:
            continue
        return folder
    return None


def _stays_inside(file: str) -> bool:
    # "::" and "://" would make fsspec read the name as another URL.
    if any(mark in file for mark in ("\\", "\0", "\n", "::", "://")):
        return False
    return all(part not in {"", ".", ".."} for part in file.split("/"))
