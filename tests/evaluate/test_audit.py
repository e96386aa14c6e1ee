from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sets import GROUPS, PNG, fresh_store, picture, small_set
from tiny_judges import write_stage

from ffr_dist.config import parse
from ffr_dist.errors import ConfigError, DataError
from ffr_dist.evaluate.audit.audit import audit
from ffr_dist.evaluate.audit.config import AuditConfig
from ffr_dist.evaluate.audit.pixels import QUANTILES, flattened, nearest
from ffr_dist.evaluate.audit.probes import split_rows
from ffr_dist.groups import Group, Groups
from ffr_dist.models.architectures import SmallCNNConfig
from ffr_dist.models.features import judge_sha256
from ffr_dist.read.dataset import open_dataset
from ffr_dist.shards.codec import encode
from ffr_dist.shards.imported import write_imported

QUICK = AuditConfig(steps=60, batch=32, lr=0.01, model=SmallCNNConfig(width=8))
REAL = small_set(dict.fromkeys(GROUPS.names, 40), side=16)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def with_thresholds(**thresholds):
    return QUICK.model_copy(update=thresholds)


def generated(*, mislabelled: str | None = None, copied: int = 0):
    """A generated set in which one group may hold images of the other label, and some may repeat a real image."""
    store = fresh_store()
    samples = []
    for group in GROUPS:
        other = GROUPS.of_cell(1 - group.label, group.bias)
        shown = other if group.name == mislabelled else group
        for number in range(20):
            seed = 0 if number < copied else 77
            samples.append((group, encode(picture(shown, number, 16, seed), PNG), f"{number}"))
    write_imported(store, "pool", GROUPS, samples, codec=PNG, size=16, images_per_shard=30)
    return open_dataset(store)


def test_a_good_set_passes():
    found = audit(generated(), REAL, with_thresholds(min_label_accuracy=0.8, min_bias_accuracy=0.8, max_copies=0), REAL)
    assert found.failures == ()
    assert [group.group for group in found.groups] == list(GROUPS.names)
    assert found.overall.images == 80
    for group in (*found.groups, found.overall):
        assert min(group.label_generated, group.label_real, group.bias_generated, group.bias_real) >= 0.8
    assert [(check.at_least, check.at_most) for check in found.checks] == [(0.8, None), (0.8, None), (None, 0)]
    assert (found.duplicates.exact, found.duplicates.images) == (0, 80)
    assert found.distances.copies == 0
    assert len(found.distances.generated) == len(found.distances.real) == len(QUANTILES)
    assert min(found.distances.generated) > 0
    assert min(found.distances.real) > 0  # the probes' own images are among the generator's: each is told from itself
    body = json.loads(json.dumps(found.to_json()))
    assert set(body) == {
        *("groups", "overall", "distances", "checks", "failures", "summary"),
        *("real_or_fake", "feature_distances", "gaps", "duplicates"),
    }
    for probe in body["gaps"].values():
        assert list(probe) == list(GROUPS.names)
        for both in probe.values():
            assert set(both) == {"generated", "real"}
            assert both["real"]["count"] == 10
    assert sum(both["generated"]["count"] for both in body["gaps"]["trained_on_generated"].values()) == 20
    space = body["feature_distances"]
    assert len(space["weights_sha256"]) == 64
    assert [one["group"] for one in space["groups"]] == list(GROUPS.names)
    assert {(one["real"], one["generated"]) for one in space["groups"]} == {(5, 5)}
    assert body["real_or_fake"]["count"] == 40
    assert body["summary"].startswith("80 images judged: label ")


def test_one_group_that_shows_the_wrong_thing_fails_by_name():
    found = audit(
        generated(mislabelled="sea_land"), REAL, with_thresholds(min_label_accuracy=0.8, min_bias_accuracy=0.8)
    )
    assert len(found.failures) == 1
    assert found.failures[0].startswith("label accuracy of the worst group, sea_land, is ")
    worst = next(group for group in found.groups if group.group == "sea_land")
    assert worst.label_generated < 0.3
    assert worst.label_real > 0.8
    assert worst.bias_generated > 0.8
    assert found.distances is None


