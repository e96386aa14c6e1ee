"""What is shown, on a terminal and off it."""

import io

import pytest
from rich.console import Console

from ffr_dist.cli.show import Show, plan_table, results_table, status_table
from ffr_dist.launch.events import Began, Ended, Generating, Training, Warned
from ffr_dist.train import Progress, Score

GENERATING = Generating(
    round=1,
    quota={"a": 100, "b": 50},
    accepted={"a": 60, "b": 10},
    tried={"a": 64, "b": 40},
    in_flight=8,
    planned=5,
    committed=2,
    workers=2,
    images_per_second=12.5,
    eta_s=7.0,
)
EVENTS = [
    Began("generate", "150 images"),
    GENERATING,
    Warned("a worker died"),
    Ended("generate", "150 images in 12 s"),
    Training(
        "ffr × erm, seed 0",
        "pretrain",
        Progress(task="pretrain", step=25, steps=300, loss=0.5, lr=1e-3, score=Score((0.75,))),
    ),
    Ended("pretrain", "val worst group 75.0%", reused=True),
]


def shown(events, *, terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=140, color_system=None)
    with Show(console) as show:
        for event in events:
            show(event)
            show._bars.refresh()
    return file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_done_stays_on_the_screen(terminal):
    text = shown(EVENTS, terminal=terminal)
    assert "generate: 150 images in 12 s" in text
    assert "a worker died" in text
    assert "(done before)" in text


def test_a_terminal_has_live_bars_for_each_group():
    text = shown([GENERATING], terminal=True)
    for told in (
        "all groups",
        "78/150",
        "12.5 images/s",
        "7 s to go",
        "2/5 shards",
        "93.8% accepted",
        "25.0% accepted",
    ):
        assert told in text


def test_a_log_gets_a_line_now_and_then():
    text = shown([GENERATING] * 20, terminal=False)
    assert text.count("generated 78 of 150 images (12.5 images/s, 7 s to go") == 1


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


def test_a_plan_shows_arms_that_take_the_same_images_once():
    groups = {"a": {"real": 9, "quota": 5, "arms": {"none": 0, "asb": 5, "ffr": 5, "usb": 1}}}
    plan = {"groups": groups, "intervals": 3, "batch": 4, "seconds": 7200.0, "bytes": 12_345_678}
    text = told(plan_table, plan)
    assert "2.0 h" in text
    assert "12.3 MB" in text
    assert "none" not in text  # takes nothing


def test_a_status_names_reasons():
    groups = {"a": {"quota": 5, "accepted": 3, "rejected": {"blank": 2}}}
    intervals = {"planned": 4, "committed": 2, "abandoned": 0}
    status = {"finished": False, "round": 1, "intervals": intervals, "groups": groups, "eta_s": None}
    text = told(status_table, status)
    assert "blank 2" in text
    assert "2 of 4 intervals committed" in text
