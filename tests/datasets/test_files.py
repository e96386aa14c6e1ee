from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image
from pydantic import TypeAdapter

from ffr_dist.datasets import DataConfig
from ffr_dist.datasets.files import FileRow, check_level, file_split
from ffr_dist.errors import DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.store import list_inputs

GROUPS = Groups.of([Group("cats", 0, 0), Group("dogs", 1, 0)])


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "pets" / "images"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(folder / name)
    (tmp_path / "pets" / "labels.csv").write_text("file\n")
    return tmp_path / "pets"


def test_rows_become_a_split(root):
    rows = [FileRow("images/b.png", 1, 0), FileRow("images/a.png", 0, 0)]
    sizes = list_inputs(str(root))
    split = file_split("pets", "val", f"{root}/", rows, GROUPS, sizes)
    assert split.counts() == {"cats": 1, "dogs": 1}
    assert [(sample.name, sample.group.name) for sample in split.samples()] == [
        ("images/b.png", "dogs"),
        ("images/a.png", "cats"),
    ]
    folders = {
        split.folder,
        file_split("pets", "val", str(root), rows[::-1], GROUPS, sizes).folder,
        file_split("pets", "val", str(root), rows, GROUPS, sizes | {"images/a.png": 1}).folder,
        file_split("pets", "val", str(root), rows, GROUPS, sizes, {"cut": 1}).folder,
        file_split("pets", "test", str(root), rows, GROUPS, sizes).folder,
    }
    assert len(folders) == 5


def test_all_that_is_wrong_with_rows_is_told_at_once(root):
    rows = [FileRow("images/a.png", 0, 0), FileRow("../c.png", 0, 0), FileRow("images/d.png", 2, 0)]
    with pytest.raises(DataError) as caught:
        file_split("pets", "val", str(root), rows, GROUPS, list_inputs(str(root)))
    told = str(caught.value)
    assert "1 file not a path below the folder of images: '../c.png'" in told
    assert f"1 file not in {root}: 'images/d.png'" in told
    assert "no group declares label 2 with bias 0 (1 image, the first is 'images/d.png')" in told
    assert "split val: no image of declared group dogs" in told


@pytest.mark.parametrize("landmark", ["labels.csv", "images/"])
def test_a_root_of_another_level_is_told_which_path_to_give(root, landmark):
    check_level(str(root), list_inputs(str(root)), landmark)
    check_level(f"{root}/", list_inputs(f"{root}/"), landmark)
    for wrong in (root.parent, root / "images"):
        with pytest.raises(DataError, match=f"give {root}$"):
            check_level(str(wrong), list_inputs(str(wrong)), landmark)
    by_url = f"file://{root}/images"
    with pytest.raises(DataError, match=f"give file://{root}$"):
        check_level(by_url, list_inputs(by_url), landmark)
    with pytest.raises(DataError, match=r"holds no other\.csv"):
        check_level(str(root), list_inputs(str(root)), "other.csv")


def test_the_documented_data_can_be_used():
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    kinds = {
        TypeAdapter(DataConfig).validate_json(json.dumps(block["data"])).kind for block in blocks if "data" in block
    }
    assert {"celeba", "celeba_hq", "utkface"} <= kinds
