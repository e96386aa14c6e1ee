from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_sets import GROUPS, as_synthetic, small_set

from ffr_dist.errors import ConfigError, DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.read.batches import ImageBatches
from ffr_dist.read.dataset import Dataset
from ffr_dist.read.order import Shuffle
from ffr_dist.read.sampling import GroupWeights, Shares

COUNTS = {"land_land": 23, "land_sea": 4, "sea_land": 3, "sea_sea": 11}
DATA = small_set(COUNTS)
MORE = small_set({"land_sea": 9, "sea_land": 8}, seed=1, split="more")
SETS = [DATA, MORE]
TOGETHER = {"land_land": 23, "land_sea": 13, "sea_land": 11, "sea_sea": 11}


def rows_of(batches: ImageBatches, steps: int) -> np.ndarray:
    return np.concatenate([batches.rows(step)[0] for step in range(steps)])


def drawn(batches: ImageBatches, steps: int) -> dict[str, int]:
    """Of each group, how many are seen."""
    groups = torch.cat([batch.groups for batch in itertools.islice(batches.iterate(0, 0, 1), steps)])
    counts = Counter(groups.tolist())
    return {name: counts[place] for place, name in enumerate(batches.group_names)}


def group_names() -> np.ndarray:
    """Of each row of both sets."""
    return np.array([data.groups.names[place] for data in SETS for place in data.group_ids.tolist()])


def window(batches: ImageBatches) -> int:
    return batches.shuffle.block * batches.shuffle.window


def test_balanced_sees_every_group_equally_often():
    batches = ImageBatches(SETS, GROUPS, sampling="balanced", batch=400, seed=0)
    assert batches.group_counts == tuple(TOGETHER.values())
    steps = 30
    counts = drawn(batches, steps)
    # Whole windows hold exactly a quarter each, so that at most the last, partial one differs.
    assert sum(counts.values()) == steps * 400
    for count in counts.values():
        assert abs(count / (steps * 400) - 0.25) < 0.015


def test_balanced_sees_all_of_a_group_before_any_of_it_again():
    batches = ImageBatches(SETS, GROUPS, sampling="balanced", batch=window_of_balanced(), seed=0)
    times = Counter(rows_of(batches, 1).tolist())
    names = group_names()
    for name, count in TOGETHER.items():
        here = [times[row] for row in np.flatnonzero(names == name).tolist()]
        assert len(here) == count
        assert max(here) - min(here) <= 1


def window_of_balanced() -> int:
    return window(ImageBatches(SETS, GROUPS, sampling="balanced", batch=1, seed=0))


def test_target_weights():
    weights = {"land_land": 1, "land_sea": 0.5, "sea_land": 0.1, "sea_sea": 2.4}
    size = window_of_balanced()
    batches = ImageBatches(SETS, GROUPS, sampling=GroupWeights(weights), batch=size, seed=0)
    groups = group_names()[rows_of(batches, 1)]
    for name, weight in weights.items():
        assert abs(np.count_nonzero(groups == name) - size * weight / 4) < 4


def test_shares_of_sets():
    size = window_of_balanced()
    batches = ImageBatches(SETS, GROUPS, sampling=Shares((1, 3)), batch=size, seed=0)
    rows = rows_of(batches, 1)
    assert abs(np.count_nonzero(rows < len(DATA)) - size / 4) < 1
    times = np.bincount(rows, minlength=58)
    assert np.ptp(times[: len(DATA)]) <= 1
    assert np.ptp(times[len(DATA) :]) <= 1


def test_weights_by_source():
    synthetic = as_synthetic(MORE)
    names = ImageBatches([DATA, synthetic], GROUPS, by_source=True, batch=1, seed=0).group_names
    weights = {name: 3.0 if name.endswith("synthetic") else 1.0 for name in names}
    size = window_of_balanced()
    batches = ImageBatches(
        [DATA, synthetic], GROUPS, sampling=GroupWeights(weights), by_source=True, batch=size, seed=0
    )
    rows = rows_of(batches, 1)
    assert abs(np.count_nonzero(rows >= len(DATA)) - size * 6 / 10) <= 6


def test_subsample_takes_as_many_of_each_as_the_smallest_holds():
    batches = ImageBatches(SETS, GROUPS, sampling="subsample", batch=8, seed=0)
    assert len(batches) == 44
    assert batches.steps_per_epoch == 6
    first = rows_of(batches, 6)
    assert len(np.unique(first)) == len(first) == 44
    assert Counter(group_names()[first].tolist()) == dict.fromkeys(GROUPS.names, 11)
    # The same ones in every epoch, and others with another seed.
    second = np.concatenate([batches.rows(step)[0] for step in range(6, 12)])
    assert set(first.tolist()) == set(second.tolist())
    assert first.tolist() != second.tolist()
    other = ImageBatches(SETS, GROUPS, sampling="subsample", batch=8, seed=1)
    assert set(rows_of(other, 6).tolist()) != set(first.tolist())


def test_natural_sees_every_sample_once_an_epoch():
    batches = ImageBatches(SETS, GROUPS, batch=8, seed=0)
    assert np.array_equal(np.sort(rows_of(batches, 8)), np.arange(58))


