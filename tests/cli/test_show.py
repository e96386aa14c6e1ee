"""What is shown, on a terminal and off it."""

import io
import re

import pytest
from rich.console import Console

from ffr_dist.cli.show.live import Show
from ffr_dist.cli.show.plans import pilot_table, plan_table
from ffr_dist.cli.show.results import results_table, study_tables
from ffr_dist.cli.show.status import status_view, watch
from ffr_dist.launch.events import (
    Abandoned,
    AttemptFailed,
    Began,
    Ended,
    Generating,
    Training,
    Warned,
    WorkerDown,
)
from ffr_dist.train import Progress, Score

GENERATING = Generating(
    round=1,
    quota={"a": 100, "b": 50},
    accepted={"a": 60, "b": 10},
    tried={"a": 64, "b": 40},
    rejected={"blank": 30, "nan": 4, "grey": 0, "nsfw": 2, "disagrees": 9, "hostile[red]": 1},
    in_flight=8,
    planned=5,
    committed=2,
    workers=2,
    images_per_second=12.5,
    idle_share=0.021,
    eta_s=7.0,
    device_seconds=100.0,
    cost=1.234,
    max_cost=40.0,
)
EVENTS = [
    Began("generate", "150 images"),
    GENERATING,
    Warned("a worker died"),
    WorkerDown(worker="w1", node="n", why="OOM [killed]", fault=True),
    AttemptFailed(interval=3, worker="w1", kind="hang", why="no batch for 60 s"),
    Abandoned(interval=3, why="3 attempts failed"),
    Ended("generate", "150 images in 12 s"),
    Training(
        "ffr × erm, seed 0",
        "pretrain",
        Progress(
            task="pretrain",
            step=25,
            steps=300,
            loss=0.5,
            lr=1e-3,
            images_per_second=1234.5,
            eta_s=61.0,
            score=Score((0.75,), {"val_n_worst": 12}),
        ),
    ),
    Ended("pretrain", "val worst group 75.0%", reused=True),
]


def shown(events, *, terminal, width=140):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, height=40, color_system=None)
    with Show(console) as show:
        for event in events:
            show(event)
            if terminal:
                show.refresh()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_done_stays_on_the_screen(terminal):
    text = shown(EVENTS, terminal=terminal)
    assert "generate: 150 images in 12 s" in text
    assert "a worker died" in text
    assert "(done before)" in text
    assert "worker w1 is gone: OOM [killed]" in text
    assert "interval 3 failed on w1 (hang): no batch for 60 s" in text
    assert "interval 3 is given up (3 attempts failed)" in text


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_has_live_bars_for_each_group(width):
    text = shown([GENERATING], terminal=True, width=width)
    for told in (
        "all groups",
        "78/150",
        "12.5 images/s, 7 s to go, round 1, 2/5 shards, 2 workers",
        "cost 1.23 of 40, devices idle 2.1%",
        "rejected blank 30, disagrees 9, nan 4",
        "93.8% accepted",
        "25.0% accepted",
    ):
        assert told in text
    assert max(len(line) for line in text.replace("\r", "\n").splitlines()) <= width


def test_a_log_gets_a_line_now_and_then():
    text = shown([GENERATING] * 20, terminal=False)
    assert text.count("generated 78 of 150 images (12.5 images/s, 7 s to go, round 1, 2/5 shards, 2 workers, cost") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_training_tells_its_pace_and_how_many_images_a_score_rests_on(terminal):
    training = next(event for event in EVENTS if isinstance(event, Training))
    text = shown([training], terminal=terminal)
    assert "loss 0.500, lr 1.0e-03, 1,234 images/s, 61 s to go, val worst group 75.0% (n=12)" in text


def row(arm, worst, seed):
    groups = {"a": {"correct": 9, "count": 10}, "b": {"correct": round(10 * worst), "count": 10}}
    return {"arm": arm, "mitigation": "erm", "seed": seed, "worst_group": worst, "group_mean": 0.8, "groups": groups}


def told(draw, value):
    file = io.StringIO()
    draw(Console(file=file, width=120, color_system=None), value)
    return file.getvalue()


def test_results_say_how_many_seeds_they_rest_on():
    alone = " ".join(told(results_table, [row("none", 0.2, 0)]).split())
    assert "one seed: differences of a few points are noise" in alone
    text = told(results_table, [row("none", 0.2, 0), row("none", 0.4, 1), row("ffr", 0.7, 0), row("ffr", 0.8, 1)])
    assert "mean of 2 seeds" in text
    assert "30.0" in text
    assert "75.0" in text


