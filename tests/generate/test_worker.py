import dataclasses
import hashlib
import io
import itertools
import json
import pickle
import subprocess
import sys
import tarfile
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from noise import CODEC, GROUPS, SIZE, NoiseSampler, contents, pinned, requests
from PIL import Image
from tiny_judges import write_stage

from ffr_dist.errors import ConfigError, ConflictError, InputError, StoppedError
from ffr_dist.generate.driver import Driver
from ffr_dist.generate.keep import AgreementConfig, KeepConfig, pinned_keep
from ffr_dist.generate.shard import image_file
from ffr_dist.generate.work import Work
from ffr_dist.generate.worker import STAGES, Worker, WorkSpec
from ffr_dist.models.features import load_judge
from ffr_dist.quota import Exact, Request
from ffr_dist.seeds import draw_seed
from ffr_dist.shards.codec import CodecConfig, blake2b16, decode
from ffr_dist.shards.look import look
from ffr_dist.shards.sidecar import read_sidecar

QUOTA = Exact({"red_cat": 20, "red_dog": 7, "blue_cat": 0, "blue_dog": 10})
BAD = {"red_cat": {"blank": 0.3, "nan": 0.1}, "red_dog": {"refused": 0.5}}


@pytest.fixture
def planned(fresh_store):
    """A store with a plan, and all the work of round 0: 37 candidates, the last interval and its last batch short."""

    def plan(pins=None, quota=QUOTA):
        store = fresh_store()
        driver = Driver(store, GROUPS, quota, pins or pinned())
        work = []
        while isinstance(step := driver.next(), Work):
            work.append(step)
        return store, work

    return plan


def samples(tar):
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        names = file.getnames()
        bodies = [file.extractfile(name).read() for name in names]
        offsets = [file.getmember(name).offset_data for name in names]
    return [(names[n], bodies[n], offsets[n], json.loads(bodies[n + 1])) for n in range(0, len(names), 2)]


def test_a_shard_holds_what_was_accepted_and_the_sidecar_everything(planned, make_worker):
    store, work = planned()
    assert [len(w.candidates) for w in work] == [16, 16, 5]
    sampler = NoiseSampler(seed=3, bad=BAD)
    worker = make_worker(store, sampler)
    for step in work:
        receipt = worker.make(step)
        commit = receipt.commit
        assert receipt.mine
        assert set(receipt.seconds) == set(STAGES)
        rows = read_sidecar(store.get(commit.sidecar.key)).to_pylist()
        tar = store.get(commit.tar.key)
        assert hashlib.sha256(tar).hexdigest() == commit.tar.sha256
        assert commit.tar.key == f"shards/{step.interval:08d}-{commit.tar.sha256[:12]}.tar"
        assert [(row["group"], row["k"]) for row in rows] == step.candidates
        accepted = [row for row in rows if row["accepted"]]
        found = samples(tar)
        assert len(found) == len(accepted)
        for (name, body, offset, note), row in zip(found, accepted, strict=True):
            assert name == f"{row['group']}-{row['k']:08d}.jpg"
            assert (offset, len(body)) == (row["offset"], row["size"])
            assert hashlib.sha256(body).digest() == row["sha256"]
            assert blake2b16(decode(body)) == row["pixels_blake2b"]
            group = GROUPS.by_name(row["group"])
            assert note == {
                "key": name[:-4],
                "group": group.name,
                "label": group.label,
                "bias": group.bias,
                "source": "synthetic",
                "seed": draw_seed(3, group.name, row["k"], "latents"),
                "prompt": f"a photo of a {group.name.replace('_', ' ')}",
            }
            assert row["seed"] == note["seed"]
        for row in rows:
            assert dict(row["scores"])["fate"] == pytest.approx(np.random.default_rng(row["seed"]).random(), abs=1e-6)
        for group, tally in commit.groups.items():
            of_group = [row for row in rows if row["group"] == group]
            assert tally.tried == len(of_group)
            assert tally.accepted == sum(row["accepted"] for row in of_group)
            reasons = [row["reason"] for row in of_group if row["reason"]]
            assert dict(tally.rejected) == {reason: reasons.count(reason) for reason in set(reasons)}
        shown = [row for row in rows if row["thumbnail"]]
        for reason in {row["reason"] for row in rows if row["reason"]}:
            first_two = [row["slot"] for row in rows if row["reason"] == reason][:2]
            assert [row["slot"] for row in shown if row["reason"] == reason] == first_two
        assert all(Image.open(io.BytesIO(row["thumbnail"])).format == "JPEG" for row in shown)
    assert {"blank", "nan", "no_mask"} <= {
        reason
        for info in store.list("shards")
        if info.key.endswith("parquet")
        for reason in read_sidecar(store.get(info.key))["reason"].to_pylist()
        if reason
    }