def test_a_group_without_images_cannot_be_balanced():
    wide = Groups.of([*GROUPS.items, Group("lake", 0, 2)])
    for sampling in ("balanced", "subsample"):
        with pytest.raises(DataError, match=f"no image of group lake.*{sampling}"):
            ImageBatches(SETS, wide, sampling=sampling, batch=8, seed=0)
    # Of one source only: there is nothing to balance it with, and the group is not absent.
    both = ImageBatches([DATA, as_synthetic(MORE)], GROUPS, sampling="balanced", by_source=True, batch=8, seed=0)
    assert len(both.group_names) == 6
    with pytest.raises(DataError, match="no image of group lake"):
        ImageBatches([DATA, as_synthetic(MORE)], wide, sampling="balanced", by_source=True, batch=8, seed=0)


@pytest.mark.parametrize("useless", [0, -1, math.nan, math.inf])
def test_weights_that_no_sampling_can_have(useless):
    with pytest.raises(ConfigError, match="weight of group sea_sea"):
        GroupWeights({"land_land": 1, "sea_sea": useless})
    with pytest.raises(ConfigError, match="share of set 2"):
        Shares((1, useless))


def test_weights_that_do_not_fit_the_groups():
    even = dict.fromkeys(GROUPS.names, 1.0)
    wide = Groups.of([*GROUPS.items, Group("lake", 0, 2)])
    for weights, declared, error, message in (
        (even | {"desert": 1}, GROUPS, ConfigError, "desert, which is not declared; declared are land_land"),
        (dict.fromkeys(GROUPS.names[1:], 1.0), GROUPS, ConfigError, "no sampling weight .* land_land"),
        ({}, GROUPS, ConfigError, "no sampling weight"),
        (even | {"lake": 1}, wide, DataError, "group lake, but there is no image"),
    ):
        with pytest.raises(error, match=message):
            ImageBatches(SETS, declared, sampling=GroupWeights(weights), batch=8, seed=0)


def test_shares_that_do_not_fit_the_sets():
    with pytest.raises(ConfigError, match="3 shares are given for 2 sets"):
        ImageBatches(SETS, GROUPS, sampling=Shares((1, 1, 1)), batch=8, seed=0)
    with pytest.raises(DataError, match=r"set 2 .* holds no image"):
        ImageBatches([DATA, DATA.take([])], GROUPS, sampling=Shares((1, 1)), batch=8, seed=0)


def large_set(counts: list[int]) -> Dataset:
    """Only its columns: nobody looks at a pixel."""
    total = sum(counts)
    columns = replace(
        DATA.whole.columns,
        **{
            name: np.zeros(total, dtype)
            for name, dtype in (("shard", np.int32), ("offset", np.int64), ("source", np.int8))
        },
        size=np.full(total, 2000, np.int32),
        group=np.repeat(np.arange(len(counts), dtype=np.int16), counts),
        by_group=np.arange(total),
        bounds=np.cumsum([0, *counts]),
    )
    return replace(DATA, whole=replace(DATA.whole, columns=columns))


@pytest.mark.parametrize("by_source", [False, True])
@pytest.mark.parametrize(
    "sampling",
    ["natural", "balanced", "subsample", GroupWeights(dict.fromkeys(GROUPS.names, 1)), Shares((1,))],
    ids=str,
)
def test_nothing_is_kept_or_made_for_each_sample(sampling, by_source):
    large = large_set([2_400_000, 100_000, 100_000, 2_400_000])
    if by_source and isinstance(sampling, GroupWeights):
        sampling = GroupWeights({f"{name}/real": 1 for name in GROUPS.names})
    tracemalloc.start()
    batches = ImageBatches([large], GROUPS, sampling=sampling, by_source=by_source, batch=256, seed=0)
    for step in (0, 1000, 1500):
        rows, _ = batches.rows(step)
        batches._mixture.facts(rows)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A window is 33,536 samples; a byte for each sample of the set would be 5 MB, a row 40 MB.
    assert kept < 4 * 2**20
    assert most < 20 * 2**20


def test_blocks_are_worth_a_read_and_a_window_is_no_more_than_there_is():
    assert ImageBatches([large_set([10**6, 10**6, 1, 1])], GROUPS, batch=1, seed=0).shuffle == Shuffle(525, 64)  # 1 MiB
    assert ImageBatches([large_set([9000, 3000, 1, 1])], GROUPS, batch=1, seed=0).shuffle == Shuffle(188, 64)
    assert ImageBatches([DATA], GROUPS, batch=1, seed=0).shuffle == Shuffle(64, 64)


def test_sampling_changes_the_order():
    orders = [
        rows_of(ImageBatches(SETS, GROUPS, sampling=sampling, batch=8, seed=0), 5).tolist()
        for sampling in ("balanced", GroupWeights(dict.fromkeys(GROUPS.names, 1)), Shares((1, 1)), Shares((2, 1)))
    ]
    assert len({tuple(order) for order in orders}) == 4
