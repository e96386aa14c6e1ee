"""How a bucket is reached. What opens it is never here: credentials come from the environment alone."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, model_validator

from ffr_dist.config import Config
from ffr_dist.errors import ConfigError


class StoreConfig(Config):
    """Where a bucket's service answers, and how patient its callers are. A folder and memory need none of it."""

    endpoint: str | None = None
    """URL of a service other than the cloud's own, as ``https://minio.example.org:9000``; S3: else AWS_ENDPOINT_URL."""
    region: str | None = None
    """S3 only; else AWS_REGION."""
    timeout_s: PositiveFloat = 60.0
    """A request that shows no progress for so long is given up, and tried again."""
    connect_timeout_s: PositiveFloat = 10.0
    retry_s: float = Field(default=120.0, ge=0.0)
    """For so long is a request repeated while the service is busy, unreachable or silent; then the call fails."""

    @model_validator(mode="after")
    def _endpoint_is_plain(self) -> Self:
        if self.endpoint is None:
            return self
        parts = urlsplit(self.endpoint)
        # Not a ValueError: pydantic would quote the value, and with it the secret.
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                "storage.endpoint holds a user, password or signature; write the bare URL and give the credentials in "
                "the environment"
            )
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ConfigError("storage.endpoint must start with https:// (or http://) and name a host")
        return self
