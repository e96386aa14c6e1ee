import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_judges import write_stage

from ffr_dist.config import from_data, parse
from ffr_dist.errors import ConfigError
from ffr_dist.generate.keep import AgreementConfig, KeepConfig, pinned_keep
from ffr_dist.generate.keep import judge as verdicts_of
from ffr_dist.models.features import judge_sha256
from ffr_dist.models.sampler import Outcomes


def judge(made, config):
    return verdicts_of(made, config).reasons


def outcomes(*images, valid=None, reasons=()):
    stacked = torch.stack(images).to(torch.uint8)
    return Outcomes(
        images=stacked,
        valid=torch.ones(len(images), dtype=torch.bool) if valid is None else torch.tensor(valid),
        reasons=reasons,
    )


def noise(seed=0):
    return torch.randint(0, 256, (3, 16, 16), generator=torch.Generator().manual_seed(seed))


def flat(red, green, blue):
    return torch.tensor([red, green, blue]).reshape(3, 1, 1).expand(3, 16, 16)


def test_each_reason_and_their_order():
    made = outcomes(
        noise(),
        flat(0, 0, 0),
        flat(200, 10, 10),
        noise(),
        noise(),
        flat(9, 9, 9),
        valid=[True, True, True, False, False, False],
        reasons=[None, None, None, None, "no_mask", None],
    )
    assert judge(made, KeepConfig()) == [None, "blank", "blank", "nan", "no_mask", "nan"]


def test_blank_is_by_spread_within_channels():
    image = flat(100, 100, 100).clone()
    image[:, ::2] += 6  # a spread of 3 levels
    assert judge(outcomes(image), KeepConfig(blank_std=2.9)) == [None]
    assert judge(outcomes(image), KeepConfig(blank_std=3.1)) == ["blank"]
    assert judge(outcomes(flat(1, 2, 3)), KeepConfig(blank_std=0)) == [None]


def test_grey_is_the_published_rule():
    grey = noise(1)
    grey[1] = grey[0]
    grey[2] = grey[0]
    red = grey.clone()
    red[0] = (red[0] + 60).clamp(max=255)
    assert judge(outcomes(grey, red), KeepConfig()) == [None, None]
    assert judge(outcomes(grey, red), KeepConfig(grey_levels=5.7)) == ["grey", None]


def test_the_published_sum_threshold_is_5_7_levels():
    """1.5e6 of the pixel sums at 512 pixels: just below and just above it."""
    base = torch.full((3, 512, 512), 100)
    base[:, ::2] = 160
    for extra, found in ((8, "grey"), (9, None)):  # the mean of three channels moves by a third of two channels
        image = base.clone()
        image[1:] += extra
        channel_sums = image.sum((1, 2)).double()
        assert (abs(float(channel_sums.mean() - channel_sums[0])) < 1.5e6) == (found == "grey")
        assert judge(outcomes(image), KeepConfig(grey_levels=1.5e6 / 512**2)) == [found]


@given(st.permutations(range(5)), st.integers(0, 5))
def test_a_verdict_depends_on_the_image_alone(order, padding):
    images = [noise(2), flat(3, 3, 3), noise(4), flat(9, 0, 9), noise(5)]
    alone = [judge(outcomes(image), KeepConfig(grey_levels=1.0))[0] for image in images]
    mixed = judge(outcomes(*[images[n] for n in order], *[images[0]] * padding), KeepConfig(grey_levels=1.0))
    assert mixed[:5] == [alone[n] for n in order]


