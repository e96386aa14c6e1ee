"""A simulated output of many intervals, and the peak memory of a process that finishes it. Runs in processes of the tests."""

import hashlib
import io
import resource
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ffr_dist.groups import Group, Groups
from ffr_dist.quota import Exact
from ffr_dist.records import SIDECAR
from ffr_dist.seeds import draw_seed
from ffr_dist.shards import documents, layout
from ffr_dist.shards.codec import CodecConfig
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef
from ffr_dist.shards.finish import finish
from ffr_dist.shards.selection import write_first_revision
from ffr_dist.store import open_store

GROUPS = Groups.of([Group("land_bird", 0, 0), Group("water_bird", 1, 1), Group("water_on_land", 1, 0)])
SHARES = (128, 96, 32)
PER_INTERVAL = sum(SHARES)


def write_output(folder, intervals, near):
    """As many intervals as a worker would have left, whose images all count; of tars the first byte only."""
    for name in ("shards", "commits"):
        (folder / name).mkdir(parents=True)
    quota = {name: share * intervals for name, share in zip(GROUPS.names, SHARES, strict=True)}
    write_first_revision(open_store(str(folder)), Exact(quota), near)
    for interval in range(intervals):
        (folder / layout.commit_key(interval)).write_bytes(documents.to_bytes(_interval(folder, interval)))


def _interval(folder, interval):
    random = np.random.default_rng(draw_seed(0, "x", interval, "latents"))
    columns = {
        "slot": range(PER_INTERVAL),
        "group": [name for name, share in zip(GROUPS.names, SHARES, strict=True) for _ in range(share)],
        "k": np.concatenate([np.arange(share) + interval * share for share in SHARES]),
        "seed": random.integers(0, 2**62, PER_INTERVAL),
        "prompt": ["a photo of a bird over something"] * PER_INTERVAL,
        "source_key": [None] * PER_INTERVAL,
        "accepted": [True] * PER_INTERVAL,
        "reason": [None] * PER_INTERVAL,
        "scores": [[("grey", 9.0), ("std", 60.0)]] * PER_INTERVAL,
        "pixels_blake2b": [random.bytes(16) for _ in range(PER_INTERVAL)],
        "look": [random.bytes(32) for _ in range(PER_INTERVAL)],
        "sha256": [random.bytes(32) for _ in range(PER_INTERVAL)],
        "offset": np.arange(PER_INTERVAL) * 4096 + 512,
        "size": [3000] * PER_INTERVAL,
        "thumbnail": [None] * PER_INTERVAL,
    }
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pydict(columns, schema=SIDECAR), out, compression="zstd")
    refs = []
    for body, key in ((b"t", layout.tar_key), (out.getvalue(), layout.sidecar_key)):
        sha256 = hashlib.sha256(body + str(interval).encode()).hexdigest() if body == b"t" else None
        sha256 = sha256 or hashlib.sha256(body).hexdigest()
        refs.append(ObjectRef(key(interval, sha256), sha256, len(body)))
        (folder / refs[-1].key).write_bytes(body)
    return Commit(
        interval=interval,
        attempt="a",
        tar=refs[0],
        sidecar=refs[1],
        groups={name: GroupTally(share, share, {}) for name, share in zip(GROUPS.names, SHARES, strict=True)},
        environment={"gpu": "none", "torch": "2"},
        seconds=1.0,
    )


if __name__ == "__main__":
    where, planned = Path(sys.argv[1]), int(sys.argv[2])
    manifest = finish(open_store(str(where)), GROUPS, CodecConfig(), 32, planned=planned)
    sys.stdout.write(f"{manifest.images} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}\n")
