"""What a method makes once, before it samples: each artefact lies under the hash of its inputs, its marker last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from ffr_dist.errors import BrokenError, MissingError, StoppedError
from ffr_dist.generate.driver import Driver, Finished
from ffr_dist.generate.inline import run_inline
from ffr_dist.generate.worker import Worker, WorkSpec
from ffr_dist.launch.context import Run
from ffr_dist.launch.device import local_device
from ffr_dist.launch.events import Began, Ended, Training
from ffr_dist.launch.planning import pinned
from ffr_dist.methods import Inputs, MapStep, step_folder
from ffr_dist.models.classifier import save_weights
from ffr_dist.quota import Survivors
from ffr_dist.shards.finish import finish
from ffr_dist.store import Store
from ffr_dist.train import Checkpoints, Progress, fit

WEIGHTS = "weights.safetensors"
_MARKER = "step.json"


def prepare(run: Run, real: Mapping[str, Store]) -> tuple[Inputs, dict[str, str]]:
    """Make the method's artefacts that are not there yet; what the sampler may read, and the sha256 of each artefact."""
    prepared: dict[str, Store] = {}
    hashes: dict[str, str] = {}
    for step in run.method.prepare(real):
        folder = step_folder(step)
        store = run.store.below(folder)
        inputs = Inputs(real=real, prepared=dict(prepared))
        known = _marker(store)
        if known is None:
            run.tell(Began(f"prepare {step.name}"))
            if isinstance(step, MapStep):
                known = _sample_set(run, step, store, inputs)
            else:

                def tell(progress: Progress) -> None:
                    run.tell(Training("prepare", progress.task, progress))

                task = step.task(inputs)
                fit(task, step.fit, checkpoints=Checkpoints(run.store, f"{folder}/fit"), progress=tell)
                body = save_weights(task.model)
                store.put(WEIGHTS, body)
                known = hashlib.sha256(body).hexdigest()
            store.put(_MARKER, json.dumps({"sha256": known, "identity": dict(step.identity)}, sort_keys=True).encode())
            run.tell(Ended(f"prepare {step.name}", known[:12]))
        else:
            run.tell(Ended(f"prepare {step.name}", known[:12], reused=True))
        prepared[step.name] = store
        hashes[step.name] = known
    return Inputs(real=real, prepared=prepared), hashes


def _sample_set(run: Run, step: MapStep, store: Store, inputs: Inputs) -> str:
    """Make the artefact of a map step: its requests as one set of survivors. Returns the set's manifest_sha256."""
    requests = {(request.group, request.k): request for request in step.requests(inputs)}
    counts = {name: sum(group == name for group, _ in requests) for name in run.checked.groups.names}
    plan = pinned(run.checked, {}, weights_sha256="")
    driver = Driver(store, run.checked.groups, Survivors(counts), plan)
    spec = WorkSpec(groups=run.checked.groups, codec=run.recipe.codec, size=run.recipe.size, pinned=plan)
    sampler = step.sampler(inputs, local_device())
    with Worker(spec, store, sampler, lambda group, ks: [requests[group, k] for k in ks]) as worker:
        end = run_inline(driver, worker)
    if not isinstance(end, Finished):
        raise StoppedError(f"artefact {step.name} cannot be made: {end}")
    done = finish(store, run.checked.groups, run.recipe.codec, run.recipe.size, planned=end.intervals)
    return done.manifest_sha256


def _marker(store: Store) -> str | None:
    try:
        body = store.get(_MARKER)
    except MissingError:
        return None
    try:
        return str(json.loads(body)["sha256"])
    except (ValueError, TypeError, KeyError) as error:
        raise BrokenError(
            f"{store.url}/{_MARKER} does not tell what was prepared; remove it, and the artefact is made anew"
        ) from error
