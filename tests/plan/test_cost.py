import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from ffr_dist.errors import ConfigError
from ffr_dist.plan.cost import expected_cost, typical_image_bytes
from ffr_dist.quota import Exact, Survivors
from ffr_dist.shards.codec import CodecConfig, encode
from ffr_dist.shards.pack import Member, pack


def test_a_small_pool_costs_itself():
    cost = expected_cost(Exact({"a": 100, "b": 50}), interval_size=64, image_bytes=1_000)
    assert (cost.candidates, cost.images, cost.intervals, cost.bytes) == (150, 150, 3, 150_000)
    assert cost.seconds is None


def test_a_large_pool_costs_about_its_size_over_acceptance():
    quota = Exact({"a": 100_000, "b": 100_000})
    cost = expected_cost(
        quota, interval_size=256, image_bytes=1, acceptance={"a": 0.5, "b": 1.0}, candidates_per_second=100
    )
    assert cost.images == 200_000
    assert cost.candidates == pytest.approx(300_000, rel=0.02)
    assert cost.seconds == cost.candidates / 100
    assert cost.intervals >= cost.candidates // 256


def test_survivors_cost_their_requests():
    cost = expected_cost(Survivors({"a": 1_000}), interval_size=100, image_bytes=1, acceptance={"a": 0.1})
    assert (cost.candidates, cost.images) == (1_000, 100)


def test_a_hopeless_acceptance_is_told_by_group():
    with pytest.raises(ConfigError, match="group b "):
        expected_cost(Exact({"a": 10, "b": 10}), interval_size=8, image_bytes=1, acceptance={"b": 0.0})


@pytest.mark.parametrize("codec", [("jpg", 95), ("jpg", 75), ("webp", 95), ("png", 95)])
@pytest.mark.parametrize("size", [64, 256, 400])
def test_image_bytes_are_of_the_right_order(codec, size):
    config = CodecConfig(format=codec[0], quality=codec[1])
    images = [
        photo[y : y + size, x : x + size] for photo in load_sample_images().images for y in (0, 20) for x in (0, 240)
    ]
    members = []
    for number, image in enumerate(images):
        members += [
            Member(f"{number}.{codec[0]}", encode(np.asarray(image), config)),
            Member(f"{number}.json", b"x" * 200),
        ]
    real = len(pack(members).tar) / len(images)
    assert 0.4 < typical_image_bytes(config, size) / real < 2.5
