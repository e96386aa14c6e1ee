"""The verbs that change what a finished set is, on a small real output, as users meet them."""

import hashlib
import json
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor

import outputs
import pytest

from ffr_dist.launch import curate
from ffr_dist.plan.document import read_pinned, read_rounds
from ffr_dist.shards.commit import abandon, publish
from ffr_dist.shards.selection import latest_revision
from ffr_dist.store import open_store

FULL = dict(zip(outputs.GROUPS, outputs.QUOTAS["small"], strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curate")
    outputs.write_recipes(folder)
    outputs.generate(folder / "small.yaml", folder / "out")
    return folder


@pytest.fixture
def out(folder, tmp_path):
    """A finished output of its own."""
    return shutil.copytree(folder / "out", tmp_path / "out")


@pytest.fixture
def half(out):
    """An output whose generation was stopped with half of its intervals decided."""
    for file in sorted((out / "commits").iterdir())[3:]:
        file.unlink()
    for file in (out / "manifests").iterdir():
        file.unlink()
    (out / "manifest.json").unlink()
    return out


def keys(out):
    """The images of the finished set, and all that anyone can check of them with tarfile and hashlib."""
    manifest = json.loads((out / "manifest.json").read_text())
    lines = []
    for shard in manifest["shards"]:
        assert hashlib.sha256((out / shard["key"]).read_bytes()).hexdigest() == shard["sha256"]
        with tarfile.open(out / shard["key"]) as tar:
            for member in tar:
                key, kind = member.name.split(".")
                if kind != "json":
                    body = tar.extractfile(member).read()
                    lines.append(f"{key} {key.rpartition('-')[0]} {hashlib.sha256(body).hexdigest()}\n")
    assert hashlib.sha256("".join(sorted(lines)).encode()).hexdigest() == manifest["manifest_sha256"]
    return {line.split()[0] for line in lines}


def told(ffr, *arguments):
    code, out, error = ffr(*arguments, "--json")
    assert code == 0, error
    return json.loads(out)


def sound(ffr, out):
    assert told(ffr, "verify", out)["problems"] == []


def test_fewer_images_are_finished_straight_away(ffr, folder, out):
    before = keys(out)
    found = told(ffr, "extend", folder / "fewer.yaml", "--out", out)
    assert found["groups"] == dict(zip(outputs.GROUPS, outputs.QUOTAS["fewer"], strict=True))
    assert (found["revision"], found["images"]) == (1, 48)
    assert keys(out) < before
    sound(ffr, out)
    assert told(ffr, "extend", folder / "fewer.yaml", "--out", out) == found  # it stands: nothing new
    assert len(list((out / "selection").iterdir())) == 2


def test_more_images_take_a_generate_and_nothing_is_made_twice(ffr, folder, out):
    before, commits = keys(out), sorted((out / "commits").iterdir())
    code, _, error = ffr("extend", folder / "more.yaml", "--out", out)
    assert code == 3
    assert "low_flowers lacks 1" in error
    assert f"ffr generate {folder / 'more.yaml'} --out {out}" in error
    code, _, error = ffr("generate", folder / "small.yaml", "--out", out)
    assert code == 2
    assert "low_flowers (19 there, 18 now)" in error
    assert f"ffr extend RECIPE --out {out}" in error
    manifest = outputs.generate(folder / "more.yaml", out)
    assert tuple(manifest.groups.values()) == outputs.QUOTAS["more"]
    assert before < keys(out)
    assert commits == sorted((out / "commits").iterdir())[: len(commits)]
    sound(ffr, out)


def test_extend_is_for_what_was_begun_with_the_same_settings(ffr, folder, out, tmp_path):
    code, _, error = ffr("extend", folder / "more.yaml", "--out", tmp_path / "nowhere")
    assert (code, (tmp_path / "nowhere").exists()) == (2, False)
    (tmp_path / "empty").mkdir()
    code, _, error = ffr("extend", folder / "more.yaml", "--out", tmp_path / "empty")
    assert code == 2
    assert "ffr generate" in error
    assert list((tmp_path / "empty").iterdir()) == []
    other = tmp_path / "other.yaml"
    other.write_text((folder / "more.yaml").read_text().replace("seed: 3", "seed: 4"))
    code, _, error = ffr("extend", other, "--out", out)
    assert code == 2
    assert "seed" in error


def test_stricter_thresholds_drop_what_is_below(ffr, folder, out):
    store = open_store(str(out))
    rows = curate.required_revision(store)
    assert rows.tightened == {}
    code, _, error = ffr("settle", out, "--set", "grey_levels=3", "--set", "blank_std=20")
    assert code == 3
    assert "lacks" in error
    assert f"ffr generate {out}/recipe.yaml --out {out}" in error
    code, _, error = ffr("finish", out)
    assert code == 3
    found = told(ffr, "finish", out, "--now")
    assert 0 < found["images"] < 55
    counts = [found["groups"][name] / FULL[name] for name in FULL]
    assert max(counts) - min(counts) < 0.13  # the same share but for rounding
    sound(ffr, out)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("blank_std=1", "above the 2"),
        ("blank_st=3", "did you mean 'blank_std'"),
        ("blank_std", "name=number"),
        ("blank_std=much", "name=number"),
        ("blank_std=nan", "write a number"),
        ("agreement=0.5", "was not set"),
        ("near_duplicates=9", "was not set"),
    ],
)
def test_what_settle_cannot_do_is_wrong_input(ffr, out, setting, expected):
    code, _, error = ffr("settle", out, "--set", setting)
    assert code == 2
    assert expected in error
    assert len(list((out / "selection").iterdir())) == 1


