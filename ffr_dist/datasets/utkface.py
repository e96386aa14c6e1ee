"""UTKFace: about 23,700 faces whose names tell age, gender and race."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import model_validator

from ffr_dist.config import Config
from ffr_dist.datasets.faces import SPLITS, FaceRatio, deal, face_splits
from ffr_dist.datasets.files import FileRow, Text, named, refuse
from ffr_dist.datasets.source import Split
from ffr_dist.errors import DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.store import list_inputs

GENDERS = ("male", "female")
AGES = ("old", "young")
"""20 to 50 years, and at most 5: the others are in neither class."""
RACES = ("white", "black", "asian", "indian", "other")

_ENDINGS = (".jpg.chip.jpg", ".jpg")
"""Of the aligned faces, and of the plain ones."""
_OLD = range(20, 51)
_YOUNG = range(6)
_FIELDS = 4


class UtkfaceConfig(Config):
    """UTKFace as a recipe names it: the gender is learnt, age or race is the bias.

    A name that does not tell all is left out and counted, and so is, where the bias is the age, a face of neither class.
    """

    kind: Literal["utkface"] = "utkface"
    root: Text
    """Path or URL of the folder that holds the images themselves."""
    bias: Literal["age", "race"] = "age"
    bias_ratio: FaceRatio | None = None
    """What train and val are cut and thinned to, as in the paper; None takes them whole."""
    split_seed: int = 0
    """Says which images are dealt to which split, and which ones thinning removes."""

    @model_validator(mode="after")
    def _cut_needs_two_biases(self) -> Self:
        if self.bias_ratio is not None and self.bias != "age":
            raise ValueError("bias_ratio is for 'bias: age': the paper's cut is of two classes and two biases")
        return self

    @property
    def groups(self) -> Groups:
        """In the order of gender, then bias."""
        words = AGES if self.bias == "age" else RACES
        return Groups.of(
            Group(f"{gender}_{word}", label, bias)
            for label, gender in enumerate(GENDERS)
            for bias, word in enumerate(words)
        )

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (published data has no seed)
        """``train``, ``val`` and ``test``: 80, 10 and 10 % of all files, whichever faces are left out afterwards."""
        sizes = list_inputs(self.root)
        images = _images(self.root, sizes)
        rows: dict[str, list[FileRow]] = {name: [] for name in SPLITS}
        left_out: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
        for file, part in deal(images, self.split_seed).items():
            face = _face(file)
            bias = None if face is None else face.race if self.bias == "race" else face.age_class
            if face is None:
                left_out[part]["malformed name"] += 1
            elif bias is None:
                left_out[part]["age of neither class"] += 1
            else:
                rows[part].append(FileRow(file, face.gender, bias))
        return face_splits(
            self.kind,
            self.root,
            rows,
            self.groups,
            sizes,
            bias_ratio=self.bias_ratio,
            split_seed=self.split_seed,
            left_out=left_out,
        )


@dataclass(frozen=True, slots=True)
class _Face:
    """What a name tells."""

    age: int
    gender: int
    race: int

    @property
    def age_class(self) -> int | None:
        return 0 if self.age in _OLD else 1 if self.age in _YOUNG else None


def _face(file: str) -> _Face | None:
    """None for a name that has not all four of ``{age}_{gender}_{race}_{date}``, as a few of the published ones."""
    fields = _stem(file).split("_")
    if len(fields) != _FIELDS or not all(field.isascii() and field.isdigit() for field in fields[:-1]):
        return None
    face = _Face(*map(int, fields[:-1]))
    return face if face.gender < len(GENDERS) and face.race < len(RACES) else None


def _stem(file: str) -> str:
    ending = next((ending for ending in _ENDINGS if file.endswith(ending)), "")
    return file.removesuffix(ending)


def _images(root: str, sizes: Collection[str]) -> list[str]:
    images = sorted(file for file in sizes if "/" not in file and file.endswith(".jpg") and not file.startswith("."))
    if not any(_face(file) for file in images):
        below = Counter(file.rpartition("/")[0] for file in sizes if _face(file.rpartition("/")[2]))
        if below:
            folder = min(below, key=lambda name: (-below[name], name))
            raise DataError(f"{root} is too high up: the images lie further down; give {root.rstrip('/')}/{folder}")
        raise DataError(
            f"{root} holds no image whose name begins with age_gender_race_; give the folder of UTKFace's images"
        )
    twice = [stem for stem, times in Counter(map(_stem, images)).items() if times > 1]
    cure = "keep either the aligned ones or the plain ones, or a face may be in two splits"
    refuse(root, named(twice, "there both as .jpg and as .jpg.chip.jpg", cure))
    return images
