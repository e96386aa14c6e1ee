"""Measure the embedded world's generator: are its images what the prompts say, copies, and of use?

    python jobs/measure_demo_generator.py --weights embedded --out docs/generator.json --sheet docs/img/generator.png

Judges of class, photograph and digit are trained on the ``probe`` split, whose digits and regions of the photographs the
generator has not seen. Usefulness is the accuracy, on balanced *validation* images without a camera gap, of a classifier
that saw generated images only. The test split is not touched.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from train_demo_generator import Batch, Critic, Pool, encode, learned_images, unit

from ffr_dist.datasets.embedded import DIGIT_WORDS, GROUPS, PHOTOGRAPHS, SIZE, EmbeddedConfig, prompt
from ffr_dist.models.generator import DiffusersSampler, GeneratorConfig, generator_folder, weights_sha256
from ffr_dist.quota import Request
from ffr_dist.train import FitConfig, Task, fit

GUIDANCES = (1.5, 2.0, 3.0)
STEPS = 10
PER_CELL = 40
"""Images of each of the 20 prompts, at each guidance."""
USE_PER_CELL = 40
USE_SEEDS = (0,)
USE_STEPS = 500
BATCH = 50
SHOWN = 2.0
"""The guidance of the images on the sheet."""
SHIFT = 2
JUDGES: Mapping[str, int] = {"class": 1000, "photograph": 250, "digit": 1000}
"""What a judge tells apart, and for how many steps it learns."""
_QUANTILES = {"min": 0.0, "q01": 0.01, "q05": 0.05, "median": 0.5}


def images_of(name: str, config: EmbeddedConfig, seed: int = 0) -> Pool:
    split = next(split for split in config.splits(seed) if split.name == name)
    samples = list(split.samples())
    pixels = torch.from_numpy(np.stack([np.asarray(sample.image) for sample in samples])).permute(0, 3, 1, 2)
    digits = torch.tensor([int(sample.name.removeprefix("digit")[0]) for sample in samples])
    return Pool(pixels.contiguous(), digits, torch.tensor([sample.group.bias for sample in samples]), BATCH)


def balanced(pool: Pool, per_cell: int) -> Pool:
    """The first images of each digit over each photograph."""
    cells = [
        torch.nonzero((pool.digit == digit) & (pool.bias == bias)).flatten()[:per_cell]
        for digit in range(len(DIGIT_WORDS))
        for bias in range(len(PHOTOGRAPHS))
    ]
    rows = torch.cat(cells)
    return Pool(pool.pixels[rows], pool.digit[rows], pool.bias[rows], BATCH)


def generate(sampler: DiffusersSampler, per_cell: int) -> tuple[Pool, float]:
    """Images of every prompt, and the seconds that one took."""
    cells = [(digit, bias) for _ in range(per_cell) for digit in range(10) for bias in range(len(PHOTOGRAPHS))]
    requests = []
    for k, (digit, bias) in enumerate(cells):
        group = GROUPS.of_cell(digit // 5, bias)
        assert group is not None  # noqa: S101 (all four cells are declared)
        requests.append(Request(group=group.name, k=k, prompt=prompt(digit, bias)))
    images, began = [], time.monotonic()
    for start in range(0, len(requests), BATCH):
        batch = requests[start : start + BATCH]
        outcomes = sampler.sample(batch, sampler.fetch(batch))
        if not bool(outcomes.valid.all()):
            raise SystemExit("the generator made an image that is not finite")
        images.append(outcomes.images.cpu())
    seconds = (time.monotonic() - began) / len(requests)
    digits, biases = (torch.tensor(list(column)) for column in zip(*cells, strict=True))
    return Pool(torch.cat(images), digits, biases, BATCH), seconds


def truth(what: str, digit: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return {"class": digit // 5, "photograph": bias, "digit": digit}[what]


def learn(what: str, pool: Pool, steps: int, seed: int) -> Critic:
    """A small classifier of ``pool``, its images shifted a little at random."""
    torch.manual_seed(seed)
    model = Critic()

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        wide = functional.pad(batch.pixels, (SHIFT,) * 4, mode="replicate")
        across, down = torch.randint(0, 2 * SHIFT + 1, (2,)).tolist()
        side = batch.pixels.shape[-1]
        logits = model(wide[..., down : down + side, across : across + side])
        return functional.cross_entropy(logits, truth(what, batch.digit, batch.bias), reduction="sum")[None]

    task = Task(
        name=f"judge-{what}", model=model, batches=pool, counts=lambda b: torch.tensor([len(b.pixels)]), loss=loss
    )
    fit(task, FitConfig(steps=steps, lr=2e-3, schedule="cosine", warmup_steps=20, final_lr=0.02, seed=seed))
    return model


@torch.inference_mode()
def told(model: Critic, pool: Pool) -> torch.Tensor:
    device = next(model.parameters()).device
    return torch.cat([model(unit(part).to(device)).argmax(1).cpu() for part in torch.split(pool.pixels, 500)])


def right(model: Critic, what: str, pool: Pool) -> torch.Tensor:
    return told(model, pool) == truth(what, pool.digit, pool.bias)


def judged(judges: Mapping[str, Critic], pool: Pool) -> dict[str, Any]:
    """Accuracy of each judge over all images and over each group."""
    result: dict[str, Any] = {"images": len(pool.digit)}
    for what, model in judges.items():
        hits = right(model, what, pool)
        result[what] = {"all": _share(hits)}
        for group in GROUPS:
            result[what][group.name] = _share(hits[(pool.digit // 5 == group.label) & (pool.bias == group.bias)])
    hits = right(judges["digit"], "digit", pool)
    result["by_digit"] = {word: _share(hits[pool.digit == digit]) for digit, word in enumerate(DIGIT_WORDS)}
    return result


def useful(pool: Pool, held_out: Pool) -> dict[str, Any]:
    """How well readers of digits that saw ``pool`` alone tell the class of held-out images: over groups, and at worst."""
    means, worst = [], []
    for seed in USE_SEEDS:
        hits = told(learn("digit", pool, USE_STEPS, seed), held_out) // 5 == held_out.digit // 5
        of_group = [
            float(hits[(held_out.digit // 5 == group.label) & (held_out.bias == group.bias)].float().mean())
            for group in GROUPS
        ]
        means.append(round(sum(of_group) / len(of_group), 4))
        worst.append(round(min(of_group), 4))
    return {"images": len(pool.digit), "group_mean": means, "worst_group": worst}


def distances(pool: Pool, training: Pool) -> dict[str, float]:
    """Root mean square difference, of 255, to the nearest training image."""
    flat, known = pool.pixels.flatten(1).float(), training.pixels.flatten(1).float()
    lengths = known.square().sum(1)
    nearest = []
    for part in torch.split(flat, 250):
        squares = part.square().sum(1)[:, None] + lengths[None] - 2 * part @ known.T
        nearest.append(squares.clamp(min=0).min(1).values)
    rms = (torch.cat(nearest) / flat.shape[1]).sqrt()
    quantiles = {name: round(float(rms.quantile(share)), 1) for name, share in _QUANTILES.items()}
    return {"mean": round(float(rms.mean()), 1), **quantiles}


def autoencoder(config: GeneratorConfig) -> Any:
    import diffusers  # noqa: PLC0415 (after the sampler has checked the folder)

    return diffusers.AutoencoderKL.from_pretrained(generator_folder(config), subfolder="vae", local_files_only=True)


@torch.inference_mode()
def reconstructed(vae: Any, pool: Pool) -> Pool:
    latents = torch.split(encode(vae, pool.pixels), 500)
    decoded = torch.cat([vae.decode(part / vae.config.scaling_factor).sample for part in latents])
    pixels = decoded.add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8)
    return dataclasses.replace(pool, pixels=pixels)


def sheet(path: Path, real: Pool, made: Pool, rows: int = 4, scale: int = 2) -> None:
    """Real images on the left, generated ones of the same cells on the right; a column a digit."""
    blocks = []
    for pool in (real, made):
        lines = []
        for bias in range(len(PHOTOGRAPHS)):
            for row in range(rows):
                cells = [(pool.digit == digit) & (pool.bias == bias) for digit in range(10)]
                lines.append(torch.cat([pool.pixels[torch.nonzero(cell).flatten()[row]] for cell in cells], dim=2))
        blocks.append(torch.cat(lines, dim=1))
    gap = torch.full((3, blocks[0].shape[1], 16), 255, dtype=torch.uint8)
    picture = torch.cat([blocks[0], gap, blocks[1]], dim=2).permute(1, 2, 0).numpy()
    height, width = picture.shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    large = Image.fromarray(picture).resize((width * scale, height * scale), Image.Resampling.NEAREST)
    large.quantize(192).save(path, optimize=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--weights", default="embedded")
    arguments.add_argument("--out", type=Path, required=True, help="JSON of all figures")
    arguments.add_argument("--sheet", type=Path, help="PNG with real beside generated images")
    arguments.add_argument("--training-log", type=Path, help="log.json of the training, to be kept with the figures")
    arguments.add_argument("--threads", type=int, default=2)
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    configs = {
        guidance: GeneratorConfig(weights=given.weights, steps=STEPS, guidance=guidance, size=SIZE)
        for guidance in GUIDANCES
    }
    training = learned_images(None, None)
    clean = EmbeddedConfig(val=1200, bias_ratio=0.5, camera_gap="none")
    held_out = images_of("val", clean, seed=1)
    judges = {what: learn(what, images_of("probe", clean), steps, seed=0) for what, steps in JUDGES.items()}
    seen = balanced(training, PER_CELL)
    vae = autoencoder(configs[GUIDANCES[0]])
    figures: dict[str, Any] = {
        "weights_sha256": weights_sha256(configs[GUIDANCES[0]]),
        "steps": STEPS,
        "judged": {"real": judged(judges, seen), "reconstructed": judged(judges, reconstructed(vae, seen))},
        "nearest": {"held_out": distances(reconstructed(vae, balanced(held_out, PER_CELL)), training)},
        "useful": {},
        "seconds_per_image": {},
    }
    report(figures)
    pools = {}
    for guidance, config in configs.items():
        pools[guidance], seconds = generate(DiffusersSampler(config, seed=0), PER_CELL)
        name = f"guidance {guidance:g}"
        figures["seconds_per_image"][name] = round(seconds, 4)
        figures["judged"][name] = judged(judges, pools[guidance])
        figures["nearest"][name] = distances(pools[guidance], training)
        figures["useful"][name] = useful(balanced(pools[guidance], USE_PER_CELL), held_out)
        report({part: figures[part][name] for part in ("seconds_per_image", "judged", "nearest", "useful")})
    if given.training_log is not None:
        figures["training"] = json.loads(given.training_log.read_text())
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(figures, indent=1) + "\n")
    if given.sheet is not None:
        sheet(given.sheet, seen, pools[SHOWN])


def report(figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def _share(hits: torch.Tensor) -> float:
    return round(float(hits.float().mean()), 4)


if __name__ == "__main__":
    main()
