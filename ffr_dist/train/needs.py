"""What stages need of the groups of their sets: asked before anything is written, where counts are declared, and again of what
was opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ffr_dist.errors import DataError
from ffr_dist.groups import UNKNOWN_BIAS, Groups
from ffr_dist.train.stage import HeadStage, Mitigation, Stage

_OF_CLASSES: tuple[Mitigation, ...] = ("reweight_label", "balanced_softmax")
_OF_NOTHING: tuple[Mitigation, ...] = ("erm", "jtt")
_FEWEST = 2
"""Validation samples of a group: one for each half of DFR's."""


class Held(NamedTuple):
    """How many samples of its declared groups a set holds."""

    groups: Groups
    counts: Mapping[str, int]


def refuse_absent(stage: Stage, sets: Sequence[Held], groups: Groups) -> None:
    """A group that no epoch holds cannot be balanced: left out in silence, it would be the worst one later."""
    if stage.mitigation in _OF_NOTHING:
        return
    held = Counter[tuple[int, int]]()
    for of_set in sets:
        for group in of_set.groups:
            held[group.label, group.bias] += of_set.counts.get(group.name, 0)
    if stage.mitigation in _OF_CLASSES:
        labels = sorted({group.label for group in groups})
        absent = [f"class {label}" for label in labels if not sum(n for cell, n in held.items() if cell[0] == label)]
    else:
        absent = [f"group {group.name}" for group in groups if not held[group.label, group.bias]]
    if absent:
        raise DataError(
            f"stage {stage.name}: the training data hold no sample of {', '.join(absent)}, which {stage.mitigation} would "
            "balance; add samples, declare only what there is, or choose the mitigation erm"
        )


def refuse_validation(stage: HeadStage, groups: Groups, counts: Mapping[str, int], classes: int) -> None:
    """Where validation samples of such groups cannot have a head of so many classes fitted to them."""
    nameless = [group.name for group in groups if group.bias == UNKNOWN_BIAS and counts[group.name]]
    if nameless:
        raise DataError(
            f"stage {stage.name}: nobody knows the bias of the validation samples in group {', '.join(nameless)}, but DFR "
            "balances them over groups; label it, or choose a mitigation that needs no groups of val"
        )
    few = [f"{name} ({count})" for name, count in counts.items() if count < _FEWEST]
    if few:
        raise DataError(
            f"stage {stage.name}: the validation split holds too few samples of group {', '.join(few)}; DFR halves each group "
            f"and needs at least {_FEWEST}. Add samples, or choose another mitigation"
        )
    wanted, found = set(range(classes)), {group.label for group in groups}
    if wanted != found:
        raise DataError(
            f"stage {stage.name}: the validation split has the classes {sorted(found)}, the model {sorted(wanted)}; "
            "DFR fits its head to validation samples of every class"
        )