def test_excluded_images_leave_and_generate_tops_up(ffr, folder, out, tmp_path):
    listed = tmp_path / "keys.txt"
    listed.write_text("high_temple-00000000\n\n")
    code, _, error = ffr("exclude", out, "low_flowers-00000001", "--from", listed)
    assert code == 3
    assert "high_temple lacks 1, low_flowers lacks 1" in error
    assert f"ffr generate {out}/recipe.yaml --out {out}" in error
    manifest = outputs.generate(folder / "small.yaml", out)
    assert dict(manifest.groups) == FULL
    assert keys(out).isdisjoint(outputs.EXCLUDED)
    sound(ffr, out)
    assert told(ffr, "exclude", out, *outputs.EXCLUDED)["manifest_sha256"] == manifest.manifest_sha256
    assert "low_flowers-00000001" in keys_of_all_tars(out)  # set aside, not yet gone
    would = told(ffr, "gc", out, "--purge", "--dry-run")
    assert would["dry_run"]
    gone = told(ffr, "gc", out, "--purge")
    assert set(would["deleted"]) == set(gone["deleted"])
    assert keys_of_all_tars(out) == keys(out)
    sound(ffr, out)
    assert told(ffr, "gc", out, "--purge", "--older", "0s")["deleted"] == []


def keys_of_all_tars(out):
    found = set()
    for file in (out / "shards").glob("*.tar"):
        with tarfile.open(file) as tar:
            found |= {name.split(".")[0] for name in tar.getnames()}
    return found


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("nonsense", "is not <group>-<8 digits>"),
        ("../recipe.yaml", "is not <group>-<8 digits>"),
        ("low_flowers-00099999", "was never planned"),
        ("fish-00000001", "was never planned"),
    ],
)
def test_keys_that_are_no_images_are_named_and_nothing_is_excluded(ffr, out, key, expected):
    code, _, error = ffr("exclude", out, "low_flowers-00000001", key)
    assert code == 2
    assert repr(key) in error
    assert expected in error
    assert latest_revision(open_store(str(out))).excluded == ()
    assert ffr("exclude", out)[0] == 2
    assert ffr("exclude", out, "--from", out / "nowhere.txt")[0] == 2


