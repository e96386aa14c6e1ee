"""kill -9 at a write of each verb that changes a finished set; then the same again, and all is as if undisturbed.

Every run of the tests kills each verb at one write, chosen by a seed; the slow ones kill it before and after every one.
"""

import hashlib
import multiprocessing
import shutil
import signal

import outputs
import pytest

from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["ffr_dist.launch.curate"])

STEPS = ("extend", "settle", "exclude", "finish --now", "gc --purge", "export")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An output for each verb to change: finished, half decided, or finished with something to purge."""
    folder = tmp_path_factory.mktemp("killed")
    outputs.write_recipes(folder)
    outputs.generate(folder / "small.yaml", folder / "out")
    half = shutil.copytree(folder / "out", folder / "half")
    for file in [*sorted((half / "commits").iterdir())[4:], *(half / "manifests").iterdir(), half / "manifest.json"]:
        file.unlink()
    outputs.verb("extend", folder, open_store(str(shutil.copytree(folder / "out", folder / "purged"))))
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    """What each verb leaves, and in how many writes."""
    found = {}
    for step in STEPS:
        out, to = places(folder, step, tmp_path_factory.mktemp("undisturbed"))
        stores = open_store(str(out)), open_store(str(to))
        counter = outputs.Counter(*stores)
        end(step, folder, *stores)
        found[step] = contents(out), contents(to), counter.count
    return found


def places(folder, step, where):
    origin = {"finish --now": "half", "gc --purge": "purged"}.get(step, "out")
    (where / "to").mkdir()
    return shutil.copytree(folder / origin, where / "out"), where / "to"


def end(step, folder, store, to):
    """The verb to its end; an exclusion's is that images lack."""
    from ffr_dist.errors import StoppedError

    try:
        outputs.verb(step, folder, store, to)
    except StoppedError as error:
        assert "lacks 1" in str(error)  # noqa: PT017 - only one verb ends so
        assert step == "exclude"


def contents(folder):
    """Every object but those that ask the store for its time. Half-written ones, which a thread had in hand, are none."""
    store = open_store(str(folder))
    keys = [info.key for info in store.list() if not info.key.startswith(".probe/")]
    return {key: hashlib.sha256(store.get(key)).hexdigest() for key in keys}


def kill_and_go_on(step, folder, where, undisturbed, due, before):
    out, to = places(folder, step, where)
    arguments = (step, folder, str(out), str(to), due, before)
    process = PROCESSES.Process(target=outputs.killed_verb, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    if (out / "manifest.json").exists():
        assert not [problem for problem in verify(open_store(str(out))).problems if "manifest.json" not in problem]
    end(step, folder, open_store(str(out)), open_store(str(to)))
    assert (contents(out), contents(to)) == undisturbed[step][:2]
    if step != "exclude":
        assert verify(open_store(str(out))).ok


@pytest.mark.parametrize("step", STEPS)
def test_killed_once(step, folder, undisturbed, tmp_path):
    kill_and_go_on(step, folder, tmp_path, undisturbed, *outputs.seeded(step, undisturbed[step][2]))


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_every_write(step, folder, undisturbed, tmp_path):
    for due in range(1, undisturbed[step][2] + 1):
        for before in (True, False):
            where = tmp_path / f"{due}-{before}"
            where.mkdir()
            kill_and_go_on(step, folder, where, undisturbed, due, before)


def test_every_verb_writes(undisturbed):
    """Or killing it at a write would test nothing."""
    assert all(count > 0 for _, _, count in undisturbed.values())