def test_every_batch_is_whole(planned, make_worker):
    store, work = planned()
    sampler = NoiseSampler()
    worker = make_worker(store, sampler)
    receipts = [worker.make(step) for step in work]
    assert {len(batch) for batch in sampler.batches} == {8}
    assert sampler.batches[-1] == work[-1].candidates + [work[-1].candidates[-1]] * 3
    assert sum(tally.tried for receipt in receipts for tally in receipt.commit.groups.values()) == 37
    assert len(sampler.threads) == 1


def test_bytes_do_not_depend_on_threads_or_order(planned, make_worker):
    found = []
    for encoders, at_once, turned in ((1, 1, False), (7, 2, False), (3, 2, True)):
        store, work = planned()
        worker = make_worker(store, NoiseSampler(bad=BAD), encoders=encoders)
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(worker.make, work[::-1] if turned else work))
        found.append(contents(store))
    assert found[0] == found[1] == found[2]


def test_the_device_thread_has_the_pinned_number_of_threads(planned, make_worker):
    """Also where the rest of the process has another: sums of floats follow it."""
    store, work = planned(pinned(threads=3))
    seen = []

    class Counting(NoiseSampler):
        def sample(self, requests, fetched):
            seen.append(torch.get_num_threads())
            return super().sample(requests, fetched)

    before = torch.get_num_threads()
    make_worker(store, Counting(), pins=pinned(threads=3)).make(work[0])
    assert set(seen) == {3}
    assert torch.get_num_threads() == before


def test_a_batch_of_another_shape_makes_other_bytes(planned, make_worker):
    """Why the batch stands in the plan."""
    found = []
    for batch in (8, 16):
        store, work = planned(pinned(batch=batch))
        make_worker(store, pins=pinned(batch=batch)).make(work[0])
        found.append(contents(store, "shards"))
    assert found[0] != found[1]


def test_an_interval_without_any_accepted_image_has_no_tar(planned, make_worker):
    store, work = planned()
    nothing = {group: {"nan": 1.0} for group in GROUPS.names}
    commit = make_worker(store, NoiseSampler(bad=nothing)).make(work[0]).commit
    assert commit.tar is None
    rows = read_sidecar(store.get(commit.sidecar.key)).to_pylist()
    assert {row["reason"] for row in rows} == {"nan"}
    assert [info.key for info in store.list("shards")] == [commit.sidecar.key]


def test_the_second_attempt_learns_that_it_lost(planned, make_worker):
    store, work = planned()
    first = make_worker(store).make(work[0])
    before = contents(store, "shards", "commits")
    second = make_worker(store).make(work[0])
    assert first.mine
    assert not second.mine
    assert second.commit == first.commit
    assert contents(store, "shards", "commits") == before


