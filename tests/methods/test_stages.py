"""From a recipe's training settings to the stages of a cell."""

from __future__ import annotations

import pytest

from ffr_dist.config import from_data
from ffr_dist.errors import ConfigError
from ffr_dist.groups import Group, Groups
from ffr_dist.methods.ffr.config import FFRConfig
from ffr_dist.methods.ffr.method import FFR
from ffr_dist.train.config import FitSettings
from ffr_dist.train.stage import HeadStage, TrainConfig

GROUPS = Groups.of([Group("land_land", 0, 0), Group("land_sea", 0, 1), Group("sea_land", 1, 0), Group("sea_sea", 1, 1)])
REAL = {"land_land": 30, "land_sea": 3, "sea_land": 2, "sea_sea": 30}
LEAST = {"pretrain_steps": 4, "finetune_steps": 2, "lrs": [0.1, 0.2], "finetune_lrs": [0.01, 0.02]}


def config(**settings) -> TrainConfig:
    return from_data(TrainConfig, {**LEAST, **settings}, "train")


def stages(arm, mitigation, **settings):
    method = FFRConfig(generator={"weights": "embedded", "steps": 2, "guidance": 1.0, "size": 8}, prompts={})
    return FFR(config=method, groups=GROUPS, seed=0, size=8, training=config(**settings)).train(arm, mitigation, REAL)


@pytest.mark.parametrize("arm", ["none", "usb", "asb", "ffr", "synthetic_only", "generator_data"])
def test_dfr_comes_after_the_stages_of_erm(arm):
    *learned, last = stages(arm, "dfr")
    assert tuple(learned) == stages(arm, "erm")
    assert last == HeadStage(sources=learned[-1].sources)
    assert last.strengths == (3, 1, 0.3, 0.1, 0.03, 0.01, 0.003)
    assert last.fits == 20


@pytest.mark.parametrize("mitigation", ["reweight_label", "reweight", "resample", "subsample", "groupdro"])
def test_a_mitigation_acts_in_the_last_stage_by_source_where_sources_mix(mitigation):
    (only,) = stages("usb", mitigation)
    assert (only.mitigation, only.by_source) == (mitigation, True)
    first, second = stages("ffr", mitigation)
    assert (first.mitigation, second.mitigation, second.by_source) == ("erm", mitigation, False)


def test_an_arm_with_a_mitigation_of_its_own_has_no_other():
    assert stages("group_balanced", "erm")[0].mitigation == "resample"
    with pytest.raises(ConfigError, match="cannot have 'dfr' too"):
        stages("group_balanced", "dfr")


def test_what_a_recipe_may_train_belongs_to_the_second_stage():
    resnet = {"kind": "resnet", "depth": 18}
    first, second = stages("ffr", "erm", model=resnet, finetune_trainable="head", finetune_freeze_bn=True)
    assert (first.trainable, first.freeze_bn) == ("all", False)
    assert (second.trainable, second.freeze_bn) == ("head", True)
    assert (stages("none", "erm", finetune_trainable="head")[0].trainable) == "all"


def test_freezing_what_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="a small_cnn has no batch normalisation"):
        config(finetune_freeze_bn=True)


OTHER = {
    "optimizer": "sgd",
    "betas": [0.5, 0.6],
    "momentum": 0.5,
    "weight_decay": 0.5,
    "schedule": "step",
    "warmup_steps": 7,
    "final_lr": 0.5,
    "milestones": [0.3],
    "gamma": 0.5,
    "clip_norm": 0.5,
    "accumulation": 3,
    "precision": "bf16",
    "ema": 0.5,
    "channels_last": True,
    "compile": True,
    "deterministic": True,
    "validate_every": 5,
    "patience": 5,
    "checkpoint_every": 9,
    "log_every": 3,
}


def test_every_setting_of_a_fit_is_one_of_the_recipe():
    assert set(OTHER) == set(FitSettings.model_fields)
    for stage in stages("ffr", "erm", **OTHER):
        for fit in stage.fits:
            assert {**OTHER, **fit.model_dump(mode="json", include=set(OTHER))} == OTHER
    first, second = stages("ffr", "erm")
    assert [(fit.steps, fit.lr) for fit in first.fits + second.fits] == [(4, 0.1), (2, 0.01), (2, 0.02)]
    assert [(fit.steps, fit.lr) for fit in stages("none", "erm")[0].fits] == [(6, 0.1), (6, 0.2)]


def test_settings_of_groupdro_belong_to_its_stages_alone():
    settings = {"groupdro": {"step_size": 0.5, "adjustment": 2.0}}
    changed = {
        mitigation: stages("none", mitigation, **settings)[0].identity() != stages("none", mitigation)[0].identity()
        for mitigation in ("erm", "reweight", "groupdro")
    }
    assert changed == {"erm": False, "reweight": False, "groupdro": True}


def test_groupdro_and_accumulation_are_refused_before_anything_trains():
    with pytest.raises(ConfigError, match=r"train\.accumulation"):
        stages("none", "groupdro", accumulation=2)


def test_an_unknown_mitigation_is_refused_by_its_name():
    from ffr_dist.recipe import CellConfig

    with pytest.raises(ConfigError, match=r"mitigation: .*'subsample'.*got 'upsample'"):
        from_data(CellConfig, {"arm": "none", "mitigation": "upsample"}, "cell")
