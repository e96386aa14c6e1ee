"""Images that look nearly alike, from a sampler that keeps making the same one to the finished set."""

import itertools
import json
import tarfile

import numpy as np
import torch
from noise import CODEC, GROUPS, SIZE, NoiseSampler, pinned

from ffr_dist.generate.driver import Driver, Finished
from ffr_dist.generate.inline import run_inline
from ffr_dist.generate.keep import KeepConfig
from ffr_dist.plan.document import read_rounds
from ffr_dist.quota import Exact
from ffr_dist.seeds import draw_seed
from ffr_dist.shards.codec import decode
from ffr_dist.shards.finish import finish
from ffr_dist.shards.look import distance, look
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store

NEAR = 24
QUOTA = Exact({"red_cat": 40, "red_dog": 12, "blue_cat": 0, "blue_dog": 25})
COPYING = ("red_cat", "blue_dog")
SHARE = 0.4


class CopyingSampler(NoiseSampler):
    """In two groups, nearly the same image again and again: no two are equal, and the eye sees no difference."""

    def _outcomes(self, requests, fetched):
        found = super()._outcomes(requests, fetched)
        for slot, request in enumerate(requests):
            if copied(request.group, request.k):
                base = np.random.default_rng(5).integers(0, 240, (3, SIZE, SIZE))
                grain = np.random.default_rng([COPYING.index(request.group), request.k]).integers(0, 6, base.shape)
                found.images[slot] = torch.tensor((base + grain).astype(np.uint8))
        return found


def copied(group, k):
    """As the sampler draws it: from what the candidate is."""
    return group in COPYING and np.random.default_rng(draw_seed(0, group, k, "latents")).random() < SHARE


def make(store, make_worker, near):
    pins = pinned(keep=KeepConfig(near_duplicates=near))
    driver = Driver(store, GROUPS, QUOTA, pins, near=near)
    end = run_inline(driver, make_worker(store, CopyingSampler(), pins=pins))
    assert isinstance(end, Finished)
    return end, finish(store, GROUPS, CODEC, SIZE, planned=end.intervals)


def images(folder):
    """Group, number and pixels of each image of a finished set, with tarfile alone."""
    found = {name: {} for name in GROUPS.names}
    for shard in json.loads((folder / "manifest.json").read_text())["shards"]:
        with tarfile.open(folder / shard["key"]) as tar:
            for member in tar:
                key, kind = member.name.split(".")
                if kind != "json":
                    group, _, k = key.rpartition("-")
                    found[group][int(k)] = decode(tar.extractfile(member).read())
    return found


def test_near_duplicates_are_dropped_and_made_up(tmp_path, make_worker):
    store = open_store(str(tmp_path))
    end, manifest = make(store, make_worker, NEAR)

    wanted = {name: count for name, count in QUOTA.counts.items() if count}
    assert {name: count for name, count in manifest.groups.items() if count} == wanted
    assert len(read_rounds(store)) > 1  # the copies were asked for again
    checked = verify(store)
    assert checked.ok, checked.problems

    there = images(tmp_path)
    for name, found in there.items():
        assert len(found) == QUOTA.counts[name]
        # The first of the copies stays, in each group that has them: groups are not compared with each other.
        assert sum(copied(name, k) for k in found) == (name in COPYING)
        looks = [look(pixels) for pixels in found.values()]
        assert all(distance(one, other) > NEAR for one, other in itertools.combinations(looks, 2))
        # Those that went are just the later copies below the last image that is in.
        missing = set(range(max(found, default=-1) + 1)) - set(found)
        assert all(copied(name, k) for k in missing)
        dropped = end.settled.rejected[name].get("near_duplicate", 0)
        assert dropped >= len(missing)
        assert (dropped > 5) == (name in COPYING)


def test_without_the_rule_the_copies_are_in(tmp_path, make_worker):
    _, manifest = make(open_store(str(tmp_path)), make_worker, None)
    assert sum(manifest.groups.values()) == sum(QUOTA.counts.values())
    for name in COPYING:
        found = images(tmp_path)[name]
        assert sum(copied(name, k) for k in found) > SHARE / 2 * len(found)


def test_a_copy_that_was_left_in_is_named(tmp_path, make_worker):
    """verify makes the selection anew: a set that was finished without the rule does not pass for one with it."""
    store = open_store(str(tmp_path))
    make(store, make_worker, NEAR)
    assert read_manifest(store).revision == 0
    first = tmp_path / "selection" / "0000.json"
    loose = json.loads(first.read_text())
    assert loose["near"] == NEAR
    loose["near"] = 200  # every image of a group is nearly like any other
    first.write_text(json.dumps(loose))
    problems = verify(store).problems
    assert any("near_duplicate" in problem for problem in problems), problems
