"""The card of a trained classifier: what it is, what it learned from, and how good it is in each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ffr_dist.metrics import Count, group_metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a card tells that the weights do not."""

    name: str
    """For people: ``ffr-demo, arm ffr × erm, seed 0``."""
    trained_on: Mapping[str, str]
    """Fingerprint of each set that it learned from, by a name for people."""
    settings: Mapping[str, str | int | float | None]
    """What else shall stand there: learning rate, steps, …"""
    tested_on: str | None = None
    """Fingerprint of the set that it was counted on; None before it was."""
    counts: Mapping[str, Count] | None = None
    """Correct answers and samples of that set, by group."""


def render_card(card: ModelCard, *, library: str, labels: Sequence[str], opening: str) -> str:
    """Markdown with the front matter that the Hugging Face hub reads; ``opening`` is the Python that opens the folder."""
    tested = {} if card.tested_on is None else {"test": card.tested_on}
    accuracies = {} if card.counts is None else _accuracies(card.counts)
    front: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "subgroup-robustness", "ffr_dist"],
        "fingerprints": {**card.trained_on, **tested},
    }
    if accuracies:
        results = {
            "task": {"type": "image-classification"},
            "dataset": {"type": "ffr_dist", "name": "test", "revision": card.tested_on},
            "metrics": [
                {"type": "accuracy", "name": f"accuracy, {name}", "value": value, "args": {"n": count}}
                for name, (value, count) in accuracies.items()
            ],
        }
        front["model-index"] = [{"name": card.name, "results": [results]}]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000).rstrip(),
            "---",
            f"# {plain(card.name)}",
            "",
            f"An image classifier of {len(labels)} classes: {', '.join(map(plain, labels))}.",
            "",
            "## Accuracy",
            "",
            *_table(accuracies),
            "",
            "## Data",
            "",
            "| set | fingerprint |",
            "|---|---|",
            *(f"| {plain(name)} | `{value}` |" for name, value in {**card.trained_on, **tested}.items()),
            "",
            "## Training",
            "",
            "| setting | value |",
            "|---|---|",
            *(f"| {plain(name)} | {plain(str(value))} |" for name, value in card.settings.items()),
            "",
            "## Use",
            "",
            "```python",
            opening.strip(),
            "```",
            "",
        ]
    )


def _accuracies(counts: Mapping[str, Count]) -> dict[str, tuple[float, int]]:
    """Accuracy and samples, by what they are of."""
    metrics = group_metrics(counts)
    return {
        f"worst group ({metrics.worst_name})": (metrics.worst_group, metrics.n_worst),
        "mean of groups": (metrics.group_mean, sum(count.count for count in counts.values())),
        **{f"group {name}": (count.accuracy, count.count) for name, count in counts.items()},
    }


def _table(accuracies: Mapping[str, tuple[float, int]]) -> list[str]:
    if not accuracies:
        return ["It has not been counted on test samples yet."]
    return [
        "| test samples of | accuracy | n |",
        "|---|---|---|",
        *(f"| {name} | {value:.4f} | {count} |" for name, (value, count) in accuracies.items()),
        "",
        "With few samples in a group its accuracy is mostly noise, and so is the worst group's.",
    ]


def plain(text: str) -> str:
    """Text that cannot end a line or a cell of a table, nor start markup."""
    return " ".join(text.split()).translate({ord(sign): f"\\{sign}" for sign in r"\|`*_<>[]#"})
