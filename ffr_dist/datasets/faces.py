"""What the three datasets of faces share: a split of the publisher's files, and the paper's bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from ffr_dist.datasets.files import FileRow, file_split
from ffr_dist.datasets.source import Split
from ffr_dist.datasets.thinning import FIRST_CUT, thin
from ffr_dist.groups import Groups
from ffr_dist.seeds import draw_seed

FaceRatio = Annotated[float, Field(ge=FIRST_CUT, lt=1)]
"""Bias of train and val: faces are cut to the lowest value before they are thinned."""

SPLITS = ("train", "val", "test")


def deal(files: Collection[str], split_seed: int) -> dict[str, str]:
    """The split of each file: 80, 10 and 10 % of them, in an order that is a hash of the name.

    The paper's release goes by the order of a directory listing, which differs from one machine to the next.
    """
    order = sorted(files, key=lambda file: (draw_seed(split_seed, file, 0, "split"), file))
    train, val = len(order) * 8 // 10, len(order) * 9 // 10
    return {file: SPLITS[(place >= train) + (place >= val)] for place, file in enumerate(order)}


def face_splits(
    kind: str,
    root: str,
    rows: Mapping[str, Sequence[FileRow]],
    groups: Groups,
    sizes: Mapping[str, int],
    *,
    bias_ratio: float | None,
    split_seed: int,
    left_out: Mapping[str, Mapping[str, int]] | None = None,
) -> tuple[Split, ...]:
    """``train``, ``val`` and ``test``; the first two thinned to ``bias_ratio``, or whole where it is None."""

    def split(name: str) -> Split:
        chosen = rows[name]
        if bias_ratio is not None and name != "test":
            chosen = thin(chosen, bias_ratio, split=name, groups=groups, split_seed=split_seed, first_cut=True)
        reasons = Counter((left_out or {}).get(name, {})) + Counter(thinned=len(rows[name]) - len(chosen))
        return file_split(kind, name, root, chosen, groups, sizes, left_out=reasons)

    return tuple(split(name) for name in SPLITS)
