import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ffr_dist.generate.keep import KeepConfig, judge
from ffr_dist.models.sampler import Outcomes


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


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_bad_thresholds_are_refused(value):
    with pytest.raises(ValidationError):
        KeepConfig(blank_std=value)
    with pytest.raises(ValidationError):
        KeepConfig(grey_levels=value)


def test_no_room_below_the_worker_loads_torch():
    code = """if True:
        import sys
        import ffr_dist.generate.keep, ffr_dist.generate.work
        import ffr_dist.plan.cost, ffr_dist.plan.document, ffr_dist.generate.driver
        assert "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)
