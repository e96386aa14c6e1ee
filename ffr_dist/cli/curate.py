"""The verbs that change what a finished set is, or what lies around it: ``finish extend settle exclude gc export``."""

from __future__ import annotations

import json
import re
import shlex
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from ffr_dist.errors import InputError

OutputArg = Annotated[str, typer.Argument(help="The output of a run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)\Z", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    for verb in (finish, extend, settle, exclude, gc, export):
        app.command()(verb)


def finish(
    out: OutputArg,
    now: Annotated[
        bool, typer.Option("--now", help="With what is decided by now: the same share of each group's quota.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Select exactly the quota from what is committed and publish the manifest."""
    from ffr_dist.launch.curate import finish_now, generate_line
    from ffr_dist.launch.pool import finish_pool

    store = _existing(out)
    _show(out, finish_now(store) if now else finish_pool(store, generate_line(store)), as_json)


def extend(
    recipe: Annotated[str, typer.Argument(help="The recipe, with the quota that is wanted now.")],
    out: Annotated[str | None, typer.Option("--out", help="The output; the recipe's own if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask an output for more images of each group, or for fewer."""
    from ffr_dist.launch.context import load_checked
    from ffr_dist.launch.curate import extend as ask
    from ffr_dist.store import open_store

    checked = load_checked(recipe)
    where = checked.recipe.output if out is None else out
    go_on = f"ffr generate {shlex.quote(recipe)}" + ("" if out is None else f" --out {shlex.quote(out)}")
    _show(where, ask(checked, open_store(where, create=False, config=checked.recipe.storage), go_on), as_json)


def settle(
    out: OutputArg,
    settings: Annotated[
        list[str], typer.Option("--set", help="A keep rule and its new threshold, as in blank_std=4; may be repeated.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Judge the images anew, by stricter thresholds than they were generated with."""
    from ffr_dist.launch.curate import tighten

    _show(out, tighten(_existing(out), dict(_setting(text) for text in settings)), as_json)


def exclude(
    out: OutputArg,
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of images, as in low_temple-00000012.")] = None,
    listed: Annotated[Path | None, typer.Option("--from", help="A file with one key a line.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take images out of the set for good. 'gc --purge' then deletes them."""
    from ffr_dist.launch.curate import exclude as take_out

    wanted = [*(keys or ()), *(_lines(listed) if listed is not None else ())]
    if not wanted:
        raise InputError("name the keys to exclude, or a file of them with --from")
    _show(out, take_out(_existing(out), wanted), as_json)


def gc(
    out: OutputArg,
    older: Annotated[str, typer.Option(help="Least age of what nobody names, as in 90m, 24h or 7d.")] = "24h",
    purge: Annotated[
        bool, typer.Option("--purge", help="Also delete earlier manifests, and all images that are not in the set.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete shards that nothing names: what crashed and doubled attempts left behind."""
    from ffr_dist.launch.curate import collect_garbage

    found = collect_garbage(_existing(out), older=_age(older), purge=purge, dry_run=dry_run)
    total = sum(info.size for info in found)
    if as_json:
        _print_json({"dry_run": dry_run, "deleted": [info.key for info in found], "bytes": total})
        return
    for info in found:
        _print(info.key)
    _print(f"{'would delete' if dry_run else 'deleted'} {len(found):,} objects, {total / 1e6:,.1f} MB")


def export(
    out: OutputArg,
    to: Annotated[str, typer.Argument(help="An empty folder or bucket path, local or remote.")],
    shard_mb: Annotated[
        int | None, typer.Option("--shard-mb", min=1, help="Join neighbouring tars up to this size.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a finished set to plain tar names, for any WebDataset reader."""
    from ffr_dist.launch.curate import destination
    from ffr_dist.launch.curate import export as copy

    store = _existing(out)
    done = copy(store, destination(store, to), shard_mb)
    if as_json:
        _print_json(
            {
                "to": to,
                "images": done.export.images,
                "shards": done.export.shards,
                "copied": done.copied,
                "manifest_sha256": done.export.manifest_sha256,
            }
        )
    else:
        _print(f"{to}: {done.export.images:,} images in {done.export.shards:,} tars, {done.copied:,} copied now")


def _show(out: str, manifest: Any, as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "revision": manifest.revision,
                "images": manifest.images,
                "groups": dict(manifest.groups),
                "shards": len(manifest.shards),
                "manifest_sha256": manifest.manifest_sha256,
            }
        )
        return
    counts = ", ".join(f"{name} {count:,}" for name, count in manifest.groups.items())
    _print(f"{out}: {manifest.images:,} images ({counts}), manifest {manifest.manifest_sha256}")


def _setting(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name.strip(), float(value)  # of "" too, which is no number
    except ValueError as error:
        raise InputError(f"--set {text!r} is not name=number, as in blank_std=4") from error


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--from {file} cannot be read: {error}") from error


def _age(text: str) -> timedelta:
    match = _AGE.match(text)
    if match is None:
        raise InputError(f"--older {text!r} is not an age; write it as in 90m, 24h or 7d")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


def _existing(out: str) -> Any:
    from ffr_dist.store import open_store

    return open_store(out, create=False)


def _print(text: str) -> None:
    from rich.console import Console

    Console(soft_wrap=True).print(text, highlight=False, markup=False)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
