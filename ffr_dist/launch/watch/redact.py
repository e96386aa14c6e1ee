"""Secrets out of text that is stored or shown: errors of clients and of users' code may quote what they were called with.

Whatever the environment holds under a name that sounds secret is struck out wherever it occurs, and so are passwords
and signatures in URLs. This is the last line of defence: nothing here hands secrets on knowingly.
"""

from __future__ import annotations

import os
import re

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
    found = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST}
    for value in sorted(found, key=len, reverse=True):
        if not os.path.isabs(value):  # noqa: PTH117 - a path to a secret is none
            text = text.replace(value, _STRUCK)
    text = _USER_INFO.sub(f"{_STRUCK}@", text)
    text = _QUERY.sub(rf"\1={_STRUCK}", text)
    return _HEADER.sub(rf"\1{_STRUCK}", text)
