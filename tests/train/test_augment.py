from __future__ import annotations

import torch
from torch.nn import functional

from ffr_dist.train.augment import _bits, random_shift

IMAGES = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
POSITIONS = torch.arange(1000, 1200)


def test_each_image_is_a_window_of_itself_with_its_border_repeated():
    moved = random_shift(IMAGES, POSITIONS, 0)
    padded = functional.pad(IMAGES.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    seen = set()
    for image, wide in zip(moved, padded, strict=True):
        at = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, wide[:, y : y + 8, x : x + 8])]
        assert at
        seen.add(at[0])
    assert len(seen) == 25


def test_a_draw_depends_on_seed_and_position_alone():
    moved = random_shift(IMAGES, POSITIONS, 0)
    order = torch.randperm(200)
    assert torch.equal(random_shift(IMAGES[order], POSITIONS[order], 0), moved[order])
    assert torch.equal(random_shift(IMAGES[7:8], POSITIONS[7:8], 0), moved[7:8])
    assert not torch.equal(random_shift(IMAGES, POSITIONS, 1), moved)
    assert not torch.equal(random_shift(IMAGES, POSITIONS + 200, 0), moved)


def test_none_in_none_out():
    assert random_shift(IMAGES[:0], POSITIONS[:0], 0).shape == (0, 3, 8, 8)


def test_bits_are_those_of_splitmix64():
    def reference(position: int, seed: int) -> int:
        mask = 2**64 - 1
        z = ((position + 1) * 0x9E3779B97F4A7C15 + seed) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    positions = torch.tensor([0, 1, 2, 12345, 2**40])
    for seed in (0, 2**63 - 1):
        assert [value % 2**64 for value in _bits(positions, seed).tolist()] == [
            reference(position, seed) for position in positions.tolist()
        ]
