"""kill -9 at named steps, in processes of their own; then the same command again, and the same set as undisturbed."""

import hashlib
import io
import multiprocessing
import os
import random
import signal
import tarfile

import killed
import pytest
from noise import QUOTA, contents

from ffr_dist.shards.log import decided
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store

PROCESSES = multiprocessing.get_context("forkserver")
# torch is loaded once, not once a kill. Only what is installed can be named: the server has not pytest's path.
PROCESSES.set_forkserver_preload(["ffr_dist.generate.inline", "ffr_dist.shards.finish"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("undisturbed")))
    manifest = killed.finished(store)
    return manifest, contents(store, "shards", "plan", "selection", "manifests")


GENERATE = {
    "after the selection": (r"selection/", 1, False),
    "after the plan": (r"plan/round-000", 1, False),
    "before a tar": (r"shards/.*\.tar", 4, True),
    "after a tar": (r"shards/.*\.tar", 4, False),
    "after a sidecar": (r"shards/.*\.parquet", 4, False),
    "before a commit": (r"commits/", 4, True),
    "after a commit": (r"commits/", 4, False),
    "after a later round's plan": (r"plan/round-001", 1, False),
}
FINISH = {
    "after a trimmed shard": (r"shards/.*\.tar", 1, False),
    "after the index": (r"manifests/.*parquet", 1, False),
    "before the manifest": (r"manifests/0000\.json", 1, True),
    "after the manifest": (r"manifests/0000\.json", 1, False),
}


@pytest.mark.parametrize("step", GENERATE)
def test_killed_while_generating(tmp_path, undisturbed, step):
    pattern, most, before = GENERATE[step]
    nth = random.Random(step).randint(1, most)
    die(killed.killed_generate, tmp_path, pattern, nth, before)
    check_what_is_left(tmp_path, finished=False)
    check_the_next_run(tmp_path, undisturbed)


@pytest.mark.parametrize("step", FINISH)
def test_killed_while_finishing(tmp_path, undisturbed, step):
    pattern, most, before = FINISH[step]
    die(killed.killed_finish, tmp_path, pattern, most, before)
    check_what_is_left(tmp_path, finished=step == "after the manifest")
    check_the_next_run(tmp_path, undisturbed)


def test_killed_again_and_again(tmp_path, undisturbed):
    rng = random.Random(20)
    for _ in range(6):
        pattern = rng.choice([r"shards/.*\.tar", r"shards/.*\.parquet", "commits/"])
        die(killed.killed_generate, tmp_path, pattern, 1, rng.random() < 0.5)
    check_the_next_run(tmp_path, undisturbed)


def test_ctrl_c(tmp_path, undisturbed):
    started = PROCESSES.Event()
    process = PROCESSES.Process(target=killed.interrupted, args=(str(tmp_path), started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 3
    check_what_is_left(tmp_path, finished=False)
    check_the_next_run(tmp_path, undisturbed)


def die(target, folder, *args):
    process = PROCESSES.Process(target=target, args=(str(folder), *args))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def check_what_is_left(folder, *, finished):
    """Nothing half-visible: each commit's objects are whole, and there is a manifest only where all was done."""
    store = open_store(str(folder))
    for commit in decided(store):
        for ref in (commit.tar, commit.sidecar):
            if ref is not None:
                body = store.get(ref.key)
                assert (len(body), hashlib.sha256(body).hexdigest()) == (ref.bytes, ref.sha256)
    assert store.exists("manifests/0000.json") == finished


def check_the_next_run(folder, undisturbed):
    store = open_store(str(folder))
    before = {commit.interval for commit in decided(store)}
    made = []
    manifest = killed.finished(store, lambda receipt: made.append(receipt.commit.interval))
    assert manifest == undisturbed[0]
    assert contents(store, "shards", "plan", "selection", "manifests") == undisturbed[1]
    assert before.isdisjoint(made)
    assert verify(store).ok
    assert independent_digest(store, manifest) == manifest.manifest_sha256
    assert {g: n for g, n in manifest.groups.items() if n} == {g: n for g, n in QUOTA.counts.items() if n}


def independent_digest(store, manifest):
    lines = []
    for shard in manifest.shards:
        with tarfile.open(fileobj=io.BytesIO(store.get(shard.key))) as tar:
            for member in tar:
                key, kind = member.name.split(".")
                if kind == "jpg":
                    digest = hashlib.sha256(tar.extractfile(member).read()).hexdigest()
                    lines.append(f"{key} {key.rpartition('-')[0]} {digest}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
