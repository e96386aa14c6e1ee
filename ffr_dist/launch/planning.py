"""What a run will take, and how far it is: plain values for the command line and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ffr_dist.errors import InputError
from ffr_dist.launch.context import Study
from ffr_dist.plan.cost import expected_cost, typical_image_bytes
from ffr_dist.plan.document import Pinned, read_rounds
from ffr_dist.shards import layout
from ffr_dist.shards.log import decided
from ffr_dist.shards.selection import latest_revision
from ffr_dist.store import Store


def summarise(study: Study, store: Store | None = None) -> dict[str, Any]:
    """Real counts, quotas and arms per group, intervals, expected time and size. Reads no image, writes nothing.

    The time follows from the recipe's rate, or from the rate measured in ``store`` where images were made before.
    """
    recipe, method = study.recipe, study.method
    real, quota = study.real_counts(recipe.compare.seeds[0]), study.quota()
    arms = {arm: method.arm_counts(arm, real) for arm in method.arms}
    generate = recipe.generate
    stated = generate.images_per_second and generate.images_per_second * _workers(study)
    cost = expected_cost(
        quota,
        interval_size=interval_size(study),
        image_bytes=typical_image_bytes(recipe.codec, recipe.size),
        candidates_per_second=stated or (None if store is None else measured_rate(store)),
    )
    return {
        "groups": {
            name: {
                "real": real[name],
                "quota": quota.counts[name],
                "arms": {arm: counts.get(name, 0) for arm, counts in arms.items()},
            }
            for name in study.groups.names
        },
        "intervals": cost.intervals,
        "batch": generate.batch,
        "seconds": cost.seconds,
        "bytes": cost.bytes,
    }


def interval_size(study: Study) -> int:
    """Candidates of an interval, as they will be pinned."""
    return pinned(study, {}, weights_sha256="").interval_size


def pinned(study: Study, prepared: dict[str, str], *, weights_sha256: str) -> Pinned:
    """The resolved settings that round 0 pins."""
    generate = study.recipe.generate
    return Pinned(
        batch=generate.batch,
        images_per_shard=generate.images_per_shard,
        threads=generate.threads,
        weights_sha256=weights_sha256,
        prepared=prepared,
        keep=generate.keep.model_dump(mode="json"),
    )


def read_status(store: Store) -> dict[str, Any]:
    """How far an output is, from its store alone."""
    revision = latest_revision(store)
    if revision is None:
        raise InputError(f"{store.url} holds no plan; start one with 'ffr generate'")
    rounds = [planned.round for planned in read_rounds(store)]
    commits = list(decided(store))
    accepted = dict.fromkeys(revision.quota, 0)
    rejected: dict[str, dict[str, int]] = {name: {} for name in revision.quota}
    tried = 0
    for commit in commits:
        for name, tally in commit.groups.items():
            accepted[name] += tally.accepted
            tried += tally.tried
            for reason, count in tally.rejected.items():
                rejected[name][reason] = rejected[name].get(reason, 0) + count
    finished = store.exists(layout.manifest_key(revision.number))
    return {
        "finished": finished,
        "round": len(rounds) - 1,
        "intervals": {
            "planned": rounds[-1].end if rounds else 0,
            "committed": sum(commit.abandoned is None for commit in commits),
            "abandoned": sum(commit.abandoned is not None for commit in commits),
        },
        "groups": {
            name: {"quota": quota, "accepted": accepted[name], "rejected": rejected[name]}
            for name, quota in revision.quota.items()
        },
        "eta_s": 0.0 if finished else _eta_s(store, revision.quota, accepted, tried),
    }


def _eta_s(store: Store, quota: Mapping[str, int], accepted: Mapping[str, int], tried: int) -> float | None:
    """What is missing, at the rate and the acceptance of what came."""
    rate = measured_rate(store)
    kept = sum(accepted.values())
    if rate is None or not kept:
        return None
    missing = sum(max(0, count - accepted[name]) for name, count in quota.items())
    return missing * tried / kept / rate


def measured_rate(store: Store) -> float | None:
    """Candidates a second of all workers together, between the first commit of the store and the last."""
    times = [info.modified for info in store.list(layout.COMMITS)]
    span = (max(times) - min(times)).total_seconds() if len(times) > 1 else 0.0
    if not span:
        return None
    tried = sum(tally.tried for commit in decided(store) for tally in commit.groups.values())
    # The first commit starts the clock, so that its images are not among those that took the time.
    return tried * (1 - 1 / len(times)) / span or None


def _workers(study: Study) -> int:
    workers = study.recipe.generate.workers
    return 1 if workers == "auto" else workers