def test_one_interval_is_stored_while_the_next_is_sampled(planned, make_worker, monkeypatch):
    store, work = planned()
    sampler = NoiseSampler(delay_s=0.05)
    worker = make_worker(store, sampler)
    reached, go_on = threading.Event(), threading.Event()
    put = store.put

    def slow_put(key, body):
        if key.startswith("shards/00000000"):
            reached.set()
            assert go_on.wait(10)
        put(key, body)

    monkeypatch.setattr(store, "put", slow_put)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(worker.make, work[0])
        second = pool.submit(worker.make, work[1])
        assert reached.wait(10)
        assert second.result(10).commit.interval == 1  # sampled, stored and committed meanwhile
        assert not first.done()
        go_on.set()
        first.result(10)


def test_the_device_makes_one_interval_after_the_other(planned, make_worker):
    """So that the first is on its way while the second is made, and not both late."""
    pins = pinned(batch=4)  # four batches an interval
    store, work = planned(pins)
    sampler = NoiseSampler(delay_s=0.02)
    worker = make_worker(store, sampler, pins=pins)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(worker.make, work))
    made_by = [next(w.interval for w in work if batch[0] in w.candidates) for batch in sampler.batches]
    assert len({interval for interval, _ in itertools.groupby(made_by)}) == len(list(itertools.groupby(made_by)))


def test_a_failing_sampler_fails_its_interval_only(planned, make_worker):
    store, work = planned()
    broken = work[1].candidates[9]
    worker = make_worker(store, NoiseSampler(fail_at=broken))
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(worker.make, step) for step in work]
    assert done[0].result().mine
    with pytest.raises(RuntimeError, match="on fire"):
        done[1].result()
    assert done[2].result().mine
    assert [info.key for info in store.list("commits")] == ["commits/00000000.json", "commits/00000002.json"]


def test_a_stopped_worker_leaves_no_commit(planned, make_worker):
    store, work = planned()
    worker = make_worker(store, NoiseSampler(delay_s=0.1))
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(worker.make, step) for step in work[:2]]
        time.sleep(0.05)
        worker.stop()
    for future in running:
        with pytest.raises(StoppedError):
            future.result()
    assert list(store.list("commits")) == []


def test_progress_is_told_by_batch(planned, make_worker):
    store, work = planned()
    told = []
    commit = make_worker(store, NoiseSampler(bad=BAD), on_batch=told.append).make(work[0]).commit
    assert [batch.candidates for batch in told] == [8, 8]
    assert sum(batch.accepted for batch in told) == sum(tally.accepted for tally in commit.groups.values())
    assert sum(sum(batch.rejected.values()) for batch in told) == sum(
        sum(tally.rejected.values()) for tally in commit.groups.values()
    )


def test_the_environment_is_recorded_in_the_commit_alone(planned, make_worker):
    store, work = planned()
    commit = make_worker(store).make(work[0]).commit
    assert set(commit.environment) == {"python", "torch", "diffusers", "codec", "device"}
    assert commit.environment["device"].startswith("cpu ")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (pinned(batch=4), "batch"),
        (pinned(images_per_shard=64), "images_per_shard"),
        (pinned(threads=2), "threads"),
        (pinned(keep=KeepConfig(blank_std=9.0)), r"keep\.blank_std"),
    ],
)
def test_a_worker_with_other_values_refuses_to_start(planned, make_worker, other, named):
    store, _ = planned()
    with pytest.raises(ConflictError, match=named):
        make_worker(store, pins=other)


def test_a_worker_without_a_plan_refuses_to_start(fresh_store, make_worker):
    with pytest.raises(InputError, match="round-000"):
        make_worker(fresh_store())


def test_a_sampler_of_another_size_is_told(planned, make_worker):
    store, work = planned()
    with pytest.raises(ConfigError, match="32, 32"):
        make_worker(store, NoiseSampler(size=32)).make(work[0])


def test_a_method_that_skips_a_request_is_told(planned):
    store, work = planned()
    spec = WorkSpec(groups=GROUPS, codec=CODEC, size=SIZE, pinned=pinned())
    with (
        Worker(spec, store, NoiseSampler(), lambda group, ks: requests(group, ks)[:-1]) as worker,
        pytest.raises(ConfigError, match="no request for candidate"),
    ):
        worker.make(work[0])


