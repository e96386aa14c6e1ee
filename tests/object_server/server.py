"""A real S3 service for the length of a test session; ``tests/conftest.py`` makes fixtures of it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import uuid
from pathlib import Path

from object_server.sigv4 import signed_request

_SCRIPT = Path(__file__).with_name("ceph.sh")
_PROGRAMS = ("radosgw", "radosgw-admin", "ceph", "ceph-mon", "ceph-mgr", "ceph-osd", "ceph-authtool", "monmaptool")
_VERSIONED = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"


def missing_programs() -> list[str]:
    return [name for name in _PROGRAMS if shutil.which(name) is None]


class ObjectServer:
    """One Ceph with a gateway, below ``folder``, on free ports. Stops what it started, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, monitor = _free_ports(2)
        self._run("up", str(self.port), str(monitor))
        lines = (folder / "env").read_text().split()
        self.environment: dict[str, str] = dict(line.split("=", 1) for line in lines)
        """The AWS_* variables that a client needs."""

    @property
    def endpoint(self) -> str:
        return self.environment["AWS_ENDPOINT_URL"]

    @property
    def keys(self) -> tuple[str, str]:
        return self.environment["AWS_ACCESS_KEY_ID"], self.environment["AWS_SECRET_ACCESS_KEY"]

    def new_bucket(self, *, versioned: bool = False) -> str:
        name = f"b-{uuid.uuid4().hex}"
        self._asked("PUT", f"/{name}")
        if versioned:
            self._asked("PUT", f"/{name}", "versioning=", _VERSIONED)
        return name

    def stop_gateway(self) -> None:
        """The service is gone, as in a restart; the data stay."""
        self._run("gateway-down")

    def start_gateway(self) -> None:
        self._run("gateway-up", str(self.port))

    def stop(self) -> None:
        self._run("down")

    def _asked(self, method: str, path: str, query: str = "", body: bytes = b"") -> None:
        status, said = signed_request(self.endpoint, *self.keys, method, path, query, body)
        assert status == 200, said

    def _run(self, verb: str, *arguments: str) -> None:
        done = subprocess.run(
            [_SCRIPT, verb, self.folder, *arguments], check=False, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, f"ceph.sh {verb}: {done.stdout}{done.stderr}"


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
