"""The embedded world: a biased dataset that needs no download.

Real handwritten digits over crops of two real photographs, both out of scikit-learn's wheel, as 32x32 RGB images.
The label says whether the digit is five or more, the bias says which photograph is behind it. In training and
validation the two agree in a share ``bias_ratio`` of the images; the test set is balanced.

What the parts of the world may share is fixed here, because a comparison with a generator is worth nothing where its
training images reach the test set: digits (by handwritten sample) and regions of the photographs (by vertical band)
are dealt out once to the generator, to the classifiers' training and validation (which share bands, not digits), and
to the test set.

The camera gap makes all real images differ from what a generator makes, as real ones do: noise on every image, and a
share of them developed as faded, half-desaturated negatives. The generator's own images never pass that camera.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ffr_dist.config import Config
from ffr_dist.datasets.source import Sample, Split
from ffr_dist.groups import Group, Groups
from ffr_dist.seeds import draw_seed

SIZE = 32
"""Height and width of an image."""

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHOTOGRAPHS = ("temple", "flowers")
"""What a prompt calls the two photographs: china.jpg is bias 0, flower.jpg bias 1."""

GROUPS = Groups.of(
    Group(f"{high}_{photograph}", label, bias)
    for label, high in enumerate(("low", "high"))
    for bias, photograph in enumerate(PHOTOGRAPHS)
)

GENERATOR_IMAGES = 32_000
"""The shipped generator saw exactly this many images."""
PROBE_IMAGES = 2_400

CameraGap = Literal["none", "moderate", "strong"]
Use = Literal["generator", "train", "val", "probe", "test"]
"""What an image is for. Probes judge generated images; they share digits and bands with train and val."""

_WORLD = 1
_CHUNK = 256
_BAND_WIDTH = 80
_BAND_MARGIN = 3
_BANDS: Mapping[Use, tuple[int, ...]] = {
    "generator": (0, 3, 6),
    "train": (1, 4, 7),
    "val": (1, 4, 7),
    "probe": (1, 4, 7),
    "test": (2, 5),
}
_ROWS: Mapping[Use, tuple[int, int]] = {
    "generator": (0, 797),
    "train": (797, 1247),
    "val": (1247, 1397),
    "probe": (797, 1397),
    "test": (1397, 1797),
}
_EMPTY_SKY = (60, 0)
"""Rows at the top of each photograph that no crop shows."""
_CROP = (44.0, 74.0)
_NEGATIVES: Mapping[CameraGap, float] = {"none": 0.0, "moderate": 0.6, "strong": 0.85}
_NOISE = 0.04
_HARD_DIGITS = {3: 1.3, 5: 1.1, 7: 1.3, 8: 1.7, 9: 1.15}
"""The generator sees digits that are easily confused more often than the others, by these factors."""
_GENERATOR_TEMPLES = 0.55

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Count = Annotated[int, Field(gt=0)]


class EmbeddedConfig(Config):
    """The embedded world as a recipe names it."""

    kind: Literal["embedded"] = "embedded"
    bias_ratio: float = Field(default=0.95, ge=0.5, le=1.0)
    """Share of the training and validation images whose photograph goes with their label."""
    camera_gap: CameraGap = "moderate"
    train: Count = 1_500
    val: Count = 300
    test: Count = 2_000

    def splits(self, seed: int) -> tuple[Split, ...]:
        """``train``, ``val``, ``test``, ``generator`` and ``probe``; the seed moves the first two only."""
        return (
            self._biased("train", self.train, seed),
            self._biased("val", self.val, seed),
            _split("test", balanced_counts(self.test), camera_gap=self.camera_gap),
            _generator_split(),
            _split("probe", balanced_counts(PROBE_IMAGES)),
        )

    def _biased(self, use: Use, images: int, seed: int) -> Split:
        return _split(use, biased_counts(images, self.bias_ratio), seed=seed, camera_gap=self.camera_gap)


def prompt(digit: int, bias: int) -> str:
    """The text that asks the shipped generator for a digit over a photograph."""
    return f"a photo of the digit {DIGIT_WORDS[digit]} over {PHOTOGRAPHS[bias]}"


def prompts() -> dict[str, tuple[str, ...]]:
    """The prompts of each group: one for each of the five digits of its class."""
    return {
        group.name: tuple(prompt(digit, group.bias) for digit in range(5 * group.label, 5 * group.label + 5))
        for group in GROUPS
    }


def biased_counts(images: int, bias_ratio: float) -> dict[str, int]:
    """Images of each group where a share ``bias_ratio`` of each class has the bias of its label."""
    counts = {}
    for label, of_class in enumerate((images - images // 2, images // 2)):
        rare = round(of_class * (1 - bias_ratio))
        for bias in range(len(PHOTOGRAPHS)):
            counts[_group(label, bias).name] = of_class - rare if bias == label else rare
    return counts


def balanced_counts(images: int) -> dict[str, int]:
    """Equal counts, the first groups taking what does not divide."""
    return {group.name: (images + len(GROUPS) - 1 - place) // len(GROUPS) for place, group in enumerate(GROUPS)}


def digit_rows(use: Use) -> Ints:
    """Rows of ``sklearn.datasets.load_digits`` that this use may show."""
    first, last = _ROWS[use]
    return _shuffled(np.arange(len(_digits().labels)), _rng(0, "rows", 0, "deal"))[first:last]


def photo_columns(use: Use) -> tuple[tuple[int, int], ...]:
    """Columns [first, last) of both photographs that this use may show."""
    return tuple((b * _BAND_WIDTH + _BAND_MARGIN, (b + 1) * _BAND_WIDTH - _BAND_MARGIN) for b in _BANDS[use])


@dataclass(frozen=True, slots=True)
class _Digits:
    shapes: Floats
    """(n, 48, 48) in [0, 1]."""
    labels: Ints


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which digit lies over which photograph, image by image."""

    rows: Ints
    bias: Ints


