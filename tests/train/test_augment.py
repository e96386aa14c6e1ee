from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.nn import functional

from ffr_dist.config import from_data
from ffr_dist.errors import ConfigError
from ffr_dist.train.augment import AugmentConfig, CropConfig, _bits, _crop, _factor, augment

IMAGES = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
POSITIONS = torch.arange(1000, 1200)
SHIFT = AugmentConfig(shift=2)
CROP = AugmentConfig(crop=CropConfig())
COLOUR = AugmentConfig(brightness=0.4, contrast=0.5, saturation=0.6)
ALL = AugmentConfig(crop=CropConfig(), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4)
CONFIGS = [SHIFT, AugmentConfig(flip=0.5), CROP, COLOUR, ALL, AugmentConfig(shift=1, flip=0.3, contrast=0.2)]


def images_of(count, height, width, dtype=torch.uint8, seed=0):
    images = torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return images.to(dtype) if dtype == torch.uint8 else images.to(dtype) / 255


def splitmix64(position, seed):
    mask = 2**64 - 1
    z = ((position + 1) * 0x9E3779B97F4A7C15 + seed) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_each_image_is_a_window_of_itself_with_its_border_repeated():
    moved = augment(IMAGES, POSITIONS, 0, SHIFT)
    padded = functional.pad(IMAGES.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    seen = set()
    for image, wide in zip(moved, padded, strict=True):
        at = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, wide[:, y : y + 8, x : x + 8])]
        assert at
        seen.add(at[0])
    assert len(seen) == 25


def test_a_shift_is_what_it_has_always_been():
    """Results on record were made with it: the seed of its draw, the bits that it takes, and where they move an image."""
    seed = 2620569358048382325  # draw_seed(5, "augment", 0, "shift")
    moved = augment(IMAGES, POSITIONS, 5, SHIFT)
    padded = functional.pad(IMAGES.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    for image, wide, position in zip(moved, padded, POSITIONS.tolist(), strict=True):
        bits = splitmix64(position, seed)
        y, x = (bits & 0x7FFFFFFF) % 5, (bits >> 31 & 0x7FFFFFFF) % 5
        assert torch.equal(image, wide[:, y : y + 8, x : x + 8])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_draw_depends_on_seed_and_position_alone(config, dtype):
    images, positions = images_of(37, 23, 19, dtype), torch.arange(10**12, 10**12 + 37)
    kept = images.clone()
    changed = augment(images, positions, 0, config)
    assert torch.equal(images, kept)
    assert (changed.dtype, changed.shape) == (images.dtype, images.shape)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1))
    assert torch.equal(augment(images[order], positions[order], 0, config), changed[order])
    assert not torch.equal(augment(images, positions, 1, config), changed)
    assert not torch.equal(augment(images, positions + 37, 0, config), changed)
    at = 0
    for count in (1, 0, 5, 17, 2, 12):
        here = slice(at, at + count)
        assert torch.equal(augment(images[here], positions[here], 0, config), changed[here])
        at += count


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(CONFIGS), st.integers(0, 2**62), st.booleans())
def test_any_size_of_image_and_any_position(height, width, config, position, floats):
    images = images_of(2, height, width, torch.float32 if floats else torch.uint8)
    changed = augment(images, torch.tensor([position, position % 7]), 3, config)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= (1 if floats else 255)
    assert torch.equal(augment(images[:1], torch.tensor([position]), 3, config), changed[:1])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_none_in_none_out(config):
    assert augment(IMAGES[:0], POSITIONS[:0], 0, config).shape == (0, 3, 8, 8)


def test_nothing_is_done_unless_it_is_asked_for():
    assert augment(IMAGES, POSITIONS, 0, AugmentConfig()) is IMAGES
    whole = AugmentConfig(crop=CropConfig(scale=(1, 1), ratio=(1, 1)))
    assert torch.equal(augment(IMAGES, POSITIONS, 0, whole), IMAGES)
    faint = AugmentConfig(brightness=1e-9, contrast=1e-9, saturation=1e-9)
    assert torch.equal(augment(IMAGES, POSITIONS, 0, faint), IMAGES)
    assert torch.equal(augment(IMAGES, POSITIONS, 0, AugmentConfig(flip=1e-12)), IMAGES)


def test_a_flip_mirrors_left_and_right():
    assert torch.equal(augment(IMAGES, POSITIONS, 0, AugmentConfig(flip=1)), IMAGES.flip(3))
    images, positions = images_of(4000, 2, 5), torch.arange(4000)
    flipped = augment(images, positions, 0, AugmentConfig(flip=0.25))
    mirrored = (flipped == images.flip(3)).all(3).all(2).all(1)
    assert ((flipped == images).all(3).all(2).all(1) | mirrored).all()
    assert stats.binomtest(int(mirrored.sum()), 4000, 0.25).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 31)])
def test_a_crop_is_a_slice_brought_back_to_size(height, width, flip, dtype):
    images, positions = images_of(60, height, width, dtype), torch.arange(60)
    changed = augment(images, positions, 7, AugmentConfig(crop=CropConfig(), flip=flip))
    parts = torch.cat(_crop(CropConfig(), height, width, positions, 7), 1).long().tolist()
    assert len({tuple(part) for part in parts}) > 50
    for image, result, (top, left, tall, wide) in zip(images, changed, parts, strict=True):
        part = image[None, :, top : top + tall, left : left + wide].double()
        assert part.shape[2:] == (tall, wide)
        expected = functional.interpolate(part, (height, width), mode="bilinear", align_corners=False)[0]
        expected = expected.flip(2) if flip else expected
        # Half a level is lost by rounding.
        tolerance = 0.501 if dtype == torch.uint8 else 1e-9
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=tolerance)


