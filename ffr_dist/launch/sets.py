"""The sets of one seed, opened for training and scoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ffr_dist.config import digest
from ffr_dist.errors import DataError
from ffr_dist.launch.context import Run
from ffr_dist.read.dataset import Dataset, open_dataset
from ffr_dist.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class CellData:
    """The sets of one seed, opened: read-only and shared by all cells of the seed."""

    sets: Mapping[str, Dataset]
    """``real``, ``synthetic``, ``generator``: what stages may name."""
    val: Dataset
    test: Dataset
    real_fingerprint: str
    pool_fingerprint: str


def open_cell_data(
    run: Run, stores: Mapping[str, Store], open_set: Callable[[Store], Dataset] = open_dataset
) -> CellData:
    """Open the imported real sets of a seed and the finished pool; ``open_set`` may know some that are open already."""
    opened = {name: open_set(store) for name, store in stores.items()}
    pool = open_set(run.store)
    sets = {"real": opened["train"], "synthetic": pool}
    if "generator" in opened:
        sets["generator"] = opened["generator"]
    classes = opened["train"].groups.classes
    for name in ("val", "test"):
        empty = [group for group, count in opened[name].counts().items() if count == 0]
        if empty:
            raise DataError(f"the {name} split declares group {', '.join(empty)} but holds no sample of it")
        unknown = [f"{group.name} ({group.label})" for group in opened[name].groups if group.label >= classes]
        if unknown:
            raise DataError(
                f"the {name} split has labels that lie outside the {classes} classes of the training split (they count from "
                f"0): group {', '.join(unknown)}; correct the labels, or add training samples of that class"
            )
    real = digest({name: opened[name].fingerprint for name in ("train", "val", "test")})
    return CellData(
        sets=sets, val=opened["val"], test=opened["test"], real_fingerprint=real, pool_fingerprint=pool.fingerprint
    )
