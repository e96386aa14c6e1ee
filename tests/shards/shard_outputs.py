"""A small worker and an independent reader, for tests of the shards."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest

from ffr_dist.groups import Group, Groups
from ffr_dist.records import sample_json, synthetic_key
from ffr_dist.seeds import draw_seed
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig, blake2b16, decode, encode
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef, publish
from ffr_dist.shards.pack import Member, pack
from ffr_dist.shards.sidecar import Decision, write_sidecar
from ffr_dist.store import Store, open_store

GROUPS = Groups.of([Group("land_bird", 0, 0), Group("water_bird", 1, 1), Group("water_on_land", 1, 0)])
CODEC = CodecConfig(format="png")


class Candidate(NamedTuple):
    group: str
    k: int
    reason: str | None = None
    twin: tuple[str, int] | None = None
    """The candidate whose pixels it repeats."""
    std: float = 1.0
    look: bytes | None = None


def pixels_of(group: str, k: int) -> np.ndarray:
    return np.random.default_rng(draw_seed(0, group, k, "latents")).integers(0, 256, (8, 8, 3), np.uint8)


def write_interval(
    store: Store,
    interval: int,
    candidates: Sequence[Candidate],
    attempt: str = "a",
    codec: CodecConfig = CODEC,
    environment: str = "test",
) -> Commit:
    """What a worker does with an interval, from made pixels on."""
    members: list[Member] = []
    made = []
    for candidate in candidates:
        key, group = synthetic_key(candidate.group, candidate.k), GROUPS.by_name(candidate.group)
        seed = draw_seed(0, candidate.group, candidate.k, "latents")
        body = encode(pixels_of(*(candidate.twin or (candidate.group, candidate.k))), codec)
        made.append((candidate, seed, body, len(members)))
        if candidate.reason is None:
            note = sample_json(key, group, "synthetic", seed=seed, prompt=f"a photo of {group.name}")
            members += [Member(f"{key}.{codec.format}", body), Member(f"{key}.json", note)]
    packed = pack(members)
    rows = [
        Decision(
            slot=slot,
            group=candidate.group,
            k=candidate.k,
            seed=seed,
            prompt=f"a photo of {candidate.group}",
            accepted=candidate.reason is None,
            reason=candidate.reason,
            scores={"std": candidate.std, "fate": 0.5},
            pixels_blake2b=blake2b16(decode(body)) if candidate.reason is None else None,
            look=candidate.look if candidate.reason is None else None,
            sha256=hashlib.sha256(body).digest() if candidate.reason is None else None,
            offset=packed.offsets[place] if candidate.reason is None else None,
            size=len(body) if candidate.reason is None else None,
        )
        for slot, (candidate, seed, body, place) in enumerate(made)
    ]
    tallies = {}
    for name in {candidate.group for candidate in candidates}:
        mine = [candidate for candidate in candidates if candidate.group == name]
        reasons = [candidate.reason for candidate in mine if candidate.reason]
        tallies[name] = GroupTally(
            len(mine), len(mine) - len(reasons), {reason: reasons.count(reason) for reason in sorted(set(reasons))}
        )
    tar = None
    if members:
        sha256 = hashlib.sha256(packed.tar).hexdigest()
        tar = ObjectRef(layout.tar_key(interval, sha256), sha256, len(packed.tar))
        store.put(tar.key, packed.tar)
    body = write_sidecar(rows)
    sha256 = hashlib.sha256(body).hexdigest()
    sidecar = ObjectRef(layout.sidecar_key(interval, sha256), sha256, len(body))
    store.put(sidecar.key, body)
    commit = Commit(
        interval=interval,
        attempt=attempt,
        tar=tar,
        sidecar=sidecar,
        groups=tallies,
        environment={"gpu": environment},
        seconds=0.5,
    )
    return publish(store, commit)


class Found(NamedTuple):
    images: int
    groups: dict[str, int]
    manifest_sha256: str
    keys: list[str]


def independent(read: Callable[[str], bytes]) -> Found:
    """A finished set as anyone can read it: json, tarfile and hashlib, none of our code."""
    manifest = json.loads(read("manifest.json"))
    lines, groups = [], {}
    keys = []
    for shard in manifest["shards"]:
        body = read(shard["key"])
        assert hashlib.sha256(body).hexdigest() == shard["sha256"]
        with tarfile.open(fileobj=io.BytesIO(body)) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar.getmembers()]
        notes = {name.removesuffix(".json"): json.loads(body) for name, body in members if name.endswith(".json")}
        for name, body in members:
            key, _, kind = name.partition(".")
            if kind != "json":
                group = notes[key]["group"]
                groups[group] = groups.get(group, 0) + 1
                keys.append(key)
                lines.append((key, f"{key} {group} {hashlib.sha256(body).hexdigest()}\n"))
    digest = hashlib.sha256("".join(line for _, line in sorted(lines)).encode()).hexdigest()
    assert digest == manifest["manifest_sha256"]
    return Found(len(lines), groups, digest, keys)


class Killed(BaseException):
    """The process ends here."""


WRITES = ("put", "put_file", "put_if_absent", "copy", "delete")


@contextmanager
def dying(*stores: Store, writes: int) -> Iterator[None]:
    """The process ends before the write to any of these stores that comes after so many."""
    left = [writes]

    def guarded(write):
        def call(*arguments):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return write(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for store in stores:
            for name in WRITES:
                patch.setattr(store, name, guarded(getattr(store, name)))
        yield


def fresh_store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")
