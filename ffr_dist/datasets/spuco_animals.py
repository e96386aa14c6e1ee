"""SpuCo Animals: birds over land and water, dogs indoors and outdoors, as four classes and eight groups."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from ffr_dist.config import Config
from ffr_dist.datasets.files import FileRow, Text, check_level, file_split, images_in
from ffr_dist.datasets.source import Split
from ffr_dist.datasets.thinning import thin
from ffr_dist.groups import Group, Groups
from ffr_dist.store import list_inputs

GROUPS = Groups.of(
    [
        Group("landbird_land", 0, 0),
        Group("landbird_water", 0, 1),
        Group("waterbird_land", 1, 0),
        Group("waterbird_water", 1, 1),
        Group("small_dog_indoor", 2, 2),
        Group("small_dog_outdoor", 2, 3),
        Group("big_dog_indoor", 3, 2),
        Group("big_dog_outdoor", 3, 3),
    ]
)
"""No bird is indoors and no dog on water: eight of the sixteen cells. Aligned are those whose label is their bias."""

_FOLDERS = {
    "landbird_land": ("spuco_birds", "landbirds/land"),
    "landbird_water": ("spuco_birds", "landbirds/water"),
    "waterbird_land": ("spuco_birds", "waterbirds/land"),
    "waterbird_water": ("spuco_birds", "waterbirds/water"),
    "small_dog_indoor": ("spuco_dogs", "small_dogs/indoor"),
    "small_dog_outdoor": ("spuco_dogs", "small_dogs/outdoor"),
    "big_dog_indoor": ("spuco_dogs", "big_dogs/indoor"),
    "big_dog_outdoor": ("spuco_dogs", "big_dogs/outdoor"),
}


class SpucoAnimalsConfig(Config):
    """SpuCo Animals as a recipe names it."""

    kind: Literal["spuco_animals"] = "spuco_animals"
    root: Text
    """Path or URL of the folder that holds ``spuco_birds`` and ``spuco_dogs``."""
    bias_ratio: float | None = Field(default=None, ge=0.5, lt=1)
    """What train and val are thinned to; None takes them as published, which is 0.95."""
    split_seed: int = 0
    """Says which images thinning removes."""

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (published data has no seed)
        """``train``, ``val`` and ``test``; the last one is balanced, and never thinned."""
        sizes = list_inputs(self.root)
        inside = self.root.split("/")
        for half in sorted(("spuco_birds/", "spuco_dogs/"), key=lambda half: half[:-1] not in inside):
            check_level(self.root, sizes, half)
        return tuple(self._split(name, sizes) for name in ("train", "val", "test"))

    def _split(self, name: str, sizes: dict[str, int]) -> Split:
        rows = tuple(
            FileRow(file, group.label, group.bias)
            for group in GROUPS
            for file in images_in("{0}/{split}/{1}".format(*_FOLDERS[group.name], split=name), sizes, self.root)
        )
        chosen = rows
        if self.bias_ratio is not None and name != "test":
            chosen = thin(rows, self.bias_ratio, split=name, groups=GROUPS, split_seed=self.split_seed)
        left_out = +Counter(thinned=len(rows) - len(chosen))
        return file_split(self.kind, name, self.root, chosen, GROUPS, sizes, left_out=left_out)