def _group(label: int, bias: int) -> Group:
    group = GROUPS.of_cell(label, bias)
    assert group is not None  # noqa: S101 (all four cells are declared)
    return group


def _split(use: Use, counts: Mapping[str, int], *, seed: int = 0, camera_gap: CameraGap = "none") -> Split:
    identity: dict[str, Any] = {
        "kind": "embedded",
        "world": _WORLD,
        "use": use,
        "counts": dict(counts),
        "seed": seed,
        "camera_gap": camera_gap,
    }

    def samples() -> Iterator[Sample]:
        return _samples(use, _lay_out(use, counts, seed), seed, camera_gap)

    return Split(name=use, groups=GROUPS, identity=identity, samples=samples, counts=lambda: dict(counts))


def _generator_split() -> Split:
    identity = {"kind": "embedded", "world": _WORLD, "use": "generator", "images": GENERATOR_IMAGES}

    def samples() -> Iterator[Sample]:
        return _samples("generator", _lay_out_generator(), 0, "none")

    def counts() -> dict[str, int]:
        layout = _lay_out_generator()
        high = _digits().labels[layout.rows] >= 5
        return {group.name: int(np.sum((high == bool(group.label)) & (layout.bias == group.bias))) for group in GROUPS}

    return Split(name="generator", groups=GROUPS, identity=identity, samples=samples, counts=counts)


