"""The audit of a finished pool: made once, kept in the output with its contact sheets, and looked at before anything trains."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffr_dist import __version__
from ffr_dist.config import digest, parse
from ffr_dist.errors import InputError, MissingError, StoppedError
from ffr_dist.evaluate.audit.audit import audit
from ffr_dist.evaluate.audit.config import AuditConfig
from ffr_dist.evaluate.audit.findings import Shown
from ffr_dist.launch.audited import read_audit
from ffr_dist.launch.context import CheckedRecipe, Run, import_real, open_begun, start_run
from ffr_dist.launch.events import Began, Ended, Tell
from ffr_dist.models.features import judge_sha256
from ffr_dist.read.dataset import Dataset, open_dataset
from ffr_dist.recipe import KEY, Recipe
from ffr_dist.report.sheets import contact_sheet, describe
from ffr_dist.shards import layout
from ffr_dist.shards.codec import decode
from ffr_dist.shards.commit import Commit
from ffr_dist.shards.log import decided
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.selection import latest_revision, standing
from ffr_dist.shards.sidecar import load_sidecar
from ffr_dist.store import Store

_COLUMNS = 8
_SHEET_IMAGES = 16
_MOST_PIXELS, _FEWEST_PIXELS = 128, 64
"""Sides that images are drawn with on a sheet."""
_SIDECARS = 64
"""Rejects are looked for in so many at most: each is a request."""


def check_pool(run: Run, stores: Mapping[str, Store]) -> None:
    """Audit the finished pool once; StoppedError where it fails a threshold of the recipe."""
    found, known = audit_pool(run.store, run.recipe.audit, stores, run.tell)
    if found["failures"]:
        raise StoppedError(
            f"the pool failed its audit, so nothing was trained on it: {'; '.join(found['failures'])}. Look at it with: "
            f"ffr report {shlex.quote(run.store.url)}. Then mend the generator, and write to another output; or change the "
            "thresholds in 'audit' of the recipe (of a study: in its 'set', as in audit.min_label_accuracy). To go on: "
            f"{run.command}"
        )
    run.tell(Ended("audit", found["summary"], reused=known))


def audit_recipe(checked: CheckedRecipe, *, out: str | None, command: str, tell: Tell) -> dict[str, Any]:
    """Audit the finished pool of a recipe's output as this recipe says; real images are imported if they are not there."""
    store = open_begun(checked, out)
    if store is None:
        raise InputError(
            f"{checked.recipe.output if out is None else out} holds no pool to audit; run 'ffr generate' first"
        )
    read_manifest(store)  # refused before an hour of importing
    run = start_run(checked, out=out, command=command, tell=tell)
    stores = import_real(run, checked.recipe.compare.seeds[0])
    return audit_pool(run.store, checked.recipe.audit, stores, tell)[0]


def audit_output(store: Store, tell: Tell) -> dict[str, Any]:
    """Audit the finished pool of an output, as the recipe in it says, by the real images that were imported into it."""
    try:
        text = store.get(KEY).decode()
    except MissingError as error:
        raise InputError(f"{store.url} holds no {KEY}: it is not the output of a run") from error
    recipe = parse(Recipe, text, f"{store.url}/{KEY}")
    return audit_pool(store, recipe.audit, _imported(store, recipe), tell)[0]


def audit_pool(
    store: Store, config: AuditConfig, stores: Mapping[str, Store], tell: Tell
) -> tuple[dict[str, Any], bool]:
    """What stands in ``audit.json``, and whether it stood there before; ``stores``: the imported real sets, by split."""
    pool = open_dataset(store)
    probe = open_dataset(stores.get("probe", stores["train"]))
    generator = open_dataset(stores["generator"]) if "generator" in stores else None
    asked = digest(
        [
            __version__,  # another one may measure otherwise
            pool.fingerprint,
            probe.fingerprint,
            None if generator is None else generator.fingerprint,
            config.model_dump(mode="json"),
            None if config.features is None else judge_sha256(config.features),
        ]
    )
    known = read_audit(store)
    if known is not None and known["asked"] == asked:
        return known, True
    tell(Began("audit"))
    found = audit(pool, probe, config, generator)
    commits = list(decided(store))
    told = {
        "asked": asked,
        **found.to_json(),
        "acceptance": _acceptance(commits),
        "sheets": [
            *_probe_sheets(store, pool, found.shown, config.images_per_group),
            *_nearest_sheet(store, pool, generator, found.shown, config.images_per_group),
            *_rejected_sheets(store, commits),
        ],
    }
    body = json.dumps(told, sort_keys=True)
    store.put(layout.AUDIT, body.encode())  # last: the sheets that it names are there
    return json.loads(body), False


