"""Further measures of a cell, beside worst group and group mean: what a column is called, and what it says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    title: str
    hint: str


MEASURES = {
    "train_weighted_mean": Measure("Train-weighted mean", "group accuracies weighted by the groups' training counts"),
    "aligned": Measure("Aligned", "accuracy over the groups that are each class's largest in training"),
    "conflicting": Measure("Conflicting", "accuracy over all other groups"),
    "ddp": Measure("DDP", "difference of the rates of predicted positives between bias values; 0 is best"),
    "deop": Measure("DEOp", "difference of the true positive rates between bias values; 0 is best"),
    "deo_max": Measure("DEO max", "the larger of the differences of true and of false positive rates; 0 is best"),
    "deo_mean": Measure("DEO mean", "their mean; 0 is best"),
    "deo_sum": Measure("DEO sum", "their sum; 0 is best"),
    "macro_std": Measure("MacroStd", "spread of group accuracies within a class, mean of the classes; 0 is best"),
    "macro_std_null": Measure("MacroStd, null", "what chance alone would give with these counts"),
    "macro_std_excess": Measure("MacroStd, excess", "MacroStd minus its null"),
    "std_groups": Measure("STD", "spread of all group accuracies; 0 is best"),
}
"""By their names in a row of results. All are fractions, shown times 100."""
