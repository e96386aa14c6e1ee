"""Hosts with addresses of their own, in network namespaces of this machine, and a Ray cluster on them.

A link that is cut is what no kill can show: the far side is alive, works on, and says nothing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest
from noisy import started

_SCRIPT = str(Path(__file__).with_name("hosts.sh"))
_PORT = 6379
_RAY = str(Path(sys.executable).parent / "ray")


class Hosts:
    """``count`` linked hosts, numbered from 1."""

    def __init__(self, count):
        self.count = count
        self._name = f"ffr{os.getpid()}x{uuid.uuid4().hex[:4]}"
        try:
            self._script("up", count)
        except subprocess.CalledProcessError:
            self.close()  # what there is of them
            raise

    def start(self, host, argv, **rest):
        """A process there."""
        return started(["ip", "netns", "exec", f"{self._name}-{host}", *argv], **rest)

    def run(self, host, argv, **rest):
        """The same, waited for."""
        process = self.start(host, argv, **rest)
        told, _ = process.communicate(timeout=240)
        assert process.returncode == 0, told

    def of(self, pid):
        """Where a process is."""
        return next(host for host in range(1, self.count + 1) if str(pid) in self._pids(host))

    def cut(self, host):
        """No packet reaches it any more, and none comes from there."""
        self._script("cut", host)

    def workers(self, host):
        """Processes of actors there."""
        return [pid for pid in self._pids(host) if _title(pid).startswith(b"ray::WorkerActor")]

    def close(self):
        self._script("down", self.count)

    def _pids(self, host):
        told = subprocess.run(
            ["ip", "netns", "pids", f"{self._name}-{host}"], capture_output=True, text=True, check=True
        )
        return told.stdout.split()

    def _script(self, what, number):
        subprocess.run([_SCRIPT, what, self._name, str(number)], check=True, capture_output=True)


def _title(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def hosts():
    """A Ray cluster that asks for a token, on three hosts: a head without slots, and two of one slot each.

    ``environment`` is that of its nodes, and joins it.
    """
    if shutil.which("ip") is None:
        pytest.skip("no 'ip' here to make hosts with (Debian: iproute2)")
    try:
        made = Hosts(3)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not permitted here: {error.stderr.decode().strip()}")
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets want a short path
    head = f"10.77.0.1:{_PORT}"
    made.environment = {
        "RAY_ADDRESS": head,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": uuid.uuid4().hex,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    first = ("--head", "--port", str(_PORT), "--num-cpus", "0", "--temp-dir", folder, "--include-dashboard", "false")
    other = ("--address", head, "--num-cpus", "1")
    try:
        for host, rest in ((1, first), (2, other), (3, other)):
            argv = [_RAY, "start", *rest, "--node-ip-address", f"10.77.0.{host}"]
            made.run(host, argv, environment=made.environment | {"RAY_ADDRESS": ""})
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)