@pytest.mark.parametrize(("groups", "has_columns"), [(9, True), (10, False)])
def test_a_table_of_results_never_loses_the_names_of_its_cells(groups, has_columns):
    counts = {f"group_number_{place}": {"correct": 1, "count": 2} for place in range(groups)}
    text = told(results_table, [row("none", 0.5, 0) | {"groups": counts}])
    assert "none × erm" in text
    assert ("number" in text) == has_columns
    assert ("10 groups: the report and results.json have each" in " ".join(text.split())) != has_columns


@pytest.mark.parametrize("width", [80, 140])
def test_a_study_s_table_marks_what_fewer_seeds_tell_and_has_no_empty_columns(width):
    def line(arm, seeds, gain=None):
        number = {"mean": 0.5, "low": None, "high": None}
        to = None if gain is None else {**number, "p": None, "test": "paired t", "pairs": gain}
        told = {"arm": arm, "mitigation": "erm", "seeds": list(range(seeds)), "worst_group": number, "n_worst": 9}
        return {**told, "group_mean": 0.6, "to_baseline": to, "to_lead": None}

    def text(*lines):
        file = io.StringIO()
        console = Console(file=file, width=width, color_system=None)
        tables = [{"bias_ratio": None, "variant": "", "lines": lines}]
        study_tables(console, tables, None, skipped=[], failures=[])
        return " ".join(file.getvalue().split())

    many = text(line("none", 3), line("usb", 3, 3), line("ffr", 1, 1))
    assert "bias as in the data: accuracy on test, % (mean of up to 3 seeds;" in many
    assert "to none" in many
    assert many.count("over 1") == 1
    assert "over 3" not in many
    assert "to none" not in text(line("none", 1))


def estimate(expected, low=None, high=None):
    return {"expected": expected, "low": low, "high": high}


def plan(**changed):
    group = {"real": 9, "quota": 5, "arms": {"none": 0, "asb": 5, "ffr": 5, "usb": 1}}
    fleet = {"workers": 8, "gpus": 4.0, "seconds": estimate(7200.0, 6600.0, 8000.0), "cost": estimate(20.0, 18.5, 23.0)}
    return {
        "groups": {"a": group},
        "batch": 4,
        "intervals": 3,
        "candidates": estimate(1000.0, 900.0, 1200.0),
        "bytes": 12_345_678,
        "images_per_second": estimate(2.0, 1.9, 2.1),
        "measured": {"acceptance": True, "rate": True},
        "unfillable": None,
        "to_go": {"candidates": 800, "intervals": 2},
        "fleets": [fleet],
        "spent": {"device_seconds": 60.0, "cost": 1.5},
        **changed,
    }


def test_a_plan_shows_arms_that_take_the_same_images_once():
    text = told(plan_table, plan())
    assert "none" not in text  # takes nothing
    assert text.index("asb") < text.index("ffr") < text.index("usb")
    assert "12.3 MB" in text
    assert "1,000 (900 – 1,200) candidates" in text


def test_a_plan_has_time_and_cost_with_intervals():
    text = told(plan_table, plan())
    assert "2.0 h (1.8 – 2.2 h)" in text
    assert "20.00 (18.50 – 23.00)" in text
    assert "so far: 60 s of device time, cost 1.50" in text
    assert "2 (1.9 – 2.1) images/s a worker, as measured" in text


def test_a_plan_without_any_measurement_says_so():
    text = told(plan_table, plan(images_per_second=None, fleets=[], spent=None, candidates=estimate(800.0)))
    assert "rate unknown" in text
    assert "--stop-after pilot" in text
    assert "800 candidates" in text
    stated = plan(
        images_per_second=estimate(2.0),
        measured={"acceptance": False, "rate": False},
        fleets=[{"workers": 1, "gpus": 1.0, "seconds": estimate(400.0), "cost": None}],
    )
    text = told(plan_table, stated)
    assert "2 images/s a worker, as the recipe states; every candidate taken for accepted" in text
    assert "6.7 min" in text
    assert "cost" not in text.split("To make")[1]


def test_an_end_that_nothing_bounds_is_not_claimed():
    fleet = {"workers": 1, "gpus": 1.0, "seconds": estimate(7200.0, 3600.0, None), "cost": None}
    assert "2.0 h (at least 60 min)" in told(plan_table, plan(fleets=[fleet]))


PILOTED = {"tried": 200, "accepted": 150, "acceptance": estimate(0.75, 0.68, 0.8), "rejected": {"blank": 50}}


