"""The pool, from a plan to a finished set: on Ray actors, or in this process where a store cannot be shared."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, overload

from ffr_dist.config import parse
from ffr_dist.errors import InputError, MissingError, StoppedError, StoreError
from ffr_dist.generate.driver import Driver, Finished, Progress
from ffr_dist.generate.inline import Source, run_inline
from ffr_dist.generate.work import Receipt
from ffr_dist.generate.worker import Worker, WorkSpec
from ffr_dist.launch.cards import write_cards
from ffr_dist.launch.context import CheckedRecipe, Run, check_parts, import_real
from ffr_dist.launch.device import local_device
from ffr_dist.launch.events import Began, Ended
from ffr_dist.launch.fleet.heartbeat import Heartbeat, Spent, claim
from ffr_dist.launch.fleet.orders import Patience
from ffr_dist.launch.fleet.signals import StopSignals
from ffr_dist.launch.fleet.supply import End, Supply
from ffr_dist.launch.planning import pinned
from ffr_dist.launch.prepare import prepare
from ffr_dist.launch.watch.eventlog import EventLog
from ffr_dist.launch.watch.ledger import Ledger
from ffr_dist.launch.watch.meter import Meter
from ffr_dist.methods import Inputs
from ffr_dist.plan.document import Pinned, read_pinned, read_rounds, refuse_other
from ffr_dist.plan.rounds import Unfillable
from ffr_dist.recipe import KEY, Recipe, build_method
from ffr_dist.shards.finish import finish
from ffr_dist.shards.manifest import Manifest, copy_manifest, latest_manifest
from ffr_dist.shards.selection import latest_revision, write_first_revision
from ffr_dist.store import Store, probe


@overload
def make_pool(
    run: Run,
    *,
    inline: bool = ...,
    join: bool = ...,
    stop_after_pilot: Literal[False] = ...,
    patience: Patience = ...,
    heart: Heartbeat | None = ...,
) -> Manifest: ...
@overload
def make_pool(
    run: Run, *, inline: bool = ..., join: bool = ..., stop_after_pilot: Literal[True], patience: Patience = ...
) -> Progress: ...
def make_pool(
    run: Run,
    *,
    inline: bool = False,
    join: bool = False,
    stop_after_pilot: bool = False,
    patience: Patience = Patience(),  # noqa: B008 - frozen
    heart: Heartbeat | None = None,
) -> Manifest | Progress:
    """Generate what is missing of the latest selection and finish it; or, ``stop_after_pilot``, decide round 0 and tell
    what was accepted.

    With ``inline`` in this process, else on Ray actors. ConflictError where another driver is at work, unless ``join``.
    ``heart``: of a driver that has claimed the output already, and logs what it tells; it does the work in that name.
    """
    with StopSignals() as signals:
        try:
            if finished_set(run.store) is None or stop_after_pilot:
                with _at_work(run, join=join) if heart is None else _goes_on(run, heart) as desk:
                    return _make(desk, signals, inline=inline, pilot=stop_after_pilot, patience=patience)
            return _found(run)
        except KeyboardInterrupt as error:
            raise StoppedError(f"stopped; what is committed is kept. To go on: {run.command}") from error
        except StoreError as error:
            raise StoppedError(f"{error}; what is committed is kept. To go on: {run.command}") from error


def finished_set(store: Store) -> Manifest | None:
    """The set of the latest selection. One of an earlier selection is not the end: there may be more to make."""
    revision, manifest = latest_revision(store), latest_manifest(store)
    return manifest if revision is not None and manifest is not None and manifest.revision == revision.number else None


def finish_pool(store: Store, go_on: str = "ffr generate") -> Manifest:
    """Finish an output whose intervals are all decided, from what it holds alone; ``go_on`` says how to make what lacks."""
    checked = recipe_of(store)
    rounds = read_rounds(store)
    if not rounds:
        raise InputError(f"{store.url} has no plan yet; run 'ffr generate' first")
    manifest = finish(
        store,
        checked.groups,
        checked.recipe.codec,
        checked.recipe.size,
        planned=rounds[-1].round.end,
        detail=_detail(checked),
        go_on=go_on,
    )
    write_cards(store, checked, manifest)
    return manifest


def recipe_of(store: Store) -> CheckedRecipe:
    """The recipe that an output was claimed with; its cells are not looked at, which may be others by now."""
    try:
        text = store.get(KEY).decode()
    except MissingError as error:
        raise InputError(f"{store.url} holds no {KEY}: it is not the output of a run") from error
    recipe = parse(Recipe, text, f"{store.url}/{KEY}")
    return check_parts(recipe, text, lambda groups: build_method(recipe, groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Desk:
    """A run at work: what it tells is logged, and its record is kept alive."""

    run: Run
    heart: Heartbeat
    spent_before: float
    beside: bool
    """Whether other drivers were at work when it began."""


@contextmanager
def _at_work(run: Run, *, join: bool) -> Iterator[_Desk]:
    others = claim(run.store, join=join)
    probe(run.store)
    price = run.recipe.generate.price_per_gpu_hour
    with Heartbeat(run.store) as heart, EventLog(run.store, heart.driver, run.tell) as tell:
        yield _Desk(
            run=replace(run, tell=tell),
            heart=heart,
            spent_before=heart.spent_elsewhere(price),
            beside=bool(others),
        )


@contextmanager
def _goes_on(run: Run, heart: Heartbeat) -> Iterator[_Desk]:
    """The desk of a driver that is at work on this output already."""
    probe(run.store)
    before = heart.spent_elsewhere(run.recipe.generate.price_per_gpu_hour)
    try:
        yield _Desk(run=run, heart=heart, spent_before=before, beside=False)
    finally:
        spent = replace(heart.spent(), workers=0)
        heart.spent = lambda: spent


def _found(run: Run) -> Manifest:
    """What was finished before, unless it was made with other settings."""
    _, plan = _prepared(run)
    write_first_revision(run.store, run.checked.quota(), run.recipe.generate.keep.near_duplicates)
    refuse_other(read_pinned(run.store), plan)
    manifest = finished_set(run.store)
    if manifest is None:
        raise StoppedError(f"{run.store.url} was given another selection at this moment. To go on: {run.command}")
    copy_manifest(run.store, manifest)
    write_cards(run.store, run.checked, manifest)
    run.tell(Ended("generate", f"{manifest.images:,} images", reused=True))
    return manifest


def _prepared(run: Run) -> tuple[Inputs, Pinned]:
    real = import_real(run, run.recipe.compare.seeds[0]) if run.method.prepare({}) else {}
    inputs, prepared = prepare(run, real)
    return inputs, pinned(run.checked, prepared, weights_sha256=run.method.weights_sha256())


def _make(desk: _Desk, signals: StopSignals, *, inline: bool, pilot: bool, patience: Patience) -> Manifest | Progress:
    run = desk.run
    inputs, plan = _prepared(run)
    quota = run.checked.quota()
    driver = Driver(
        run.store,
        run.checked.groups,
        quota,
        plan,
        near=run.recipe.generate.keep.near_duplicates,
        offset=int(desk.heart.driver, 16) if desk.beside else 0,
    )
    supply = Supply(driver, joined=lambda: desk.beside or desk.heart.company, pilot=pilot)
    spec = WorkSpec(groups=run.checked.groups, codec=run.recipe.codec, size=run.recipe.size, pinned=plan)
    run.tell(Began("generate", f"{sum(quota.counts.values()):,} images over {len(quota.counts)} groups"))
    began = time.monotonic()
    if inline:
        end = _run_here(desk, driver, supply, spec, inputs)
    else:
        from ffr_dist.launch.cluster import run_on_ray  # noqa: PLC0415 - Ray takes seconds to import

        end = run_on_ray(
            run,
            driver,
            supply,
            spec,
            inputs,
            signals=signals,
            heart=desk.heart,
            spent_before=desk.spent_before,
            patience=patience,
        )
    if pilot:
        progress = driver.progress()
        run.tell(Ended("pilot", f"{sum(group.accepted for group in progress.groups.values()):,} images accepted"))
        return progress
    if isinstance(end, Unfillable):
        raise StoppedError(_cannot(run, end, driver.progress()))
    assert isinstance(end, Finished)  # noqa: S101  only a pilot ends otherwise
    manifest = finish(
        run.store,
        run.checked.groups,
        run.recipe.codec,
        run.recipe.size,
        planned=end.intervals,
        detail=_detail(run.checked),
        settled=end.settled,
        go_on=run.command,
    )
    write_cards(run.store, run.checked, manifest)
    run.tell(Ended("generate", f"{manifest.images:,} images in {time.monotonic() - began:.0f} s"))
    return manifest


def _run_here(desk: _Desk, driver: Driver, supply: Supply, spec: WorkSpec, inputs: Inputs) -> End:
    run = desk.run
    ledger = Ledger(run.recipe.generate, desk.spent_before)
    desk.heart.spent = lambda: Spent(1, ledger.device_seconds, ledger.cost)
    meter = Meter(driver, run.tell, workers=1, ledger=ledger)

    def received(receipt: Receipt) -> None:
        meter.receipt(receipt)
        ledger.tick(1)
        if (spent := desk.heart.spent_beside(run.recipe.generate.price_per_gpu_hour)) is not None:
            ledger.elsewhere = spent
        if why := ledger.over():
            raise StoppedError(f"{why}; what is committed is kept. To go on: {run.command}")

    sampler = run.method.sampler(inputs, local_device())
    requests = functools.partial(run.method.requests, inputs)
    ledger.tick(1)
    with Worker(spec, run.store, sampler, requests, on_batch=meter.batch) as worker:
        source: Source[End] = supply
        return run_inline(source, worker, received)


def _cannot(run: Run, end: Unfillable, progress: Progress) -> str:
    """Which groups cannot be filled, for which reasons, and what there is to do."""
    lines = []
    for name, why in end.groups.items():
        rejected = sorted(progress.groups[name].rejected.items(), key=lambda item: -item[1])
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in rejected)
        lines.append(f"{name}: {why}" + (f" ({reasons})" if reasons else ""))
    return (
        f"some groups cannot be filled: {'; '.join(lines)}. To take what there is, in balance: "
        f"ffr finish {run.store.url} --now. To fill them: loosen generate.keep or change the prompts, and write to "
        "another output"
    )


def _detail(checked: CheckedRecipe) -> Mapping[str, str]:
    return {"method": checked.method.name, "recipe": checked.recipe.name}
