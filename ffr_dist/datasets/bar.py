"""BAR, the biased actions of LfF (Nam et al., NeurIPS 2020): six actions, in training each at its usual places.

Files lie flat, ``train/climbing_0.jpg`` and ``test/climbing_0.jpg``. Where a picture was taken is told nowhere, so the
bias is unknown and a group is an action; the test set is of unusual places only, so its accuracy is that of conflicting
pairs. The publisher has no validation set: a share of the training images is held out for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ffr_dist.config import Config
from ffr_dist.datasets.files import FileRow, Text, check_level, file_split, images_in, named, refuse
from ffr_dist.datasets.holdout import hold_out
from ffr_dist.datasets.source import Split
from ffr_dist.errors import DataError
from ffr_dist.groups import UNKNOWN_BIAS, Group, Groups
from ffr_dist.store import list_inputs

ACTIONS = ("climbing", "diving", "fishing", "racing", "throwing", "vaulting")
GROUPS = Groups.of(Group(action, label, UNKNOWN_BIAS) for label, action in enumerate(ACTIONS))

_NAME = re.compile(rf"({'|'.join(ACTIONS)})_\d+\.\w+\Z", re.ASCII)


class BarConfig(Config):
    """BAR as a recipe names it."""

    kind: Literal["bar"] = "bar"
    root: Text
    """Path or URL of the folder that holds ``train`` and ``test``."""
    val_share: float = Field(default=0.1, gt=0, lt=1)
    """Of each action's training images, for validation."""
    split_seed: int = 0
    """Which of them; the seed of a comparison changes nothing."""

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (published data has no seed)
        """``train``, ``val`` and ``test``."""
        sizes = list_inputs(self.root)
        if any(file.startswith("train/align/") for file in sizes):
            raise DataError(
                f"{self.root} is the re-cut of BiasEnsemble, another benchmark; give BAR as it was "
                "first published, train/climbing_0.jpg and so on, or describe the re-cut as data of kind 'folder'"
            )
        check_level(self.root, sizes, "train/")
        train, val = hold_out(self._rows("train", sizes), self.val_share, self.split_seed)
        parts = {"train": train, "val": val, "test": self._rows("test", sizes)}
        return tuple(file_split(self.kind, name, self.root, rows, GROUPS, sizes) for name, rows in parts.items())

    def _rows(self, split: str, sizes: Mapping[str, int]) -> list[FileRow]:
        rows, other = [], []
        for file in images_in(split, sizes, self.root):
            match = _NAME.match(file.rpartition("/")[2])
            if match is None:
                other.append(file)
            else:
                rows.append(FileRow(file, ACTIONS.index(match[1]), UNKNOWN_BIAS))
        refuse(self.root, named(other, f"not called as in {ACTIONS[0]}_0.jpg", f"the actions are {', '.join(ACTIONS)}"))
        return rows