def _lay_out(use: Use, counts: Mapping[str, int], seed: int) -> _Layout:
    """Each digit sample of a class as often as the next, in each group; the whole in random order."""
    rng = _rng(seed, use, 0, "layout")
    allowed = digit_rows(use)
    high = _digits().labels[allowed] >= 5
    rows, bias = [], []
    for group in GROUPS:
        of_class, count = allowed[high == bool(group.label)], counts[group.name]
        rounds = [_shuffled(of_class, rng) for _ in range(count // len(of_class) + 1)]
        rows.append(np.concatenate(rounds)[:count])
        bias.append(np.full(count, group.bias))
    order = _shuffled(np.arange(sum(counts.values())), rng)
    return _Layout(np.concatenate(rows)[order], np.concatenate(bias)[order])


@lru_cache(maxsize=1)
def _lay_out_generator() -> _Layout:
    rng = _rng(0, "generator", 0, "layout")
    allowed = digit_rows("generator")
    weights = np.array([_HARD_DIGITS.get(int(digit), 1.0) for digit in _digits().labels[allowed]])
    steps = np.cumsum(weights) / weights.sum()
    rows = allowed[np.searchsorted(steps, rng.random(GENERATOR_IMAGES), side="right").clip(max=len(allowed) - 1)]
    return _Layout(rows, (rng.random(GENERATOR_IMAGES) >= _GENERATOR_TEMPLES).astype(np.int64))


def _samples(use: Use, layout: _Layout, seed: int, camera_gap: CameraGap) -> Iterator[Sample]:
    labels = _digits().labels
    for chunk, start in enumerate(range(0, len(layout.rows), _CHUNK)):
        rows, bias = layout.rows[start : start + _CHUNK], layout.bias[start : start + _CHUNK]
        images = _render(rows, bias, use, _rng(seed, use, chunk, "render"))
        if camera_gap != "none":
            images = _photograph(images, _NEGATIVES[camera_gap], _rng(seed, use, chunk, "camera"))
        pixels = np.rint(images * 255).astype(np.uint8)
        for image, row, behind in zip(pixels, rows.tolist(), bias.tolist(), strict=True):
            digit = int(labels[row])
            name = f"digit{digit}-row{row:04d}-{PHOTOGRAPHS[behind]}"
            yield Sample(image=image, group=_group(digit // 5, behind), name=name)


def _render(rows: Ints, bias: Ints, use: Use, rng: np.random.Generator) -> Floats:
    """Digits, tinted and with a soft shadow, over crops: (n, height, width, 3) in [0, 1]."""
    images = _backgrounds(bias, use, rng)
    ink = _place(_digits().shapes[rows], rng)
    hue, saturation = rng.random(len(rows)), 0.65 * rng.random(len(rows))
    wheel = [np.clip(np.abs((hue * 6 + turn) % 6 - 3) - 1, 0, 1) for turn in (0, 4, 2)]
    tint = np.stack([1 - saturation * (1 - part) for part in wheel], axis=1).astype(np.float32)[:, None, None]
    opacity = (0.7 + 0.3 * rng.random(len(rows))).astype(np.float32)[:, None, None] * ink
    images *= (1 - 0.55 * _blur(ink))[..., None]
    images *= (1 - opacity)[..., None]
    images += opacity[..., None] * tint
    return np.clip(images, 0, 1, out=images)


def _backgrounds(bias: Ints, use: Use, rng: np.random.Generator) -> Floats:
    """Random square crops inside the bands of this use, half of them mirrored."""
    from PIL import Image  # noqa: PLC0415 (a recipe is read without it)

    photos = _photos()
    bands = _BANDS[use]
    images = np.empty((len(bias), SIZE, SIZE, 3), np.float32)
    draws = rng.random((len(bias), 5))
    for image, behind, (band, size, across, down, mirror) in zip(images, bias.tolist(), draws.tolist(), strict=True):
        photo, top = photos[behind], _EMPTY_SKY[behind]
        side = _CROP[0] + size * (_CROP[1] - _CROP[0])
        left = bands[int(band * len(bands))] * _BAND_WIDTH + _BAND_MARGIN
        left += across * (_BAND_WIDTH - 2 * _BAND_MARGIN - side)
        upper = top + down * (photo.height - top - side)
        box = (left, upper, left + side, upper + side)
        crop = np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box))
        image[:] = crop[:, ::-1] if mirror < 0.5 else crop
    return np.divide(images, np.float32(255), out=images)


def _place(shapes: Floats, rng: np.random.Generator) -> Floats:
    """Rotate by up to 15 degrees, scale and shift, sampling bilinearly: (n, 48, 48) to (n, 32, 32)."""
    draws = rng.random((4, len(shapes)))
    angle, scale = 0.26 * (2 * draws[0] - 1), 0.9 / (1.0 + 0.35 * draws[1])
    shift = 0.16 * (2 * draws[2:] - 1)
    cos, sin = (part[:, None, None] for part in (np.cos(angle) * scale, np.sin(angle) * scale))
    grid = ((2 * np.arange(SIZE) + 1) / SIZE - 1)[None]
    x, y = grid[:, None, :], grid[:, :, None]
    side = shapes.shape[-1]
    columns = ((cos * x - sin * y + (shift[0] * scale)[:, None, None] + 1) * side - 1) / 2
    lines = ((sin * x + cos * y + (shift[1] * scale)[:, None, None] + 1) * side - 1) / 2
    # A frame of zeros answers for what lies outside.
    framed = np.pad(shapes, ((0, 0), (1, 1), (1, 1)))
    columns, lines = np.clip(columns + 1, 0, side + 0.999), np.clip(lines + 1, 0, side + 0.999)
    left, upper = columns.astype(np.int64), lines.astype(np.int64)
    right_part, lower_part = (columns - left).astype(np.float32), (lines - upper).astype(np.float32)
    which = np.arange(len(shapes))[:, None, None]
    above = framed[which, upper, left] * (1 - right_part) + framed[which, upper, left + 1] * right_part
    below = framed[which, upper + 1, left] * (1 - right_part) + framed[which, upper + 1, left + 1] * right_part
    placed: Floats = above * (1 - lower_part) + below * lower_part
    return placed


def _blur(ink: Floats) -> Floats:
    """Mean over 5x5 pixels, the edge repeated outwards."""
    for axis in (1, 2):
        widths = [(0, 0), (0, 0), (0, 0)]
        widths[axis] = (2, 2)
        wide = np.pad(ink, widths, mode="edge")
        ink = sum((np.take(wide, range(at, at + SIZE), axis) for at in range(1, 5)), np.take(wide, range(SIZE), axis))
    return ink / np.float32(25)


def _photograph(images: Floats, negatives: float, rng: np.random.Generator) -> Floats:
    """What the camera gap does: a share of faded, half-desaturated negatives, and noise on all."""
    negative = rng.random(len(images)) < negatives
    grey = images[negative].mean(axis=-1, keepdims=True)
    images[negative] = (1 - 0.5 * (images[negative] + grey)) * 0.85 + 0.08
    images += _NOISE * rng.standard_normal(images.shape, dtype=np.float32)
    return np.clip(images, 0, 1, out=images)


def _rng(seed: int, use: str, place: int, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(draw_seed(seed, f"embedded-{_WORLD}-{use}", place, purpose)))


def _shuffled(values: Ints, rng: np.random.Generator) -> Ints:
    # By sorting plain uniform draws: numpy promises their stream, not that of its shuffles.
    return values[np.argsort(rng.random(len(values)), kind="stable")]


@lru_cache(maxsize=1)
def _digits() -> _Digits:
    from sklearn.datasets import load_digits  # noqa: PLC0415 (heavy)

    data = load_digits()
    padded = np.pad(np.asarray(data.images, np.float32) / 16, ((0, 0), (2, 2), (2, 2)))
    enlarge = _cubic(padded.shape[-1], 4)
    shapes = np.einsum("ab,nbc,dc->nad", enlarge, padded, enlarge, optimize=True)
    return _Digits(np.clip(shapes, 0, 1).astype(np.float32), np.asarray(data.target, np.int64))


@lru_cache(maxsize=1)
def _photos() -> tuple[Any, ...]:
    from PIL import Image  # noqa: PLC0415 (a recipe is read without it)
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 (heavy)

    return tuple(Image.fromarray(photo) for photo in load_sample_images().images)


def _cubic(size: int, factor: int) -> Floats:
    """Cubic interpolation as a matrix (factor x size, size), the edge repeated outwards."""
    matrix = np.zeros((size * factor, size), np.float32)
    for line in range(size * factor):
        place = (line + 0.5) / factor - 0.5
        for near in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            far = abs(place - near)
            weight = 1.25 * far**3 - 2.25 * far**2 + 1 if far <= 1 else -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
            matrix[line, min(max(near, 0), size - 1)] += weight
    return matrix
