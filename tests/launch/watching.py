"""Looking at runs from outside: waiting, finding workers, judging what came out."""

import contextlib
import os
import signal
import time
from pathlib import Path

from independent import Folder, check

from ffr_dist.launch.fleet.heartbeat import process_started
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store


def wait_for(what, process=None, within_s=240):
    """Until ``what()`` holds, and what it says. Fails where ``process`` ends before: on a busy machine all takes long."""
    deadline = time.monotonic() + within_s
    while not (found := what()):
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


def commits(out):
    return sorted((Path(out) / "commits").glob("*.json"))


def same_set(out, sha256):
    """An outsider finds the set that nothing disturbed, and so does ``verify``."""
    found, counts = check(Folder(Path(out)))
    assert found == sha256
    assert verify(open_store(str(out))).ok
    return counts


def living(belongs):
    """Processes that ``belongs(pid)`` picks, each with its title."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                if belongs(int(entry.name)) and process_started(int(entry.name)):
                    found.append((int(entry.name), (entry / "cmdline").read_bytes()))
    return found


def workers(belongs):
    return [pid for pid, title in living(belongs) if title.startswith(b"ray::WorkerActor")]


def workers_of_session(session):
    """Of the Ray that a process started for itself: they are in its session."""
    return workers(lambda pid: os.getsid(pid) == session)


def workers_of_cluster(cluster):
    """Of a cluster of this process: they are children of its raylets."""
    raylets = {info.process.pid for node in cluster.list_all_nodes() for info in node.all_processes["raylet"]}
    return workers(lambda pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) in raylets)


def kill_session(session):
    """A driver, its Ray and all workers at once: the machine is gone."""
    while there := living(lambda pid: os.getsid(pid) == session):
        for pid, _ in there:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
