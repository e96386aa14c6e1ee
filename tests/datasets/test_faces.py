"""CelebA, CelebA-HQ and UTKFace, from fixtures in their publishers' layouts."""

from __future__ import annotations

import csv
import itertools
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import celeba_fixture
import celeba_hq_fixture
import pytest
import utkface_fixture
from pydantic import TypeAdapter

from ffr_dist.config import from_data, parse
from ffr_dist.datasets import CelebaConfig, CelebaHqConfig, DataConfig, UtkfaceConfig, celeba
from ffr_dist.datasets.attributes import attribute_groups
from ffr_dist.datasets.faces import deal
from ffr_dist.datasets.ingest import ingest
from ffr_dist.datasets.source import Split
from ffr_dist.datasets.thinning import cut_faces, thinned_counts
from ffr_dist.errors import ConfigError, DataError
from ffr_dist.launch.context import load_checked
from ffr_dist.methods.method import Inputs
from ffr_dist.recipe import Recipe, builtin_text
from ffr_dist.shards.codec import CodecConfig
from ffr_dist.store import open_store

FIXTURES = {"celeba": celeba_fixture, "celeba_hq": celeba_hq_fixture, "utkface": utkface_fixture}
_numbers = itertools.count()


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """The ``data:`` of each dataset; nobody writes into these folders."""
    return {kind: fixture.write(tmp_path_factory.mktemp(kind) / "data") for kind, fixture in FIXTURES.items()}


