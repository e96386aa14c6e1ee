"""The verbs that change a finished set, on a real bucket: what they leave there, and what they take away."""

import hashlib
import io
import json
import re
import tarfile

import outputs
import pytest

from ffr_dist.store import open_store

pytestmark = [pytest.mark.store, pytest.mark.slow]

HELD = re.compile(
    r"recipe\.yaml|manifest\.json|README\.md|croissant\.json|selection/\d{4}\.json|plan/round-\d{3}\.json|commits/\d{8}\.json"
    r"|shards/\d{8}-[0-9a-f]{12}\.(tar|parquet)|manifests/\d{4}(\.json|-[0-9a-f]{12}\.index\.parquet)"
    r"|drivers/[0-9a-f]+\.json|events/[0-9a-f]+-\d+\.jsonl"
)
"""What docs/design.md says that an output holds, as far as a pool goes."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Recipes, and a finished output of the small one in a folder: each test copies it to a bucket of its own."""
    folder = tmp_path_factory.mktemp("bucket-curate")
    outputs.write_recipes(folder)
    outputs.generate(folder / "small.yaml", folder / "out")
    return folder


@pytest.fixture
def out(made, s3):
    store = open_store(f"{s3.url}/runs/one")
    for file in sorted(path for path in (made / "out").rglob("*") if path.is_file()):
        store.put_file(str(file.relative_to(made / "out")), file)
    return store


def images(store, keys):
    """Every image of some tars, by key, with tarfile alone."""
    found = {}
    for key in keys:
        with tarfile.open(fileobj=io.BytesIO(store.get(key))) as tar:
            for member in tar:
                name, kind = member.name.split(".")
                if kind != "json":
                    found[name] = tar.extractfile(member).read()
    return found


def finished(store):
    """The images of the finished set, which its manifest's digest vouches for."""
    manifest = json.loads(store.get("manifest.json"))
    found = images(store, [shard["key"] for shard in manifest["shards"]])
    lines = sorted(
        f"{key} {key.rpartition('-')[0]} {hashlib.sha256(body).hexdigest()}\n" for key, body in found.items()
    )
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == manifest["manifest_sha256"]
    return found


def everything(store):
    return images(store, [info.key for info in store.list("shards") if info.key.endswith(".tar")])


def told(ffr, *arguments, code=0):
    found, out, error = ffr(*arguments, "--json")
    assert found == code, error
    return json.loads(out) if out else error


def sound(ffr, store):
    assert told(ffr, "verify", store.url)["problems"] == []
    for info in store.list():
        assert HELD.fullmatch(info.key), info.key


def test_what_is_excluded_and_purged_is_gone_from_the_bucket(ffr, made, out):
    error = told(ffr, "exclude", out.url, *outputs.EXCLUDED, code=3)
    assert f"ffr generate {out.url}/recipe.yaml --out {out.url}" in error
    code, _, error = ffr("generate", f"{out.url}/recipe.yaml", "--out", out.url, "--inline")
    assert code == 0, error
    assert not finished(out).keys() & set(outputs.EXCLUDED)
    assert set(outputs.EXCLUDED) <= everything(out).keys()  # set aside, not yet gone

    would = told(ffr, "gc", out.url, "--purge", "--dry-run")
    before = {info.key for info in out.list()}
    gone = told(ffr, "gc", out.url, "--purge")
    assert set(gone["deleted"]) == set(would["deleted"]) <= before
    assert not set(gone["deleted"]) & {info.key for info in out.list()}
    assert everything(out) == finished(out)
    sound(ffr, out)
    assert told(ffr, "gc", out.url, "--purge", "--older", "0s")["deleted"] == []


def test_the_endpoint_of_the_recipe_is_the_one_that_extend_asks(ffr, s3, made, out, tmp_path, monkeypatch):
    fewer = tmp_path / "fewer.yaml"
    fewer.write_text(f"{(made / 'fewer.yaml').read_text()}storage: {{endpoint: {s3.server.endpoint}}}\n")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert told(ffr, "extend", fewer, "--out", out.url)["images"] == 48


def test_leftovers_go_when_they_are_old_enough(ffr, out):
    left = "shards/00000001-abcdefabcdef.tar"
    out.put(left, b"x")
    assert told(ffr, "gc", out.url)["deleted"] == []
    assert told(ffr, "gc", out.url, "--older", "0s")["deleted"] == [left]
    assert not out.exists(left)
    sound(ffr, out)


def test_fewer_stricter_and_what_there_is(ffr, made, out):
    before = finished(out)
    fewer = told(ffr, "extend", made / "fewer.yaml", "--out", out.url)
    assert (fewer["revision"], fewer["images"]) == (1, 48)
    assert finished(out).items() < before.items()
    assert "lacks" in told(ffr, "extend", made / "more.yaml", "--out", out.url, code=3)
    assert "lacks" in told(ffr, "finish", out.url, code=3)
    now = told(ffr, "finish", out.url, "--now")
    assert 0 < now["images"] <= 55
    assert finished(out).items() <= before.items()
    assert "lacks" in told(ffr, "settle", out.url, "--set", "grey_levels=3", "--set", "blank_std=20", code=3)
    stricter = told(ffr, "finish", out.url, "--now")
    assert 0 < stricter["images"] < now["images"]
    sound(ffr, out)
    status = told(ffr, "status", out.url)
    assert (status["finished"], status["revision"]) == (True, stricter["revision"])


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_exports_hold_the_same_images_for_any_reader(
    ffr, s3, out, tmp_path
):  # webdataset leaves its files to the collector
    import webdataset

    wanted = finished(out)
    other = f"s3://{s3.server.new_bucket()}/plain"
    for to, tars in ((f"{s3.url}/plain", 7), (other, 7), (tmp_path / "plain", 7), (f"{s3.url}/joined", 1)):
        joined = ["--shard-mb", "1"] if tars == 1 else []
        done = told(ffr, "export", out.url, to, *joined)
        assert (done["images"], done["shards"], done["copied"]) == (len(wanted), tars, tars)
        assert told(ffr, "export", out.url, to, *joined)["copied"] == 0
        store = open_store(str(to))
        names = [f"{number:08d}.tar" for number in range(tars)]
        assert [info.key for info in store.list()] == [*names, "export.json", "index.parquet"]
        local = tmp_path / f"read-{hashlib.sha256(str(to).encode()).hexdigest()[:8]}"
        local.mkdir()
        for name in names:
            (local / name).write_bytes(store.get(name))
        read = webdataset.WebDataset([str(local / name) for name in names], shardshuffle=False)
        assert {sample["__key__"]: sample["jpg"] for sample in read} == wanted
    sound(ffr, out)
