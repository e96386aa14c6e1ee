"""What a method makes once, before it samples: each artefact lies under the hash of its inputs, its marker last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from ffr_dist.errors import MissingError
from ffr_dist.launch.context import Run
from ffr_dist.launch.events import Began, Ended, Training
from ffr_dist.methods import Inputs, MapStep, step_folder
from ffr_dist.models.classifier import save_weights
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
                from ffr_dist.launch.pool import sample_set  # noqa: PLC0415 - the engine is needed by this kind only

                known = sample_set(run, step, store, inputs)
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


def _marker(store: Store) -> str | None:
    try:
        return str(json.loads(store.get(_MARKER))["sha256"])
    except MissingError:
        return None
