"""The verb that runs a grid of cells: ``study``."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ffr_dist.errors import StoppedError

if TYPE_CHECKING:
    from ffr_dist.launch.study.run import StudyResult


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(study)


def study(
    file: Annotated[str, typer.Argument(metavar="STUDY", help="A study file, or the name of a built-in study.")],
    out: Annotated[
        str | None, typer.Option("--out", help="Where to write; the study's own output if not given.")
    ] = None,
    inline: Annotated[bool, typer.Option("--inline", help="In this process, without Ray.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Train and test a grid of cells over one pool, and compare them. Goes on where it stopped."""
    from rich.console import Console

    from ffr_dist.cli.show.live import Show
    from ffr_dist.cli.show.results import study_tables
    from ffr_dist.launch.study.check import load_checked_study
    from ffr_dist.launch.study.run import run_study
    from ffr_dist.launch.study.table import tables_of

    flags = ["--inline"] * inline + ([] if out is None else ["--out", out])
    command = shlex.join(["ffr", "study", file, *flags])
    checked = load_checked_study(file)
    console = Console(soft_wrap=True, stderr=as_json)  # what is printed is the object alone
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160  # a log is as wide as its lines
    with Show(console) as show:
        result = run_study(checked, out=out, command=command, tell=show, inline=inline)
    tables = tables_of(result.rows, checked.study.lead)
    if as_json:
        sys.stdout.write(json.dumps(_json(result, tables), indent=2) + "\n")
    else:
        study_tables(console, tables, checked.study.lead, skipped=result.skipped, failures=result.failures)
        console.print(f"report: {result.report}", highlight=False, markup=False)
    if result.failures:
        total = len(result.failures) + len(result.rows)
        raise StoppedError(f"{len(result.failures)} of {total} cells failed; to try them again: {command}")


def _json(result: StudyResult, tables: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "output": result.output,
        "report": result.report,
        "cells": len(result.rows),
        "tables": tables,
        "tuning": list(result.tuning),
        "skipped": list(result.skipped),
        "failures": list(result.failures),
    }
