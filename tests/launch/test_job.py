"""A generation as a submitted job, on a cluster that ``ray start`` made."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

import pytest
from independent import Folder, check
from small_run import make_run, recipe_text

from ffr_dist.launch.pool import make_pool

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(700)]

JOBS = Path(__file__).parents[2] / "jobs"
TOKEN = uuid.uuid4().hex
"""A cluster may ask for one, and newer ones do by default."""
SECRET = "hidden-in-the-environment-only"


def free_ports(count):
    """Ports that nobody listens on; asked for together, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


@pytest.fixture
def dashboard():
    """A cluster with a dashboard, on loopback; its address."""
    with tempfile.TemporaryDirectory(
        prefix="ffr-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:  # sockets want a short path
        port, web, client, agent, grpc, metrics = free_ports(6)
        command = [
            *(
                str(Path(sys.executable).parent / "ray"),
                "start",
                "--head",
                "--block",
                "--num-cpus",
                "2",
                "--temp-dir",
                folder,
            ),
            *("--node-ip-address", "127.0.0.1", "--port", str(port), "--ray-client-server-port", str(client)),
            *(
                "--dashboard-host",
                "127.0.0.1",
                "--dashboard-port",
                str(web),
                "--dashboard-agent-listen-port",
                str(agent),
            ),
            *("--dashboard-agent-grpc-port", str(grpc), "--metrics-export-port", str(metrics)),
        ]
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        # Nodes find credentials by themselves, and the programs of this environment on their PATH.
        env |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_AUTH_MODE": "token",
        }
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        with (Path(folder) / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{web}/api/version", process, Path(folder) / "log")
            yield f"http://127.0.0.1:{web}", env
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def ask(url):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    return urllib.request.urlopen(request, timeout=20).read().decode()


def wait_for(url, process, log):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            return ask(url)
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def run_job(address, env, *command):
    """What a submitted job printed; it must succeed.

    Asked for again and again: the connection over which ``ray job submit`` follows a job breaks now and then.
    """
    name = f"job-{uuid.uuid4().hex}"
    subprocess.run(
        [
            *(str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", address),
            *("--no-wait", "--submission-id", name, "--", *command),
        ],
        check=True,
        env=env,
        timeout=120,
    )
    deadline = time.monotonic() + 250
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            state = json.loads(ask(f"{address}/api/jobs/{name}"))
            if state["status"] in {"SUCCEEDED", "FAILED", "STOPPED"}:
                told = json.loads(ask(f"{address}/api/jobs/{name}/logs"))["logs"]
                assert state["status"] == "SUCCEEDED", f"{state['message']}\n{told}"
                return told
        time.sleep(0.5)
    raise AssertionError(f"{name} did not end")


def test_a_job_makes_the_same_set_and_a_second_one_finds_it(dashboard, data, tmp_path):
    address, env = dashboard
    recipe = tmp_path / "small.yaml"
    recipe.write_text(recipe_text(data))
    expected = make_pool(make_run(recipe.read_text(), str(tmp_path / "inline")), inline=True).manifest_sha256
    out = tmp_path / "out"
    for _ in range(2):
        told = run_job(address, env, sys.executable, str(JOBS / "generate.py"), str(recipe), "--out", str(out))
        assert expected in told
    assert "done before" in told
    found, _ = check(Folder(out))
    assert found == expected
    jobs = ask(f"{address}/api/jobs/")
    assert len([job for job in json.loads(jobs) if job["type"] == "SUBMISSION"]) == 2
    assert SECRET not in jobs
