"""The docs' table of metrics is the program's."""

from pathlib import Path

from ffr_dist.launch.watch.metrics import METRICS

WATCHING = Path(__file__).parents[3] / "docs/watching.md"


def test_the_docs_list_every_metric():
    lines = [line for line in WATCHING.read_text().splitlines() if line.startswith("| `ffr_")]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    assert {row[0]: tuple(row[1:]) for row in rows} == {
        name: (metric.kind, metric.who, "`, `".join(metric.labels), metric.what) for name, metric in METRICS.items()
    }
