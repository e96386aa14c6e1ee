"""Every dataset, from its publisher's files to a report: import, generate, audit, train, evaluate."""

from __future__ import annotations

import importlib
import json
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import TypeAdapter
from small_run import make_run

from ffr_dist.datasets import DataConfig, embedded
from ffr_dist.launch.local import run_all
from ffr_dist.read.dataset import open_dataset

KINDS = sorted(get_args(config.model_fields["kind"].annotation)[0] for config in get_args(get_args(DataConfig)[0]))

RECIPE = {
    "name": "every-dataset",
    "size": 32,
    "generate": {"batch": 16, "images_per_shard": 32},
    "train": {
        "pretrain_steps": 2,
        "finetune_steps": 2,
        "batch": 8,
        "lrs": [0.002],
        "finetune_lrs": [0.0005],
        "validate_every": 2,
        "model": {"kind": "small_cnn", "width": 8},
    },
    "audit": {"steps": 2, "batch": 16, "model": {"kind": "small_cnn", "width": 8}},
    "compare": {"cells": [{"arm": "ffr"}]},
}
PROMPTS = [  # one for each group of the dataset with most, in words that the tiny generator knows
    f"a photo of the digit {one} and {other} over {photograph}"
    for one, other, photograph in product(embedded.DIGIT_WORDS, embedded.DIGIT_WORDS, embedded.PHOTOGRAPHS)
]
GENERATOR = {"weights": "embedded", "steps": 2, "guidance": 2.0, "size": 32}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_way(kind, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "datasets"))
    for name in ("GENERATOR_IMAGES", "PROBE_IMAGES"):  # of the embedded world, which makes its own images
        monkeypatch.setattr(embedded, name, 80)
    data = importlib.import_module(f"{kind}_fixture").write(tmp_path / "data")
    counts = {split.name: split.counts() for split in TypeAdapter(DataConfig).validate_json(json.dumps(data)).splits(0)}
    prompts = {name: [prompt] for name, prompt in zip(counts["train"], PROMPTS, strict=False)}
    quota = {"quota": dict.fromkeys(prompts, 2), "allow_fraction": True}
    method = {"name": "ffr", "generator": GENERATOR, "prompts": prompts, **quota}
    run = make_run(yaml.safe_dump({**RECIPE, "output": str(tmp_path / "out"), "data": data, "method": method}))
    (row,) = run_all(run, inline=True)
    assert {name: group["count"] for name, group in row["groups"].items()} == counts["test"]
    assert open_dataset(run.store).counts().keys() == counts["train"].keys()
    assert json.loads(run.store.get("audit.json"))["summary"]
    assert b"</html>" in run.store.get("report.html")
