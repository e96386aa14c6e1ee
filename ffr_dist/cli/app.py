"""The verbs. Each turns arguments into one call of ``launch``, shows the result, and lets errors become exit codes.

Exit codes: 0 done; 2 wrong input, nothing was started; 3 stopped or unfinished, the printed command goes on;
4 checked, and found broken; 1 a bug.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ffr_dist.cli import audit, curate, data, datasets, study
from ffr_dist.errors import FFRError, InputError, StoppedError
from ffr_dist.launch.fleet.signals import StopSignals


class _Verbs(TyperGroup):
    """Ctrl-C and SIGTERM in any verb end it with how to go on, where typer would say nothing."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            command = shlex.join(["ffr", *sys.argv[1:]])
            raise StoppedError(f"stopped; what is done is kept. To go on: {command}") from error


app = typer.Typer(
    name="ffr",
    cls=_Verbs,
    help="Balanced synthetic images from one recipe: plan, generate, train, and measure per subgroup.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArg = Annotated[str, typer.Argument(help="A recipe file, or the name of a built-in recipe.")]
OutOption = Annotated[str | None, typer.Option("--out", help="Where to write; the recipe's own output if not given.")]
OutputArg = Annotated[str, typer.Argument(help="The output of a run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ArmOption = Annotated[str, typer.Option(help="How the synthetic images are used: none, usb, asb, ffr, …")]
MitigationOption = Annotated[
    str,
    typer.Option(
        help="erm, reweight_label, reweight, resample, subsample, groupdro, dfr, jtt, balanced_softmax or logit_adjustment."
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of the cell.", min=0, max=2**63 - 1)]


def main() -> None:
    """Run the command line; every expected error is one message and its exit code."""
    # OpenMP's threads spin while they wait for each other. Beside any other busy process that makes small networks twenty
    # times slower; sleeping instead costs next to nothing. Read when torch loads, so it must be set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Of processes that train together one launcher is told, and it ends them, even within a call that lets no handler run.
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    try:
        with StopSignals() if alone else nullcontext():
            app(standalone_mode=True)
    except FFRError as error:
        from ffr_dist.launch.watch.redact import redact

        rank = os.environ.get("RANK", "0")
        sys.stderr.write(f"ffr{'' if rank == '0' else f' (process {rank})'}: {redact(str(error))}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)


@app.command()
def demo(out: Annotated[str, typer.Option("--out", help="Where to write.")] = "ffr-demo") -> None:
    """The whole way on the embedded world: about four minutes on two CPU cores, no downloads."""
    _whole_way("ffr-demo", out)


@app.command()
def init(
    path: Annotated[str | None, typer.Argument(help="The recipe file to write.")] = None,
    origin: Annotated[str, typer.Option("--from", help="Built-in recipe to start from.")] = "starter",
    show: Annotated[bool, typer.Option("--list", help="List the built-in recipes.")] = False,
) -> None:
    """Write a commented recipe to start from."""
    from ffr_dist.recipe import builtin_recipes, builtin_text

    if show:
        for name in builtin_recipes():
            first = builtin_text(name).splitlines()[0].removeprefix("# ")
            _console().print(f"{name:16} {first}", highlight=False)
        return
    if path is None:
        raise InputError("name the file to write, as in 'ffr init my.yaml'")
    text = builtin_text(origin)
    try:
        with Path(path).open("x") as handle:
            handle.write(text)
    except FileExistsError as error:
        raise InputError(f"{path} exists; choose another name") from error
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    _console().print(f"wrote {path}; edit it, then: ffr plan {path}", highlight=False)


@app.command()
def plan(recipe: RecipeArg, out: OutOption = None, as_json: JsonOption = False) -> None:
    """Show what a recipe will make, and its time and cost on 1, 8 and 64 workers. Writes nothing."""
    from ffr_dist.cli.show.plans import plan_table
    from ffr_dist.launch.context import load_checked, open_begun
    from ffr_dist.launch.planning import summarise

    checked = load_checked(recipe)
    summary = summarise(checked, open_begun(checked, out))
    if as_json:
        _print_json(summary)
    else:
        plan_table(_console(), summary)


@app.command()
def preview(
    recipe: RecipeArg,
    per_group: Annotated[int, typer.Option(min=1, max=64, help="Images of each group.")] = 4,
    out: Annotated[str, typer.Option("--out", help="The picture to write.")] = "preview.png",
) -> None:
    """Make a contact sheet of the first candidates of each group, before anything is spent."""
    from ffr_dist.launch.context import load_checked
    from ffr_dist.launch.preview import preview as make

    picture, verdicts = make(load_checked(recipe), per_group)
    try:
        Path(out).write_bytes(picture)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error}") from error
    for name, line in verdicts.items():
        _console().print(f"{name}: {line}", highlight=False)
    _console().print(f"wrote {out}", highlight=False)


@app.command("import")
def import_(recipe: RecipeArg, out: OutOption = None) -> None:
    """Write the recipe's real data as shards, for every seed of its comparison."""
    from ffr_dist.launch.context import import_real

    with _shown() as show:
        run = _start("import", recipe, out, show)
        for seed in run.recipe.compare.seeds:
            import_real(run, seed)


@app.command()
def generate(
    recipe: RecipeArg,
    out: OutOption = None,
    stop_after: Annotated[
        str | None, typer.Option(help="'pilot': make the first round, and tell what it says.")
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="Work beside another driver of the same output.")] = False,
    inline: Annotated[bool, typer.Option("--inline", help="In this process, without Ray.")] = False,
) -> None:
    """Generate the pool on Ray actors, and finish it."""
    from ffr_dist.cli.show.plans import pilot_table
    from ffr_dist.launch.planning import summarise
    from ffr_dist.launch.pool import make_pool

    if stop_after not in {None, "pilot"}:
        raise InputError(f"--stop-after {stop_after}: the only place to stop at is 'pilot'")
    flags = " --inline" if inline else ""
    with _shown() as show:
        run = _start("generate", recipe, out, show, flags)
        if stop_after is None:
            manifest = make_pool(run, join=join, inline=inline)
        else:
            make_pool(run, join=join, inline=inline, stop_after_pilot=True)
    if stop_after is not None:
        pilot_table(_console(), summarise(run.checked, run.store), run.command)
        return
    _console().print(
        f"{run.store.url}: {manifest.images:,} images, manifest {manifest.manifest_sha256}", highlight=False
    )


audit.register(app)
curate.register(app)
data.register(app)
datasets.register(app)
study.register(app)


@app.command()
def status(
    out: OutputArg,
    watching: Annotated[
        bool, typer.Option("--watch", help="Look again every few seconds, until it is finished.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell how far an output is, from its store alone."""
    from ffr_dist.cli.show.status import watch
    from ffr_dist.launch.planning import Status

    reader = Status(_existing(out))
    if not watching:
        found = reader.read()
        if as_json:
            _print_json(found)
        else:
            from ffr_dist.cli.show.status import status_view

            _console().print(status_view(found), soft_wrap=False)
        return
    try:
        if as_json:
            for found in reader.watch():
                sys.stdout.write(json.dumps(found) + "\n")
                sys.stdout.flush()
        else:
            watch(_console(), reader.watch())
    except KeyboardInterrupt:
        sys.exit(0)


@app.command()
def verify(out: OutputArg, as_json: JsonOption = False) -> None:
    """Recompute every checksum, count and index row of a finished set from its tars."""
    from ffr_dist.plan.document import read_rounds
    from ffr_dist.shards.verify import verify as check

    store = _existing(out)
    read_rounds(store)  # a plan of another protocol is not for this version to judge
    found = check(store)
    if as_json:
        _print_json(
            {
                "ok": found.ok,
                "shards": found.shards,
                "images": found.images,
                "groups": dict(found.groups),
                "manifest_sha256": found.manifest_sha256,
                "problems": list(found.problems),
            }
        )
    else:
        for problem in found.problems:
            _console().print(f"[red]✗[/] {problem}", highlight=False)
        counts = ", ".join(f"{name} {count:,}" for name, count in found.groups.items())
        verdict = "[green]✓[/] everything agrees" if found.ok else f"{len(found.problems)} problems"
        _console().print(f"{verdict}: {found.shards} shards, {found.images:,} images ({counts})", highlight=False)
        _console().print(f"manifest {found.manifest_sha256}", highlight=False)
    if not found.ok:
        sys.exit(4)


_CELL_VERBS = {
    "pretrain": "Train the first stage of one cell.",
    "finetune": "Train one cell to the end of its second stage.",
    "train": "Train all stages of one cell. Under 'accelerate launch' it is jobs/train.py.",
    "evaluate": "Score one cell on test per group (training what is not trained yet) and enter it into results.json.",
}


def _add_cell_verb(name: str, told: str) -> None:
    @app.command(name, help=told)
    def verb(
        recipe: RecipeArg,
        out: OutOption = None,
        arm: ArmOption = "ffr",
        mitigation: MitigationOption = "erm",
        seed: SeedOption = 0,
    ) -> None:
        _cell(name, recipe, out, arm, mitigation, seed)


for _name, _told in _CELL_VERBS.items():
    _add_cell_verb(_name, _told)


@app.command()
def report(
    what: Annotated[str, typer.Argument(metavar="OUT_OR_RECIPE", help="The output of a run or study, or its recipe.")],
    out: Annotated[
        str | None, typer.Option("--out", help="With a recipe: the output, if not the recipe's own.")
    ] = None,
) -> None:
    """Write report.html from what the output holds."""
    from ffr_dist.launch.publish import write_report

    with _shown() as show:
        alone = out is None and _is_output(what)
        where = write_report(_begun("report", what, show) if alone else _start("report", what, out, show))
    _console().print(f"report: {where}", highlight=False)


@app.command()
def run(recipe: RecipeArg, out: OutOption = None) -> None:
    """The whole way: import, plan, generate, audit, train, evaluate, report. Goes on where it stopped."""
    _whole_way(recipe, out)


@app.command()
def doctor(
    out: Annotated[str | None, typer.Argument(help="An output to try too; a folder or a bucket.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what of this machine is right for a run, and what is not."""
    from ffr_dist.launch.doctor import examine

    findings = examine(out)
    if as_json:
        _print_json([{"what": f.what, "ok": f.ok, "found": f.found, "cure": f.cure} for f in findings])
    else:
        for finding in findings:
            mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
            _console().print(f"{mark} {finding.what}: {finding.found}", highlight=False)
            if not finding.ok:
                _console().print(f"    {finding.cure}", highlight=False)
    if not all(finding.ok for finding in findings):
        sys.exit(4)


def _whole_way(recipe: str, out: str | None) -> None:
    from ffr_dist.cli.show.plans import plan_table
    from ffr_dist.cli.show.results import results_table
    from ffr_dist.launch.local import run_all
    from ffr_dist.launch.planning import summarise

    with _shown() as show:
        started = _start("run", recipe, out, show)
        plan_table(_console(), summarise(started.checked, started.store))
        rows = run_all(started)
    results_table(_console(), rows)
    _console().print(f"report: {started.store.url}/report.html", highlight=False)


def _cell(verb: str, recipe: str, out: str | None, arm: str, mitigation: str, seed: int) -> None:
    from ffr_dist.config import from_data
    from ffr_dist.launch.context import load_checked
    from ffr_dist.launch.possible import refuse_impossible
    from ffr_dist.recipe import CellConfig
    from ffr_dist.train.world import ElsewhereError

    cell = from_data(CellConfig, {"arm": arm, "mitigation": mitigation}, "--arm and --mitigation")
    checked = load_checked(recipe)
    refuse_impossible(checked.method, cell, checked.splits(seed))  # before anything is written
    try:
        _train(verb, checked, cell, seed, out, _command(verb, recipe, out))
    except ElsewhereError:
        return  # The main process tells why, and its exit code is that of all: an earlier one would have it killed.


def _train(verb: str, checked: Any, cell: Any, seed: int, out: str | None, command: str) -> None:
    from ffr_dist.cli.show.results import results_table
    from ffr_dist.launch.cells import begin_cell, score_cell, train_cell
    from ffr_dist.launch.rows import add_row, read_rows
    from ffr_dist.train.world import world

    row: dict[str, Any] | None = None
    with _shown() as show:
        started, data = begin_cell(checked, seed, out=out, command=command, tell=show)
        if verb == "evaluate":
            world().by_main(lambda: read_rows(started.store))  # refused before an hour of training
        trained = train_cell(started, cell, seed, data, until=verb if verb in {"pretrain", "finetune"} else None)
        if verb == "evaluate":
            row = score_cell(started, cell, seed, data, trained)
    if not world().is_main:
        return
    if row is not None:
        add_row(started.store, row)
        results_table(_console(), [row])
    else:
        _console().print(f"weights: {started.store.url}/{trained[-1].weights}", highlight=False)


def _start(verb: str, recipe: str, out: str | None, show: Any, flags: str = "") -> Any:
    from ffr_dist.launch.context import load_checked, start_run

    return start_run(load_checked(recipe), out=out, command=_command(verb, recipe, out) + flags, tell=show)


def _is_output(what: str) -> bool:
    return Path(what).is_dir() or ("://" in what and not what.endswith((".yaml", ".yml")))


def _begun(verb: str, out: str, show: Any) -> Any:
    """The run of an output, by the recipe in it."""
    from ffr_dist.launch.context import Run
    from ffr_dist.launch.pool import recipe_of

    store = _existing(out)
    return Run(checked=recipe_of(store), store=store, command=_command(verb, out, None), tell=show)


def _command(verb: str, recipe: str, out: str | None) -> str:
    return f"ffr {verb} {shlex.quote(recipe)}" + ("" if out is None else f" --out {shlex.quote(out)}")


def _existing(out: str) -> Any:
    from ffr_dist.store import open_store

    return open_store(out, create=False)


def _shown() -> Any:
    from ffr_dist.cli.show.live import Show

    return Show(_console())


def _console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=True)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
