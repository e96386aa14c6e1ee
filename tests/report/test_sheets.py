from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ffr_dist.errors import DataError
from ffr_dist.report.sheets import compact, contact_sheet, describe


def noise(number: int, side: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (number, side, side, 3), dtype=np.uint8))


@settings(deadline=None, max_examples=30)
@given(number=st.integers(1, 9), columns=st.integers(1, 5), scale=st.integers(1, 3))
def test_every_pixel_of_a_small_image_stands_in_its_place(number: int, columns: int, scale: int) -> None:
    images = noise(number, 5)
    with Image.open(io.BytesIO(contact_sheet(images, columns, scale))) as opened:
        sheet = np.asarray(opened)
    step = 5 * scale + 2
    for place, image in enumerate(images):
        row, column = divmod(place, min(columns, number))
        part = sheet[row * step : row * step + 5 * scale, column * step : column * step + 5 * scale]
        assert (part[::scale, ::scale, :3] == image).all()
        assert (part[..., 3] == 255).all()
    assert (sheet[..., 3] == 255).sum() == number * (5 * scale) ** 2, "the gaps are see-through"


def test_large_images_become_a_jpeg() -> None:
    assert describe(contact_sheet(noise(3, 96), 2)) == ("image/jpeg", 194, 194)
    assert describe(contact_sheet(noise(1, 8), 4, 3)) == ("image/png", 24, 24)


def test_the_same_images_give_the_same_bytes() -> None:
    assert contact_sheet(noise(4, 16), 2) == contact_sheet(noise(4, 16), 2)


@pytest.mark.parametrize(
    ("images", "columns", "scale", "says"),
    [
        ([], 2, 1, "at least one image"),
        (noise(1, 8), 0, 1, "0 columns"),
        ([*noise(1, 8), *noise(1, 9)], 2, 1, "image 1"),
        ([noise(1, 8)[0].astype(np.float32)], 2, 1, "float32"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(images: list, columns: int, scale: int, says: str) -> None:
    with pytest.raises(DataError, match=says):
        contact_sheet(images, columns, scale)


@pytest.mark.parametrize(
    "body", [b"", b"<svg onload='alert(1)'/>", b"GIF89a\x01\x00\x01\x00", contact_sheet(noise(1, 8), 1)[:20]]
)
def test_only_pixels_may_be_embedded(body: bytes) -> None:
    with pytest.raises(DataError, match="not a PNG, JPEG or WebP"):
        describe(body)


def test_a_heavy_sheet_is_shown_lighter_and_a_light_one_as_it_is() -> None:
    light, heavy = contact_sheet(noise(4, 16), 2), contact_sheet(noise(40, 32), 8, 2)
    assert compact(light) is light
    assert len(compact(heavy)) < len(heavy)
    assert describe(compact(heavy)) == ("image/jpeg", *describe(heavy)[1:])
    assert compact(b"<svg/>" * 10_000) == b"<svg/>" * 10_000, "what is no image is refused where it would be shown"
