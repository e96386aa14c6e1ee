"""MetaShift, cats and dogs in the variant of DISC and DaC: what is around the animal in training is absent in the test.

Training shows cats on sofas and beds, dogs beside benches and bikes; val and test show both beside shelves. So the test
declares groups that training has not, two of them, and its worst group is its worse class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ffr_dist.config import Config
from ffr_dist.datasets.files import FileRow, Text, check_level, file_split, images_in
from ffr_dist.datasets.source import Split
from ffr_dist.errors import DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.store import list_inputs

TRAIN_GROUPS = Groups.of(
    [
        Group("cat_sofa", 0, 0),
        Group("cat_bed", 0, 1),
        Group("dog_bench", 1, 2),
        Group("dog_bike", 1, 3),
    ]
)
TEST_GROUPS = Groups.of([Group("cat_shelf", 0, 4), Group("dog_shelf", 1, 4)])
"""Of val and test."""
TEST_SHARE = 0.85
"""Of the shelf images; the rest is val."""


class MetashiftConfig(Config):
    """MetaShift's cats and dogs as a recipe names them."""

    kind: Literal["metashift"] = "metashift"
    root: Text
    """Path or URL of the folder that holds ``train`` and ``test``. Other surroundings that lie there are passed over."""
    split_seed: int = 0
    """Parts val from test: ``random_state`` of scikit-learn's ``train_test_split``, 0 where others report results."""

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (published data has no seed)
        """``train``; ``val`` and ``test``, which share the images beside shelves."""
        sizes = list_inputs(self.root)
        check_level(self.root, sizes, "train/cat/")
        shelf = self._rows("test", TEST_GROUPS, sizes)
        val = _val_places(len(shelf), self.split_seed, self.root)
        parts = {
            "train": (TRAIN_GROUPS, self._rows("train", TRAIN_GROUPS, sizes)),
            "val": (TEST_GROUPS, [row for place, row in enumerate(shelf) if place in val]),
            "test": (TEST_GROUPS, [row for place, row in enumerate(shelf) if place not in val]),
        }
        return tuple(
            file_split(self.kind, name, self.root, rows, groups, sizes) for name, (groups, rows) in parts.items()
        )

    def _rows(self, part: str, groups: Groups, sizes: Mapping[str, int]) -> Sequence[FileRow]:
        """Cats first, each folder by name: the order that the split is drawn in."""
        return [
            FileRow(file, group.label, group.bias)
            for group in groups
            for file in images_in("{0}/{1}/{1}({2})".format(part, *group.name.split("_")), sizes, self.root)
        ]


def _val_places(images: int, split_seed: int, root: str) -> frozenset[int]:
    from sklearn.model_selection import train_test_split  # noqa: PLC0415 (heavy)

    try:
        val, _ = train_test_split(range(images), test_size=TEST_SHARE, random_state=split_seed)
    except ValueError as error:
        raise DataError(
            f"{root} has {images} images beside shelves, too few to part val from test; take the whole set"
        ) from error
    return frozenset(val)
