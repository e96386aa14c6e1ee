import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.datasets import load_sample_images

from ffr_dist.errors import ConfigError
from ffr_dist.plan.cost import (
    Done,
    Estimate,
    Pace,
    Stage,
    acceptance_of,
    look_ahead,
    makespan,
    play,
    typical_image_bytes,
)
from ffr_dist.plan.rounds import Round, Tally, next_round
from ffr_dist.quota import Exact, Survivors
from ffr_dist.shards.codec import CodecConfig, encode
from ffr_dist.shards.pack import Member, pack


def test_a_small_pool_takes_itself():
    course = play(Exact({"a": 100, "b": 50}), interval_size=64)
    assert (course.candidates, course.accepted, course.intervals) == (150, 150, 3)
    assert course.stages == [Stage(3, 150, awaits=False)]


def test_a_large_pool_takes_about_its_size_over_acceptance():
    quota = Exact({"a": 100_000, "b": 100_000})
    course = play(quota, interval_size=256, acceptance={"a": 0.5, "b": 1.0})
    assert course.accepted >= 200_000
    assert course.candidates == pytest.approx(300_000, rel=0.02)
    assert course.intervals >= course.candidates // 256
    assert sum(stage.candidates for stage in course.stages) == course.candidates


def test_survivors_take_their_requests():
    course = play(Survivors({"a": 1_000}), interval_size=100, acceptance={"a": 0.1})
    assert (course.candidates, course.accepted) == (1_000, 100)
    assert not any(stage.awaits for stage in course.stages)


def test_a_hopeless_acceptance_is_told_by_group():
    with pytest.raises(ConfigError, match="group b "):
        play(Exact({"a": 10, "b": 10}), interval_size=8, acceptance={"b": 0.0})


def test_stages_wait_where_the_planner_waits():
    stages = play(Exact({"a": 20_000}), interval_size=100, acceptance={"a": 0.8}).stages
    assert [stage.awaits for stage in stages[:3]] == [False, True, False]  # the pilot is waited for, round 1 is not


def test_playing_on_from_halfway_comes_to_the_same():
    """Where what is done went as expected, what is left is the rest of the whole."""
    quota, size, rates = Exact({"a": 5_000, "b": 1_000}), 64, {"a": 0.5, "b": 0.75}
    whole = play(quota, interval_size=size, acceptance=rates)
    rounds, tallies = [], []
    for _ in range(2):
        step = next_round(quota, rounds, tallies, size)
        assert isinstance(step, Round)
        rounds.append(step)
        tallies.append({name: Tally(count, int(count * rates[name])) for name, count in step.totals.items()})
    done = Done(rounds=rounds, tallies=tallies, decided=[planned.intervals for planned in rounds])
    rest = play(quota, interval_size=size, acceptance=rates, done=done)
    assert rest.candidates == pytest.approx(whole.candidates, rel=0.005)
    assert sum(stage.candidates for stage in rest.stages) == rest.candidates - sum(r.size for r in rounds)


def test_a_round_half_done_is_played_to_its_end():
    quota = Exact({"a": 1_000})
    first = next_round(quota, [], [], 50)
    done = Done(rounds=[first], tallies=[{"a": Tally(100, 80)}], decided=[2])
    course = play(quota, interval_size=50, acceptance={"a": 0.8}, done=done)
    assert course.stages[0] == Stage(2, 100, awaits=False)
    assert course.accepted >= 1_000


def test_one_worker_never_waits():
    stages = [Stage(4, 400, awaits=False), Stage(3, 250, awaits=True), Stage(9, 900, awaits=False)]
    assert makespan(stages, 1, 0.1) == pytest.approx(155.0)


def test_more_workers_than_intervals_of_a_round_do_not_help():
    stages = [Stage(4, 400, awaits=False), Stage(4, 400, awaits=True)]
    assert makespan(stages, 4, 0.1) == makespan(stages, 64, 0.1) == pytest.approx(20.0)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.booleans()), min_size=1, max_size=5),
    st.integers(1, 70),
)
def test_a_makespan_is_what_playing_it_out_interval_by_interval_gives(rounds, workers):
    stages = [Stage(count, 7 * count, awaits) for count, awaits in rounds]
    free, ends = [0.0] * workers, [0.0]
    for number, stage in enumerate(stages):
        ready = ends[-1] if stage.awaits else ends[max(0, number - 1)]
        end = ends[-1]
        for _ in range(stage.intervals):
            place = min(range(workers), key=free.__getitem__)
            free[place] = max(ready, free[place]) + 7.0
            end = max(end, free[place])
        ends.append(end)
    assert makespan(stages, workers, 1.0) == pytest.approx(ends[-1])


