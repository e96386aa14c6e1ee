"""CelebA: 202,599 aligned faces with 40 attributes; any two of them are label and bias.

The tables are read as published (text), as re-released (CSV), or as the one merged CSV that some methods use.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal, Self

from pydantic import model_validator

from ffr_dist.config import Config
from ffr_dist.datasets.attributes import (
    CURE,
    Attribute,
    attribute_groups,
    read_attributes,
    read_lines,
    refuse_one_attribute,
)
from ffr_dist.datasets.faces import SPLITS, FaceRatio, face_splits
from ffr_dist.datasets.files import FileRow, Text, check_level, named, read_file, refuse
from ffr_dist.datasets.source import Split
from ffr_dist.datasets.tables import read_columns
from ffr_dist.errors import DataError
from ffr_dist.shards.codec import size_of
from ffr_dist.store import list_inputs

IMAGES = "img_align_celeba/"
ATTRIBUTES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")
MERGED = "celeba_split.csv"
"""Attributes and splits in one table."""
ALIGNED = (178, 218)
"""Width and height of the aligned images."""

_IMAGE_PLACES = ("img_align_celeba/img_align_celeba/", "img_align_celeba/", "Img/img_align_celeba/")
_TABLE_PLACES = ("", "Anno/", "Eval/")
"""Where its publisher and its re-releases put images and tables."""
_PARTS = dict(zip("012", SPLITS, strict=True))


class CelebaConfig(Config):
    """CelebA as a recipe names it."""

    kind: Literal["celeba"] = "celeba"
    root: Text
    """Path or URL of the folder that holds ``img_align_celeba`` and the tables."""
    label: Attribute = "Blond_Hair"
    """What is learnt."""
    bias: Attribute = "Male"
    bias_ratio: FaceRatio | None = None
    """What train and val are cut and thinned to, as the paper does with faces; None takes them whole."""
    split_seed: int = 0
    """Says which images thinning removes."""

    @model_validator(mode="after")
    def _two_attributes(self) -> Self:
        refuse_one_attribute(self.label, self.bias)
        return self

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (published data has no seed)
        """``train``, ``val`` and ``test``, as the publisher deals them out."""
        sizes = list_inputs(self.root)
        images = _image_folder(self.root, sizes)
        table = find_table(self.root, sizes, (*ATTRIBUTES, MERGED))
        pairs = read_attributes(self.root, table, self.label, self.bias)
        parts = read_partition(self.root, sizes)
        undealt = sorted(set(pairs) ^ set(parts))
        refuse(self.root, named(undealt, "in one of the tables of attributes and splits, not in the other", CURE))
        rows: dict[str, list[FileRow]] = {name: [] for name in SPLITS}
        for file, (label, bias) in pairs.items():
            rows[parts[file]].append(FileRow(images + file, label, bias))
        _check_aligned(self.root, [images + file for file in pairs], sizes)
        return face_splits(
            self.kind,
            self.root,
            rows,
            attribute_groups(self.label, self.bias),
            sizes,
            bias_ratio=self.bias_ratio,
            split_seed=self.split_seed,
        )


def find_table(root: str, sizes: Collection[str], names: Iterable[str]) -> str:
    """The first of these tables that is there."""
    names = tuple(names)
    found = (place + name for name in names for place in _TABLE_PLACES if place + name in sizes)
    table = next(found, None)
    if table is None:
        raise DataError(f"{root} holds none of {', '.join(names)}; put one of them there, as its publisher offers it")
    return table


def read_partition(root: str, sizes: Collection[str]) -> dict[str, str]:
    """CelebA's own split of each of its files."""
    table = find_table(root, sizes, (*PARTITIONS, MERGED))
    url = f"{root.rstrip('/')}/{table}"
    if table.endswith(".csv"):
        column = "split" if table.endswith(MERGED) else "partition"
        columns = read_columns(url, ("image_id", column), CURE)
        rows = list(zip(columns["image_id"], columns[column], strict=True))
    else:
        rows = [(file, part) for file, _, part in (line.partition(" ") for line in read_lines(root, table))]
    parts = {file: _PARTS.get(part.strip()) for file, part in rows}
    wrong = [file for file, part in parts.items() if part is None]
    refuse(url, named(wrong, "of a split other than 0, 1 and 2", CURE))
    if len(parts) != len(rows):
        raise DataError(f"{url} names {len(rows) - len(parts):,} of its files twice. {CURE}")
    return {file: part for file, part in parts.items() if part is not None}


def _image_folder(root: str, sizes: Collection[str]) -> str:
    places = [place for place in _IMAGE_PLACES if any(file.startswith(place) for file in sizes)]
    if not places:
        check_level(root, sizes, IMAGES)  # says which path was meant
    return places[0]


def _check_aligned(root: str, files: Iterable[str], sizes: Collection[str]) -> None:
    """Looks at one image: the publisher's folder of faces as they were found has the same names."""
    first = next((file for file in files if file in sizes), None)
    if first is None:
        return  # which ones are missing is told with the split
    width, height = size_of(read_file(root, first))
    if (width, height) != ALIGNED:
        raise DataError(
            f"{root}/{first} has {width}×{height} pixels, where the aligned faces have {ALIGNED[0]}×{ALIGNED[1]}; "
            "give the publisher's img_align_celeba, neither img_celeba nor resized images"
        )
