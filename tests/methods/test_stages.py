"""From a recipe's training settings to the stages of a cell."""

from __future__ import annotations

from typing import get_args

import pytest

from ffr_dist.config import from_data
from ffr_dist.errors import ConfigError, InputError
from ffr_dist.groups import Group, Groups
from ffr_dist.methods.ffr.config import FFRConfig
from ffr_dist.methods.ffr.method import FFR
from ffr_dist.train.config import FitSettings
from ffr_dist.train.stage import HeadStage, Mitigation, Source, TrainConfig

GROUPS = Groups.of([Group("land_land", 0, 0), Group("land_sea", 0, 1), Group("sea_land", 1, 0), Group("sea_sea", 1, 1)])
REAL = {"land_land": 30, "land_sea": 3, "sea_land": 2, "sea_sea": 30}
LEAST = {"pretrain_steps": 4, "finetune_steps": 2, "lrs": [0.1, 0.2], "finetune_lrs": [0.01, 0.02]}


def config(**settings) -> TrainConfig:
    return from_data(TrainConfig, {**LEAST, **settings}, "train")


def method(**settings) -> FFR:
    prompts = {name: (f"a photo of {name}",) for name in GROUPS.names}
    of = FFRConfig(generator={"weights": "embedded", "steps": 2, "guidance": 1.0, "size": 8}, prompts=prompts)
    return FFR(config=of, groups=GROUPS, seed=0, size=8, training=config(**settings))


def stages(arm, mitigation, **settings):
    return method(**settings).train(arm, mitigation, REAL)


ARMS = ["none", "usb", "asb", "ffr", "synthetic_only", "generator_data"]


@pytest.mark.parametrize("arm", ARMS)
def test_dfr_comes_after_the_stages_of_erm(arm):
    *learned, last = stages(arm, "dfr")
    assert tuple(learned) == stages(arm, "erm")
    # On real images, whose features may lie elsewhere than those of synthetic ones; where there are some.
    assert last == HeadStage(sources=learned[-1].sources if arm == "synthetic_only" else (Source(set="real"),))
    assert last.strengths == (3, 1, 0.3, 0.1, 0.03, 0.01, 0.003)
    assert last.fits == 20


@pytest.mark.parametrize(
    "mitigation",
    [
        "reweight_label",
        "reweight",
        "resample",
        "subsample",
        "groupdro",
        "balanced_softmax",
        "logit_adjustment",
    ],
)
def test_a_mitigation_acts_in_the_last_stage_by_source_where_sources_mix(mitigation):
    (only,) = stages("usb", mitigation)
    assert (only.mitigation, only.by_source) == (mitigation, True)
    first, second = stages("ffr", mitigation)
    assert (first.mitigation, second.mitigation, second.by_source) == ("erm", mitigation, False)


@pytest.mark.parametrize("arm", ARMS)
def test_jtt_finds_mistakes_as_erm_and_learns_from_the_same_start(arm):
    *first, finder, last = stages(arm, "jtt", jtt={"steps": 7, "weight": 5}, finetune_trainable="head")
    assert tuple(first) == stages(arm, "erm", finetune_trainable="head")[:-1]
    assert (finder.name, finder.mitigation, last.mitigation) == ("identify", "erm", "jtt")
    assert [(fit.steps, fit.lr) for fit in finder.fits] == [(7, last.fits[0].lr)]
    assert (finder.validated, last.validated) == (False, True)
    assert (finder.by_source, last.by_source) == (False, False)
    assert finder.sources == last.sources
    assert finder.trainable == last.trainable == ("head" if first else "all")
    assert (finder.jtt, last.jtt.weight) == (None, 5)
    assert last.fits == stages(arm, "erm")[-1].fits


def test_an_arm_with_a_mitigation_of_its_own_has_no_other():
    assert stages("group_balanced", "erm")[0].mitigation == "resample"
    for mitigation in set(get_args(Mitigation)) - {"erm"}:
        with pytest.raises(ConfigError, match=f"cannot have '{mitigation}' too"):
            stages("group_balanced", mitigation)


@pytest.mark.parametrize("mitigation", [one for one in get_args(Mitigation) if one != "dfr"])
def test_what_a_second_stage_may_train_holds_with_every_mitigation(mitigation):
    resnet = {"kind": "resnet", "depth": 18}
    _, *second = stages("ffr", mitigation, model=resnet, finetune_trainable="head", finetune_freeze_bn=True)
    assert {(stage.trainable, stage.freeze_bn) for stage in second} == {("head", True)}


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


@pytest.mark.parametrize(
    ("owner", "settings"),
    [("groupdro", {"step_size": 0.5, "adjustment": 2.0}), ("logit_adjustment", {"tau": 0.5}), ("jtt", {"weight": 3})],
)
def test_settings_of_a_mitigation_belong_to_its_stages_alone(owner, settings):
    def identities(mitigation, **options):
        return [stage.identity() for stage in stages("none", mitigation, **options)]

    changed = [
        mitigation
        for mitigation in get_args(Mitigation)
        if identities(mitigation, **{owner: settings}) != identities(mitigation)
    ]
    assert changed == [owner]


