"""Waterbirds: birds of CUB pasted on places of Places365, with a table of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from ffr_dist.config import Config
from ffr_dist.datasets.files import SHOWN, FileRow, Text, check_level, file_split, refuse
from ffr_dist.datasets.source import Split
from ffr_dist.datasets.tables import read_columns
from ffr_dist.datasets.thinning import thin
from ffr_dist.errors import DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.store import list_inputs

GROUPS = Groups.of(
    [
        Group("landbird_land", 0, 0),
        Group("landbird_water", 0, 1),
        Group("waterbird_land", 1, 0),
        Group("waterbird_water", 1, 1),
    ]
)
TABLE = "metadata.csv"
MISLABELLED = ("Eastern_Towhee", "Western_Meadowlark", "Western_Wood_Pewee")
"""Land birds that the table calls water birds."""

_SPLITS = {"0": "train", "1": "val", "2": "test"}
_COLUMNS = ("img_filename", "y", "split", "place")
_LANDBIRD = 0


class WaterbirdsConfig(Config):
    """Waterbirds as a recipe names it.

    Only ``train`` is biased. Its publisher balances ``val`` and ``test`` within each class, and both are taken as they
    are: choosing by the worst group of ``val`` uses more than a biased validation set would tell.
    """

    kind: Literal["waterbirds"] = "waterbirds"
    root: Text
    """Path or URL of the folder that holds ``metadata.csv``."""
    bias_ratio: float | None = Field(default=None, ge=0.5, lt=1)
    """What train is thinned to; None takes it as published, which is 0.95."""
    mislabelled: Literal["as_published", "relabel", "drop"] = "as_published"
    """What is done about three species of land birds that the table calls water birds."""
    split_seed: int = 0
    """Says which images thinning removes."""

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (published data has no seed)
        """``train``, ``val`` and ``test``, as the table deals them out."""
        sizes = list_inputs(self.root)
        check_level(self.root, sizes, TABLE)
        left_out: dict[str, Counter[str]] = {name: Counter() for name in _SPLITS.values()}
        rows = self._rows(left_out)
        if self.bias_ratio is not None:
            whole = rows["train"]
            thinned = thin(whole, self.bias_ratio, split="train", groups=GROUPS, split_seed=self.split_seed)
            left_out["train"]["thinned"] = len(whole) - len(thinned)
            rows["train"] = list(thinned)
        return tuple(
            file_split(self.kind, name, self.root, of, GROUPS, sizes, left_out=+left_out[name])
            for name, of in rows.items()
        )

    def _rows(self, left_out: Mapping[str, Counter[str]]) -> dict[str, list[FileRow]]:
        """The rows of each split; what is dropped is counted in ``left_out``."""
        rows: dict[str, list[FileRow]] = {name: [] for name in _SPLITS.values()}
        problems = []
        for number, cells in self._table():
            wrong = _wrong(cells)
            if wrong:
                problems.append(f"row {number}: {wrong}")
                continue
            label, split = int(cells["y"]), _SPLITS[cells["split"]]
            if self.mislabelled != "as_published" and _is_mislabelled(cells["img_filename"]):
                if self.mislabelled == "drop":
                    left_out[split]["mislabelled species"] += 1
                    continue
                label = _LANDBIRD
            rows[split].append(FileRow(cells["img_filename"], label, int(cells["place"])))
        if problems:
            more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
            refuse(f"{self.root}/{TABLE}", [*problems[:SHOWN], *more])
        empty = [name for name, of in rows.items() if not of]
        if empty:
            raise DataError(f"{self.root}/{TABLE} has no row of split {', '.join(empty)}; take the whole table")
        return rows

    def _table(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Number and cells of each row."""
        columns = read_columns(
            f"{self.root.rstrip('/')}/{TABLE}", _COLUMNS, "Take the table as its publisher offers it"
        )
        for number, cells in enumerate(zip(*columns.values(), strict=True), start=1):
            yield number, dict(zip(columns, cells, strict=True))


def _wrong(cells: Mapping[str, str]) -> str:
    """What is wrong with a row; empty for a good one."""
    allowed = {"y": ("0", "1"), "place": ("0", "1"), "split": tuple(_SPLITS)}
    return "; ".join(
        f"{name} is {cells[name]!r}, where {' or '.join(values)} is meant"
        for name, values in allowed.items()
        if cells[name] not in values
    )


def _is_mislabelled(file: str) -> bool:
    """Folders are called as CUB calls its classes: a number, a point, the species."""
    return file.partition("/")[0].partition(".")[2] in MISLABELLED
