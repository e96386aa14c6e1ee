"""An image's randomness comes from what it is, never from who draws it.

The seed of a draw is a hash of (run seed, group, k, purpose), so the noise of a candidate is the same on one
machine or a thousand, at the first try or the third, and stays paired with the same candidate of another run that
differs in quota, model or filter only.
"""

from __future__ import annotations

import hashlib


def draw_seed(seed: int, group: str, k: int, purpose: str) -> int:
    """Seed of one draw, in [0, 2**63): fits a signed 64-bit column and any generator.

    ``purpose`` names the draw: ``prompt``, ``latents``, ``noise``, ``source``, …
    """
    digest = hashlib.blake2b(f"{seed}/{group}/{k}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
