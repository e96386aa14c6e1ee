"""The pool, from a plan to a finished set: on Ray actors, or in this process where a store cannot be shared."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping

from ffr_dist.config import parse
from ffr_dist.errors import InputError, StoppedError
from ffr_dist.generate.driver import Driver, Finished
from ffr_dist.generate.inline import run_inline
from ffr_dist.generate.worker import Worker, WorkSpec
from ffr_dist.launch.context import Run, Study, import_real, make_study
from ffr_dist.launch.device import local_device
from ffr_dist.launch.events import Began, Ended
from ffr_dist.launch.meter import Meter
from ffr_dist.launch.planning import pinned
from ffr_dist.launch.prepare import prepare
from ffr_dist.methods import Inputs
from ffr_dist.plan.document import read_rounds
from ffr_dist.plan.rounds import Unfillable
from ffr_dist.recipe import KEY, Recipe
from ffr_dist.shards.finish import finish
from ffr_dist.shards.manifest import Manifest, latest_manifest
from ffr_dist.shards.selection import latest_revision
from ffr_dist.store import Store


def make_pool(run: Run, *, inline: bool = False) -> Manifest:
    """Generate what is missing and finish the set. With ``inline`` in this process, else on Ray actors."""
    quota = run.study.quota()
    real = import_real(run, run.recipe.compare.seeds[0]) if run.method.prepare({}) else {}
    inputs, prepared = prepare(run, real)
    plan = pinned(run.study, prepared, weights_sha256=run.method.weights_sha256())
    driver = Driver(run.store, run.study.groups, quota, plan)  # refuses another quota, or other pinned values
    finished = latest_manifest(run.store)
    if finished is not None:
        run.tell(Ended("generate", f"{finished.images:,} images", reused=True))
        return finished
    spec = WorkSpec(groups=run.study.groups, codec=run.recipe.codec, size=run.recipe.size, pinned=plan)
    run.tell(Began("generate", f"{sum(quota.counts.values()):,} images over {len(quota.counts)} groups"))
    began = time.monotonic()
    try:
        if inline:
            end = _run_here(run, driver, spec, inputs)
        else:
            from ffr_dist.launch.cluster import run_on_ray  # noqa: PLC0415 - Ray takes seconds to import

            end = run_on_ray(run, driver, spec, inputs)
    except KeyboardInterrupt as error:
        raise StoppedError(f"stopped; what is committed is kept. To go on: {run.command}") from error
    if isinstance(end, Unfillable):
        told = "; ".join(f"{name}: {reason}" for name, reason in end.groups.items())
        raise StoppedError(
            f"some groups cannot be filled ({told}). Look at the rejected images' reasons with 'ffr status "
            f"{run.store.url}', then loosen generate.keep or change the prompts, and write to another output"
        )
    manifest = finish(
        run.store, run.study.groups, run.recipe.codec, run.recipe.size, planned=end.intervals, detail=_detail(run.study)
    )
    run.tell(Ended("generate", f"{manifest.images:,} images in {time.monotonic() - began:.0f} s"))
    return manifest


def finish_pool(store: Store) -> Manifest:
    """Finish an output whose intervals are all decided, from what it holds alone."""
    if not store.exists(KEY):
        raise InputError(f"{store.url} holds no {KEY}: it is not the output of a run")
    study = study_of(store)
    revision = latest_revision(store)
    if revision is None:
        raise InputError(f"{store.url} has no plan yet; run 'ffr generate' first")
    planned = read_rounds(store)[-1].round.end
    return finish(store, study.groups, study.recipe.codec, study.recipe.size, planned=planned, detail=_detail(study))


def study_of(store: Store) -> Study:
    """The study that an output was claimed with."""
    text = store.get(KEY).decode()
    return make_study(parse(Recipe, text, f"{store.url}/{KEY}"), text)


def _run_here(run: Run, driver: Driver, spec: WorkSpec, inputs: Inputs) -> Finished | Unfillable:
    meter = Meter(driver, run.tell, workers=1)
    sampler = run.method.sampler(inputs, local_device())
    requests = functools.partial(run.method.requests, inputs)
    with Worker(spec, run.store, sampler, requests, on_batch=meter.batch) as worker:
        return run_inline(driver, worker, meter.receipt)


def _detail(study: Study) -> Mapping[str, str]:
    return {"method": study.method.name, "recipe": study.recipe.name}