def test_keys_of_undecided_and_abandoned_intervals_are_named(ffr, half):
    store = open_store(str(half))
    rounds, size = read_rounds(store), read_pinned(store).interval_size
    publish(store, abandon(3, "a", "three failures"))
    lost, waiting = (rounds[0].round.candidates(interval, size)[0] for interval in (3, 4))
    code, _, error = ffr("exclude", half, *(f"{group}-{k:08d}" for group, k in (lost, waiting)))
    assert code == 2
    assert "interval 3 is abandoned" in error
    assert "is not made yet" in error


def test_every_candidate_is_found_in_its_interval(out):
    store = open_store(str(out))
    size = read_pinned(store).interval_size
    rounds = [planned.round for planned in read_rounds(store)]
    for planned in rounds:
        for interval in range(planned.first_interval, planned.end):
            for group, k in planned.candidates(interval, size):
                assert curate._interval(rounds, group, k, size) == interval


def test_finish_now_takes_the_same_share_of_what_there_is(ffr, folder, half):
    code, _, error = ffr("finish", half)
    assert code == 3
    assert "interval 3 of 7" in error
    found = told(ffr, "finish", half, "--now")
    assert found["groups"] == {"low_temple": 4, "low_flowers": 7, "high_temple": 7, "high_flowers": 3}
    sound(ffr, half)
    assert told(ffr, "finish", half, "--now") == told(ffr, "finish", half) == found
    code, _, error = ffr("generate", folder / "small.yaml", "--out", half)
    assert code == 2
    assert "ffr extend" in error
    assert ffr("extend", folder / "small.yaml", "--out", half)[0] == 3
    manifest = outputs.generate(folder / "small.yaml", half)
    assert dict(manifest.groups) == FULL
    sound(ffr, half)


def test_what_was_finished_early_can_lose_images_and_be_finished_again(ffr, folder, half):
    early = told(ffr, "finish", half, "--now")
    code, _, error = ffr("settle", half, "--set", "grey_levels=3", "--set", "blank_std=20")
    assert code == 3
    assert f"ffr finish {half} --now" in error
    assert f"ffr extend {half}/recipe.yaml --out {half}" in error
    stricter = told(ffr, "finish", half, "--now")
    assert 0 < stricter["images"] < early["images"]
    sound(ffr, half)
    assert told(ffr, "finish", half, "--now") == stricter


def test_finish_now_with_nothing_of_a_group_says_so(ffr, half):
    for file in (half / "commits").iterdir():
        file.unlink()
    code, _, error = ffr("finish", half, "--now")
    assert code == 3
    assert "nothing decided" in error
    store = open_store(str(half))
    publish(store, abandon(0, "a", "three failures"))
    code, _, error = ffr("finish", half, "--now")
    assert code == 3
    assert "no image of high_flowers, high_temple, low_flowers, low_temple" in error
    assert latest_revision(store).number == 0


def test_gc_takes_old_leftovers_only(ffr, out):
    left = out / "shards" / "00000001-abcdefabcdef.tar"
    left.write_bytes(b"x")
    assert told(ffr, "gc", out)["deleted"] == []
    assert told(ffr, "gc", out, "--older", "0s", "--dry-run")["deleted"] == ["shards/00000001-abcdefabcdef.tar"]
    assert left.exists()
    assert told(ffr, "gc", out, "--older", "0s") == {
        "dry_run": False,
        "deleted": ["shards/00000001-abcdefabcdef.tar"],
        "bytes": 1,
    }
    assert not left.exists()
    assert ffr("gc", out, "--older", "soon")[0] == 2
    sound(ffr, out)


def test_export_and_again(ffr, out, tmp_path):
    found = told(ffr, "export", out, tmp_path / "plain")
    assert (found["images"], found["shards"], found["copied"]) == (55, 7, 7)
    assert told(ffr, "export", out, tmp_path / "plain")["copied"] == 0
    assert told(ffr, "export", out, tmp_path / "joined", "--shard-mb", 1)["shards"] == 1
    assert ffr("export", out, tmp_path / "plain", "--shard-mb", 1)[0] == 2
    for verb in ("finish", "gc", "export"):
        assert ffr(verb, out, *([tmp_path / "again"] if verb == "export" else []))[0] == 0


