from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_sets import GROUPS, PNG, fresh_store, picture, small_set

from ffr_dist.errors import DataError
from ffr_dist.evaluate.audit import QUANTILES, AuditConfig, audit, flattened, nearest_distances, split_rows
from ffr_dist.groups import Group, Groups
from ffr_dist.models.architectures import SmallCNNConfig
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
    assert [check.at_least for check in found.checks] == [0.8, 0.8]
    assert found.distances.copies == 0
    assert len(found.distances.generated) == len(found.distances.real) == len(QUANTILES)
    assert min(found.distances.generated) > 0
    assert min(found.distances.real) > 0  # the probes' own images are among the generator's: each is told from itself
    body = json.loads(json.dumps(found.to_json()))
    assert set(body) == {"groups", "overall", "distances", "checks", "failures", "summary"}
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
    assert found.failures == ("12 generated images equal a training image of the generator; 2 are allowed",)


def test_the_same_twice():
    assert audit(generated(), REAL, QUICK, REAL) == audit(generated(), REAL, QUICK, REAL)


def test_unknown_bias_leaves_the_bias_out():
    groups = Groups.of([Group("cat", 0, -1), Group("dog", 1, -1)])
    pets = small_set({"cat": 20, "dog": 20}, groups=groups)
    found = audit(pets, pets, with_thresholds(min_label_accuracy=0.5, steps=20))
    assert found.overall.bias_generated is None
    assert found.overall.label_generated is not None
    with pytest.raises(DataError, match="min_bias_accuracy"):
        audit(pets, pets, with_thresholds(min_bias_accuracy=0.5, steps=2))


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
    with pytest.raises(DataError, match="max_copies"):
        audit(generated(), REAL, with_thresholds(max_copies=0, steps=2))


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
    found = nearest_distances(flattened(ours), flattened(theirs))
    np.testing.assert_allclose(found, pairs.min(1), atol=1e-5)
    assert found[280] == 0
    np.fill_diagonal(pairs, np.inf)
    apart = nearest_distances(flattened(ours[:40]), flattened(theirs), np.arange(40))
    np.testing.assert_allclose(apart, pairs[:40].min(1), atol=1e-5)


@pytest.mark.parametrize(("side", "squares"), [(8, 8), (32, 32), (33, 17), (64, 32), (100, 25)])
def test_large_images_are_averaged(side, squares):
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    flat = flattened(images)
    assert flat.shape == (2, squares * squares * 3)
    if side == 64:
        means = images.reshape(2, 32, 2, 32, 2, 3).mean((2, 4)).reshape(2, -1) - 127.5
        np.testing.assert_allclose(flat, means, atol=1e-4)
