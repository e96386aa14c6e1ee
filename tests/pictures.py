"""Image files for fixtures of datasets: label and bias can be seen in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(label: int, bias: int, number: int, width: int = 24, height: int = 24) -> np.ndarray:
    """Noise under a bright row (by label) and a tint (by bias)."""
    found = np.random.default_rng([label, bias + 1, number]).integers(60, 140, (height, width, 3))
    found[(3 * label + number % 2) % height] += 90
    found += np.array([[30, 0, 0], [0, 30, 0], [0, 0, 30], [30, 30, 0], [0, 30, 30]])[bias % 5]
    return found.astype(np.uint8)


def write_picture(file: Path, label: int, bias: int, number: int, *, mode: str = "RGB", width: int = 24) -> None:
    """An image in the format that the name asks for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(label, bias, number, width)).convert(mode).save(file)
