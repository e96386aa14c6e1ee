"""The embedded world keeps its parts apart, its counts exact and its pixels the same."""

import hashlib
import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from ffr_dist.config import parse
from ffr_dist.datasets import embedded
from ffr_dist.datasets.embedded import GENERATOR_IMAGES, EmbeddedConfig, digit_rows, photo_columns, prompts
from ffr_dist.errors import ConfigError

SMALL = EmbeddedConfig(train=200, val=60, test=80)


def split(name, config=SMALL, seed=0):
    return next(split for split in config.splits(seed) if split.name == name)


def pixels(split, images=None):
    return np.stack([sample.image for sample in itertools.islice(split.samples(), images)])


def fingerprint(split, images=None):
    return hashlib.sha256(pixels(split, images).tobytes()).hexdigest()


def rows(split):
    return [int(sample.name.split("-")[1].removeprefix("row")) for sample in split.samples()]


def test_no_digit_and_no_part_of_a_photograph_serves_two_purposes():
    for one, other in itertools.combinations(("generator", "train", "val", "test"), 2):
        assert not set(digit_rows(one)) & set(digit_rows(other)), (one, other)
        if {one, other} != {"train", "val"}:
            for (first, last), (start, end) in itertools.product(photo_columns(one), photo_columns(other)):
                assert last <= start or end <= first, (one, other)
    everything = np.concatenate([digit_rows(use) for use in ("generator", "train", "val", "test")])
    assert sorted(everything) == list(range(1797))


def test_probes_see_what_the_classifiers_see_and_nothing_else():
    assert set(digit_rows("probe")) == set(digit_rows("train")) | set(digit_rows("val"))
    assert photo_columns("probe") == photo_columns("train") == photo_columns("val")


@pytest.mark.parametrize("name", ["train", "val", "test", "generator"])
def test_a_split_shows_only_its_own_digits(name):
    sampled = split(name)
    shown = rows(sampled) if name != "generator" else list(embedded._lay_out_generator().rows)
    assert set(shown) <= set(digit_rows(name))


@pytest.mark.parametrize(("ratio", "images"), [(0.95, 1500), (0.98, 300), (0.5, 81), (1.0, 60)])
def test_counts_at_a_bias_ratio_are_exact(ratio, images):
    counts = embedded.biased_counts(images, ratio)
    assert sum(counts.values()) == images
    for label, (agrees, differs) in enumerate(
        [("low_temple", "low_flowers"), ("high_flowers", "high_temple")],
    ):
        of_class = counts[agrees] + counts[differs]
        assert of_class == (images + 1 - label) // 2
        assert counts[differs] == round(of_class * (1 - ratio))


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_the_samples_are_as_many_of_each_group_as_the_split_says(name):
    sampled = split(name)
    assert Counter(sample.group.name for sample in sampled.samples()) == sampled.counts()
    assert {sample.image.shape for sample in sampled.samples()} == {(32, 32, 3)}


def test_test_and_probe_are_balanced():
    assert set(split("test").counts().values()) == {20}
    assert set(split("probe").counts().values()) == {600}


def test_the_label_is_the_digit_and_the_bias_is_the_photograph():
    for sample in split("train").samples():
        digit, photograph = int(sample.name[5]), sample.name.rsplit("-", 1)[1]
        assert sample.group.label == digit // 5
        assert sample.group.name == f"{('low', 'high')[digit // 5]}_{photograph}"
        assert photograph == ("temple", "flowers")[sample.group.bias]


def test_the_digits_of_a_class_are_shown_evenly():
    shown = Counter(rows(split("val", EmbeddedConfig(val=300, bias_ratio=1.0))))
    assert set(shown.values()) <= {1, 2, 3}


def test_the_same_split_has_the_same_pixels_and_another_seed_moves_train_and_val_only():
    again, moved = SMALL.splits(0), SMALL.splits(1)
    for first, same, other in zip(SMALL.splits(0), again, moved, strict=True):
        assert fingerprint(first, 60) == fingerprint(same, 60)
        changes = first.name in {"train", "val"}
        assert (fingerprint(first, 60) != fingerprint(other, 60)) == changes
        assert (first.identity != other.identity) == changes
        assert (first.folder != other.folder) == changes


def test_test_does_not_follow_the_bias_ratio():
    other = SMALL.model_copy(update={"bias_ratio": 0.6})
    assert split("test").identity == split("test", other).identity
    assert split("train").identity != split("train", other).identity
    assert fingerprint(split("test")) == fingerprint(split("test", other))


def test_the_first_pixels_of_the_world_are_pinned():
    # A change of these is a new world: raise its version, because imported splits are found by it.
    image = next(split("generator").samples()).image.astype(int)
    assert abs(image.mean() - 224.76) < 0.05
    assert np.abs(image[16, 16] - np.array([180, 210, 212])).max() <= 1


def test_the_camera_gap_is_on_real_images_only():
    plain = SMALL.model_copy(update={"camera_gap": "none"})
    strong = SMALL.model_copy(update={"camera_gap": "strong"})
    for name in ("train", "val", "test"):
        clean, moderate, most = (pixels(split(name, config)).astype(int) for config in (plain, SMALL, strong))
        changed = [np.abs(gap - clean).mean(axis=(1, 2, 3)) for gap in (moderate, most)]
        assert min(part.min() for part in changed) > 4, "noise is on every image"
        shares = [np.mean(part > 20) for part in changed]
        assert 0.4 < shares[0] < 0.7 < shares[1] < 0.95
    for name in ("generator", "probe"):
        assert split(name, plain).identity == split(name, strong).identity
        assert fingerprint(split(name, plain), 40) == fingerprint(split(name, strong), 40)


def test_the_generator_split_holds_all_its_images():
    counts = split("generator").counts()
    assert sum(counts.values()) == GENERATOR_IMAGES
    assert min(counts.values()) > 0.2 * GENERATOR_IMAGES


def test_every_group_has_a_prompt_for_each_digit_of_its_class():
    assert prompts()["high_flowers"][2] == "a photo of the digit seven over flowers"
    assert set(prompts()) == set(split("train").groups.names)
    assert len({text for texts in prompts().values() for text in texts}) == 20


@pytest.mark.parametrize("text", ["bias_ratio: 0.4", "bias_ratio: 1.01", "train: 0", "camera_gap: huge", "tests: 5"])
def test_what_the_world_cannot_be_is_refused_by_name(text):
    with pytest.raises(ConfigError, match=text.partition(":")[0]):
        parse(EmbeddedConfig, text, "recipe")


def test_planning_from_it_loads_nothing_heavy():
    code = (
        "import sys; from ffr_dist.datasets.embedded import EmbeddedConfig; "
        "[s.counts() for s in EmbeddedConfig().splits(0)[:3]]; "
        "sys.exit(bool({'torch', 'sklearn', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