def test_what_an_actor_is_given_can_be_pickled(planned):
    _, work = planned()
    spec = WorkSpec(groups=GROUPS, codec=CODEC, size=SIZE, pinned=pinned())
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert pickle.loads(pickle.dumps(work[0])) == work[0]
    assert len(pickle.dumps(work[0])) < 2_000


class Watched(NoiseSampler):
    """Counts how many of its batches are still in memory whenever it makes another."""

    def __init__(self, **options):
        super().__init__(**options)
        self.alive = weakref.WeakSet()
        self.most = 0

    def sample(self, requests, fetched):
        outcomes = super().sample(requests, fetched)
        self.alive.add(outcomes.images)
        self.most = max(self.most, len(self.alive))
        return outcomes


@pytest.mark.parametrize("encoders", [1, 3])
def test_no_more_than_two_sampled_batches_are_in_memory(planned, make_worker, monkeypatch, encoders):
    """The sampler is quicker than the encoders here, and three intervals are made at once."""

    def slow(*arguments, **options):
        time.sleep(0.005)
        return image_file(*arguments, **options)

    monkeypatch.setattr("ffr_dist.generate.worker.image_file", slow)
    pins = pinned(batch=4)
    store, work = planned(pins)
    sampler = Watched()
    worker = make_worker(store, sampler, pins=pins, encoders=encoders)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(worker.make, work))
    assert len(sampler.batches) == 10
    assert sampler.most == 2


def test_a_failed_batch_gives_its_room_back(planned, make_worker):
    store, work = planned()
    sampler = NoiseSampler(fail_at=work[0].candidates[9])
    worker = make_worker(store, sampler)
    for _ in range(4):
        with pytest.raises(RuntimeError, match="on fire"):
            worker.make(work[0])
    sampler._fail_at = None
    assert [worker.make(step).mine for step in work] == [True, True, True]


class Full(NoiseSampler):
    """A device without memory for the first few tries."""

    def __init__(self, tries):
        super().__init__()
        self.left = tries

    def sample(self, requests, fetched):
        if self.left:
            self.left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().sample(requests, fetched)


def test_a_device_that_is_out_of_memory_once_makes_the_same(planned, make_worker):
    found = []
    for tries in (0, 1):
        store, work = planned()
        make_worker(store, Full(tries)).make(work[0])
        found.append(contents(store))
    assert found[0] == found[1]


def test_a_device_that_is_out_of_memory_twice_is_told_with_its_batch(planned, make_worker):
    store, work = planned()
    group, k = work[0].candidates[0]
    with pytest.raises(
        StoppedError, match=rf"no memory for the batch of 8 from {group} {k} on .*2.00 GiB.*generate.batch"
    ):
        make_worker(store, Full(2)).make(work[0])
    assert list(store.list("commits")) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"images": torch.zeros(8, SIZE, SIZE, 3, dtype=torch.uint8)}, "16, 16, 3"),
        ({"images": torch.zeros(8, 3, SIZE, SIZE)}, "float32"),
        ({"valid": torch.ones(8)}, "valid"),
        ({"valid": torch.ones(4, dtype=torch.bool)}, "valid"),
        ({"reasons": [None]}, "reasons"),
        ({"rejects": {"nsfw": torch.ones(8)}}, "nsfw"),
        ({"scores": {"fate": torch.zeros(8, 1)}}, "fate"),
        ({"scores": {"std": torch.zeros(8)}}, "std"),
    ],
)
def test_outcomes_of_another_form_are_refused_by_name(planned, make_worker, wrong, told):
    class Wrong(NoiseSampler):
        def sample(self, requests, fetched):
            return replace(super().sample(requests, fetched), **wrong)

    store, work = planned()
    with pytest.raises(ConfigError, match=told):
        make_worker(store, Wrong()).make(work[0])
    assert list(store.list("commits")) == []


