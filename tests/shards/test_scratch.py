import errno
import os
import tempfile

import pytest

from ffr_dist.errors import BrokenError, StoreError
from ffr_dist.shards.scratch import scratch_folder


def test_a_folder_that_is_gone_afterwards():
    with scratch_folder("finish") as folder:
        (folder / "file").write_bytes(b"x")
    assert not folder.exists()


def fill():
    with scratch_folder("finish") as folder:
        (folder / "file").write_bytes(b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(StoreError, match=f"finish needs scratch space in {tmp_path}: No space left.*TMPDIR"):
        fill()
    assert not list(tmp_path.iterdir())


def test_other_errors_pass():
    with pytest.raises(BrokenError), scratch_folder("finish"):
        raise BrokenError("x")
