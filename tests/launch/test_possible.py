"""What cannot be trained is told by what splits declare."""

from __future__ import annotations

import pytest

from ffr_dist.datasets.source import Split
from ffr_dist.errors import DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.launch.possible import refuse_impossible
from ffr_dist.methods import build
from ffr_dist.methods.ffr.config import FFRConfig
from ffr_dist.recipe import CellConfig
from ffr_dist.train.stage import TrainConfig

TRAIN = [Group("low_temple", 0, 0), Group("low_flowers", 0, 1), Group("high_temple", 1, 0), Group("high_flowers", 1, 1)]
ELSEWHERE = [Group("low_sea", 0, 2), Group("high_sea", 1, 2)]


def split(name, groups):
    counts = {group.name: 20 + 10 * (group.label == group.bias) for group in groups}
    return Split(name=name, groups=Groups.of(groups), identity={}, samples=lambda: iter(()), counts=lambda: counts)


def splits(val, test):
    return {"train": split("train", TRAIN), "val": split("val", val), "test": split("test", test)}


def test_a_head_must_have_seen_what_it_is_tested_on():
    groups = Groups.of(TRAIN)
    config = FFRConfig(
        generator={"weights": "embedded", "steps": 2, "guidance": 1.0, "size": 32},
        prompts=dict.fromkeys(groups.names, ("a photo",)),
    )
    training = TrainConfig(pretrain_steps=2, finetune_steps=2, lrs=(0.1,), finetune_lrs=(0.1,))
    method = build(config, groups=groups, seed=0, size=32, training=training)
    for mitigation in ("erm", "dfr"):
        refuse_impossible(method, CellConfig(arm="none", mitigation=mitigation), splits(TRAIN, TRAIN))
        # As in MetaShift, whose test groups nobody trains on.
        refuse_impossible(method, CellConfig(arm="none", mitigation=mitigation), splits(ELSEWHERE, ELSEWHERE))
    refuse_impossible(method, CellConfig(arm="none"), splits(TRAIN[:3], TRAIN))
    with pytest.raises(DataError, match="no group high_flowers, which is trained on and tested"):
        refuse_impossible(method, CellConfig(arm="none", mitigation="dfr"), splits(TRAIN[:3], TRAIN))
