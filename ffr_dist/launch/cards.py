"""README.md and croissant.json of a finished pool, beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ffr_dist.config import flatten
from ffr_dist.errors import MissingError
from ffr_dist.launch.context import CheckedRecipe
from ffr_dist.plan.document import read_pinned
from ffr_dist.recipe import pixel_fields
from ffr_dist.report.croissant import render_croissant
from ffr_dist.report.dataset_card import DatasetCard, Tally, render_dataset_card
from ffr_dist.shards import layout
from ffr_dist.shards.log import decided
from ffr_dist.shards.manifest import Manifest
from ffr_dist.store import Store


def write_cards(store: Store, checked: CheckedRecipe, manifest: Manifest) -> None:
    """Write both, unless they tell of this manifest already."""
    if _told(store, manifest):
        return
    card = _card(store, checked, manifest)
    store.put(layout.DATASET_CARD, render_dataset_card(card).encode())
    store.put(layout.CROISSANT, render_croissant(card).encode())  # last: it says that both are there


def _told(store: Store, manifest: Manifest) -> bool:
    try:
        return manifest.index.key in store.get(layout.CROISSANT).decode(errors="replace")
    except MissingError:
        return False


def _card(store: Store, checked: CheckedRecipe, manifest: Manifest) -> DatasetCard:
    fields = pixel_fields(checked.recipe, checked.method)
    method = dict(fields["method"])
    prompts: Mapping[str, Any] = method.pop("prompts", {})
    pinned = read_pinned(store)
    settings = flatten({**fields, "method": method})
    if pinned is not None:
        settings |= {"threads": pinned.threads, "weights_sha256": pinned.weights_sha256 or None}
    for number, environment in enumerate(manifest.environments):
        settings[f"environment {number}"] = ", ".join(f"{name} {value}" for name, value in sorted(environment.items()))
    return DatasetCard(
        name=checked.recipe.name,
        manifest=manifest,
        tallies=tallies(store, checked, below=manifest.intervals),
        prompts={group: tuple(texts) for group, texts in prompts.items()},
        settings=settings,
        filters={} if pinned is None else flatten(dict(pinned.keep)),
    )


def tallies(store: Store, checked: CheckedRecipe, below: int | None = None) -> dict[str, Tally]:
    """What became of each group's candidates, over all intervals that are decided, or those below a number."""
    tried: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    rejected: dict[str, Counter[str]] = {}
    for commit in decided(store):
        if below is not None and commit.interval >= below:
            continue
        for name, tally in commit.groups.items():
            tried[name] += tally.tried
            accepted[name] += tally.accepted
            rejected.setdefault(name, Counter()).update(tally.rejected)
    return {
        name: Tally(tried=tried[name], accepted=accepted[name], rejected=dict(sorted(rejected[name].items())))
        for name in checked.groups.names
        if name in tried
    }