def test_copies_are_counted():
    found = audit(generated(copied=3), REAL, with_thresholds(max_copies=2), REAL)
    assert found.distances.copies == 12
    assert found.distances.generated[0] == 0
    assert found.failures == ("number of copies of training images of the generator is 12, and the recipe allows 2",)
    assert len(found.shown.nearest) == 8
    made = generated(copied=3)
    for ours, theirs in found.shown.nearest:  # copies come first, each beside what it is a copy of
        np.testing.assert_array_equal(made.pixels([ours]), REAL.pixels([theirs]))


def test_the_same_twice():
    assert audit(generated(), REAL, QUICK, REAL) == audit(generated(), REAL, QUICK, REAL)


def test_unknown_bias_leaves_the_bias_out():
    groups = Groups.of([Group("cat", 0, -1), Group("dog", 1, -1)])
    pets = small_set({"cat": 20, "dog": 20}, groups=groups)
    found = audit(pets, pets, with_thresholds(min_label_accuracy=0.5, steps=20))
    assert found.overall.bias_generated is None
    assert found.overall.label_generated is not None
    with pytest.raises(ConfigError, match="min_bias_accuracy"):
        with_thresholds(min_bias_accuracy=0.5).refuse_unknowable(groups, generator=True)


def test_groups_that_the_pool_lacks_are_not_judged_and_those_that_the_probe_lacks_have_no_reference():
    probe = small_set({"land_land": 9, "land_sea": 9, "sea_land": 1, "sea_sea": 9}, side=16)
    pool = generated().lowest({"land_land": 5, "sea_land": 5})
    found = audit(pool, probe, with_thresholds(steps=2))
    assert [group.group for group in found.groups] == ["land_land", "sea_land"]
    assert found.groups[1].label_real is None


def test_what_cannot_be_audited():
    with pytest.raises(DataError, match="no image"):
        audit(generated().lowest({}), REAL, QUICK)
    with pytest.raises(DataError, match="at least two"):
        audit(generated(), small_set(dict.fromkeys(GROUPS.names, 1), side=16), QUICK)
    with pytest.raises(ConfigError, match="max_copies"):
        with_thresholds(max_copies=0).refuse_unknowable(GROUPS, generator=False)
    lonely = generated().lowest(dict.fromkeys(GROUPS.names, 1))
    found = audit(lonely, REAL, with_thresholds(steps=2))
    assert (found.gaps, found.real_or_fake, found.feature_distances) == (None, None, None)
    for key, value in (("max_gap", 0.5), ("max_real_or_fake_accuracy", 0.6), ("max_fd_ratio", 2.0)):
        with pytest.raises(DataError, match=rf"audit\.{key} is set, but there is too little data"):
            audit(lonely, REAL, with_thresholds(steps=2, **{key: value}))


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("max_real_or_fake_accuracy", 0.4, "by chance a probe is right half of the time"),
        ("max_fd_ratio", 0.9, "real images themselves have the ratio 1"),
        ("min_label_accuracy", 1.2, "less than or equal to 1"),
        ("max_near_duplicates", -0.1, "greater than or equal to 0"),
        ("max_gap", -0.5, "greater than or equal to 0"),
        ("max_copies", -1, "greater than or equal to 0"),
    ],
)
def test_a_threshold_that_nothing_can_pass_is_refused(key, value, why):
    with pytest.raises(ConfigError, match=why) as refused:
        parse(AuditConfig, f"{key}: {value}", "audit")
    assert key in str(refused.value)


def test_every_setting_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    assert [name for name in AuditConfig.model_fields if f"`{name}`" not in text] == []


