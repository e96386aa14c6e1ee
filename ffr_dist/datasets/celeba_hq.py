"""CelebA-HQ: 30,000 faces of CelebA in high quality, with its attributes, as CelebAMask-HQ lays them out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
from ffr_dist.datasets.celeba import read_partition
from ffr_dist.datasets.faces import SPLITS, FaceRatio, deal, face_splits
from ffr_dist.datasets.files import FileRow, Text, list_below, named, refuse
from ffr_dist.datasets.source import Split
from ffr_dist.errors import DataError
from ffr_dist.store import list_inputs

IMAGES = "CelebA-HQ-img/"
ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"
MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
"""Which image of CelebA each one is: the only way to the official split."""

_MAPPING_HEAD = ["idx", "orig_idx", "orig_file"]


class CelebaHqConfig(Config):
    """CelebA-HQ as a recipe names it."""

    kind: Literal["celeba_hq"] = "celeba_hq"
    root: Text
    """Path or URL of the folder that holds ``CelebA-HQ-img`` and the table of attributes."""
    label: Attribute = "Smiling"
    """What is learnt."""
    bias: Attribute = "Male"
    split: Literal["hash", "official"] = "hash"
    """80, 10 and 10 % by a hash of the names, or CelebA's own, which needs its ``list_eval_partition.txt`` here too."""
    bias_ratio: FaceRatio | None = None
    """What train and val are cut and thinned to, as in the paper; None takes them whole."""
    split_seed: int = 0
    """Says which images are dealt to which split, and which ones thinning removes."""

    @model_validator(mode="after")
    def _two_attributes(self) -> Self:
        refuse_one_attribute(self.label, self.bias)
        return self

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (published data has no seed)
        """``train``, ``val`` and ``test``."""
        sizes = list_below(self.root, IMAGES)  # a folder of 400,000 masks lies beside it
        pairs = read_attributes(self.root, ATTRIBUTES, self.label, self.bias)
        parts = deal(pairs, self.split_seed) if self.split == "hash" else self._official(pairs)
        rows: dict[str, list[FileRow]] = {name: [] for name in SPLITS}
        for file, (label, bias) in pairs.items():
            rows[parts[file]].append(FileRow(IMAGES + file, label, bias))
        return face_splits(
            self.kind,
            self.root,
            rows,
            attribute_groups(self.label, self.bias),
            sizes,
            bias_ratio=self.bias_ratio,
            split_seed=self.split_seed,
        )

    def _official(self, files: Collection[str]) -> Mapping[str, str]:
        head, *lines = [line.split() for line in read_lines(self.root, MAPPING)] or [[]]
        if head != _MAPPING_HEAD or any(len(cells) != len(head) for cells in lines):
            raise DataError(f"{self.root}/{MAPPING} has not the columns {', '.join(_MAPPING_HEAD)} throughout. {CURE}")
        originals = {f"{number}.jpg": original for number, _, original in lines}
        partition = read_partition(self.root, list_inputs(self.root))
        unknown = [file for file in files if originals.get(file) not in partition]
        refuse(self.root, named(unknown, "of no split by the mapping and the partition", CURE))
        return {file: partition[originals[file]] for file in files}
