"""JTT, just train twice: the samples that a first training gets wrong are drawn more often in a second one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import Dataset
from ffr_dist.read.mixture import Rows
from ffr_dist.train.classify import in_turn, looked_at_together
from ffr_dist.train.world import World

_READ = ReadConfig()


def find_mistakes(model: nn.Module, datasets: Sequence[Dataset], world: World, read: ReadConfig = _READ) -> Rows:
    """Rows of the sets, one set after the other, that ``model`` gives another label than theirs; the same in every process.

    The processes share whole batches: each image is looked at beside the same others on however many, so that its logits
    are the same to the last bit.
    """
    wrong = np.zeros(sum(len(dataset) for dataset in datasets), np.uint8)
    model.eval()
    start = 0
    for dataset in datasets:
        batch, labels = looked_at_together(dataset), dataset.labels
        mine = world.share(-(-len(dataset) // batch))
        share = range(mine.start * batch, min(mine.stop * batch, len(dataset)))
        for rows, images in in_turn(model, dataset, share, batch=batch, read=read):
            with torch.inference_mode():
                found = model(images).argmax(1).cpu().numpy()
            wrong[start + rows.start : start + rows.stop] = found != labels[rows.start : rows.stop]
        start += len(dataset)
    world.meet()  # shares are long: one process may be minutes behind another
    return np.flatnonzero(world.sum(torch.from_numpy(wrong)).numpy())
