"""The verb that judges a finished set before anything trains on it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(audit)


def audit(
    what: Annotated[str, typer.Argument(metavar="OUT_OR_RECIPE", help="The output of a run, or its recipe.")],
    out: Annotated[
        str | None, typer.Option("--out", help="With a recipe: the output, if not the recipe's own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Judge a finished pool: fidelity, gap to real images, duplicates, copies. Exit code 4 where it misses a threshold."""
    from rich.console import Console

    from ffr_dist.cli.show.live import Show
    from ffr_dist.errors import InputError
    from ffr_dist.launch.audit import audit_output, audit_recipe
    from ffr_dist.launch.context import load_checked
    from ffr_dist.launch.events import silent
    from ffr_dist.recipe import builtin_recipes
    from ffr_dist.store import open_store

    console = Console(soft_wrap=True)
    tell = silent if as_json else Show(console)
    if Path(what).is_file() or (what in builtin_recipes() and not Path(what).is_dir()):
        command = f"ffr audit {shlex.quote(what)}" + ("" if out is None else f" --out {shlex.quote(out)}")
        found = audit_recipe(load_checked(what), out=out, command=command, tell=tell)
    elif out is not None:
        raise InputError(f"--out goes with a recipe, and {what} is none; name the output alone")
    else:
        found = audit_output(open_store(what, create=False), tell)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2, sort_keys=True) + "\n")
    else:
        show(console, found)
    if found["failures"]:
        sys.exit(4)


def show(console: Any, found: Mapping[str, Any]) -> None:
    """``audit.json`` for people: two tables of groups, then what is said of all."""
    console.print(_fidelity(found))
    console.print(_distances(found))
    for line in _lines(found):
        console.print(line, highlight=False, markup=False)
    for failure in found["failures"]:
        console.print(f"[red]✗[/] {failure}", highlight=False)
    if found["checks"] and not found["failures"]:
        console.print(f"[green]✓[/] {len(found['checks'])} thresholds of the recipe are met", highlight=False)


def _fidelity(found: Mapping[str, Any]) -> Table:
    """What probes that learned from real images find, and by how much one that learned from generated ones does better there."""
    table = _table("Found by probes, % (of real images)", "images", "label", "bias", "gap")
    gaps = (found["gaps"] or {"trained_on_generated": {}})["trained_on_generated"]
    for group in (*found["groups"], found["overall"]):
        table.add_row(
            group["group"],
            f"{group['images']:,}",
            _beside(_percent(group["label_generated"]), _percent(group["label_real"])),
            _beside(_percent(group["bias_generated"]), _percent(group["bias_real"])),
            _gap([gaps[group["group"]]] if group["group"] in gaps else list(gaps.values())),
        )
    return table


def _distances(found: Mapping[str, Any]) -> Table:
    title = "Distances from real images (of real ones from each other)"
    table = _table(title, "Fréchet", "KID × 1000", "near-duplicates", "accepted %")
    distances = {one["group"]: one for one in (found["feature_distances"] or {"groups": []})["groups"]}
    for group in found["groups"]:
        name = group["group"]
        one, tally = distances.get(name), found["acceptance"].get(name)
        table.add_row(
            name,
            "–" if one is None else _beside(f"{one['fd']:.3g}", f"{one['fd_real']:.3g}"),
            "–" if one is None else _beside(f"{1000 * one['kid']:.1f}", f"{1000 * one['kid_real']:.1f}"),
            f"{found['duplicates']['groups'].get(name, 0):,}",
            "–" if not tally or not tally["tried"] else f"{100 * tally['accepted'] / tally['tried']:.1f}",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("group", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    apart = found["real_or_fake"]
    if apart is not None:
        yield (
            f"real or generated: a probe is right of {100 * apart['accuracy']:.1f} % of {apart['count']:,} images (chance: "
            f"{100 * apart['null_low']:.1f} to {100 * apart['null_high']:.1f} %, p = {apart['p']:.3g}): {apart['advice']}"
        )
    twice = found["duplicates"]
    yield (
        f"duplicates: {twice['exact']:,} exact, {twice['near']:,} near (at most {twice['bits']} of 256 bits apart) of "
        f"{twice['images']:,} images"
    )
    distances = found["distances"]
    if distances is not None:
        middle = distances["quantiles"].index(0.5)
        yield (
            f"copies of the generator's training images: {distances['copies']:,}; median distance to the nearest one "
            f"{distances['generated'][middle]:.1f} of 255 (held-out real images: {distances['real'][middle]:.1f})"
        )
    reasons: dict[str, int] = {}
    for tally in found["acceptance"].values():
        for reason, count in tally["rejected"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    if reasons:
        yield f"rejected: {', '.join(f'{reason} {count:,}' for reason, count in sorted(reasons.items()))}"
    if found["sheets"]:
        yield f"contact sheets: {len(found['sheets'])} below {found['sheets'][0]['file'].rpartition('/')[0]}/ of the output"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _beside(generated: str, real: str) -> str:
    return f"{generated} ({real})"


def _gap(both: Sequence[Mapping[str, Mapping[str, int]]]) -> str:
    """Of the probe that learned from generated images: generated less real, mean of some groups."""
    if not both or any(one[kind]["count"] == 0 for one in both for kind in ("generated", "real")):
        return "–"
    gaps = [
        one["generated"]["correct"] / one["generated"]["count"] - one["real"]["correct"] / one["real"]["count"]
        for one in both
    ]
    return f"{100 * sum(gaps) / len(gaps):+.1f}"