def test_an_epoch_is_as_long_as_the_samples_of_its_stage():
    settings = {"pretrain_steps": None, "finetune_steps": None, "epochs": 3, "batch": 16}
    per_real, per_synthetic = 5, 4
    first, second = stages("ffr", "erm", **settings)
    assert (sum(REAL.values()), sum(first.sources[0].counts.values())) == (65, 52)
    assert [(fit.steps, fit.validate_every) for fit in first.fits] == [(3 * per_synthetic, per_synthetic)]
    assert [(fit.steps, fit.validate_every) for fit in second.fits] == [(3 * per_real, per_real)] * 2
    (mixed,) = stages("asb", "groupdro", **settings)
    assert mixed.fits[0].steps == 3 * 8  # of 117 samples
    (whole,) = stages("none", "erm", **{**settings, "accumulation": 2})
    assert [(fit.steps, fit.validate_every) for fit in whole.fits] == [(9, 3)] * 2
    assert stages("none", "erm", **settings, patience=2)[0].fits[0].patience == 2
    with pytest.raises(ConfigError, match=r"train\.epochs: nobody says beforehand"):
        stages("generator_data", "erm", **settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epochs": 3}, "epochs stands in place of pretrain_steps and finetune_steps"),
        ({"finetune_steps": None}, "finetune_steps missing; give pretrain_steps and finetune_steps, or epochs"),
        (
            {"pretrain_steps": None, "finetune_steps": None, "epochs": 3, "validate_every": 5},
            "leave out validate_every",
        ),
        ({"patience": 3}, "patience counts validations"),
        ({"arm_lrs": {"asb": [0.1]}}, r"lrs has 2 values and arm_lrs\.asb 1"),
        ({"arm_lrs": {"asb": [0.1, 0.0]}}, r"arm_lrs\.asb"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        config(**settings)


def test_rates_of_a_first_stage_and_of_single_arms():
    settings = {"pretrain_lr": 0.5, "arm_lrs": {"asb": [0.3, 0.4]}}
    rates = {
        arm: [[fit.lr for fit in stage.fits] for stage in stages(arm, "erm", **settings)]
        for arm in ("none", "asb", "ffr")
    }
    assert rates == {"none": [[0.1, 0.2]], "asb": [[0.3, 0.4]], "ffr": [[0.5], [0.01, 0.02]]}
    method(**settings).check()
    for arm, why in (("sab", "there is not"), ("ffr", "has two stages")):
        with pytest.raises(ConfigError, match=rf"train\.arm_lrs names arm '{arm}', which {why}"):
            method(arm_lrs={arm: [0.1, 0.2]}).check()


@pytest.mark.parametrize("settings", [{}, {"pretrain_lr": 0.5}])
def test_one_of_the_alternatives_alone(settings):
    every = config(arm_lrs={"asb": [0.3, 0.4]}, **settings)
    assert every.choices == 2
    for place in (0, 1):
        one = every.with_choice(place)
        assert one.choices == 1
        assert one.pretrain_lr == settings.get("pretrain_lr", 0.1)
        assert [rates[place] for rates in (every.lrs, every.finetune_lrs, every.arm_lrs["asb"])] == [
            rates[0] for rates in (one.lrs, one.finetune_lrs, one.arm_lrs["asb"])
        ]
        assert one.with_choice(0) == one
    with pytest.raises(InputError, match="alternative 2 is asked for; there are 2"):
        every.with_choice(2)


def test_groupdro_and_accumulation_are_refused_before_anything_trains():
    with pytest.raises(ConfigError, match=r"train\.accumulation"):
        stages("none", "groupdro", accumulation=2)


def test_an_unknown_mitigation_is_refused_by_its_name():
    from ffr_dist.recipe import CellConfig

    with pytest.raises(ConfigError, match=r"mitigation: .*'subsample'.*got 'upsample'"):
        from_data(CellConfig, {"arm": "none", "mitigation": "upsample"}, "cell")


def test_a_multiple_of_the_budget_multiplies_what_arms_take_and_no_pixel_changes():
    real = {"land_land": 100, "land_sea": 20, "sea_land": 20, "sea_sea": 100}
    one = method()
    quarter, twice = (
        FFR(config=one.config.model_copy(update={"budget": times}), groups=GROUPS, seed=0, size=8, training=config())
        for times in (0.25, 2.0)
    )
    assert quarter.arm_counts("asb", real) == dict.fromkeys(real, 10)
    assert twice.arm_counts("ffr", real) == dict.fromkeys(real, 80)
    assert twice.quota(real).counts == {"land_land": 80, "land_sea": 160, "sea_land": 160, "sea_sea": 80}
    assert one.pixel_fields() == quarter.pixel_fields() == twice.pixel_fields()
