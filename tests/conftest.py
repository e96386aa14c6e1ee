"""For all tests. That this file is here also lets those in folders below import the helpers beside it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass

import pytest
from hypothesis import settings
from object_server.server import ObjectServer, missing_programs

# As the command line does (see cli/app.py), before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Examples that import torch or share their cores take as long as they take.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def _own_ray():
    """Clusters that are begun here are found by nobody else: Ray joins the latest one of its folder."""
    if any(os.environ.get(name) for name in ("RAY_TMPDIR", "RAY_ADDRESS")):
        yield  # whoever says where to look is right
        return
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:  # sockets: short
        os.environ["RAY_TMPDIR"] = folder
        yield
        del os.environ["RAY_TMPDIR"]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A real S3 service, one for the session."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"no S3 service here: {', '.join(missing)} not installed (.ci/run says how)")
    server = ObjectServer(tmp_path_factory.mktemp("s3") / "ceph")
    yield server
    server.stop()


@dataclass(frozen=True)
class S3:
    """A fresh bucket, and the service that holds it."""

    server: ObjectServer
    url: str


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A fresh bucket at ``s3.url``; the environment of the test (and of what it starts) opens it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return S3(s3_server, f"s3://{s3_server.new_bucket()}")
