"""The verb that takes in data which others have written: ``index``."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ffr_dist.errors import InputError

if TYPE_CHECKING:
    from ffr_dist.groups import Group

_GROUP = re.compile(r"([^=]+)=(\d+),(-1|\d+)\Z", re.ASCII)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(index)


def index(
    tars: Annotated[
        list[str],
        typer.Argument(help="Paths or URLs of WebDataset tars; {0000..0099}, {a,b}, * and ? stand for several."),
    ],
    out: Annotated[str, typer.Option("--out", help="Where index and manifest go; the tars stay where they are.")],
    label: Annotated[
        str | None, typer.Option("--label", help="The field of each .json that is the label; else it is the .cls.")
    ] = None,
    bias: Annotated[
        str | None, typer.Option("--bias", help="The field of each .json that is the bias; else nobody knows it.")
    ] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", help="A group, as in land_sea=0,1 (label, bias); left out: each pair that occurs."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Make a set of tars that others wrote, by an index beside them."""
    from ffr_dist.groups import Groups
    from ffr_dist.shards.foreign import Fields, index_tars
    from ffr_dist.store import open_store

    declared = Groups.of(map(_group, groups)) if groups else None
    manifest = index_tars(open_store(out), tars, Fields(label=label, bias=bias), declared)
    passed = manifest.detail["without_image"]
    if as_json:
        found = {
            "base": manifest.base,
            "shards": len(manifest.shards),
            "images": manifest.images,
            "groups": dict(manifest.groups),
            "size": manifest.size,
            "without_image": passed,
            "manifest_sha256": manifest.manifest_sha256,
        }
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    counts = ", ".join(f"{name} {count:,}" for name, count in manifest.groups.items())
    _print(f"{out}: {manifest.images:,} images ({counts}) in {len(manifest.shards):,} tars of {manifest.base}")
    if passed:
        _print(f"passed over {sum(passed.values()):,} samples without an image: {'; '.join(passed)}")
    if manifest.size is None:
        _print(
            "the images differ in size or are not square, so that they fit no batch; write tars of images of one size"
        )


def _group(text: str) -> Group:
    from ffr_dist.groups import Group

    match = _GROUP.match(text)
    if match is None:
        raise InputError(f"--group {text!r} is not name=label,bias, as in land_sea=0,1; the bias may be -1: unknown")
    return Group(match[1], int(match[2]), int(match[3]))


def _print(text: str) -> None:
    from rich.console import Console

    Console(soft_wrap=True).print(text, highlight=False, markup=False)
