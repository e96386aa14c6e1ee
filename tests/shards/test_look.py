import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from ffr_dist.shards.codec import CodecConfig, decode, encode
from ffr_dist.shards.look import LOOK_BITS, distance, look


def picture(seed, side=64):
    """Smooth shapes, as photographs have them."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return np.array(image)


def bits_by_hand(pixels):
    """With whole numbers of Python's own."""
    side = len(pixels)
    grey = [[299 * int(r) + 587 * int(g) + 114 * int(b) for r, g, b in row] for row in pixels]
    weights = [
        [max(0, min((c + 1) * side, (p + 1) * 32) - max(c * side, p * 32)) for p in range(side)] for c in range(32)
    ]
    rows = [[sum(w * grey[y][x] for y, w in enumerate(cell)) for x in range(side)] for cell in weights]
    grid = [[sum(w * row[x] for x, w in enumerate(cell)) // side**2 for cell in weights] for row in rows]
    cosine = [[round(1024 * float(np.cos(np.pi / 32 * (u * (x + 0.5))))) for x in range(32)] for u in range(32)]
    half = [[sum(c * grid[y][x] for y, c in enumerate(line)) for x in range(32)] for line in cosine]
    places = sorted((sum(place), place) for place in np.ndindex(32, 32))[1:257]
    signs = [sum(c * value for c, value in zip(cosine[v], half[u], strict=True)) > 0 for _, (u, v) in places]
    return np.packbits(signs).tobytes()


@pytest.mark.parametrize("side", [7, 32, 45, 64])
def test_the_bits_are_those_of_exact_arithmetic(side):
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    assert look(pixels) == bits_by_hand(pixels)


def test_a_look_has_256_bits_of_about_equal_weight():
    looks = [look(picture(seed)) for seed in range(40)]
    assert {len(found) for found in looks} == {LOOK_BITS // 8}
    apart = [distance(one, other) for place, one in enumerate(looks) for other in looks[:place]]
    assert 100 < np.mean(apart) < 156
    assert min(apart) > 64
    ones = np.unpackbits(np.frombuffer(b"".join(looks), np.uint8).reshape(40, -1), axis=1).mean(0)
    assert ((ones > 0.05) & (ones < 0.95)).mean() > 0.95


@given(st.integers(0, 99))
def test_copies_are_near(seed):
    pixels = picture(seed, 128)
    first = look(pixels)
    compressed = decode(encode(pixels, CodecConfig(quality=60)))
    smaller = np.array(Image.fromarray(pixels).resize((96, 96), Image.Resampling.BOX))
    darker = (pixels * 0.9).astype(np.uint8)
    blurred = np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)))
    assert max(distance(first, look(other)) for other in (compressed, smaller, darker, blurred)) <= 40


def test_a_look_is_fixed():
    """A hash that changed would part an output's old images from its new ones."""
    y, x, channel = np.indices((48, 64, 3))
    pixels = ((x * y + 37 * x + 11 * y * channel + 5 * channel) % 256).astype(np.uint8)
    assert look(pixels).hex() == "09000262845478841a603908e3204048f80c27009701d54803e30011a101f3d6"


def test_a_flat_image_has_a_look_and_shapes_need_not_be_square():
    assert look(np.full((9, 9, 3), 200, np.uint8)) == look(np.full((30, 20, 3), 10, np.uint8))
    assert len(look(picture(2)[:40])) == 32