def test_an_export_that_cannot_be_makes_no_folder(ffr, half, tmp_path):
    assert ffr("export", half, tmp_path / "to")[0] == 2
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("within", [".", "plain", "shards", "../out/plain"])
def test_an_export_into_the_output_itself_is_refused(within, ffr, out):
    before = sorted(out.rglob("*"))
    for to in (out / within, f"file://{out / within}"):
        code, _, error = ffr("export", out, to)
        assert (code, "beside it" in error) == (2, True)
    assert before == sorted(out.rglob("*"))


def test_two_who_wish_at_once_both_stand_or_one_is_told(folder, out):
    def wish(key):
        try:
            curate.exclude(open_store(str(out)), [key])
        except Exception as error:  # noqa: BLE001 - each kind is looked at
            return type(error).__name__
        return None

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(wish, outputs.EXCLUDED))
    excluded = latest_revision(open_store(str(out))).excluded
    assert set(ends) <= {"StoppedError", "ConflictError"}  # a shortfall, or: run again
    assert len(excluded) == ends.count("StoppedError")


def test_what_lies_there_by_chance_or_malice_is_not_touched(ffr, out):
    foreign = {
        "shards/00000000-zzzzzzzzzzzz.tar": b"x",
        "shards/evil.py": b"raise SystemExit",
        "commits/99999999.json.bak": b"{}",
        "selection/latest.json": b"{}",
        "manifests/9999.json.tmp": b"{}",
        "log/readme.txt": b"hello",
        "plan/round-000.json.orig": b"{}",
        "sitecustomize.py": b"raise SystemExit",
    }
    for key, body in foreign.items():
        (out / key).parent.mkdir(exist_ok=True)
        (out / key).write_bytes(body)
    sound(ffr, out)
    ffr("exclude", out, *outputs.EXCLUDED)
    told(ffr, "finish", out, "--now")
    told(ffr, "gc", out, "--purge", "--older", "0s")
    sound(ffr, out)
    assert {key: (out / key).read_bytes() for key in foreign} == foreign


@pytest.mark.parametrize("name", ["selection/0000.json", "plan/round-000.json", "commits/00000001.json"])
def test_another_protocol_is_refused_by_every_verb(ffr, folder, out, name):
    file = out / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {"protocol": 2}))
    shutil.rmtree(out / "manifests")
    shutil.rmtree(out / "log", ignore_errors=True)
    before = sorted(path for path in out.rglob("*") if path.is_file())
    wishes = (
        ["finish", out],
        ["finish", out, "--now"],
        ["exclude", out, "low_flowers-00000001"],
        ["extend", folder / "fewer.yaml", "--out", out],
    )
    for arguments in wishes:
        code, _, error = ffr(*arguments)
        assert (code, "protocol 2" in error) == (2, True), arguments
        if not name.startswith("commits"):  # those are read once the wish stands
            assert before == sorted(path for path in out.rglob("*") if path.is_file())


@pytest.mark.parametrize("verb", ["settle", "exclude", "gc", "export"])
def test_what_is_no_output_is_said_so(verb, ffr, tmp_path):
    rest = {"settle": ["--set", "blank_std=3"], "exclude": ["a-00000000"], "gc": [], "export": [tmp_path / "to"]}[verb]
    assert ffr(verb, tmp_path / "nowhere", *rest)[0] == 2
    code, _, error = ffr(verb, tmp_path, *rest)
    assert code == 2
    assert "Traceback" not in error


def test_killed_before_its_plan_an_output_has_nothing_to_finish(ffr, folder, half):
    for place in ("plan", "commits"):
        shutil.rmtree(half / place)
    for verb in (["finish", half], ["finish", half, "--now"], ["extend", folder / "fewer.yaml", "--out", half]):
        code, _, error = ffr(*verb)
        assert code in {2, 3}, (verb, error)
        assert "ffr generate" in error
