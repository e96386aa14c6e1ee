from __future__ import annotations

import pytest

from ffr_dist.errors import DataError
from ffr_dist.store import list_inputs, open_input


def test_a_folder_is_listed_with_paths_from_there(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b [1].txt").write_bytes(b"12345")
    (tmp_path / "a*.txt").write_bytes(b"")
    expected = {"a*.txt": 0, "deep/er/b [1].txt": 5}
    for url in (str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}"):
        assert list_inputs(url) == expected


def test_a_link_has_the_size_of_its_file(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"123")
    (tmp_path / "images" / "a").symlink_to(tmp_path / "elsewhere")
    assert list_inputs(f"{tmp_path}/images") == {"a": 3}


def test_a_file_is_opened_by_path_or_url(tmp_path):
    file = tmp_path / "b [1]*.txt"
    file.write_bytes(b"12345")
    for url in (str(file), f"file://{file}"):
        with open_input(url) as opened:
            assert opened.read() == b"12345"


@pytest.mark.parametrize("url", ["/nowhere/at/all", "file:///nowhere", "memory://nothing-here", "gopher://x/y"])
def test_what_is_not_there_is_named(url):
    with pytest.raises(DataError, match=url):
        list_inputs(url)
    with pytest.raises(DataError, match=url):
        open_input(url)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no files"):
        list_inputs(str(tmp_path))