def test_a_pilot_tells_what_it_found_and_how_to_go_on():
    groups = {"a": {**plan()["groups"]["a"], **PILOTED}}
    file = io.StringIO()
    pilot_table(Console(file=file, width=120, color_system=None), plan(groups=groups), "ffr generate my.yaml")
    text = file.getvalue()
    for said in ("75.0 (68.0 – 80.0)", "blank 50", "2.0 h (1.8 – 2.2 h)", "to go on: ffr generate my.yaml"):
        assert said in text
    file = io.StringIO()
    hopeless = plan(groups=groups, unfillable="group a cannot be filled", fleets=[])
    pilot_table(Console(file=file, width=120, color_system=None), hopeless, "ffr generate my.yaml")
    assert "! group a cannot be filled" in file.getvalue()


STATUS = {
    "output": "s3://bucket/out",
    "study": None,
    "finished": False,
    "revision": 0,
    "round": 1,
    "intervals": {"planned": 4, "committed": 2, "abandoned": 1},
    "abandoned": {"3 attempts failed [hang]": 1},
    "failures": 3,
    "groups": {"a": {"quota": 500, **PILOTED}},
    "bytes": 2_000_000,
    "images_per_second": 12.5,
    "drivers": [
        {"driver": "d1", "host": "h1", "state": "alive", "workers": 8, "device_seconds": 3600.0, "cost": 2.5},
        {"driver": "d0", "host": "h0", "state": "ended", "workers": 0, "device_seconds": 36.0, "cost": 0.5},
    ],
    "spent": {"device_seconds": 3636.0, "cost": 3.0},
    "to_go": {
        "candidates": 467,
        "intervals": 2,
        "workers": 8,
        "seconds": estimate(700.0, 650.0, 800.0),
        "cost": estimate(31.0, 29.0, 36.0),
    },
    "events": [
        {"at": "2026-11-21T14:01:53.431+00:00", "driver": "d1", "event": "abandoned", "interval": 3, "why": "[x]"}
    ],
}


@pytest.mark.parametrize("width", [80, 120])
def test_a_status_tells_all_of_it(width):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(status_view(STATUS))
    text = file.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    joined = " ".join(text.split())
    for said in (
        "running: 150 of 500 images in round 1, 2 of 4 intervals committed, 1 abandoned, 3 failed attempts",
        "12.5 images/s now, to go 12 min (11 – 13 min) with 8 workers, 2.0 MB",
        "61 min of device time, cost 3.00 so far, 31.00 (29.00 – 36.00) to go",
        "blank 50",
        "75.0 (68.0 – 80.0)",
        "given up: 1 × 3 attempts failed [hang]",
        "driver d1 on h1: alive, 8 workers",
        "1 earlier start ended",
        "14:01:53 abandoned interval=3 why=[x]",
    ):
        assert said in joined, said


def test_a_status_of_a_study_tells_its_cells_before_its_pool():
    told = {
        "at": "2026-11-21T14:01:53", "driver": "d1", "event": "cell_ended", "what": "none × erm, r 0.9, seed 0",
        "detail": "worst group 20.0% (n=10), group mean 30.0%", "failed": False, "done": 7, "total": 9,
    }  # fmt: skip
    began = {"at": "2026-11-21T14:01:54", "driver": "d1", "event": "began", "what": "import val", "detail": ""}
    study = {"of": "cells", "done": 7, "total": 9, "failures": 1, "eta_s": 60.0, "ended": False}
    file = io.StringIO()
    view = status_view({**STATUS, "finished": True, "to_go": None, "study": study, "events": [told, began]})
    Console(file=file, width=80, color_system=None).print(view)
    joined = " ".join(file.getvalue().split())
    assert "study running: 7 of 9 cells have come to their end, 1 of them failed, 60 s to go" in joined
    assert "pool finished: 150 of 500 images" in joined
    assert "14:01:54 began import val" in joined
    assert "14:01:53 ✓ 7/9 none × erm, r 0.9, seed 0: worst group 20.0% (n=10), group mean 30.0%" in joined


def test_watching_refreshes_a_terminal_and_writes_lines_elsewhere():
    done = {**STATUS, "finished": True, "to_go": None, "drivers": []}
    text = {}
    for terminal in (True, False):
        file = io.StringIO()
        watch(Console(file=file, force_terminal=terminal, width=100, color_system=None), [STATUS, STATUS, done])
        text[terminal] = file.getvalue()
    assert "\x1b[1A" in text[True]  # the cursor goes up, and what was there is drawn over
    lines = " ".join(text[False].split())
    assert "\x1b" not in lines
    assert lines.count("running: ") == 2
    assert lines.count("finished: ") == 1
    assert "12.5 images/s when it last ran" in lines