def reference_crop(draw, height, width, scale, ratio):
    """As torchvision's RandomResizedCrop documents it."""
    for _ in range(10):
        pixels = height * width * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, tall = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return draw.randint(0, height - tall), draw.randint(0, width - wide), tall, wide
    if width / height < ratio[0]:
        wide, tall = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        wide, tall = round(height * ratio[1]), height
    else:
        wide, tall = width, height
    return (height - tall) // 2, (width - wide) // 2, tall, wide


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 96)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.7, 1.0)])
def test_crops_are_distributed_as_everyone_draws_them(height, width, scale):
    count = 20_000
    config = CropConfig(scale=scale)
    ours = torch.cat(_crop(config, height, width, torch.arange(count), 1), 1).long().numpy()
    draw = random.Random(0)
    theirs = [reference_crop(draw, height, width, scale, config.ratio) for _ in range(count)]
    for number, column in enumerate(zip(*theirs, strict=True)):
        assert stats.ks_2samp(ours[:, number], column).pvalue > 1e-3, ("top", "left", "tall", "wide")[number]
    area, aspect = ours[:, 2] * ours[:, 3], ours[:, 3] / ours[:, 2]
    assert stats.ks_2samp(area, [tall * wide for _, _, tall, wide in theirs]).pvalue > 1e-3
    assert stats.ks_2samp(aspect, [wide / tall for _, _, tall, wide in theirs]).pvalue > 1e-3
    assert ours.min() >= 0
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width


@pytest.mark.parametrize(
    ("height", "width", "ratio", "part"),
    [(10, 40, (1, 1), (0, 15, 10, 10)), (41, 10, (1, 1), (15, 0, 10, 10)), (10, 40, (1, 2), (0, 10, 10, 20))],
)
def test_a_part_that_never_fits_is_the_middle(height, width, ratio, part):
    found = torch.cat(_crop(CropConfig(scale=(1, 1), ratio=ratio), height, width, torch.arange(3), 0), 1)
    assert found.tolist() == [list(part)] * 3
    draw = random.Random(0)
    assert reference_crop(draw, height, width, (1, 1), ratio) == part


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_colours_are_those_of_a_plain_reference(dtype, monkeypatch):
    factors = []

    def seen(*given):
        factors.append(_factor(*given))
        return factors[-1]

    monkeypatch.setattr("ffr_dist.train.augment._factor", seen)
    images = images_of(40, 9, 11, dtype)
    changed = augment(images, torch.arange(40), 2, COLOUR)
    whole = 255 if dtype == torch.uint8 else 1
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).reshape(3, 1, 1)
    for number, (image, result) in enumerate(zip(images.double(), changed, strict=True)):
        bright, contrast, saturated = (float(factor[number]) for factor in factors)
        expected = image * bright
        mean = (expected * weights).sum(0).mean()
        expected = expected * contrast + mean * (1 - contrast)
        expected = expected * saturated + (expected * weights).sum(0) * (1 - saturated)
        tolerance = {torch.uint8: 0.501, torch.float32: 1e-6, torch.float64: 1e-6}[dtype]
        torch.testing.assert_close(result.double(), expected.clamp(0, whole), rtol=0, atol=tolerance)


def test_factors_are_uniform_and_independent_of_each_other():
    positions = torch.arange(20_000)
    drawn = [_factor(positions, seed, 0.4).flatten().numpy() for seed in (1, 2)]
    for values in drawn:
        assert stats.kstest(values, stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3
        # Nor does a draw depend on the one before it.
        assert abs(stats.spearmanr(values[1:], values[:-1]).statistic) < 0.03
    assert abs(stats.spearmanr(*drawn).statistic) < 0.03


def test_a_grey_image_stays_grey_and_keeps_its_mean():
    grey = torch.full((50, 3, 6, 6), 120, dtype=torch.uint8)
    assert torch.equal(augment(grey, torch.arange(50), 0, AugmentConfig(contrast=1, saturation=1)), grey)


@pytest.mark.parametrize(
    "data",
    [
        {"shift": -1},
        {"flip": 1.1},
        {"brightness": 1.5},
        {"crop": {"scale": [0.5, 0.1]}},
        {"crop": {"scale": [0, 1]}},
        {"crop": {"scale": [0.1, 1.2]}},
        {"crop": {"ratio": [2, 1]}},
        {"shift": 2, "crop": {}},
        {"rotate": 1},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(data):
    with pytest.raises(ConfigError):
        from_data(AugmentConfig, data, "x")


def test_bits_are_those_of_splitmix64():
    positions = torch.tensor([0, 1, 2, 12345, 2**40])
    for seed in (0, 2**63 - 1):
        assert [value % 2**64 for value in _bits(positions, seed).tolist()] == [
            splitmix64(position, seed) for position in positions.tolist()
        ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_gpu_draws_the_same(config):
    images, positions = images_of(64, 33, 47), torch.arange(64)
    there = augment(images.cuda(), positions.cuda(), 0, config).cpu()
    # What is rounded may be rounded the other way.
    assert (there.int() - augment(images, positions, 0, config).int()).abs().max() <= 1
