"""Sets made of tars that others wrote."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tracemalloc
import uuid
from dataclasses import replace

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.errors import BrokenError, ConflictError, DataError, FFRError, InputError
from ffr_dist.groups import Group, Groups
from ffr_dist.shards.codec import CodecConfig, encode
from ffr_dist.shards.export import export
from ffr_dist.shards.foreign import Fields, find_tars, index_tars
from ffr_dist.shards.index import read_index
from ffr_dist.shards.manifest import Manifest, read_manifest, shards_of
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store

PNG = CodecConfig(format="png")
CLS = Fields()
BOTH = Fields(label="label", bias="male")


def image(number: int, side: int = 8) -> bytes:
    return encode(np.full((side, side, 3), number % 251, np.uint8), PNG)


def tar_of(members, form=tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


def samples(numbers):
    for number in numbers:
        yield f"img{number:04d}.png", image(number)
        yield f"img{number:04d}.cls", str(number % 2).encode()
        yield f"img{number:04d}.json", json.dumps({"label": number % 3, "male": number % 2 == 0}).encode()


@pytest.fixture
def place():
    return open_store(f"memory://{uuid.uuid4().hex}")


def indexed(place, fields=CLS, groups=None, out="out") -> Manifest:
    return index_tars(place.below(out), [f"{place.url}/*.tar"], fields, groups)


def refused(place, tar: bytes, match: str, fields=CLS) -> None:
    place.put("bad.tar", tar)
    with pytest.raises(DataError, match=match) as told:
        indexed(place, fields)
    assert "bad.tar" in str(told.value)
    assert not place.exists("out/manifest.json")


def test_what_webdataset_writes_becomes_a_set(tmp_path):
    with webdataset.ShardWriter(f"{tmp_path}/train-%06d.tar", maxcount=10, verbose=0) as writer:
        for number in range(35):
            note = {"label": number % 3, "male": number % 2}
            writer.write({"__key__": f"a/x{number}", "png": image(number), "cls": number % 2, "json": note})
    store = open_store(str(tmp_path / "out"))
    manifest = index_tars(store, [f"{tmp_path}/train-{{000000..000003}}.tar"], Fields(bias="male"))
    assert manifest.base == str(tmp_path)
    assert manifest.kind == "foreign"
    assert manifest.size == 8
    assert dict(manifest.groups) == {"label_0_bias_0": 18, "label_1_bias_1": 17}
    table = read_index(store, read_manifest(store))
    assert table["key"].to_pylist()[:2] == ["train-000000.tar/a/x0", "train-000000.tar/a/x1"]
    source = shards_of(store, manifest)
    for number, row in enumerate(table.to_pylist()):
        key = manifest.shards[row["shard"]].key
        assert source.get_ranges(key, [row["offset"]], [row["size"]]) == [image(number)]
    for shard in manifest.shards:
        body = (tmp_path / shard.key).read_bytes()
        assert (shard.sha256, shard.bytes) == (hashlib.sha256(body).hexdigest(), len(body))
    assert verify(store).problems == ()
    assert verify(store).groups == manifest.groups
    assert index_tars(store, [f"{tmp_path}/train-*.tar"], Fields(bias="male")) == manifest
    with pytest.raises(ConflictError, match="another set"):
        index_tars(store, [f"{tmp_path}/train-*.tar"], Fields())
    with pytest.raises(InputError, match="plain already"):
        export(store, open_store(str(tmp_path / "plain")))


def test_label_and_bias_from_fields_of_the_json(place):
    place.put("a.tar", tar_of(samples(range(12))))
    manifest = indexed(place, BOTH)
    assert manifest.groups == {f"label_{label}_bias_{bias}": 2 for label in range(3) for bias in range(2)}
    assert manifest.detail == {"label": "label", "bias": "male", "without_image": {}}


def test_without_a_bias_a_group_is_a_label(place):
    place.put("a.tar", tar_of(samples(range(5))))
    manifest = indexed(place)
    assert manifest.group_list == (Group("label_0", 0, -1), Group("label_1", 1, -1))
    assert manifest.groups == {"label_0": 3, "label_1": 2}


def test_given_groups_hold_what_they_declare_and_nothing_else(place):
    place.put("a.tar", tar_of(samples(range(5))))
    groups = Groups.of([Group("dog", 1, -1), Group("cat", 0, -1), Group("cow", 2, -1)])
    assert indexed(place, groups=groups).groups == {"dog": 2, "cat": 3, "cow": 0}
    with pytest.raises(DataError, match=r"a.tar/img0000 has label 0 and bias -1, which no --group declares"):
        indexed(place, groups=Groups.of([Group("dog", 1, -1)]), out="other")


def test_equal_keys_in_two_tars_are_two_images(place):
    for name in "ab":
        place.put(f"{name}.tar", tar_of(samples(range(3))))
    manifest = indexed(place)
    keys = read_index(place.below("out"), manifest)["key"].to_pylist()
    assert keys == [f"{name}.tar/img{number:04d}" for name in "ab" for number in range(3)]
    assert verify(place.below("out")).ok


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_and_other_members(place, form):
    long = "very/" * 30 + "läng"
    members = [
        ("README", b"hello"),
        ("._img.png", b"resource fork"),
        (f"./{long}.png", image(1)),
        (f"./{long}.cls", b"1\n"),
        ("notes.txt", b"no image"),
        ("IMG.PNG", image(2)),
        ("IMG.cls", b"0"),
        ("IMG.seg.png", b"a mask, and not read"),
    ]
    place.put("a.tar", tar_of(members, form))
    manifest = indexed(place)
    assert read_index(place.below("out"), manifest)["key"].to_pylist() == [f"a.tar/{long}", "a.tar/IMG"]
    assert manifest.detail["without_image"] == {"txt": 1}


def test_folders_and_old_headers_are_read(place, tmp_path):
    (tmp_path / "set").mkdir()
    for name, body in samples(range(3)):
        (tmp_path / "set" / name).write_bytes(body)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(tmp_path / "set", arcname=".", filter=lambda info: info if info.isdir() else None, recursive=False)
        for path in sorted((tmp_path / "set").iterdir()):
            tar.add(path, arcname=f"./set/{path.name}")
    place.put("a.tar", out.getvalue())
    assert indexed(place).images == 3


def test_images_of_several_sizes_have_no_size(place):
    place.put("a.tar", tar_of([("a.png", image(0)), ("a.cls", b"0"), ("b.png", image(1, 9)), ("b.cls", b"0")]))
    assert indexed(place).size is None


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ([("a.png", image(0))], "sample a has no .cls"),
        ([("a.png", image(0)), ("a.cls", b"cat")], "its .cls is 'cat'"),
        ([("a.png", image(0)), ("a.cls", b"-1")], "its .cls is '-1'"),
        ([("a.png", b"not an image"), ("a.cls", b"0")], "a.png: not a readable image"),
        ([("a.png", image(0)), ("a.jpg", image(0)), ("a.cls", b"0")], r"sample a has 2 images \(jpg, png\)"),
        ([("a.png", image(0)), ("a.png", image(0)), ("a.cls", b"0")], "a.png is there twice"),
        ([("a.png", image(0)), ("a.cls", b"0"), ("b.cls", b"0"), ("a.txt", b"")], "a.txt stands apart"),
        ([("../a.png", image(0)), ("../a.cls", b"0")], "leaves the tar's folder"),
        ([("/a.png", image(0)), ("/a.cls", b"0")], "leaves the tar's folder"),
        ([("a\n.png", image(0)), ("a\n.cls", b"0")], "cannot be shown"),
        ([("a.cls", b"0" * 100), ("a.png", image(0))], "a.cls has 100 bytes where 64 are allowed"),
        ([("a.input.png", image(0)), ("a.cls", b"0")], "holds no image .* but cls and input.png"),
        ([], "holds no image"),
    ],
)
def test_bad_members_are_named(place, members, match):
    refused(place, tar_of(members), match)


@pytest.mark.parametrize(
    ("note", "match"),
    [
        (None, "has no .json, where its 'label' should stand"),
        (b"{", "a.json is not JSON"),
        (b"[1]", "no object"),
        (b"[" * 100_000, "a.json is not JSON"),
        (b'{"male": 1}', "no 'label' in its .json, which has 'male'"),
        (b'{"label": "cat", "male": 1}', "'label' is 'cat'; it must be a whole number from 0"),
        (b'{"label": 0, "male": 1.0}', "'male' is 1.0; it must be a whole number from -1"),
        (b'{"label": 0, "male": 99999999999}', "'male' is 99999999999"),
    ],
)
def test_a_bad_note_is_named(place, note, match):
    members = [("a.png", image(0))] + ([] if note is None else [("a.json", note)])
    refused(place, tar_of(members), match, BOTH)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (b"Z", "unknown kind"),
    ],
)
def test_what_is_no_plain_file_is_refused(place, kind, match):
    info = tarfile.TarInfo("a.png")
    info.type, info.linkname = kind, "/etc/passwd"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(info)
    refused(place, out.getvalue(), match)


def test_compressed_tars_are_refused_by_what_compresses_them(place):
    for mode, name in (("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as tar:
            tar.addfile(tarfile.TarInfo("a.txt"))
        refused(place, out.getvalue(), rf"compressed \({name}\).*unpack it")


GOOD = tar_of(samples(range(6)), tarfile.USTAR_FORMAT)
END = max(at + 512 for at in range(0, len(GOOD), 512) if any(GOOD[at : at + 512]))


@given(st.integers(0, END))
def test_a_tar_that_ends_early_never_passes(length):
    place = open_store(f"memory://{uuid.uuid4().hex}")
    refused(place, GOOD[:length], "cut short|holds no image")


def test_a_hole_for_an_end_is_no_end(place):
    refused(place, GOOD[:END] + bytes(2 << 20), "did not end")
    refused(place, GOOD + GOOD, "something follows the tar's end")


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_read_within_the_tar(at, value):
    place = open_store(f"memory://{uuid.uuid4().hex}")
    body = bytearray(GOOD)
    body[at] = value
    place.put("a.tar", bytes(body))
    told = ""
    try:
        indexed(place)
    except FFRError as error:
        told = str(error)
    assert "a.tar" in told if told else verify(place.below("out")).images == 6


def test_a_size_beyond_the_file_is_named(place):
    for size in (b"77777777777\0", b"\x80" + bytes(3) + b"\xff" * 8):
        header = bytearray(GOOD[:512])
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        refused(place, bytes(header) + GOOD[512:], "img0000.png has .* bytes by its header")


def test_an_extended_header_cannot_ask_for_memory(place):
    header = bytearray(GOOD[:512])
    header[124:136], header[156:157] = b"70000000000\0", b"x"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    refused(place, bytes(header) + GOOD[512:], "bytes where 65,536 are allowed")


@pytest.mark.parametrize(
    "record",
    [b"9 path=\xff\n", b"99 path=x\n", b"10 nothing\n", b"x", b"12 size=1e9\n", b"26 GNU.sparse.major=000001\n"],
)
def test_broken_extended_headers_are_named(place, record):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    body = header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + GOOD
    refused(place, body, "UTF-8|PAX|number|sparse")


def test_memory_does_not_grow_with_a_tar(tmp_path):
    big = 192 << 20
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, body in samples(range(2)):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
        info = tarfile.TarInfo("b.bin")
        info.size = big
        tar.addfile(info, io.BytesIO(bytes(big)))
    tracemalloc.start()
    index_tars(open_store(str(tmp_path / "out")), [str(tmp_path / "a.tar")], Fields())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_verify_tells_what_became_of_the_tars(place):
    for name in "abc":
        place.put(f"{name}.tar", tar_of(samples(range(4))))
    indexed(place, BOTH)
    place.put("a.tar", tar_of(samples([0, 1, 2, 7])))
    place.put("b.tar", place.get("b.tar")[:3000])
    place.delete("c.tar")
    found = "\n".join(verify(place.below("out")).problems)
    assert "a.tar is not the tar that was indexed" in found
    assert "a.tar/img0007 stands where the index has a.tar/img0003" in found
    assert "b.tar is cut short" in found
    assert "c.tar is not there" in found


def test_patterns():
    assert find_tars(["s3://b/x/t-{08..11}.tar"]) == ("s3://b/x", ["t-08.tar", "t-09.tar", "t-10.tar", "t-11.tar"])
    assert find_tars(["s3://b/{x,y}/{1..2}.tar"]) == ("s3://b", ["x/1.tar", "x/2.tar", "y/1.tar", "y/2.tar"])
    assert find_tars(["/data/a/1.tar", "file:///data/2.tar"]) == ("/data", ["a/1.tar", "2.tar"])
    for wrong in ("s3://b/{x}.tar", "s3://b/{2..1}.tar"):
        with pytest.raises(DataError, match=r"several tars|lower number"):
            find_tars([wrong])
    with pytest.raises(DataError, match="named twice"):
        find_tars(["/data/1.tar", "/data/{1,2}.tar"])
    with pytest.raises(DataError, match="one bucket"):
        find_tars(["s3://a/1.tar", "s3://b/1.tar"])
    with pytest.raises(DataError, match="names no tar"):
        find_tars(["s3://a/"])


def test_globs_stay_within_a_folder(tmp_path, monkeypatch):
    for name in ("a/1.tar", "a/2.tar", "b/1.tar", "b/c/1.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "a")
    base = str(tmp_path)
    assert find_tars(["../*/1.tar"]) == (base, ["a/1.tar", "b/1.tar"])
    assert find_tars(["[12].tar"]) == (f"{base}/a", ["1.tar", "2.tar"])
    with pytest.raises(DataError, match="no tar of such a name"):
        find_tars([f"{base}/*.tar"])


def test_a_missing_tar_is_named(place):
    with pytest.raises(DataError, match=r"none.tar is not there"):
        index_tars(place.below("out"), [f"{place.url}/none.tar"], Fields())


def test_a_bucket_cannot_name_files_of_its_readers(place, tmp_path):
    with pytest.raises(DataError, match="is a bucket and the tars lie in"):
        index_tars(place, [f"{tmp_path}/a.tar"], Fields())
    place.put("a.tar", GOOD)
    with pytest.raises(BrokenError, match="names shards of a local folder"):
        shards_of(place, replace(indexed(place), base="/etc"))


def test_only_foreign_sets_name_a_base(place):
    place.put("a.tar", GOOD)
    with pytest.raises(ValueError, match="base"):
        replace(indexed(place), base=None)
