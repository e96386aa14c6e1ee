"""Foreign, hostile and damaged things in an output: ignored or named, never run, and nothing outside is touched."""

import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from object_server.sigv4 import signed_request
from recorded import Noise

from ffr_dist.errors import BrokenError, ConflictError, FFRError, StoreError
from ffr_dist.launch.pool import make_pool
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.verify import verify

EACH = 24
CLIMBED = Path(tempfile.gettempdir()) / f"climbed-{os.getpid()}"
"""What comes to be where something hostile was run."""


class Trap:
    """A pickle that makes a folder where it is opened."""

    def __init__(self, where):
        self.where = str(where)

    def __reduce__(self):
        return os.mkdir, (self.where,)


@pytest.fixture
def sprung(tmp_path):
    return tmp_path / "sprung"


@pytest.fixture
def trap(sprung):
    return pickle.dumps(Trap(sprung))


def climbing_tar():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("../../climbed", "/climbed"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"out"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return out.getvalue()


def litter(trap):
    """Keys that are none of ours, or only cached or advisory, and bodies that do harm to whoever trusts them."""
    huge = b'{"protocol": 1, "interval": 1, "x": "' + b"y" * (8 << 20) + b'"}'
    deep = b"[" * (1 << 20)
    names = [
        "commits/00000001.json.bak",
        "commits/1.json",
        "commits/000000010.json",
        "commits/\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18.json",
    ]  # digits too
    found = dict.fromkeys(names, trap)
    found |= {
        f"{folder}/readme.txt": b"hello" for folder in ("commits", "shards", "log", "manifests", "plan", "selection")
    }
    found |= {"commits/huge.json": huge, "manifests/0000.json.tmp": huge, "selection/deep.json": deep}
    found |= {"log/00000000.parquet": trap, "log/00000007.parquet": deep, "log/x/00000001.parquet": huge}
    found |= {"shards/00000001-aaaaaaaaaaaa.tar": climbing_tar(), "shards/00000001-bbbbbbbbbbbb.parquet": trap}
    found |= {"plan/round-999.json": trap, "plan/round-0001.json": deep, "plan/latest": huge}
    found |= {"manifests/0000-cccccccccccc.index.parquet": trap, "selection/0000.pkl": trap}
    found |= {"drivers/evil.json": trap, "drivers/aaaaaaaaaaaa.json": deep, "drivers/bbbbbbbbbbbb.json": huge}
    found |= {"failures/00000001/x.json": trap, "failures/00000002/y.json": deep, "failures/zero/z.json": huge}
    found |= {"events/evil.jsonl": deep, "events/other.pkl": trap, "latest.ckpt": trap, "prepared/x/weights.pkl": trap}
    return found


def test_what_is_not_ours_is_passed_over(scenario, sprung, trap, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    out = tmp_path / "out"
    one = scenario(Noise(each=EACH), out=str(out))
    things = litter(trap)
    for key, body in things.items():
        (out / key).parent.mkdir(parents=True, exist_ok=True)
        (out / key).write_bytes(body)
    (out / "commits/link.json").symlink_to(outside / "secret")
    (out / "shards/way-out").symlink_to(outside)
    (out / "shards/circle").symlink_to(out)
    (out / "commits/nowhere.json").symlink_to(outside / "new")
    os.mkfifo(out / "commits/pipe.json")
    make_pool(one.inline(), inline=True)
    one.counts["foreign objects"] = len(things) + 5
    one.done(foreign=True)
    assert not sprung.exists()
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"secret": "secret"}
    kept = {key for key, body in things.items() if (out / key).read_bytes() == body}
    assert kept == set(things)


STRANGE = ("commits/", "commits//x.json", "commits/../x.json", "commits/./x.json", "log/..", "commits/ü .json")
STRANGE += ("shards//", "manifests/a%2fb", "plan/#1", "log/\\..\\x", "selection/x\ty", "commits/a/../../../b")


@pytest.mark.store
def test_foreign_names_in_a_bucket_are_passed_over_or_named(s3, scenario, sprung, trap):
    """A client may be unable to list what a name of another kind stands in; then that name is told, and what to do."""
    one = scenario(Noise(each=EACH), out=f"{s3.url}/pool")

    def ask(method, name, body=b""):
        path = f"/{s3.url.removeprefix('s3://')}/pool/{name}"
        status, said = signed_request(s3.server.endpoint, *s3.server.keys, method, path, "", body)
        assert status in {200, 204}, (name, said)

    things = litter(trap)
    for name, body in [*things.items(), *((name, trap) for name in STRANGE)]:
        ask("PUT", name, body)
    left, named = list(STRANGE), []
    while True:
        try:
            make_pool(one.inline(), inline=True)
            break
        except FFRError as error:
            (name,) = [name for name in left if f'pool/{name}"' in str(error)]
            assert "remove" in str(error)  # noqa: PT017 - until nothing is left to be named
            assert error.exit_code == 3  # noqa: PT017
            left.remove(name)
            named.append(name)
            ask("DELETE", name)
    one.counts.update({"foreign objects": len(things) + len(left), "named": len(named)})
    for name in left:
        ask("DELETE", name)
    one.done(foreign=True)
    assert not sprung.exists()


@pytest.fixture(scope="module")
def half(lab, tmp_path_factory):
    """An output of which some intervals are decided."""
    out = tmp_path_factory.mktemp("half") / "out"
    make_pool(lab.run(str(out), Noise(each=EACH)), inline=True)
    for file in [*sorted((out / "commits").iterdir())[8:], *(out / "manifests").iterdir(), out / "manifest.json"]:
        file.unlink()
    return out


def changed(key, **values):
    """A document of the output with other values."""

    def change(out):
        path = out / key
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return key, change


def written(key, body):
    def write(out):
        (out / key).parent.mkdir(exist_ok=True)
        (out / key).write_bytes(body)

    return key, write


def linked(key, target):
    def link(out):
        (out / key).unlink(missing_ok=True)
        (out / key).symlink_to(target)

    return key, link


def climbing_commit(out):
    path = out / "commits/00000003.json"
    path.write_text(path.read_text().replace('"shards/', '"../shards/'))


def longer_plan(out):
    path = out / "plan/round-000.json"
    document = json.loads(path.read_text())
    document["round"]["intervals"] += 5
    path.write_text(json.dumps(document))
    for later in (out / "plan").glob("round-00[1-9].json"):
        later.unlink()


def folder_in_the_way(out):
    (out / "commits/00000009.json").mkdir()


HOSTILE = {
    "a pickle for a commit": (written("commits/00000003.json", pickle.dumps(Trap(CLIMBED))), BrokenError),
    "a bottomless commit": (written("commits/00000003.json", b"[" * (4 << 20)), BrokenError),
    "a huge commit": (written("commits/00000003.json", b'"' + b"x" * (32 << 20) + b'"'), BrokenError),
    "a commit that climbs": (("commits/00000003.json", climbing_commit), BrokenError),
    "a commit of another": (changed("commits/00000003.json", interval=4), BrokenError),
    "a commit far away": (written("commits/99999999.json", b"{}"), BrokenError),
    "a link to a secret": (linked("commits/00000009.json", "/etc/passwd"), BrokenError),
    "a link to nothing": (linked("commits/00000009.json", "/nowhere/at/all"), StoreError),
    "a folder in the way": (("commits/00000009.json", folder_in_the_way), StoreError),
    "a commit of protocol 2": (changed("commits/00000003.json", protocol=2), ConflictError),
    "a plan of protocol 2": (changed("plan/round-000.json", protocol=2), ConflictError),
    "a selection of protocol 2": (changed("selection/0000.json", protocol=2), ConflictError),
    "a manifest of protocol 2": (written("manifests/0000.json", b'{"protocol": 2}'), ConflictError),
    "a plan that does not add up": (("plan/round-000.json", longer_plan), BrokenError),
    "a later selection of nobody": (written("selection/9999.json", b"{}"), BrokenError),
    "a manifest that is none": (written("manifests/0000.json", b"{}"), BrokenError),
    "another's recipe": (
        written("recipe.yaml", f"!!python/object/apply:os.mkdir [{CLIMBED}]\n".encode()),
        ConflictError,
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_stands_in_for_ours_is_named(what, half, lab, tmp_path):
    (key, change), error = HOSTILE[what]
    out = shutil.copytree(half, tmp_path / "out")
    change(out)
    with pytest.raises(FFRError, match=key) as raised:
        make_pool(lab.run(str(out), Noise(each=EACH), "storage: {retry_s: 0.5}\n"), inline=True)
    expected = 2 if error is ConflictError else 4 if error is BrokenError else 3
    assert raised.value.exit_code == expected, raised.value
    assert len(str(raised.value)) < 1000
    assert "root:" not in str(raised.value)
    assert not CLIMBED.exists()
    assert what == "a manifest that is none" or not (out / "manifests/0000.json").exists() or "protocol" in what


def test_another_protocol_ends_the_command_with_2(scenario, half, tmp_path):
    shutil.copytree(half, tmp_path / "out")
    one = scenario(Noise(each=EACH))
    changed("plan/round-000.json", protocol=2)[1](tmp_path / "out")
    start = one.start("--inline")
    assert one.end(start, expect=(2,)) == 2
    (last,) = [line for line in start.told.splitlines() if line.startswith("ffr:")]
    assert "plan/round-000.json was written by protocol 2, this version reads 1" in last


# Damage.


def flip(store, rng, shard):
    body = bytearray(store.get(shard.key))
    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    store.put(shard.key, bytes(body))
    return [shard.key]


def members_of(body):
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]


def swap(store, rng, shard):
    """Two images of different groups change places, in a tar that is otherwise sound."""
    members = members_of(store.get(shard.key))
    images = [n for n, (member, _) in enumerate(members) if not member.name.endswith(".json")]
    groups = {n: members[n][0].name.rpartition("-")[0] for n in images}
    one = rng.choice(images)
    two = rng.choice([n for n in images if groups[n] != groups[one]])
    bodies = {one: members[two][1], two: members[one][1]}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (member, body) in enumerate(members):
            member.size = len(bodies.get(number, body))
            tar.addfile(member, io.BytesIO(bodies.get(number, body)))
    store.put(shard.key, out.getvalue())
    return [f"{shard.key}: {members[n][0].name.partition('.')[0]}" for n in (one, two)]


def replace(store, rng, shard):
    other = rng.choice([one for one in read_manifest(store).shards if one.key != shard.key])
    store.put(shard.key, store.get(other.key))
    return [shard.key]


@pytest.mark.chaos
@pytest.mark.store
@pytest.mark.parametrize(("harm", "times"), [(flip, 40), (swap, 10), (replace, 10)])
def test_damage_is_named(s3, scenario, harm, times):
    one = scenario(Noise(each=48), out=f"{s3.url}/pool")
    make_pool(one.inline(), inline=True)
    rng = random.Random(one.seed)
    for _ in range(times):
        shard = rng.choice([one for one in read_manifest(one.store).shards if one.images > 4])
        sound = one.store.get(shard.key)
        names = harm(one.store, rng, shard)
        found = verify(one.store)
        assert not found.ok
        assert all(any(name in problem for problem in found.problems) for name in names), (names, found.problems)
        assert all(shard.key in p or "manifest" in p or "more than once" in p for p in found.problems), found.problems
        one.store.put(shard.key, sound)
        one.counts["damaged and named"] += 1
    command = [sys.executable, "-m", "ffr_dist.cli", "verify", one.out]
    names = harm(one.store, rng, shard)
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 4
    assert all(name in told.stdout for name in names)
    one.store.put(shard.key, sound)
    one.done()
