"""One signed S3 request, by hand: for what an object store's client does not offer (buckets, versioning, raw status)."""

from __future__ import annotations

import hashlib
import hmac
import http.client
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit


def signed_request(
    endpoint: str, access_key: str, secret_key: str, method: str, path: str, query: str = "", body: bytes = b""
) -> tuple[int, bytes]:
    """Status and body of a request. ``query`` is in canonical form: ``"versioning="``."""
    host, now = urlsplit(endpoint).netloc, datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    path, digest, scope = quote(path), hashlib.sha256(body).hexdigest(), f"{now[:8]}/us-east-1/s3/aws4_request"
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": now}
    names = ";".join(headers)
    canonical = "\n".join([method, path, query, *(f"{k}:{v}" for k, v in headers.items()), "", names, digest])
    to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        target = f"{path}?{query}" if query else path
        connection.request(method, target, body, headers | {"Authorization": f"AWS4-HMAC-SHA256 {credential}"})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()