def _imported(store: Store, recipe: Recipe) -> dict[str, Store]:
    """The real sets in an output. Its data need not be here: they are asked only where seeds have sets of their own."""
    folders: dict[str, list[str]] = {}
    for info in store.list(layout.REAL):
        folder, _, name = info.key.removeprefix(f"{layout.REAL}/").partition("/")
        if name == layout.MANIFEST_COPY:
            folders.setdefault(folder.rpartition("-")[0], []).append(folder)
    if "train" not in folders:
        raise InputError(f"{store.url} holds no imported training images to compare with; run 'ffr import' first")
    if any(len(found) > 1 for found in folders.values()):
        folders = {split.name: [split.folder] for split in recipe.data.splits(recipe.compare.seeds[0])}
    return {name: store.below(layout.real_folder(found[0])) for name, found in folders.items()}


def _acceptance(commits: Sequence[Commit]) -> dict[str, dict[str, Any]]:
    """What became of the candidates of each group when they were made; what a selection drops later is not in it."""
    tried, accepted = Counter[str](), Counter[str]()
    rejected: dict[str, Counter[str]] = {}
    for commit in commits:
        for name, tally in commit.groups.items():
            tried[name] += tally.tried
            accepted[name] += tally.accepted
            rejected.setdefault(name, Counter()).update(tally.rejected)
    return {
        name: {"tried": tried[name], "accepted": accepted[name], "rejected": dict(sorted(reasons.items()))}
        for name, reasons in sorted(rejected.items())
    }


def _probe_sheets(store: Store, pool: Dataset, shown: Shown, most: int) -> Iterator[dict[str, str]]:
    judged = _judged(pool, most)
    for kind, told, rows in (("best", "surest", shown.best), ("worst", "least sure", shown.worst)):
        for group, places in rows.items():
            images = list(judged.pixels(np.array(places)))
            caption = f"The {len(images)} images that the label probe is {told} of"
            yield _put_sheet(store, group, kind, images, caption)


def _nearest_sheet(
    store: Store, pool: Dataset, generator: Dataset | None, shown: Shown, most: int
) -> Iterator[dict[str, str]]:
    if generator is None:
        return
    made, seen = (np.array(rows) for rows in zip(*shown.nearest, strict=True))
    images = [*_judged(pool, most).pixels(made), *generator.pixels(seen)]
    caption = "Above, the generated images that are nearest to a training image of the generator; below each, that one"
    yield _put_sheet(store, "", "nearest", images, caption, columns=len(made))


def _rejected_sheets(store: Store, commits: Sequence[Commit]) -> Iterator[dict[str, str]]:
    """From the first thumbnails in sidecars: of each interval there are some for each reason."""
    found: dict[str, list[tuple[str, NDArray[np.uint8]]]] = {
        name: [] for commit in commits for name, tally in sorted(commit.groups.items()) if tally.rejected
    }
    revision = latest_revision(store)
    of = None if revision is None else standing(revision)
    read = 0
    for commit in commits:
        if read == _SIDECARS or all(len(some) == _SHEET_IMAGES for some in found.values()):
            break
        if commit.sidecar is None or not any(tally.rejected for tally in commit.groups.values()):
            continue
        read += 1
        table = load_sidecar(store, of(commit) if of is not None else commit, ("group", "reason", "thumbnail"))
        for row in table.filter(table["thumbnail"].is_valid()).to_pylist():
            some = found.setdefault(row["group"], [])
            if len(some) < _SHEET_IMAGES:
                some.append((row["reason"], decode(row["thumbnail"])))
    for group, some in sorted(found.items()):
        if some:
            reasons = Counter(reason for reason, _ in some)
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            images = [image for _, image in some]
            yield _put_sheet(store, group, "rejected", images, f"First rejected candidates: {told}")


def _judged(pool: Dataset, most: int) -> Dataset:
    """As the audit chose them."""
    return pool.lowest({name: min(count, most) for name, count in pool.counts().items()})


def _put_sheet(
    store: Store, group: str, kind: str, images: Sequence[NDArray[np.uint8]], caption: str, columns: int = _COLUMNS
) -> dict[str, str]:
    small = [_shrunk(image) for image in images]
    side = max(small[0].shape[:2])
    body = contact_sheet(small, columns, max(1, _FEWEST_PIXELS // side))
    ending = describe(body)[0].rpartition("/")[2]
    key = layout.audit_sheet_key(f"{group or 'all'}-{kind}.{ending}")
    store.put(key, body)
    return {"group": group, "kind": kind, "file": key, "caption": caption}


def _shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if max(image.shape[:2]) <= _MOST_PIXELS:
        return image
    small = Image.fromarray(image)
    small.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    return np.asarray(small)
