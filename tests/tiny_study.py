"""A real study small enough for a test: the embedded world with few images, the shipped generator at two steps."""

from __future__ import annotations

import sys

import yaml

from ffr_dist.config import parse
from ffr_dist.datasets import embedded
from ffr_dist.launch.study.check import check_study
from ffr_dist.recipe import builtin_text
from ffr_dist.study import StudyConfig

SETTINGS = {
    "data.train": 120,
    "data.val": 80,
    "data.test": 40,
    "data.bias_ratio": 0.9,
    "method.generator.steps": 2,
    "generate.images_per_shard": 64,
    "train.batch": 16,
    "train.pretrain_steps": 4,
    "train.finetune_steps": 2,
    "train.validate_every": 2,
    "train.checkpoint_every": 2,
    "train.jtt.steps": 2,
    "audit.min_label_accuracy": 0,
    "audit.min_bias_accuracy": 0,
    "audit.images_per_group": 20,
    "audit.steps": 5,
}
TUNED = {"train.pretrain_lr": 0.002, "train.lrs": [0.001, 0.004], "train.finetune_lrs": [0.0001, 0.001]}
GRIDS = [
    {
        "arms": ["none", "ffr"],
        "mitigations": ["erm", "groupdro", "dfr"],
        "bias_ratios": [0.9, 0.8],
        "seeds": [0, 1],
    },
    {"arms": ["none", "ffr"], "variant": {"name": "head-only", "set": {"train.finetune_trainable": "head"}}},
]


def study_text(**values) -> str:
    whole = {
        "name": "tiny",
        "recipe": "ffr-demo",
        "output": "tiny-study",
        "set": {**SETTINGS, **TUNED},
        "grids": GRIDS,
        "tune": {"bias_ratio": 0.9, "seeds": [0]},
        "lead": {"arm": "ffr", "mitigation": "erm"},
        **values,
    }
    return yaml.safe_dump({name: value for name, value in whole.items() if value is not None}, sort_keys=False)


def checked_study(**values):
    text = study_text(**values)
    return check_study(parse(StudyConfig, text, "tiny.yaml"), text, yaml.safe_load(builtin_text("ffr-demo")))


def few_generator_images() -> None:
    """The generator's own images, of which no cell of the tiny study needs any, are 32,000 to import."""
    embedded.GENERATOR_IMAGES = 8


if __name__ == "__main__":  # the command line in a process of its own, which a test may kill
    from ffr_dist.cli import main

    few_generator_images()
    sys.argv = ["ffr", "study", *sys.argv[1:]]
    main()
