import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.errors import BrokenError
from ffr_dist.shards.pack import Member, pack, unpack

names = st.from_regex(r"[a-z0-9_-]{1,40}\.(jpg|json)", fullmatch=True)
members = st.lists(st.builds(Member, names, st.binary(max_size=1500)), max_size=8, unique_by=lambda member: member.name)


def tar_of(*infos: tarfile.TarInfo, body: bytes = b"", kind: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
        for info in infos:
            info.size = len(body) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(body))
    return out.getvalue()


@given(members)
def test_what_is_packed_comes_back_at_the_offsets_told(given_members):
    packed = pack(given_members)
    placed = list(unpack(packed.tar))
    assert [(member.name, member.body) for member in placed] == [tuple(member) for member in given_members]
    assert [member.offset for member in placed] == packed.offsets
    for member, offset in zip(given_members, packed.offsets, strict=True):
        assert packed.tar[offset : offset + len(member.body)] == member.body
    assert pack(given_members) == packed


@given(members)
def test_tarfile_reads_the_same(given_members):
    packed = pack(given_members)
    with tarfile.open(fileobj=io.BytesIO(packed.tar), format=tarfile.USTAR_FORMAT) as tar:
        found = tar.getmembers()
        assert [member.offset_data for member in found] == packed.offsets
        assert [(member.name, tar.extractfile(member).read()) for member in found] == given_members
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in found} <= {(0, 0, 0, "", "", 0o644)}


@given(members)
def test_a_plain_tar_of_tarfile_is_read(given_members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member in given_members:
            info = tarfile.TarInfo(member.name)
            info.size = len(member.body)
            tar.addfile(info, io.BytesIO(member.body))
    assert [tuple(member[:2]) for member in unpack(out.getvalue())] == given_members


@given(members, st.data())
def test_a_tar_cut_anywhere_is_refused(given_members, data):
    tar = pack(given_members).tar
    cut = data.draw(st.integers(0, len(tar) - 1))
    with pytest.raises(BrokenError, match=r"shards/x\.tar"):
        list(unpack(tar[:cut], "shards/x.tar"))


@given(members.filter(bool), st.data())
def test_a_flipped_byte_outside_a_body_is_refused(given_members, data):
    packed = pack(given_members)
    inside = {
        place
        for member, offset in zip(given_members, packed.offsets, strict=True)
        for place in range(offset, offset + len(member.body) + -len(member.body) % 512)
    }
    place = data.draw(st.sampled_from([place for place in range(len(packed.tar)) if place not in inside]))
    flipped = bytearray(packed.tar)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BrokenError):
        list(unpack(bytes(flipped)))


@given(st.binary(max_size=3000))
def test_noise_is_refused_or_empty(body):
    with contextlib.suppress(BrokenError):
        assert not list(unpack(body))


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/a.jpg", "a/b.jpg", "a", ".jpg", "a.", "a b.jpg", "ä.jpg", "x" * 97 + ".jpg"]
)
def test_unsafe_names_are_neither_written_nor_read(name):
    with pytest.raises(ValueError, match="cannot name"):
        pack([Member(name, b"")])
    with pytest.raises(BrokenError):
        list(unpack(tar_of(tarfile.TarInfo(name), kind=tarfile.GNU_FORMAT)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_folders_and_devices_are_refused(kind):
    info = tarfile.TarInfo("a.jpg")
    info.type = kind
    info.linkname = "/etc/passwd"
    with pytest.raises(BrokenError, match=r"not a plain file|its name"):
        list(unpack(tar_of(info)))


def test_extended_headers_are_refused():
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"path": "../b.jpg"}
    with pytest.raises(BrokenError):
        list(unpack(tar_of(info, kind=tarfile.PAX_FORMAT)))


def test_a_name_twice_is_refused():
    with pytest.raises(ValueError, match="once"):
        pack([Member("a.jpg", b""), Member("a.jpg", b"")])
    with pytest.raises(BrokenError, match="twice"):
        list(unpack(tar_of(tarfile.TarInfo("a.jpg"), tarfile.TarInfo("a.jpg"))))


def test_something_behind_the_end_is_refused():
    with pytest.raises(BrokenError, match="follows"):
        list(unpack(pack([Member("a.jpg", b"x")]).tar + b"hidden" + bytes(506)))