def test_every_candidate_has_its_scores_and_they_are_exact():
    """Against fractions, also where pixels are no multiple of what is summed at once."""
    for side in (1, 16, 17, 300):
        images = torch.randint(0, 256, (3, 3, side, side), generator=torch.Generator().manual_seed(side))
        images[1] = 255
        found = verdicts_of(outcomes(*images, valid=[True, True, False]), KeepConfig()).scores
        assert {name: score.dtype for name, score in found.items()} == {"std": np.float32, "grey": np.float32}
        for row, image in enumerate(images.tolist()):
            planes = [[value for line in plane for value in line] for plane in image]
            means = [Fraction(sum(plane), side**2) for plane in planes]
            squares = sum(Fraction(sum(v * v for v in plane), side**2) for plane in planes) / 3
            std = math.sqrt(squares - sum(mean**2 for mean in means) / 3)
            assert found["std"][row] == np.float32(std)
            assert found["grey"][row] == np.float32(float(abs(sum(means) / 3 - means[0])))


def test_it_is_the_stored_score_that_is_compared():
    image = noise(3)
    score = float(verdicts_of(outcomes(image), KeepConfig()).scores["std"][0])
    assert judge(outcomes(image), KeepConfig(blank_std=score)) == [None]
    assert judge(outcomes(image), KeepConfig(blank_std=math.nextafter(score, 255))) == ["blank"]


def test_what_the_device_rejects_counts_before_the_rules_and_after_nan():
    made = outcomes(noise(), flat(1, 1, 1), noise(), valid=[True, True, False])
    made = replace(made, rejects={"nsfw": torch.tensor([True, True, True])})
    assert judge(made, KeepConfig()) == ["nsfw", "nsfw", "nan"]


def test_agreement_below_the_least_or_no_number_at_all_disagrees():
    config = KeepConfig(agreement=AgreementConfig(weights="x", least=0.5))
    made = replace(
        outcomes(*[noise()] * 3, flat(1, 1, 1)),
        scores={"agreement": torch.tensor([0.5, 0.49999, math.nan, 0.1]), "own": torch.arange(4).double()},
    )
    found = verdicts_of(made, config)
    assert found.reasons == [None, "disagrees", "disagrees", "blank"]
    assert found.scores["own"].dtype == np.float32


@pytest.mark.parametrize("value", [-1.0, 256.0, float("nan"), float("inf")])
def test_bad_thresholds_are_refused(value):
    with pytest.raises(ValidationError):
        KeepConfig(blank_std=value)
    with pytest.raises(ValidationError):
        KeepConfig(grey_levels=value)
    with pytest.raises(ValidationError):
        AgreementConfig(weights="x", least=value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("agreement: {weights: x, least: 1.5}", "agreement.least"),
        ("agreement: {weights: '', least: 0.5}", "agreement.weights"),
        ("agreement: {weights: x}", "agreement.least: missing"),
        ("agreement: {weights: x, least: 0.5, sha256: abc}", "agreement.sha256"),
        ("near_duplicates: 0", "near_duplicates"),
        ("near_duplicates: 65", "near_duplicates"),
        ("grey_levels: 0.0", "grey_levels"),
    ],
)
def test_a_recipe_with_nonsense_is_refused_by_key(text, told):
    with pytest.raises(ConfigError, match=told):
        parse(KeepConfig, text, "recipe")


def test_the_plan_pins_the_weights_that_agreement_rests_on(tmp_path):
    assert pinned_keep(KeepConfig()) == KeepConfig().model_dump(mode="json")
    folder = write_stage(tmp_path / "stage")
    config = KeepConfig(agreement=AgreementConfig(weights=str(folder), least=0.5))
    found = pinned_keep(config)
    assert found["agreement"] == {"weights": str(folder), "least": 0.5, "sha256": judge_sha256(str(folder))}
    assert pinned_keep(from_data(KeepConfig, found, "plan")) == found
    other = config.model_copy(update={"agreement": config.agreement.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(ConfigError, match="not the one stated"):
        pinned_keep(other)


def test_no_room_below_the_worker_loads_torch():
    code = """if True:
        import sys
        import ffr_dist.generate.keep, ffr_dist.generate.work
        import ffr_dist.plan.cost, ffr_dist.plan.document, ffr_dist.generate.driver
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