def test_what_the_device_rejects_has_its_row_reason_and_count(planned, make_worker):
    class Guarded(NoiseSampler):
        def sample(self, requests, fetched):
            outcomes = super().sample(requests, fetched)
            return replace(outcomes, rejects={"nsfw": outcomes.scores["fate"] < 0.4})

    store, work = planned()
    commit = make_worker(store, Guarded()).make(work[0]).commit
    rows = read_sidecar(store.get(commit.sidecar.key)).to_pylist()
    assert {row["reason"] for row in rows} == {None, "nsfw"}
    assert all((row["reason"] == "nsfw") == (dict(row["scores"])["fate"] < 0.4) for row in rows)
    assert sum(tally.rejected.get("nsfw", 0) for tally in commit.groups.values()) > 0


def test_each_row_has_the_scores_that_thresholds_can_be_tightened_by(planned, make_worker):
    store, work = planned()
    commit = make_worker(store, NoiseSampler(bad=BAD)).make(work[0]).commit
    for row in read_sidecar(store.get(commit.sidecar.key)).to_pylist():
        scores = dict(row["scores"])
        assert set(scores) == {"fate", "std", "grey"}
        assert (row["reason"] == "blank") == (scores["std"] < 2)


@pytest.fixture
def agreeing(tmp_path):
    """Keep rules with a trained stage that agrees with about half of all images."""
    folder = write_stage(tmp_path / "stage", seed=2)
    return pinned_keep(KeepConfig(agreement=AgreementConfig(weights=str(folder), least=0.5))), folder


def test_what_disagrees_with_its_label_is_dropped_and_every_row_says_how_far(planned, make_worker, agreeing):
    rules, folder = agreeing
    pins = replace(pinned(), keep=rules)
    found = []
    for encoders in (1, 4):
        store, work = planned(pins)
        sampler = NoiseSampler(bad=BAD)
        commit = make_worker(store, sampler, pins=pins, encoders=encoders).make(work[0]).commit
        found.append(contents(store))
    assert found[0] == found[1]
    rows = read_sidecar(store.get(commit.sidecar.key)).to_pylist()
    model = load_judge(str(folder), None, 2)
    asked = [Request(group=row["group"], k=row["k"], prompt="") for row in rows]
    for start in (0, 8):
        batch = asked[start : start + 8]
        images = NoiseSampler(bad=BAD)._outcomes(batch, sampler.fetch(batch)).images
        wanted = model(images, [GROUPS.by_name(request.group).label for request in batch], [""] * 8)
        assert [dict(row["scores"])["agreement"] for row in rows[start : start + 8]] == wanted.tolist()
    assert {None, "disagrees"} <= {row["reason"] for row in rows}
    for row in rows:
        if row["reason"] in {None, "disagrees"}:
            assert (row["reason"] is None) == (dict(row["scores"])["agreement"] >= 0.5)


def test_a_worker_whose_judge_is_another_one_refuses_to_start(planned, make_worker, agreeing):
    rules, folder = agreeing
    pins = replace(pinned(), keep=rules)
    store, _ = planned(pins)
    (folder / "stage.json").write_text((folder / "stage.json").read_text() + " ")
    with pytest.raises(ConfigError, match=rules["agreement"]["sha256"]):
        make_worker(store, pins=pins)


