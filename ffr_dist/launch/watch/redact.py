"""Secrets out of text that is stored or shown: errors of clients and of users' code may quote what they were called with.

Whatever the environment holds under a name that sounds secret is struck out wherever it occurs, and so are passwords
and signatures in URLs. This is the last line of defence: nothing here hands secrets on knowingly.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence

_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASS|CREDENTIAL|AUTH|SIGNATURE|SAS|CONNECTION_STRING", re.IGNORECASE)
_SHORTEST = 8
"""A shorter value is hardly a secret, and striking it out would eat into words and numbers."""
_STRUCK = "***"
_USER_INFO = re.compile(r"(?<=://)[^/@\s'\"]+@")
_QUERY = re.compile(
    r"(?i)\b(sig|signature|token|password|secret|x-(?:amz|goog)-(?:signature|credential|security-token)|"
    r"awsaccesskeyid|access_?key|secret_?key)=[^&\s'\"]+"
)
_HEADER = re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?)(?:\w[\w-]*\s+)?[^\s,'\"]+")


def redact(text: str) -> str:
    """``text`` without what must not be read by others."""
    return strike_out(text, secrets())


def secrets() -> list[str]:
    """What the environment holds under names that sound secret, the longest first. Takes a while: for many texts, ask once."""
    found = {value for name, value in os.environ.items() if _sounds_secret(name) and len(value) >= _SHORTEST}
    return sorted((value for value in found if not os.path.isabs(value)), key=len, reverse=True)  # noqa: PTH117 - a path to a secret is none


def strike_out(text: str, known: Sequence[str]) -> str:
    """As :func:`redact`, with what :func:`secrets` has found."""
    for value in known:
        text = text.replace(value, _STRUCK)
    text = _USER_INFO.sub(f"{_STRUCK}@", text)
    text = _QUERY.sub(rf"\1={_STRUCK}", text)
    return _HEADER.sub(rf"\1{_STRUCK}", text)


@functools.cache
def _sounds_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None
