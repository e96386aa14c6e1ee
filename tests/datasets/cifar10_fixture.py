"""CIFAR-10 and CIFAR-100 as their publisher packs them (pickles of Python 2), and the labels of CIFAR10-B, all small."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pictures import pixels

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100 = [f"class_{number}" for number in range(98)] + ["lawn_mower", "aquarium_fish"]


class _Python2(pickle._Pickler):
    """Writes every text as Python 2 did: as bytes of no encoding."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012 (as the class it extends)

    def _save_text(self, text: str | bytes) -> None:
        body = text.encode("latin1") if isinstance(text, str) else text
        short = len(body) < 256
        self.write(
            pickle.SHORT_BINSTRING + bytes([len(body)]) if short else pickle.BINSTRING + len(body).to_bytes(4, "little")
        )
        self.write(body)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = _save_text


def python2_pickle(value: Any) -> bytes:
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def image(label: int, number: int) -> np.ndarray:
    """What the image of a label and number shows: (32, 32, 3)."""
    return pixels(label % 10, label % 5, number, 32, 32)


def batch(labels: list[int], first: int, name: str) -> dict[str, Any]:
    """Rows of 3,072 bytes: the red plane, the green one, the blue one."""
    rows = [image(label, first + place).transpose(2, 0, 1).reshape(-1) for place, label in enumerate(labels)]
    names = [f"thing_s_{first + place:06d}.png" for place in range(len(labels))]
    return {"batch_label": name, "labels": labels, "data": np.stack(rows), "filenames": names}


def backgrounds(labels: list[int], names: list[str]) -> dict[str, dict[str, int]]:
    """A background for each test image, by its place in its class, from 1."""
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    ranks: Counter[int] = Counter()
    for label in labels:
        ranks[label] += 1
        found[names[label]][f"{ranks[label]:04d}.png"] = 3 * ((label + ranks[label]) % 2)
    return found


def write(folder: Path) -> dict[str, Any]:
    """CIFAR-10: five batches, unequal classes, two test images of each class that differ in background."""
    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)
    for number in range(1, 6):
        labels = [(3 * place) % 10 for place in range(10)] + [number, 3, 3]
        body = python2_pickle(batch(labels, 100 * number, f"training batch {number} of 5"))
        (root / f"data_batch_{number}").write_bytes(body)
    tested = [*range(10), *reversed(range(10))]
    (root / "test_batch").write_bytes(python2_pickle(batch(tested, 900, "testing batch 1 of 1")))
    meta = {"num_cases_per_batch": 13, "label_names": CIFAR10, "num_vis": 3072}
    (root / "batches.meta").write_bytes(python2_pickle(meta))
    (root / "readme.html").write_text("<a href='index.html'></a>")
    labels_file = folder / "cifar10_bgd_cl2img_gp_fine.npy"
    np.save(labels_file, np.array(backgrounds(tested, CIFAR10), dtype=object), allow_pickle=True)
    return {"kind": "cifar10", "root": str(root), "backgrounds": str(labels_file), "val": 10}


def write_100(folder: Path) -> dict[str, Any]:
    """CIFAR-100 with coarse labels beside the fine ones, and no labels of backgrounds."""
    root = folder / "cifar-100-python"
    root.mkdir(parents=True)
    for name, labels in (("train", [*range(100), *range(100), 7]), ("test", [*range(100)])):
        found = batch(labels, 0, name)
        fine = found.pop("labels")
        found |= {"fine_labels": fine, "coarse_labels": [label % 20 for label in fine]}
        (root / name).write_bytes(python2_pickle(found))
    meta = {"fine_label_names": CIFAR100, "coarse_label_names": [f"kind_{number}" for number in range(20)]}
    (root / "meta").write_bytes(python2_pickle(meta))
    return {"kind": "cifar100", "root": str(root), "val": 100}
