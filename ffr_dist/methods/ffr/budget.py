"""How many synthetic images each group gets, from the real training counts alone.

Let ``m`` be the largest group of all classes and N = Σ_g (m - n_g). *Uniform* (USB) fills each group up to ``m``, so that
real and synthetic together are balanced. *Balanced* (ASB, and FFR's own pool) shares N equally, so that the synthetic set is
balanced by itself. Both use N images, up to the rounding down of the equal share.
"""

from __future__ import annotations

from collections.abc import Mapping

from ffr_dist.errors import ConfigError


def total_budget(real: Mapping[str, int]) -> int:
    """N: what it takes to bring every group to the size of the largest."""
    largest = max(real.values())
    return sum(largest - count for count in real.values())


def fill_up(real: Mapping[str, int]) -> dict[str, int]:
    """USB: what each group lacks of the largest group."""
    largest = max(real.values())
    return {name: largest - count for name, count in real.items()}


def equal_share(real: Mapping[str, int]) -> dict[str, int]:
    """ASB and FFR: the same number for every group."""
    share = total_budget(real) // len(real)
    if share == 0:
        raise ConfigError(
            "the real training groups are (nearly) equal in size already: the budget rule asks for no synthetic image; "
            "raise the bias or state 'quota' per group"
        )
    return dict.fromkeys(real, share)
