"""A real run small enough for a test: a folder of real digits, the shipped generator at two steps, a few training steps."""

from __future__ import annotations

import csv
import itertools

from PIL import Image

from ffr_dist.config import parse
from ffr_dist.datasets.embedded import EmbeddedConfig
from ffr_dist.launch.context import check_recipe, start_run
from ffr_dist.recipe import Recipe

GROUPS = ("low_temple", "low_flowers", "high_temple", "high_flowers")
COUNTS = {"train": (20, 4, 4, 20), "val": (6, 3, 3, 6), "test": (6, 6, 6, 6)}

RECIPE = """
name: small
seed: 3
output: {output}
data:
  kind: folder
  table: {data}/labels.csv
  images: {data}/images
  columns: {{file: file, label: digit, bias: photo, split: split}}
  classes: {{low: 0, high: 1}}
  biases: {{temple: 0, flowers: 1}}
  groups: {{low_temple: [0, 0], low_flowers: [0, 1], high_temple: [1, 0], high_flowers: [1, 1]}}
size: 32
method:
  name: ffr
  generator: {{weights: embedded, steps: 2, guidance: 2.0, size: 32}}
  prompts:
    low_temple: [a photo of the digit one over temple, a photo of the digit two over temple]
    low_flowers: [a photo of the digit one over flowers]
    high_temple: [a photo of the digit six over temple]
    high_flowers: [a photo of the digit nine over flowers]
generate: {{batch: 4, images_per_shard: 8}}
train:
  pretrain_steps: 4
  finetune_steps: 2
  batch: 16
  lrs: [0.002]
  finetune_lrs: [0.0005]
  validate_every: 2
  checkpoint_every: 2
audit: {{steps: 5}}
compare:
  seeds: [0, 1]
  lead: {{arm: ffr, mitigation: groupdro}}
  cells:
    - {{arm: none}}
    - {{arm: usb, mitigation: resample}}
    - {{arm: group_balanced}}
    - {{arm: ffr, mitigation: erm}}
    - {{arm: ffr, mitigation: groupdro}}
"""


def write_data(folder, counts=COUNTS):
    """The folder and its table, in the layout that README's starter recipe reads."""
    (folder / "images").mkdir(parents=True)
    world = EmbeddedConfig(train=160, val=60, test=40, bias_ratio=0.8, camera_gap="none")
    splits = {split.name: split for split in world.splits(0)}
    rows = []
    for name, wanted in counts.items():
        for group, count in zip(GROUPS, wanted, strict=True):
            found = (sample for sample in splits[name].samples() if sample.group.name == group)
            for number, sample in enumerate(itertools.islice(found, count)):
                file = f"{name}-{group}-{number}.png"
                Image.fromarray(sample.image).save(folder / "images" / file)
                rows.append((file, *group.split("_"), name))
    with (folder / "labels.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(("file", "digit", "photo", "split"))
        writer.writerows(rows)


def recipe_text(data, output="out", **replaced):
    text = RECIPE.format(data=data, output=output)
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    return text


def make_run(text, out=None, tell=None, method=None):
    checked = check_recipe(parse(Recipe, text, "small"), text, method)
    said = {} if tell is None else {"tell": tell}
    return start_run(checked, out=out, command="ffr run small.yaml", **said)
