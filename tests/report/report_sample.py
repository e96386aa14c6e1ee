"""A report as a real run might give it: invented numbers, real pixels (digits on crops of two photographs)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

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
    Duplicates,
    Estimate,
    Fact,
    FeatureDistance,
    FeatureDistances,
    Gain,
    Gap,
    Gaps,
    Generation,
    GroupAudit,
    GroupGeneration,
    GroupPlan,
    GroupScore,
    Missing,
    Plan,
    RealOrFake,
    Report,
    Results,
    Sheet,
    StageCurve,
    Tuned,
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
LEAD = ("ffr", "groupdro")


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
            *(
                Sheet(group=name, image=contact_sheet(pixels(place, 12), 6, 3), caption=told, kind=kind)
                for kind, told in (
                    ("best", "what the probes are surest of"),
                    ("worst", "what the probes take for something else"),
                )
                for place, name in enumerate(GROUPS[2:], 2)
            ),
            Sheet(group="high_flower", image=contact_sheet(pixels(3, 4), 6, 3), caption="blank: 3", kind="rejected"),
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
                Check(name="label accuracy of the worst group", measured=0.941, at_least=0.85, group="high_flower"),
                Check(name="bias accuracy of the worst group", measured=0.992, at_least=0.9, group="low_temple"),
                Check(name="real-or-fake accuracy", measured=0.712, at_most=0.8),
                Check(name="near-duplicates", measured=12, at_most=50, unit="count"),
                Check(name="FD over its floor", measured=2.42, at_most=4, group="low_flower", unit="ratio"),
            ),
            real_or_fake=RealOrFake(
                accuracy=0.712,
                count=1440,
                null_low=0.471,
                null_high=0.528,
                p=0.001,
                permutations=999,
                advice="Keep real and generated images in stages of their own.",
            ),
            feature_distances=FeatureDistances(
                features=64,
                weights_sha256="41c7a2e09b1d" + 52 * "0",
                groups=tuple(
                    FeatureDistance(
                        group=name,
                        real=REAL[place],
                        generated=720,
                        fd=around(18.3 + 6 * place, 2.1),
                        kid=around(0.0124 + 0.003 * place, 0.002),
                        fd_real=9.1 + place,
                        kid_real=0.0011,
                    )
                    for place, name in enumerate(GROUPS)
                ),
            ),
            gaps=Gaps(
                trained_on_generated=tuple(
                    Gap(group=name, generated=wilson(171, 180), real=wilson(real, 180))
                    for name, real in zip(GROUPS, (150, 121, 132, 168), strict=True)
                ),
                trained_on_real=tuple(
                    Gap(group=name, generated=wilson(made, 180), real=wilson(160, 180) if place != 2 else None)
                    for place, (name, made) in enumerate(zip(GROUPS, (158, 108, 140, 170), strict=True))
                ),
            ),
            duplicates=Duplicates(exact=3, near=12, bits=16, images=2880, groups={"low_temple": 4, "high_temple": 11}),
        ),
        results=Results(cells=tuple(cell(arm, mitigation, seeds) for arm, mitigation in SCORES), lead=LEAD),
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


ARMS = ("none", "usb", "asb", "ffr", "synthetic_only", "group_balanced", "generator_data", "ffr_head", "ddb", "asac")
MITIGATIONS = ("erm", "resample", "groupdro", "dfr", "jtt", "reweight")
RATIOS = (0.9, 0.95, 0.97, 0.99, 0.999)


@functools.cache
def study_report(arms: int = 10, mitigations: int = 6, ratios: int = 5, drawn: int = 24) -> Report:
    """A study: every combination, five seeds, and what only a study has."""
    cells = tuple(
        studied(place, arm, mitigation, RATIOS[step], step)
        for step in range(ratios)
        for place, arm in enumerate(ARMS[:arms])
        for mitigation in MITIGATIONS[:mitigations]
    )
    curves = tuple(
        replace(curve(*known, seed), arm=one.arm, mitigation=one.mitigation, bias_ratio=one.bias_ratio)
        for one in cells[:drawn]
        for known in [(one.arm, "erm") if (one.arm, "erm") in SCORES else BASELINE]
        for seed in range(5)
    )
    head_only = tuple(replace(one, variant="head-only") for one in cells if one.arm == "ffr" and one.bias_ratio == 0.95)
    return replace(
        sample_report(),
        title="embedded-world",
        study="name: embedded-world\nrecipe: ffr-demo\ngrids:\n  - arms: [none, ffr]\n",
        results=Results(cells=(*cells, *head_only), lead=("ffr", "erm")),
        curves=curves,
        more_curves=len(cells) - drawn,
        skipped=(Missing(cell="group_balanced × groupdro", why="group_balanced has a mitigation of its own"),),
        failed=(Missing(cell="asb × dfr, seed 3, bias ratio 0.999", why="MemoryError: 12 GiB asked for"),),
        tuned=tuple(
            Tuned(arm=arm, mitigation="erm", chosen="lrs 0.002, finetune_lrs 5e-05", score=0.71) for arm in ARMS[:arms]
        ),
    )


def studied(place: int, arm: str, mitigation: str, ratio: float, step: int) -> Cell:
    known = cell(*((arm, "erm") if (arm, "erm") in SCORES else BASELINE), 5)
    steeper = 0.06 * step * (1.6 if arm == "none" else 0.7) + 0.01 * place - 0.02 * MITIGATIONS.index(mitigation)
    worst = min(max(known.worst_group.value - steeper, 0.02), 0.98)
    return replace(
        known, arm=arm, mitigation=mitigation, bias_ratio=ratio, worst_group=around(worst, 0.04 + 0.01 * step)
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
        micro=around(mean, 0.022),
        n_worst=TEST_COUNT,
        gain=None if (arm, mitigation) == BASELINE else paired(gain, 0.07, seeds),
        lead_gain=None if (arm, mitigation) == LEAD else paired(worst - min(SCORES[LEAD]), 0.05, seeds),
        measures={
            "train_weighted_mean": Estimate(0.475 * accuracies[0] + 0.475 * accuracies[3] + 0.05 * accuracies[1]),
            "aligned": around((accuracies[0] + accuracies[3]) / 2, 0.02),
            "conflicting": around((accuracies[1] + accuracies[2]) / 2, 0.05),
            "ddp": around(abs(accuracies[1] - accuracies[0]), 0.03),
            "deop": around(accuracies[3] - accuracies[2], 0.03),
            "deo_max": around(accuracies[0] - accuracies[1], 0.03),
            "deo_mean": around(0.21, 0.03),
            "deo_sum": around(0.42, 0.03),
            "macro_std": around(0.153, 0.01),
            "macro_std_null": Estimate(0.018),
            "macro_std_excess": around(0.135, 0.01),
            "std_groups": around(0.17, 0.01),
        },
        groups=tuple(
            GroupScore(group=name, accuracy=wilson(right, TEST_COUNT * seeds), correct=right, count=TEST_COUNT * seeds)
            for name, right in zip(GROUPS, correct, strict=True)
        ),
    )


def curve(arm: str, mitigation: str, seed: int) -> Curve:
    def stage(name: str, start: float, end: float, steps: int) -> StageCurve:
        rng = np.random.default_rng([seed, steps, len(arm)])
        at = range(0, steps + 1, 25)
        start, end = start + 0.02 * seed, end + 0.03 * (seed - 1)
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


def paired(value: float, half: float, seeds: int) -> Gain:
    if seeds == 1:
        return Gain(value)
    return Gain(value, value - half, value + half, pairs=seeds, p=0.04, test="paired t")


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
