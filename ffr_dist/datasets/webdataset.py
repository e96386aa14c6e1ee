"""WebDataset tars that others wrote, as splits: patterns of tars for each, labels from ``.cls`` or from fields of ``.json``.

What a tar holds is known only when all of it was read, as by ``ffr index``; its images are then read at their places. Tars
that are to be trained on as they are need ``ffr index`` alone: what is data of a recipe passes the recipe's size and codec.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from ffr_dist.config import Config
from ffr_dist.datasets.files import FileRow, Text, cell_problems, refuse
from ffr_dist.datasets.labels import Cells, declared_groups, occurring_groups
from ffr_dist.datasets.source import Sample, Split
from ffr_dist.errors import DataError, MissingError
from ffr_dist.groups import Groups
from ffr_dist.store import ObjectInfo, Store, open_store

if TYPE_CHECKING:
    from ffr_dist.shards.foreign import Found

_AT_ONCE = 16
"""So many images are in memory."""
_TARS_AT_ONCE = 2
_KNOWN_SETS = 8

Patterns = Text | tuple[Text, ...]
"""Paths or URLs of tars; ``{0000..0099}``, ``{a,b}``, ``*`` and ``?`` stand for several."""


class WebdatasetConfig(Config):
    """Tars as a recipe names them."""

    kind: Literal["webdataset"] = "webdataset"
    train: Patterns
    val: Patterns
    test: Patterns
    label: Text | None = None
    """The field of each ``.json`` that is the label, a whole number from 0; null: it is the ``.cls``."""
    bias: Text | None
    """The field of each ``.json`` that is the bias, likewise; null where nobody knows it: it is -1 then."""
    groups: Cells | None = None
    """[label, bias] of each declared group, by name; null: each split declares the pairs that it holds."""
    split_groups: dict[str, Cells] = Field(default_factory=dict)
    """Groups of the splits that declare others than ``train`` does."""
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    """What to do about an image that cannot be decoded: name it and stop, or leave it out and count it. One whose header
    alone cannot be read is refused in any case.
    """

    @model_validator(mode="after")
    def _usable_groups(self) -> Self:
        for cells in (self.groups, *self.split_groups.values()):
            if cells is not None:
                declared_groups(cells)
        return self

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (tars hold what they hold)
        """``train``, ``val`` and ``test``; the seed changes nothing. Known by the tars' sha256."""
        found = {name: self._tars(patterns) for name, patterns in self._patterns().items()}
        of_tar: dict[str, str] = {}
        for name, tars in found.items():
            for tar in tars:
                other = of_tar.setdefault(tar.where, name)
                if other != name:
                    raise DataError(f"{tar.where} is of split {other} and of split {name}; name it in one of them")
        return tuple(self._split(name, tars) for name, tars in found.items())

    def _patterns(self) -> dict[str, Sequence[str]]:
        given = {"train": self.train, "val": self.val, "test": self.test}
        return {name: (patterns,) if isinstance(patterns, str) else patterns for name, patterns in given.items()}

    def _tars(self, patterns: Sequence[str]) -> tuple[_Tar, ...]:
        from ffr_dist.shards.foreign import find_tars  # noqa: PLC0415 (a recipe is read without it)

        base, keys = find_tars(patterns)
        store = open_store(base, create=False)
        try:
            heads = tuple(store.head(key) for key in keys)
        except MissingError as error:
            raise DataError(f"{store.url}: {error}; check the path") from error
        return _read(base, heads, self.label, self.bias)

    def _split(self, name: str, tars: Sequence[_Tar]) -> Split:
        rows = [FileRow(image.key, image.label, image.bias) for tar in tars for image in tar.images]
        cells = self.split_groups.get(name, self.groups)
        groups = occurring_groups((row.cell for row in rows), {}, {}) if cells is None else declared_groups(cells)
        refuse(tars[0].store.url, cell_problems(name, rows, groups))
        found = Counter(row.cell for row in rows)
        return Split(
            name=name,
            groups=groups,
            identity={
                "kind": self.kind,
                "split": name,
                "groups": [[group.name, group.label, group.bias] for group in groups],
                "tars": [[tar.key, tar.sha256] for tar in tars],
                "label": self.label,
                "bias": self.bias,
                "on_bad_image": self.on_bad_image,
            },
            samples=lambda: _samples(tars, groups),
            counts=lambda: {group.name: found[group.label, group.bias] for group in groups},
            skip_bad_images=self.on_bad_image == "skip",
        )


@dataclass(frozen=True, slots=True)
class _Tar:
    """A tar that was read, and the images in it."""

    store: Store
    key: str
    sha256: str
    images: Sequence[Found]

    @property
    def where(self) -> str:
        return f"{self.store.url}/{self.key}"


@lru_cache(maxsize=_KNOWN_SETS)  # each seed of a comparison asks for the same ones
def _read(base: str, heads: Sequence[ObjectInfo], label: str | None, bias: str | None) -> tuple[_Tar, ...]:
    from ffr_dist.shards.foreign import Fields, Scan  # noqa: PLC0415 (a recipe is read without it)
    from ffr_dist.shards.refs import in_order  # noqa: PLC0415 (as above)

    store = open_store(base, create=False)

    def read(head: ObjectInfo) -> _Tar:
        scan = Scan(store, head.key, Fields(label=label, bias=bias))
        sha256, _ = scan.read()
        if not scan.images:
            raise DataError(f"{scan.where} holds no image; leave it out")
        return _Tar(store, head.key, sha256, tuple(scan.images))

    return tuple(in_order(read, heads, _TARS_AT_ONCE))


def _samples(tars: Sequence[_Tar], groups: Groups) -> Iterator[Sample]:
    of_cell = {(group.label, group.bias): group for group in groups}
    for tar in tars:
        for start in range(0, len(tar.images), _AT_ONCE):
            some = tar.images[start : start + _AT_ONCE]
            bodies = tar.store.get_ranges(tar.key, [image.offset for image in some], [image.size for image in some])
            for image, body in zip(some, bodies, strict=True):
                if hashlib.sha256(body).digest() != image.sha256:
                    raise DataError(f"{tar.where} changed since it was read; run the same command again")
                yield Sample(image=body, group=of_cell[image.label, image.bias], name=image.key)