def test_images_of_another_world_are_told_apart_and_far():
    """Noise in place of what was asked for, twice the same: every threshold is missed, each by name."""
    store = fresh_store()
    noise = np.random.default_rng(5)
    drawn = [noise.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in range(10)]
    samples = [(group, encode(drawn[number % 10], PNG), f"{number}") for group in GROUPS for number in range(20)]
    write_imported(store, "pool", GROUPS, samples, codec=PNG, size=16, images_per_shard=30)
    found = audit(
        open_dataset(store),
        REAL,
        with_thresholds(
            min_label_accuracy=0.9,
            max_gap=0.0,
            max_real_or_fake_accuracy=0.7,
            max_fd_ratio=2.0,
            max_near_duplicates=0.5,
        ),
    )
    assert found.duplicates.exact == found.duplicates.near == 70
    assert sum(found.duplicates.groups.values()) == 70
    assert found.real_or_fake.accuracy > 0.9
    assert found.real_or_fake.p == 0.001
    assert min(one.fd / one.fd_real for one in found.feature_distances.groups) > 2
    named = " ".join(failure.partition(" is ")[0] for failure in found.failures)
    for words in ("label accuracy", "told real from generated", "Fréchet", "near-duplicates"):
        assert words in named
    assert "70 near-duplicates" in found.summary


def test_the_probes_features_or_those_of_given_weights(tmp_path):
    folder = write_stage(tmp_path / "stage")
    own = audit(generated(), REAL, with_thresholds(steps=3)).feature_distances
    given = audit(generated(), REAL, with_thresholds(steps=3, features=str(folder))).feature_distances
    assert given.weights_sha256 == judge_sha256(str(folder))
    assert given.weights_sha256 != own.weights_sha256
    assert own.features == given.features


def test_the_surest_come_first_and_the_least_sure_too():
    found = audit(generated(mislabelled="sea_land"), REAL, QUICK)
    for rows in (found.shown.best, found.shown.worst):
        assert list(rows) == list(GROUPS.names)
        assert {len(some) for some in rows.values()} == {16}
    ids = generated().group_ids
    for place, name in enumerate(GROUPS.names):
        assert set(ids[[*found.shown.best[name]]]) == {place}
        assert found.shown.best[name][0] != found.shown.worst[name][0]


def test_held_out_rows_are_shared_out_by_group():
    data = small_set({"land_land": 40, "land_sea": 5, "sea_land": 2, "sea_sea": 1})
    learned, kept = split_rows(data, 0.25, 0)
    assert sorted([*learned, *kept]) == list(range(48))
    assert data.take(kept).counts() == {"land_land": 10, "land_sea": 1, "sea_land": 1, "sea_sea": 0}
    assert not np.array_equal(split_rows(data, 0.25, 1)[1], kept)


def test_distances_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    ours, theirs = (rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8) for count in (300, 40))
    theirs[7] = ours[280]
    pairs = np.sqrt(((ours[:, None].astype(float) - theirs[None]) ** 2).mean((2, 3, 4)))
    values = flattened(theirs)
    for cuts in ([], [7], [1, 2, 39]):  # the other set may come in any parts
        found = nearest(flattened(ours), iter(np.split(values, cuts)))
        np.testing.assert_allclose(found.distances, pairs.min(1), atol=1e-5)
        np.testing.assert_array_equal(found.rows, pairs.argmin(1))
        assert found.distances[280] == 0
        itself = np.where(np.arange(300) < 40, np.arange(300), -1)
        apart = nearest(flattened(ours), iter(np.split(values, cuts)), itself)
        others = np.where(np.eye(300, 40, dtype=bool), np.inf, pairs)
        np.testing.assert_allclose(apart.distances, others.min(1), atol=1e-5)
    with pytest.raises(DataError, match="differ in size"):
        nearest(flattened(ours), iter([values[:, :9]]))


@pytest.mark.parametrize(("side", "squares"), [(8, 8), (32, 32), (33, 17), (64, 32), (100, 25)])
def test_large_images_are_averaged(side, squares):
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    flat = flattened(images)
    assert flat.shape == (2, squares * squares * 3)
    if side == 64:
        means = images.reshape(2, 32, 2, 32, 2, 3).mean((2, 4)).reshape(2, -1) - 127.5
        np.testing.assert_allclose(flat, means, atol=1e-4)
