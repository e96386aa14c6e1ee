from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import GROUPS, as_synthetic, small_set

from ffr_dist.errors import DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.read.batches import Batch, ImageBatches
from ffr_dist.read.sampling import GroupWeights, Shares

COUNTS = {"land_land": 23, "land_sea": 4, "sea_land": 3, "sea_sea": 11}
DATA = small_set(COUNTS)
MORE = small_set({"land_sea": 9, "sea_land": 8}, seed=1, split="more")


def take(batches: ImageBatches, steps: int, start: int = 0, rank: int = 0, world: int = 1) -> list[Batch]:
    return list(itertools.islice(batches.iterate(start, rank, world), steps))


def joined(parts: list[Batch]) -> Batch:
    return Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in Batch.__dataclass_fields__))


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in Batch.__dataclass_fields__)


SAMPLINGS = {
    "natural": "natural",
    "balanced": "balanced",
    "subsample": "subsample",
    "weights": GroupWeights({"land_land": 1, "land_sea": 2.5, "sea_land": 0.5, "sea_sea": 3}),
    "shares": Shares((0.7, 0.3)),
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@settings(max_examples=20)
@given(batch=st.integers(1, 50), step=st.integers(0, 10**6), seed=st.integers(0, 2**63 - 1))
def test_any_number_of_processes_shares_the_same_global_batch(sampling, batch, step, seed):
    batches = ImageBatches([DATA, MORE], GROUPS, sampling=sampling, batch=batch, seed=seed)
    rows, positions = batches.rows(step)
    for world in (2, 3, 8):
        parts = [batches.rows(step, rank, world) for rank in range(world)]
        assert np.array_equal(np.concatenate([part[0] for part in parts]), rows)
        assert np.array_equal(np.concatenate([part[1] for part in parts]), positions)
        sizes = [len(part[0]) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_three_processes_go_on_where_one_stopped(sampling):
    def batches() -> ImageBatches:
        return ImageBatches([DATA, MORE], GROUPS, sampling=sampling, batch=7, seed=1)

    undisturbed = take(batches(), 12)
    ranks = [take(batches(), 7, 5, rank, 3) for rank in range(3)]
    for whole, *parts in zip(undisturbed[5:], *ranks, strict=True):
        assert equal(whole, joined(parts))


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_every_position_is_seen_once(sampling):
    batches = ImageBatches([DATA, MORE], GROUPS, sampling=sampling, batch=16, seed=2)
    positions = joined(take(batches, 25)).positions.sort().values
    assert torch.equal(positions, torch.arange(len(positions)))


def test_a_process_reads_blocks_of_its_own():
    data = small_set({"land_land": 600, "sea_sea": 600}, groups=Groups.of([GROUPS.items[0], GROUPS.items[3]]))
    batches = ImageBatches([data], GROUPS, batch=120, seed=0)
    read = [[batches.rows(step, rank, 4)[0] for step in range(10)] for rank in range(4)]
    blocks = [set((np.concatenate(rows) // 18).tolist()) for rows in read]  # 1200 / 64
    # Of 67 in all. Blocks do not begin at multiples of 18, so that each of a process's 17 is counted once or twice.
    assert max(map(len, blocks)) < 42


def test_resuming_in_the_middle_of_an_epoch_goes_on_with_the_very_next_batch():
    batches = ImageBatches([DATA], GROUPS, batch=8, seed=3)
    assert batches.steps_per_epoch == 6
    undisturbed = take(batches, 14)
    for start in (1, 5, 6, 9):
        resumed = take(ImageBatches([DATA], GROUPS, batch=8, seed=3), 14 - start, start)
        assert all(map(equal, undisturbed[start:], resumed))


def test_an_epoch_is_every_sample_once_and_its_last_batch_is_short():
    batches = ImageBatches([DATA, MORE], GROUPS, batch=8, seed=3)
    epoch = take(batches, batches.steps_per_epoch)
    assert [len(batch) for batch in epoch] == [8] * 7 + [2]
    seen = joined(epoch)
    assert sorted(seen.positions.tolist()) == list(range(58))
    everything = np.concatenate([DATA.pixels(range(41)), MORE.pixels(range(17))])
    assert sorted(image.tobytes() for image in seen.images.permute(0, 2, 3, 1).numpy()) == sorted(
        image.tobytes() for image in everything
    )
    second = joined(take(batches, batches.steps_per_epoch, batches.steps_per_epoch))
    assert sorted(second.positions.tolist()) == list(range(58, 116))
    assert not torch.equal(seen.labels, second.labels)


def test_what_belongs_to_an_image_stays_with_it():
    for batch in take(ImageBatches([DATA, MORE], GROUPS, batch=8, seed=3), 20):
        for image, label, group in zip(batch.images.float(), batch.labels, batch.groups, strict=True):
            spread = image.mean(0)
            # A lying bar (label 1) makes rows differ, a standing one columns.
            assert (spread.mean(1).std() > spread.mean(0).std()) == bool(label)
            bias = image[2].mean() > image[0].mean()
            assert int(group) == 2 * int(label) + int(bias)


def test_sources_split_groups():
    batches = ImageBatches([DATA, as_synthetic(MORE)], GROUPS, by_source=True, batch=58, seed=0)
    assert batches.group_names == (
        "land_land/real",
        "land_sea/real",
        "land_sea/synthetic",
        "sea_land/real",
        "sea_land/synthetic",
        "sea_sea/real",
    )
    assert batches.group_counts == (23, 4, 9, 3, 8, 11)
    (batch,) = take(batches, 1)
    names = [batches.group_names[group] for group in batch.groups.tolist()]
    assert [name.endswith("synthetic") for name in names] == [bool(source) for source in batch.sources]
    assert sum(batch.sources.tolist()) == 17


def test_a_rank_without_samples_gets_an_empty_batch_of_the_right_shape():
    batches = ImageBatches([DATA], GROUPS, batch=2, seed=0)
    sizes = [len(take(batches, 1, 0, rank, 5)[0]) for rank in range(5)]
    assert sorted(sizes) == [0, 0, 0, 1, 1]
    empty = take(batches, 1, 0, sizes.index(0), 5)[0]
    assert empty.images.shape == (0, 3, 8, 8)
    assert empty.to("cpu").labels.dtype == torch.int64


def test_groups_are_matched_by_label_and_bias_not_by_place():
    turned = Groups.of(reversed(GROUPS.items))
    one = joined(take(ImageBatches([DATA], GROUPS, batch=41, seed=0), 1))
    other = joined(take(ImageBatches([DATA], turned, batch=41, seed=0), 1))
    rows = {image.numpy().tobytes(): int(group) for image, group in zip(one.images, one.groups, strict=True)}
    for image, group in zip(other.images, other.groups, strict=True):
        assert GROUPS.names[rows[image.numpy().tobytes()]] == turned.names[int(group)]


def test_sets_that_do_not_go_together_are_refused():
    with pytest.raises(DataError, match=r"group sea_sea .* not declared"):
        ImageBatches([DATA], Groups.of(GROUPS.items[:3]), batch=8, seed=0)
    with pytest.raises(DataError, match="sizes"):
        ImageBatches([DATA, small_set({"sea_sea": 2}, side=16)], GROUPS, batch=8, seed=0)
    with pytest.raises(DataError, match="nothing to train on"):
        ImageBatches([], GROUPS, batch=8, seed=0)


def test_a_group_that_nobody_declared_does_no_harm_while_it_is_empty():
    wide = Groups.of([*GROUPS.items, Group("lake", 0, 2)])
    data = small_set(COUNTS, groups=wide)
    assert ImageBatches([data], GROUPS, batch=8, seed=0).group_names == GROUPS.names


def test_seed_and_data_change_the_order():
    def labels(data, seed):
        return joined(take(ImageBatches([data], GROUPS, batch=8, seed=seed), 5)).groups.tolist()

    assert labels(DATA, 0) == labels(small_set(COUNTS), 0)
    assert labels(DATA, 0) != labels(DATA, 1)
    assert labels(DATA, 0) != labels(small_set(COUNTS, split="x"), 0)
