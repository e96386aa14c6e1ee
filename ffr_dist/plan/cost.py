"""What a pool will take, before any of it is made: the planner itself, run on expected counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ffr_dist.errors import ConfigError
from ffr_dist.plan.rounds import Round, Tally, Unfillable, next_round
from ffr_dist.quota import Quota
from ffr_dist.shards.codec import CodecConfig

_BITS_PER_PIXEL = {"jpg": 7.5, "webp": 5.0, "png": 13.5}
"""Of photographs at the highest quality, as measured; jpg and webp take half of it at 95."""
_FILE_BYTES = 600
"""Headers and tables of an image file."""
_MEMBERS_BYTES = 2_300
"""Two tar headers, the padding behind both members, and the sample's JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Expected amounts of a whole generation."""

    candidates: int
    images: int
    intervals: int
    bytes: int
    """Of all shards, before trimming."""
    seconds: float | None
    """None where nobody knows the rate."""


def expected_cost(
    quota: Quota,
    *,
    interval_size: int,
    image_bytes: float,
    acceptance: Mapping[str, float] | None = None,
    candidates_per_second: float | None = None,
) -> Cost:
    """Play the rounds through as if each group were accepted at just its rate (1 where ``acceptance`` has none)."""
    rates = {group: (acceptance or {}).get(group, 1.0) for group in quota.counts}
    rounds: list[Round] = []
    tallies: list[dict[str, Tally]] = []
    tried = dict.fromkeys(rates, 0)
    while True:
        step = next_round(quota, rounds, tallies, interval_size)
        if isinstance(step, Unfillable):
            names = ", ".join(sorted(step.groups))
            raise ConfigError(
                f"at this acceptance the quota of group {names} cannot be filled; lower it or the filters"
            )
        if not isinstance(step, Round):  # Settle: every round here is decided, so nothing is waited for
            break
        rounds.append(step)
        before = {group: int(count * rates[group]) for group, count in tried.items()}
        tried = {group: count + step.totals.get(group, 0) for group, count in tried.items()}
        tallies.append(
            {
                group: Tally(step.totals.get(group, 0), int(tried[group] * rates[group]) - before[group])
                for group in rates
            }
        )
    accepted = sum(tally.accepted for tallied in tallies for tally in tallied.values())
    candidates = sum(tried.values())
    return Cost(
        candidates=candidates,
        images=min(accepted, sum(quota.counts.values())),
        intervals=rounds[-1].end,
        bytes=round(accepted * image_bytes),
        seconds=None if candidates_per_second is None else candidates / candidates_per_second,
    )


def typical_image_bytes(codec: CodecConfig, size: int) -> float:
    """A first estimate of what an image takes of its shard: within a factor of about two for photographs."""
    loss = 0.0 if codec.format == "png" else 0.18 * (100 - codec.quality)
    return size * size * _BITS_PER_PIXEL[codec.format] / (1 + loss) / 8 + _FILE_BYTES + _MEMBERS_BYTES
