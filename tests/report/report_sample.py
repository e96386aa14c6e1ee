"""A report as a real run might give it: invented numbers, real pixels (digits on crops of two photographs)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_sample_images

from ffr_dist.report.content import (
    BASELINE,
    Audit,
    Cell,
    Check,
    Cost,
    Curve,
    Distances,
    Estimate,
    Fact,
    Generation,
    GroupAudit,
    GroupGeneration,
    GroupPlan,
    GroupScore,
    Plan,
    Report,
    Results,
    Sheet,
    StageCurve,
)
from ffr_dist.report.sheets import contact_sheet

GROUPS = ("low_temple", "low_flower", "high_temple", "high_flower")
MEANING = (
    "digit 0–4 over a temple",
    "digit 0–4 over flowers",
    "digit 5–9 over a temple",
    "digit 5–9 over flowers",
)
REAL = (684, 36, 36, 684)

# Accuracy of each group, in the order of GROUPS.
SCORES = {
    ("none", "erm"): (0.955, 0.312, 0.402, 0.961),
    ("none", "resample"): (0.912, 0.494, 0.531, 0.924),
    ("none", "groupdro"): (0.901, 0.478, 0.520, 0.918),
    ("synthetic_only", "erm"): (0.762, 0.674, 0.701, 0.778),
    ("usb", "erm"): (0.941, 0.598, 0.634, 0.939),
    ("asb", "erm"): (0.945, 0.587, 0.622, 0.948),
    ("ffr", "erm"): (0.884, 0.671, 0.688, 0.879),
    ("ffr", "groupdro"): (0.816, 0.724, 0.739, 0.829),
    ("generator_data", "erm"): (0.891, 0.693, 0.702, 0.897),
}
TEST_COUNT = 250


@functools.cache
def sample_report(seeds: int = 3) -> Report:
    return Report(
        title="From Fake to Real on the embedded world",
        summary="Digits over photographs, where the photograph gives the class away in 95 % of the real training images. "
        "A classifier is pretrained on generated images balanced over groups, then fine-tuned on the real ones.",
        recipe="# What is generated, and how it is used\nname: ffr-demo\nmethod:\n  kind: ffr\n  arms: [none, usb, asb, ffr]\n"
        'prompts:\n  low_temple: "a photo of the digit {digit} over a temple"\nseed: 0\n',
        provenance=(
            Fact("manifest_sha256", "9f2c1d0a7be44c0f5f6f30e9d7a0e4c2b15a38d4f7f1d3ad6c2b8e01fd90a713"),
            Fact("pixel_hash", "41c7a2e09b1d"),
            Fact("Environment", "CPU x86-64 AVX2, torch 2.13.0, diffusers 0.42.1, Pillow 13.0"),
            Fact("ffr_dist", "0.1.0"),
            Fact("Finished", "2026-11-21 10:40 UTC"),
        ),
        plan=Plan(
            groups=tuple(
                GroupPlan(
                    group=name,
                    label=place // 2,
                    bias=place % 2,
                    meaning=MEANING[place],
                    real=REAL[place],
                    quota=720,
                    arms={
                        "usb": 720 - REAL[place] + 36,
                        "asb": 684 - REAL[place] + 36,
                        "ffr": 720,
                        "synthetic_only": 720,
                    },
                )
                for place, name in enumerate(GROUPS)
            ),
            facts=(
                Fact("Budget", "as many images in each group as the real set's largest"),
                Fact("Intervals", "12 of 256"),
            ),
        ),
        generation=Generation(
            groups=tuple(
                GroupGeneration(
                    group=name,
                    tried=737 + 9 * place,
                    accepted=720,
                    rejected={"blank": 3 + place, "duplicate": 14 + 8 * place},
                    seconds=14.2 + place,
                )
                for place, name in enumerate(GROUPS)
            ),
            images_per_second=47.6,
        ),
        sheets=(
            *(
                Sheet(group=name, image=contact_sheet(pixels(place, 18), 6, 3), caption=MEANING[place])
                for place, name in enumerate(GROUPS)
            ),
            Sheet(group="high_flower", image=contact_sheet(pixels(3, 4), 6, 3), caption="blank: 3", rejects=True),
        ),
        audit=Audit(
            groups=tuple(audit_of(name, place) for place, name in enumerate(GROUPS)),
            overall=GroupAudit(
                group="all", images=2880, label_generated=0.941, label_real=0.951, bias_generated=0.992, bias_real=0.978
            ),
            distances=Distances(
                quantiles=(0.01, 0.25, 0.5, 0.75, 0.99),
                generated=(21.4, 30.2, 35.9, 42.0, 57.3),
                real=(19.8, 29.5, 35.1, 41.7, 58.9),
            ),
            checks=(
                Check(name="label", measured=0.941, at_least=0.85),
                Check(name="bias", measured=0.992, at_least=0.9),
            ),
        ),
        results=Results(
            cells=tuple(cell(arm, mitigation, seeds) for arm, mitigation in SCORES), lead=("ffr", "groupdro")
        ),
        curves=tuple(
            curve(arm, mitigation, seed)
            for arm, mitigation in (("none", "erm"), ("usb", "erm"), ("ffr", "erm"), ("ffr", "groupdro"))
            for seed in range(seeds)
        ),
        costs=(
            Cost(stage="Import of real data", seconds=2.4, images=2790, size=4_100_000),
            Cost(stage="Generation", seconds=62.8, images=2880, size=4_630_211),
            Cost(stage="Audit", seconds=9.1, images=2880),
            Cost(stage="Training, 9 cells", seconds=88.0, note="2 processes"),
        ),
    )


def cell(arm: str, mitigation: str, seeds: int) -> Cell:
    accuracies = SCORES[arm, mitigation]
    by_seed = tuple(min(accuracies) + shift for shift in (0.0, -0.031, 0.024, 0.011, -0.017)[:seeds])
    worst = sum(by_seed) / seeds
    correct = [round(accuracy * TEST_COUNT * seeds) for accuracy in accuracies]
    mean = sum(accuracies) / 4
    gain = worst - min(SCORES[BASELINE])
    return Cell(
        method="ffr",
        bias_ratio=0.95,
        arm=arm,
        mitigation=mitigation,
        seeds=tuple(range(seeds)),
        worst_group=wilson(round(worst * TEST_COUNT), TEST_COUNT) if seeds == 1 else around(worst, 0.06),
        worst_by_seed=by_seed,
        group_mean=around(mean, 0.022),
        train_weighted_mean=Estimate(0.475 * (accuracies[0] + accuracies[3]) + 0.025 * (accuracies[1] + accuracies[2])),
        micro=around(mean, 0.022),
        n_worst=TEST_COUNT,
        gain=None if (arm, mitigation) == BASELINE else Estimate(gain) if seeds == 1 else around(gain, 0.07),
        groups=tuple(
            GroupScore(group=name, accuracy=wilson(right, TEST_COUNT * seeds), correct=right, count=TEST_COUNT * seeds)
            for name, right in zip(GROUPS, correct, strict=True)
        ),
    )


def curve(arm: str, mitigation: str, seed: int) -> Curve:
    def stage(name: str, start: float, end: float, steps: int) -> StageCurve:
        rng = np.random.default_rng([seed, steps, len(arm)])
        at = range(0, steps + 1, 25)
        worst = [(s, start + (end - start) * (1 - math.exp(-4 * s / steps)) + 0.02 * rng.standard_normal()) for s in at]
        return StageCurve(
            name=name,
            loss=tuple(
                (s, 0.15 + 0.6 * math.exp(-5 * s / steps) + 0.02 * float(rng.random())) for s in range(5, steps + 1, 5)
            ),
            worst_group=tuple((s, float(value)) for s, value in worst),
            best_step=max(worst[1:], key=lambda point: point[1])[0],
        )

    last = min(SCORES[arm, mitigation])
    one = (stage("synthetic", 0.0, 0.7, 300), stage("real", 0.7, last, 150))
    stages = one if arm == "ffr" else (stage("real", 0.05, last, 450),)
    return Curve(method="ffr", bias_ratio=0.95, arm=arm, mitigation=mitigation, seed=seed, stages=stages)


def audit_of(name: str, place: int) -> GroupAudit:
    return GroupAudit(
        group=name,
        images=720,
        label_generated=0.958 - 0.012 * place,
        label_real=0.962 - 0.008 * place,
        bias_generated=0.99,
        bias_real=0.978,
    )


def wilson(correct: int, total: int) -> Estimate:
    z, p = 1.96, correct / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return Estimate(p, middle - half, middle + half)


def around(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half)


def pixels(place: int, number: int) -> Sequence[NDArray[np.uint8]]:
    """Digits of a class over crops of a photograph, 32 × 32."""
    digits = load_digits()
    photo = load_sample_images().images[place % 2]
    rng = np.random.default_rng(place)
    wanted = np.flatnonzero((digits.target >= 5) == (place >= 2))
    images = []
    for row in rng.choice(wanted, number, replace=False):
        top, left = rng.integers(0, 350), rng.integers(0, 560)
        crop = photo[top : top + 64 : 2, left : left + 64 : 2].astype(float)
        digit = (digits.images[row] / 16).repeat(3, 0).repeat(3, 1)
        crop[4:28, 4:28] += digit[..., None] * (245 - crop[4:28, 4:28])
        images.append(crop.clip(0, 255).astype(np.uint8))
    return images
