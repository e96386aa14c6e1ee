"""A dataset as the Hugging Face Hub stores it: parquet files with images, and class names in their metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pa_parquet
from pictures import pixels
from PIL import Image

CLASSES, PLACES = ("Cat", "Dog"), ("sofa", "garden")
COUNTS = {"train": (7, 2, 1, 6), "validation": (2, 1, 1, 2), "test": (2, 2, 2, 2)}
"""Images of (cat, sofa), (cat, garden), (dog, sofa), (dog, garden)."""
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(label: int, bias: int, number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(label, bias, number)).save(out, "PNG")
    return out.getvalue()


def rows(split: str) -> list[tuple[int, int, int]]:
    """Label, bias and number of each image, in a mixed order."""
    cells = [(0, 0), (0, 1), (1, 0), (1, 1)]
    found = [(*cell, n) for cell, count in zip(cells, COUNTS[split], strict=True) for n in range(count)]
    return sorted(found, key=lambda row: (row[2], row))


def table(some: Sequence[tuple[int, int, int]]) -> pa.Table:
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(CLASSES), "_type": "ClassLabel"},
        "place": {"dtype": "string", "_type": "Value"},
    }
    columns = {
        "image": pa.array([{"bytes": png(*row), "path": f"{place}.png"} for place, row in enumerate(some)], IMAGE),
        "label": pa.array([label for label, _, _ in some], pa.int64()),
        "place": [PLACES[bias] for _, bias, _ in some],
    }
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(folder: Path) -> dict[str, Any]:
    """The dataset's folder with its card, training in two files; the ``data:`` of a recipe."""
    (folder / "pets" / "data").mkdir(parents=True)
    (folder / "pets" / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Pets\n")
    for split in COUNTS:
        some = rows(split)
        shards = [some[:9], some[9:]] if split == "train" else [some]
        for number, shard in enumerate(shards):
            file = folder / "pets" / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            pa_parquet.write_table(table(shard), file, row_group_size=4)
    return {"kind": "huggingface", "root": str(folder / "pets"), "bias": "place", "biases": {"sofa": 0, "garden": 1}}
