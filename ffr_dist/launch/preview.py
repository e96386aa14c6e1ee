"""A look at the first candidates of each group, made in this process and stored nowhere."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ffr_dist.errors import InputError
from ffr_dist.generate.keep import judge, load_agreement, with_agreement
from ffr_dist.launch.context import CheckedRecipe
from ffr_dist.launch.device import local_device
from ffr_dist.methods import Inputs
from ffr_dist.report.sheets import contact_sheet

_SHEET_PIXELS = 96
"""Tiny images are drawn about this large."""


def preview(checked: CheckedRecipe, per_group: int) -> tuple[bytes, dict[str, str]]:
    """A contact sheet with a row for each group, and a line for each group: kept, and why not."""
    if checked.method.prepare({}):
        raise InputError(f"{checked.method.name} prepares artefacts from real images first; run 'ffr generate' instead")
    inputs = Inputs(real={}, prepared={})
    sampler = checked.method.sampler(inputs, local_device())
    keep = checked.recipe.generate.keep
    agreement = load_agreement(keep, checked.groups)
    if agreement is not None:
        agreement.to(torch.device(local_device()))
    rows: list[NDArray[np.uint8]] = []
    lines: dict[str, str] = {}
    for name, quota in checked.quota().counts.items():
        if not quota:
            continue
        requests = checked.method.requests(inputs, name, range(per_group))
        outcomes = sampler.sample(requests, sampler.fetch(requests))
        outcomes = with_agreement(outcomes, agreement, checked.groups, requests)
        reasons = [reason for reason in judge(outcomes, keep).reasons if reason]
        rows += list(outcomes.images.cpu().numpy().transpose(0, 2, 3, 1))
        lines[name] = f"{per_group - len(reasons)} of {per_group} kept" + (
            f" ({', '.join(reasons)})" if reasons else ""
        )
    scale = max(1, _SHEET_PIXELS // max(rows[0].shape[:2]))
    return contact_sheet(rows, per_group, scale), lines
