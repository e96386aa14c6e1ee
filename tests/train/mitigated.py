"""Mitigations on a small set, in the test and in processes that it starts: ``python mitigated.py JOB,… DATA OUT VAL``."""

from __future__ import annotations

import copy
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_sets import GROUPS

from ffr_dist.models.architectures import SmallCNNConfig
from ffr_dist.models.classifier import build_classifier, save_weights
from ffr_dist.models.heads import take_head
from ffr_dist.read.dataset import open_dataset
from ffr_dist.train import FitConfig, classify, fit
from ffr_dist.train.classify import classification_task
from ffr_dist.train.dfr import fit_head
from ffr_dist.train.jtt import find_mistakes
from ffr_dist.train.losses import GroupDROConfig, LogitAdjustmentConfig
from ffr_dist.train.stage import HeadStage, JTTConfig, Mitigation, Source, Stage
from ffr_dist.train.world import world

JOBS: tuple[Mitigation, ...] = tuple(one for one in get_args(Mitigation) if one != "erm")
CONFIG = FitConfig(steps=7, lr=0.05, optimizer="sgd", weight_decay=0.0)
REAL = (Source(set="real"),)


def learn(job: Mitigation, data: str, val: str) -> torch.nn.Module:
    """23 samples in batches of 11: the last of an epoch is one sample, so that others have none."""
    torch.set_num_threads(1)
    model = build_classifier(SmallCNNConfig(width=8), 2, 0).double()
    sets = {"real": open_dataset(data)}
    if job == "dfr":
        found = fit_head(model, HeadStage(sources=REAL, fits=3), [sets["real"]], open_dataset(val), 0, world())
        weights = {**model.state_dict(), **{f"head.{name}": value for name, value in found.tensors.items()}}
        take_head(model, weights)
        model.double().load_state_dict(weights)
        return model
    stage = Stage(
        name="train",
        sources=REAL,
        mitigation=job,
        batch=11,
        fits=(),
        groupdro=GroupDROConfig(step_size=0.5, adjustment=1.0) if job == "groupdro" else None,
        jtt=JTTConfig(weight=4) if job == "jtt" else None,
        logit_adjustment=LogitAdjustmentConfig(tau=2.0) if job == "logit_adjustment" else None,
    )
    mistakes = None
    if job == "jtt":
        finder = copy.deepcopy(model)
        fit(classification_task(replace(stage, mitigation="erm", jtt=None), finder, sets, GROUPS, 0), CONFIG)
        mistakes = find_mistakes(finder, [sets["real"]], world())
        assert 0 < len(mistakes) < 23
    fit(classification_task(stage, model, sets, GROUPS, 0, mistakes=mistakes), CONFIG)
    return model


if __name__ == "__main__":
    classify._MOST_IMAGES = 4  # so that there is something to share
    jobs, data, out, val = sys.argv[1:]
    for job in jobs.split(","):
        (Path(out) / f"{job}-{os.environ['RANK']}").write_bytes(save_weights(learn(job, data, val)))  # type: ignore[arg-type]
