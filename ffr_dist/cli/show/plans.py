"""What is to be made, and what it will take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from ffr_dist.cli.show.words import between, duration, money, percent, reasons, say, size


def plan_table(console: Console, plan: Mapping[str, Any]) -> None:
    """``ffr plan`` for people: arms that take the same images share a column, those that take none have none."""
    groups = plan["groups"]
    columns: dict[tuple[int, ...], list[str]] = {}
    for arm in next(iter(groups.values()))["arms"]:
        columns.setdefault(tuple(row["arms"][arm] for row in groups.values()), []).append(arm)
    shown = {counts: arms for counts, arms in columns.items() if any(counts)}
    say(console, "Images of each group: real, in the pool, and taken by each arm")
    table = Table()
    table.add_column("group", overflow="fold")
    for name in ("real", "pool", *("\n".join(arms) for arms in shown.values())):
        table.add_column(name, justify="right")
    for place, (name, row) in enumerate(groups.items()):
        table.add_row(name, f"{row['real']:,}", f"{row['quota']:,}", *(f"{counts[place]:,}" for counts in shown))
    console.print(table)
    say(
        console,
        f"{sum(row['quota'] for row in groups.values()):,} images from "
        f"{between(plan['candidates'], lambda count: f'{count:,.0f}')} candidates in {plan['intervals']:,} intervals, "
        f"batches of {plan['batch']}; about {size(plan['bytes'])}",
    )
    _outlook(console, plan)


def pilot_table(console: Console, plan: Mapping[str, Any], command: str) -> None:
    """What the pilot of a run found, and what the rest will take."""
    say(console, "The pilot is done. In brackets: 95 % intervals.")
    console.print(groups_table(plan["groups"]))
    say(
        console,
        f"{between(plan['candidates'], lambda count: f'{count:,.0f}')} candidates in {plan['intervals']:,} intervals "
        f"will fill the quotas; about {size(plan['bytes'])}",
    )
    _outlook(console, plan)
    say(console, f"to go on: {command}")


def _outlook(console: Console, plan: Mapping[str, Any]) -> None:
    """What is to be made, by how many workers, and what that rests on."""
    if plan["unfillable"]:
        say(console, f"! {plan['unfillable']}")
        return
    if plan["spent"] is not None and plan["spent"]["device_seconds"]:
        spent = plan["spent"]
        cost = "" if spent["cost"] is None else f", cost {money(spent['cost'])}"
        say(console, f"so far: {duration(spent['device_seconds'])} of device time{cost}")
    if not plan["to_go"]["intervals"]:
        say(console, "nothing is left to generate")
        return
    rate = plan["images_per_second"]
    if rate is None:
        say(
            console,
            "rate unknown: state generate.images_per_second, or run the pilot (ffr generate … --stop-after pilot)",
        )
        return
    left = plan["to_go"]
    say(console, f"To make {left['candidates']:,} candidates in {left['intervals']:,} intervals:")
    console.print(_fleets_table(plan))
    measured = plan["measured"]
    per_worker = f"{between(rate, lambda value: f'{value:.3g}')} images/s a worker"
    told = [f"{per_worker}, {'as measured' if measured['rate'] else 'as the recipe states'}"]
    if not measured["acceptance"]:
        told.append("every candidate taken for accepted")
    if not all(measured.values()):
        told.append("--stop-after pilot measures")
    say(console, "; ".join(told))


def _fleets_table(plan: Mapping[str, Any]) -> Table:
    table = Table()
    priced = any(fleet["cost"] is not None for fleet in plan["fleets"])
    for name in ("workers", "GPUs", "time", *(["cost"] if priced else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for fleet in plan["fleets"]:
        cost = [between(fleet["cost"], money)] if priced else []
        table.add_row(f"{fleet['workers']}", f"{fleet['gpus']:g}", between(fleet["seconds"], duration), *cost)
    return table


def groups_table(groups: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table()
    table.add_column("group", overflow="fold")
    for name in ("quota", "accepted", "acceptance %"):
        table.add_column(name, justify="right")
    table.add_column("rejected")
    for name, row in groups.items():
        share = row.get("acceptance")
        table.add_row(
            name,
            f"{row['quota']:,}",
            f"{row['accepted']:,}",
            "" if share is None else between(share, percent),
            reasons(row["rejected"]) or "none",
        )
    return table
