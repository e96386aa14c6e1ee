"""Cells that cannot be trained, told by what their method and the groups of the splits say, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping

from ffr_dist.datasets.source import Split
from ffr_dist.errors import DataError, InputError
from ffr_dist.methods import Method
from ffr_dist.recipe import CellConfig
from ffr_dist.train.needs import Held, refuse_absent, refuse_validation
from ffr_dist.train.stage import HeadStage


def refuse_impossible(method: Method, cell: CellConfig, splits: Mapping[str, Split]) -> None:
    """InputError, with the reason, where ``cell`` cannot be trained on the real data of ``splits``."""
    train, val = splits["train"], splits["val"]
    real = train.counts()
    sets = {"real": Held(train.groups, real)}
    if "generator" in splits:
        sets["generator"] = Held(splits["generator"].groups, splits["generator"].counts())
    for stage in method.train(cell.arm, cell.mitigation, real):
        if isinstance(stage, HeadStage):
            refuse_validation(stage, val.groups, val.counts(), train.groups.classes)
            _refuse_lack(stage, splits)
            continue
        held: list[Held | None] = []
        for source in stage.sources:
            if source.set not in sets and source.set != "synthetic":
                raise InputError(f"arm {cell.arm} needs the set {source.set!r}, which this dataset does not have")
            counted = None if source.counts is None else Held(train.groups, source.counts)
            held.append(counted or sets.get(source.set))
        known = [one for one in held if one is not None]
        if len(known) == len(held):  # else nobody knows before it is generated
            refuse_absent(stage, known, train.groups)


def _refuse_lack(stage: HeadStage, splits: Mapping[str, Split]) -> None:
    """A head that is fitted to balanced groups is for the groups that it was fitted to: one that is trained on and tested must
    be among them. (Where a dataset tests groups that nobody trains on, there is no such thing to ask.)
    """
    train, val, test = (splits[name].groups for name in ("train", "val", "test"))
    lacking = [
        group.name
        for group in train
        if test.of_cell(group.label, group.bias) and not val.of_cell(group.label, group.bias)
    ]
    if lacking:
        raise DataError(
            f"stage {stage.name}: the validation split declares no group {', '.join(lacking)}, which is trained on and tested; DFR "
            "fits its head to validation samples of every group. Add some, or choose another mitigation"
        )