def test_looks_are_stored_where_near_duplicates_are_asked_for(planned, make_worker):
    for near in (None, 12):
        pins = pinned(keep=KeepConfig(near_duplicates=near))
        store, work = planned(pins)
        commit = make_worker(store, NoiseSampler(bad=BAD), pins=pins).make(work[0]).commit
        rows = read_sidecar(store.get(commit.sidecar.key)).to_pylist()
        bodies = iter(samples(store.get(commit.tar.key)))
        for row in rows:
            stored = look(decode(next(bodies)[1])) if row["accepted"] else None
            assert row["look"] == (stored if near else None)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_the_pixel_hash_is_of_the_stored_pixels_in_every_format(planned, kind):
    store, work = planned()
    spec = WorkSpec(groups=GROUPS, codec=CodecConfig(format=kind), size=SIZE, pinned=pinned())
    with Worker(spec, store, NoiseSampler(), requests) as worker:
        commit = worker.make(work[0]).commit
    rows = read_sidecar(store.get(commit.sidecar.key)).to_pylist()
    bodies = [body for _, body, _, _ in samples(store.get(commit.tar.key))]
    assert [row["pixels_blake2b"] for row in rows] == [blake2b16(decode(body)) for body in bodies]


def test_the_device_tells_for_how_long_it_was_idle(planned, make_worker):
    store, work = planned()
    told = []
    worker = make_worker(store, on_batch=told.append)
    worker.make(work[0])
    time.sleep(0.05)
    worker.make(work[1])
    assert told[0].idle_s == 0
    assert told[2].idle_s >= 0.05
    assert all(batch.idle_s >= 0 for batch in told)


def test_a_stopped_worker_does_not_wait_for_room(planned, make_worker, monkeypatch):
    """The encoders hang; the device's thread waits for them no longer than until it is stopped."""
    go_on = threading.Event()

    def stuck(*arguments, **options):
        assert go_on.wait(10)
        return image_file(*arguments, **options)

    monkeypatch.setattr("ffr_dist.generate.worker.image_file", stuck)
    pins = pinned(batch=4)
    store, work = planned(pins)
    sampler = NoiseSampler()
    worker = make_worker(store, sampler, pins=pins)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(worker.make, step) for step in work[:2]]
        while len(sampler.batches) < 2:
            time.sleep(0.001)
        worker.stop()
        assert worker._device.submit(lambda: "free").result(5) == "free"
        assert len(sampler.batches) == 2
        go_on.set()
    for future in running:
        with pytest.raises(StoppedError):
            future.result()
    assert list(store.list("commits")) == []


def test_a_full_disk_is_a_store_error_and_leaves_nothing(tmp_path):
    """The system's own limit on the size of a file stands in for the disk's end."""
    code = """if True:
        import resource, sys
        from noise import CODEC, GROUPS, SIZE, NoiseSampler, pinned, requests
        from ffr_dist.errors import StoreError
        from ffr_dist.generate.driver import Driver
        from ffr_dist.generate.worker import Worker, WorkSpec
        from ffr_dist.quota import Exact
        from ffr_dist.store import open_store
        store = open_store(sys.argv[1])
        work = Driver(store, GROUPS, Exact({"red_cat": 16}), pinned()).next()
        spec = WorkSpec(groups=GROUPS, codec=CODEC, size=SIZE, pinned=pinned())
        with Worker(spec, store, NoiseSampler(), requests) as worker:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
            try:
                worker.make(work)
            except StoreError as error:
                assert "shards/00000000" in str(error), error
            else:
                raise AssertionError("a tar larger than the limit was written")
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert not list(store.list("shards")) and not list(store.list("commits"))
            assert worker.make(work).mine
    """
    here = {"PYTHONPATH": str(Path(__file__).parent), "PATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=True, env=here)


def test_a_commit_tells_the_devices_time_without_what_came_before(planned, make_worker):
    """So that pauses do not pass for a slow worker; ``ffr plan`` rests on it."""
    store, work = planned()
    told = []
    worker = make_worker(store, NoiseSampler(seed=3), on_batch=told.append)
    first = worker.make(work[0])
    assert first.commit.seconds >= first.seconds["sample"]
    worker._last = dataclasses.replace(worker._last, host=worker._last.host - 1_000)  # nothing to do for so long
    told.clear()
    second = worker.make(work[1])
    assert told[0].idle_s >= 1_000
    assert second.seconds["sample"] <= second.commit.seconds < 1_000