def test_acceptance_has_the_interval_of_its_beta_distribution():
    found = acceptance_of(Tally(200, 150))
    assert found.expected == pytest.approx(151 / 202)
    assert (found.low, found.high) == pytest.approx(beta(151, 51).interval(0.95))
    untried = acceptance_of(Tally())
    assert (untried.low, untried.expected, untried.high) == pytest.approx((0.025, 0.5, 0.975))


def test_a_pace_has_no_interval_before_the_second_commit():
    pace = Pace()
    assert pace.estimate() is None
    pace.add(100, 50.0)
    assert pace.estimate() == Estimate(0.5)
    pace.add(100, 60.0)
    found = pace.estimate()
    assert found.expected == pytest.approx(0.55)
    assert 0 < found.low < 0.5 < 0.6 < found.high  # two commits say little


def test_a_paces_interval_holds_the_truth_and_narrows():
    held = 0
    for seed in range(200):
        draw = random.Random(seed)
        pace = Pace()
        for _ in range(300):
            pace.add(64, 64 * 0.5 * math.exp(draw.gauss(0, 0.3)))
        found = pace.estimate()
        truth = 0.5 * math.exp(0.3**2 / 2)
        held += found.low <= truth <= found.high
        assert found.high / found.low < 1.25
    assert held >= 180


def test_slow_hours_do_not_pass_for_independent_evidence():
    """A thousand commits in two long regimes say little more than two commits."""
    runs, mixed = Pace(), Pace()
    for number in range(1024):
        runs.add(10, 5.0 if number < 512 else 10.0)
        mixed.add(10, 5.0 if number % 2 else 10.0)
    assert runs.estimate().expected == mixed.estimate().expected == pytest.approx(0.75)
    width = [found.high / found.low for found in (runs.estimate(), mixed.estimate())]
    assert width[0] > 1.15 > width[1]


def test_a_pace_stays_small():
    pace = Pace()
    for _ in range(100_000):
        pace.add(10, 1.0)
    assert len(pace._means) < Pace._MOST
    assert pace.estimate().expected == pytest.approx(0.1)


def test_an_outlook_without_measurements_has_no_interval():
    outlook = look_ahead(Exact({"a": 100}), interval_size=10)
    assert outlook.candidates == Estimate(100.0)
    fleet = outlook.fleet(2, Estimate(0.5), gpus_per_worker=1.0, price=3.6)
    assert (fleet.seconds, fleet.cost) == (Estimate(25.0), Estimate(pytest.approx(0.05)))


def test_an_outlook_holds_what_comes():
    quota = Exact({"a": 10_000, "b": 10_000})
    acceptance = {"a": acceptance_of(Tally(200, 100)), "b": acceptance_of(Tally(200, 190))}
    outlook = look_ahead(quota, interval_size=100, acceptance=acceptance)
    for rate in (0.45, 0.5, 0.55):
        course = play(quota, interval_size=100, acceptance={"a": rate, "b": 0.95})
        assert outlook.candidates.low <= course.candidates <= outlook.candidates.high
    fleets = {
        workers: outlook.fleet(workers, Estimate(0.5, 0.45, 0.55), gpus_per_worker=0.5, price=2.0)
        for workers in (1, 8, 64)
    }
    for fleet in fleets.values():
        assert fleet.seconds.low < fleet.seconds.expected < fleet.seconds.high
        assert fleet.cost.expected == pytest.approx(fleet.seconds.expected * fleet.workers * 0.5 / 3600 * 2)
    assert fleets[64].seconds.expected < fleets[8].seconds.expected < fleets[1].seconds.expected
    assert fleets[64].cost.expected > fleets[8].cost.expected > fleets[1].cost.expected  # who waits is paid for too


def test_where_the_worst_can_never_be_filled_no_upper_end_is_claimed():
    outlook = look_ahead(Exact({"a": 5_000}), interval_size=100, acceptance={"a": acceptance_of(Tally(200, 5))})
    assert outlook.candidates.low is not None
    assert outlook.candidates.high is None
    fleet = outlook.fleet(1, Estimate(1.0, 0.9, 1.1), gpus_per_worker=1.0, price=None)
    assert fleet.seconds.high is None
    assert fleet.cost is None


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