@pytest.fixture
def copied(published, tmp_path):
    """A copy of a dataset's folder, to be spoilt."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(published[kind]["root"], tmp_path / kind))

    return copy


def splits(data: dict[str, Any], **settings: Any) -> dict[str, Split]:
    config = TypeAdapter(DataConfig).validate_python(data | settings)
    return {split.name: split for split in config.splits(0)}


def celeba_of(root: Path, **settings: Any) -> dict[str, Split]:
    return splits({"kind": "celeba", "root": str(root)}, **settings)


def names(split: Split) -> set[str]:
    return {sample.name for sample in split.samples()}


def refused(kind: str, root: Path | str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        splits({"kind": kind, "root": str(root)}, **settings)
    return str(caught.value)


# All three


@pytest.mark.parametrize("kind", FIXTURES)
def test_the_fixture_is_imported(published, kind):
    for split in splits(published[kind]).values():
        store = open_store(f"memory://faces-{next(_numbers)}")
        manifest = ingest(split, store, codec=CodecConfig(), size=16)
        assert dict(manifest.groups) == dict(split.counts())
        assert min(split.counts().values()) > 0
        assert manifest.detail.get("left_out", {}) == dict(split.left_out)


@pytest.mark.parametrize("kind", FIXTURES)
def test_the_paths_may_be_urls_and_the_seed_changes_nothing(published, kind):
    data = published[kind]
    config = TypeAdapter(DataConfig).validate_python(data)
    folders = [split.folder for split in config.splits(0)]
    assert folders == [split.folder for split in config.splits(7)]
    by_url = TypeAdapter(DataConfig).validate_python(data | {"root": f"file://{data['root']}/"})
    assert folders == [split.folder for split in by_url.splits(0)]


@pytest.mark.parametrize("kind", ["celeba_hq", "utkface"])
def test_a_ratio_thins_train_and_val_and_never_test(tmp_path, kind):
    data = FIXTURES[kind].write(tmp_path / "data", faces=900)
    whole, biased, other = splits(data), splits(data, bias_ratio=0.9), splits(data, bias_ratio=0.9, split_seed=1)
    assert biased["test"].folder == whole["test"].folder
    for name in ("train", "val"):
        counts = {(group.label, group.bias): whole[name].counts()[group.name] for group in whole[name].groups}
        expected = cut_faces(counts)
        assert list(biased[name].counts().values()) == list(expected.values())
        assert biased[name].left_out["thinned"] == sum(counts.values()) - sum(expected.values())
        assert names(biased[name]) < names(whole[name])
        assert biased[name].folder not in (whole[name].folder, other[name].folder)
        harder = splits(data, bias_ratio=0.99)[name]
        assert harder.counts() == dict(
            zip(harder.groups.names, thinned_counts(expected, 0.99, 0 if name == "train" else 10).values(), strict=True)
        )


def test_a_ratio_that_a_small_dataset_cannot_have_is_refused(published):
    told = refused("celeba", published["celeba"]["root"], bias_ratio=0.95)  # a ninth of six faces is none
    assert "bias_ratio 0.95 leaves split train no image of group not_blond_hair_female, blond_hair_male" in told
    assert "not_blond_hair_female 7 → 0, not_blond_hair_male 6 → 6, blond_hair_female 5 → 5" in told


@pytest.mark.parametrize("kind", FIXTURES)
def test_a_ratio_below_the_first_cut_is_refused(kind):
    with pytest.raises(ValueError, match=r"bias_ratio"):
        splits({"kind": kind, "root": "somewhere"}, bias_ratio=0.8)


@pytest.mark.parametrize(
    ("kind", "folder"), [("celeba", "img_align_celeba"), ("celeba_hq", "CelebA-HQ-img"), ("utkface", None)]
)
def test_a_root_of_another_level_is_told_which_path_to_give(published, kind, folder):
    root = Path(published[kind]["root"])
    assert refused(kind, root.parent).endswith(f"give {root}")
    if folder:
        assert refused(kind, root / folder).endswith(f"give {root}")


def test_deal_gives_eight_one_and_one_of_ten_by_name_alone():
    files = [f"{number}.jpg" for number in range(2_003)]
    dealt = deal(files, 0)
    assert Counter(dealt.values()) == {"train": 1602, "val": 200, "test": 201}
    assert deal(files[::-1], 0) == dealt
    assert deal(files, 1) != dealt


# CelebA


def test_the_official_splits_of_celeba(published):
    for name, split in splits(published["celeba"]).items():
        expected = celeba_fixture.PER_GROUP[name]
        assert {(g.label, g.bias): split.counts()[g.name] for g in split.groups} == expected
        files = {f"img_align_celeba/{file}" for file, part, *_ in celeba_fixture.faces() if part == name}
        assert names(split) == files
    assert splits(published["celeba"])["train"].groups.names == (
        "not_blond_hair_female",
        "not_blond_hair_male",
        "blond_hair_female",
        "blond_hair_male",
    )


def write_csv(file: Path, head: list[str], rows: list[list[object]]) -> None:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([head, *rows])


def as_csv(root: Path) -> None:
    found = celeba_fixture.faces()
    (root / "list_attr_celeba.txt").unlink()
    (root / "list_eval_partition.txt").unlink()
    write_csv(
        root / "list_attr_celeba.csv",
        ["image_id", "Male", "Blond_Hair"],
        [[file, 2 * male - 1, 2 * blond - 1] for file, _, blond, male in found],
    )
    write_csv(
        root / "list_eval_partition.csv",
        ["image_id", "partition"],
        [[file, ("train", "val", "test").index(split)] for file, split, *_ in found],
    )


def as_one_csv(root: Path) -> None:
    as_csv(root)
    (root / "list_attr_celeba.csv").unlink()
    (root / "list_eval_partition.csv").unlink()
    rows = [
        [file, ("train", "val", "test").index(split), blond, male]
        for file, split, blond, male in celeba_fixture.faces()
    ]
    write_csv(root / "celeba_split.csv", ["image_id", "split", "Blond_Hair", "Male"], rows)


def in_the_folders_of_its_publisher(root: Path) -> None:
    for folder, name in (
        ("Anno", "list_attr_celeba.txt"),
        ("Eval", "list_eval_partition.txt"),
        ("Img", "img_align_celeba"),
    ):
        (root / folder).mkdir()
        (root / name).rename(root / folder / name)


def with_the_folder_twice(root: Path) -> None:
    (root / "img_align_celeba").rename(root / "inner")
    (root / "img_align_celeba").mkdir()
    (root / "inner").rename(root / "img_align_celeba" / "img_align_celeba")


@pytest.mark.parametrize(
    "rearrange",
    [as_csv, as_one_csv, in_the_folders_of_its_publisher, with_the_folder_twice],
    ids=lambda it: it.__name__,
)
def test_re_releases_hold_the_same_faces(published, copied, rearrange):
    root = copied("celeba")
    rearrange(root)
    for name, split in splits(published["celeba"]).items():
        other = celeba_of(root)[name]
        assert other.counts() == split.counts()
        assert [(sample.name[-10:], sample.image) for sample in other.samples()] == [
            (sample.name[-10:], sample.image) for sample in split.samples()
        ]


def test_the_published_counts_of_all_faces(published, copied, monkeypatch):
    """All 202,599 rows of both tables; of the images only the first is there, the others are but listed."""
    published_counts = {
        "train": [71_629, 66_874, 22_880, 1_387],
        "val": [8_535, 8_276, 2_874, 182],
        "test": [9_767, 7_535, 2_480, 180],
    }
    cells = [
        (split, place // 2, place % 2)
        for split, counts in published_counts.items()
        for place, count in enumerate(counts)
        for _ in range(count)
    ]
    root = copied("celeba")
    files = [f"{number:06}.jpg" for number in range(1, len(cells) + 1)]
    rows = [(file, {"Blond_Hair": y, "Male": b}) for file, (_, y, b) in zip(files, cells, strict=True)]
    (root / "list_attr_celeba.txt").write_text(celeba_fixture.attribute_text(rows, ("Male", "Blond_Hair")))
    parts = [(file, split) for file, (split, *_) in zip(files, cells, strict=True)]
    (root / "list_eval_partition.txt").write_text(celeba_fixture.partition_text(parts))
    listing = {f"img_align_celeba/{file}": 9_000 for file in files}
    tables = {"list_attr_celeba.txt": 1, "list_eval_partition.txt": 1}
    monkeypatch.setattr(celeba, "list_inputs", lambda _: listing | tables)
    found = celeba_of(root)
    assert len(files) == 202_599
    assert {name: list(split.counts().values()) for name, split in found.items()} == published_counts
    assert [sum(split.counts().values()) for split in found.values()] == [162_770, 19_867, 19_962]


def test_any_two_attributes_make_four_groups(published):
    found = splits(published["celeba"], label="Smiling", bias="Male")["train"]
    assert found.groups.names == ("not_smiling_female", "not_smiling_male", "smiling_female", "smiling_male")
    assert sum(found.counts().values()) == sum(celeba_fixture.PER_GROUP["train"].values())
    longest = ("Mouth_Slightly_Open", "Receding_Hairline", "5_o_Clock_Shadow", "Wearing_Lipstick", "Male")
    for label, bias in itertools.permutations(longest, 2):
        assert len(attribute_groups(label, bias)) == 4  # names of every length are usable
    with pytest.raises(ConfigError, match="label and bias are both Male; name two attributes"):
        from_data(CelebaConfig, {"root": "somewhere", "label": "Male"}, "test")


def test_faces_that_are_not_aligned_are_refused(copied):
    root = copied("celeba")
    shutil.rmtree(root / "img_align_celeba")
    celeba_fixture.write_images(root / "img_align_celeba", [file for file, *_ in celeba_fixture.faces()], (409, 687))
    told = refused("celeba", root)
    assert "img_align_celeba/000001.jpg has 409×687 pixels, where the aligned faces have 178×218" in told


def spoil(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("list_attr_celeba.txt", "37\n", "99\n", "says 99 rows and has 37: it is not whole"),
        ("list_attr_celeba.txt", "37\n", "", "does not begin with the number of its rows"),
        ("list_attr_celeba.txt", " Male ", " Man ", "has no attribute 'Male'; did you mean 'Man'?"),
        ("list_attr_celeba.txt", "000002.jpg ", "000002.jpg 1 ", "line 4 has 6 values for 5 attributes"),
        ("list_attr_celeba.txt", "000002.jpg  1 -1", "000002.jpg  1 7", "000002.jpg has Blond_Hair '7' and Male"),
        ("list_attr_celeba.txt", "000002.jpg", "000001.jpg", "000001.jpg is there twice"),
        ("list_attr_celeba.txt", "000002.jpg", "../etc.jpg", "not in the other: '../etc.jpg', '000002.jpg'"),
        ("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 3", "of a split other than 0, 1 and 2: '000002.jpg'"),
        ("list_eval_partition.txt", "000002.jpg 0\n", "", "1 file in one of the tables of attributes and splits"),
        ("list_eval_partition.txt", "000002.jpg", "000001.jpg", "names 1 of its files twice"),
    ],
)
def test_a_spoilt_table_is_refused_with_what_is_wrong(copied, file, old, new, told):
    root = copied("celeba")
    spoil(root / file, old, new)
    assert told in refused("celeba", root)


def test_missing_files_are_named(copied):
    root = copied("celeba")
    (root / "img_align_celeba" / ".DS_Store").write_bytes(b"\0")  # not one of them, and no harm
    assert celeba_of(root)
    (root / "img_align_celeba" / "000003.jpg").unlink()
    assert f"1 file not in {root}: 'img_align_celeba/000003.jpg'" in refused("celeba", root)
    (root / "list_eval_partition.txt").unlink()
    assert "holds none of list_eval_partition.txt, list_eval_partition.csv, celeba_split.csv" in refused("celeba", root)
    (root / "list_attr_celeba.txt").write_bytes(b"\xff\xfe")
    assert "list_attr_celeba.txt is not text" in refused("celeba", root)
    (root / "list_attr_celeba.txt").unlink()
    assert "holds none of list_attr_celeba.txt" in refused("celeba", root)
    assert "no-such is not there" in refused("celeba", root / "no-such")


# CelebA-HQ


def test_celeba_hq_is_dealt_by_name(published):
    found = splits(published["celeba_hq"])
    assert [sum(split.counts().values()) for split in found.values()] == [160, 20, 20]
    assert found["train"].groups.names == ("not_smiling_female", "not_smiling_male", "smiling_female", "smiling_male")
    seen: Counter[str] = Counter()
    for split in found.values():
        for sample in split.samples():
            seen[sample.name] += 1
            number = int(Path(sample.name).stem)
            assert (sample.group.label, sample.group.bias) == celeba_hq_fixture.smiling_male(number)
    assert set(seen.values()) == {1}
    assert len(seen) == celeba_hq_fixture.FACES
    other = splits(published["celeba_hq"], bias="Young")
    assert names(other["test"]) == names(found["test"])  # whatever the attributes


def test_the_official_split_of_celeba_hq_is_celebas(published, copied):
    root = copied("celeba_hq")
    assert "holds none of list_eval_partition.txt" in refused("celeba_hq", root, split="official")
    numbers = range(celeba_hq_fixture.FACES)
    official = {number: "train" if number < 160 else "val" if number < 180 else "test" for number in numbers}
    rows = [(celeba_hq_fixture.original_file(number), official[number]) for number in numbers]
    (root / "list_eval_partition.txt").write_text(celeba_fixture.partition_text(rows))
    for name, split in splits(published["celeba_hq"], root=str(root), split="official").items():
        assert {official[int(Path(sample.name).stem)] for sample in split.samples()} == {name}
    spoil(root / "CelebA-HQ-to-CelebA-mapping.txt", "000004.jpg", "999999.jpg")
    assert "1 file of no split by the mapping" in refused("celeba_hq", root, split="official")
    spoil(root / "CelebA-HQ-to-CelebA-mapping.txt", "orig_idx", "")
    assert "has not the columns idx, orig_idx, orig_file" in refused("celeba_hq", root, split="official")
    (root / "CelebA-HQ-to-CelebA-mapping.txt").unlink()
    assert "CelebA-HQ-to-CelebA-mapping.txt is not there" in refused("celeba_hq", root, split="official")
    (root / "CelebAMask-HQ-attribute-anno.txt").unlink()
    assert "CelebAMask-HQ-attribute-anno.txt is not there" in refused("celeba_hq", root)
    with pytest.raises(ConfigError, match="label and bias are both Male"):
        from_data(CelebaHqConfig, {"root": "somewhere", "label": "Male"}, "test")


# UTKFace


def test_the_names_of_utkface_tell_the_groups(published):
    found = splits(published["utkface"])
    assert found["train"].groups.names == ("male_old", "male_young", "female_old", "female_young")
    for split in found.values():
        for sample in split.samples():
            age, gender = map(int, sample.name.split("_")[:2])
            assert sample.group.label == gender
            assert 20 <= age <= 50 if sample.group.bias == 0 else age <= 5
    left_out = sum((Counter(split.left_out) for split in found.values()), Counter())
    assert left_out == {
        "malformed name": len(utkface_fixture.MALFORMED),
        "age of neither class": len(utkface_fixture.NEITHER) + 1,
    }
    assert sum(sum(split.counts().values()) for split in found.values()) == utkface_fixture.FACES


def test_race_may_be_the_bias_of_utkface(published):
    found = splits(published["utkface"], bias="race")
    assert found["train"].groups.names[:6] == (
        "male_white", "male_black", "male_asian", "male_indian", "male_other", "female_white",
    )  # fmt: skip
    faces = utkface_fixture.FACES + len(utkface_fixture.NEITHER) + 1
    assert sum(sum(split.counts().values()) for split in found.values()) == faces
    with pytest.raises(ConfigError, match="bias_ratio is for 'bias: age'"):
        from_data(UtkfaceConfig, {"root": "somewhere", "bias": "race", "bias_ratio": 0.95}, "test")


def test_utkface_may_be_plain_but_not_both_plain_and_aligned(tmp_path):
    plain = utkface_fixture.names(".jpg")
    celeba_fixture.write_images(tmp_path / "faces", plain, (8, 8))
    found = splits({"kind": "utkface", "root": str(tmp_path / "faces")})
    assert sum(sum(split.counts().values()) for split in found.values()) == utkface_fixture.FACES
    celeba_fixture.write_images(tmp_path / "more", [plain[0].replace(".jpg", ".jpg.chip.jpg")], (8, 8))
    shutil.copytree(tmp_path / "more", tmp_path / "faces", dirs_exist_ok=True)
    assert "1 file there both as .jpg and as .jpg.chip.jpg" in refused("utkface", tmp_path / "faces")
    celeba_fixture.write_images(tmp_path / "others", ["portrait.jpg"], (8, 8))
    assert "holds no image whose name begins with age_gender_race_" in refused("utkface", tmp_path / "others")


# The recipes

OLD = {f"in their {age}" for age in ("twenties", "thirties", "forties", "fifties")}
YOUNG = {"baby", *(f"aged {age} years old" for age in ("three", "four", "five"))}
PROMPTS = {
    "celeba-hq-ffr": {
        "not_smiling_female": {f"a headshot of Female celebrity with {face} face" for face in ("serious", "straight")},
        "not_smiling_male": {f"a headshot of Male celebrity with {face} face" for face in ("serious", "straight")},
        "smiling_female": {"a headshot of Female celebrity Smiling"},
        "smiling_male": {"a headshot of Male celebrity Smiling"},
    },
    "utkface-ffr": {
        f"{gender.lower()}_{age}": {f"a headshot of a human {gender} {word}" for word in words}
        for gender in ("Male", "Female")
        for age, words in (("old", OLD), ("young", YOUNG))
    },
}


@pytest.mark.parametrize(
    ("name", "released", "share"),
    [("celeba-hq-ffr", [281, 5335, 7797, 411], 4341), ("utkface-ffr", [50, 934, 5731, 302], 3976)],
)
def test_the_recipes_are_the_papers(tmp_path, name, released, share):
    text = builtin_text(name)
    kind = parse(Recipe, text, name).data.kind
    data = FIXTURES[kind].write(tmp_path / "data", faces=900)
    file = tmp_path / "recipe.yaml"
    file.write_text(re.sub(r"(?m)^  root: \S+", f"  root: {data['root']}", text))
    checked = load_checked(str(file))
    real = dict(zip(checked.groups.names, released, strict=True))
    assert set(checked.method.arm_counts("ffr", real).values()) == {share}
    assert checked.method.arm_counts("usb", real) == {group: max(released) - count for group, count in real.items()}
    recipe = checked.recipe
    assert recipe.generate.keep.grey_levels == pytest.approx(1.5e6 / 512**2, abs=1e-3)
    inputs = Inputs(real={}, prepared={})
    drawn = {
        group: {request.prompt for request in checked.method.requests(inputs, group, range(100))} for group in real
    }
    assert drawn == PROMPTS[name]
