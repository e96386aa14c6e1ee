import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from shard_outputs import CODEC

from ffr_dist.config import parse
from ffr_dist.errors import ConfigError, DataError
from ffr_dist.shards.codec import (
    CodecConfig,
    _decode,
    _decode_jpeg,
    blake2b16,
    codec_environment,
    decode,
    decode_into,
    encode,
    encode_planes,
    format_of,
)

FORMATS = ("jpg", "png", "webp")
pixel_arrays = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(pixels=pixel_arrays)
def test_png_keeps_every_pixel(pixels):
    assert np.array_equal(decode(encode(pixels, CODEC)), pixels)


@given(pixels=pixel_arrays, kind=st.sampled_from(FORMATS), quality=st.integers(1, 100))
def test_equal_pixels_give_equal_bytes_of_the_named_format_and_size(pixels, kind, quality):
    codec = CodecConfig(format=kind, quality=quality)
    body = encode(pixels, codec)
    assert body == encode(np.asfortranarray(pixels), codec)
    assert format_of(body) == kind
    assert decode(body).shape == pixels.shape


@given(pixels=pixel_arrays, kind=st.sampled_from(FORMATS))
def test_planes_give_the_same_bytes(pixels, kind):
    codec = CodecConfig(format=kind)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    assert encode_planes(planes, codec) == encode(pixels, codec)
    assert encode_planes(pixels.transpose(2, 0, 1), codec) == encode(pixels, codec)


def test_planes_of_another_shape_or_type_are_refused():
    for planes in (np.zeros((4, 4, 3), np.uint8), np.zeros((3, 4), np.uint8), np.zeros((3, 4, 4), np.float32)):
        with pytest.raises(DataError, match="uint8"):
            encode_planes(planes, CODEC)


def test_jpg_at_the_default_quality_is_close():
    rows = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(rows[:, None], rows[None, :], rows[:, None]), axis=-1)
    assert np.abs(decode(encode(pixels, CodecConfig())).astype(int) - pixels).mean() < 3


def test_pixels_of_another_shape_or_type_are_refused():
    for pixels in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(DataError, match="uint8"):
            encode(pixels, CODEC)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_short_is_refused(kind):
    body = encode(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), CodecConfig(format=kind))
    for cut in (0, 1, len(body) // 2, len(body) - 60):
        with pytest.raises(DataError):
            decode(body[:cut])


@given(st.data())
def test_no_bytes_do_anything_but_decode_or_be_refused(data):
    kind = data.draw(st.sampled_from(FORMATS))
    body = bytearray(encode(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), CodecConfig(format=kind)))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=5)):
        body[place] = value
    try:
        pixels = decode(bytes(body), max_pixels=10_000)
    except DataError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3


@given(st.binary(max_size=200))
def test_noise_is_refused(body):
    with pytest.raises(DataError):
        decode(body)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(DataError):
        decode(bomb)
    with pytest.raises(DataError, match="100 are allowed"):
        decode(encode(np.zeros((11, 10, 3), np.uint8), CODEC), max_pixels=100)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_other_colour_modes_come_out_as_rgb(mode):
    out = io.BytesIO()
    Image.new(mode, (5, 4)).save(out, "JPEG" if mode == "CMYK" else "PNG")
    assert decode(out.getvalue()).shape == (4, 5, 3)


@pytest.mark.parametrize("kind", ["noise", "smooth", "edge"])
@given(st.data())
def test_a_jpeg_has_the_pixels_that_pillow_sees(kind, data):
    """Of every size, quality, subsampling and way to write it."""
    height, width = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    if kind == "smooth":
        small = Image.fromarray(pixels[: height // 6 + 1, : width // 6 + 1])
        pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    elif kind == "edge":
        pixels = (pixels[:1, :1] > 127) * np.full_like(pixels, 255)
        pixels[: height // 2] ^= 255
    image = Image.fromarray(pixels).convert(data.draw(st.sampled_from(["RGB", "L"])))
    options = data.draw(
        st.fixed_dictionaries(
            {"quality": st.integers(1, 100), "optimize": st.booleans(), "progressive": st.booleans()}
            | ({"subsampling": st.integers(0, 2)} if image.mode == "RGB" else {})
        )
    )
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    assert _decode_jpeg(out.getvalue(), 10_000) is not None
    assert np.array_equal(decode(out.getvalue()), np.asarray(Image.open(out).convert("RGB")))


@pytest.mark.parametrize("side", [None, 333, 256])
@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_a_photograph_has_the_pixels_that_pillow_sees(name, side):
    body = (Path(sklearn.__file__).parent / "datasets" / "images" / name).read_bytes()
    if side is not None:
        body = encode(np.asarray(Image.open(io.BytesIO(body)).resize((side, side - 5))), CodecConfig())
    assert np.array_equal(_decode_jpeg(body, 10**7), _decode(body, 10**7))


@pytest.mark.parametrize("options", [{"keep_rgb": True}, {}])
def test_a_jpeg_of_other_colours_is_left_to_pillow(options):
    """Four inks, and red, green and blue as they are."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3 if options else 4), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels, "RGB" if options else "CMYK").save(out, "JPEG", **options)
    assert _decode_jpeg(out.getvalue(), 10_000) is None
    assert np.array_equal(decode(out.getvalue()), np.asarray(Image.open(out).convert("RGB")))


@given(st.data())
def test_a_flawed_jpeg_is_what_pillow_says_of_it(data):
    body = bytearray(encode(np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8), CodecConfig()))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=3)):
        body[place] = value
    flawed = bytes(body) + data.draw(st.binary(max_size=3))
    quick = _decode_jpeg(flawed, 10_000)
    try:
        pixels = _decode(flawed, 10_000)
    except DataError:
        return  # what is around the image may be refused by one and not by the other
    assert quick is None or np.array_equal(quick, pixels)


@given(pixels=pixel_arrays)
def test_the_pixel_hash_tells_shapes_and_values_apart(pixels):
    assert len(blake2b16(pixels)) == 16
    assert blake2b16(pixels) == blake2b16(np.asfortranarray(pixels))
    other = pixels.copy()
    other[0, 0, 0] ^= 1
    assert blake2b16(other) != blake2b16(pixels)
    if pixels.shape[0] != pixels.shape[1]:
        assert blake2b16(pixels.reshape(pixels.shape[1], pixels.shape[0], 3)) != blake2b16(pixels)


def test_the_format_of_other_files_is_refused():
    with pytest.raises(DataError, match="neither"):
        format_of(b"GIF89a")


def test_the_config_refuses_other_formats_and_qualities():
    with pytest.raises(ConfigError, match="format"):
        parse(CodecConfig, "format: gif", "recipe")
    with pytest.raises(ConfigError, match="quality"):
        parse(CodecConfig, "quality: 0", "recipe")


def test_the_environment_names_the_libraries():
    assert "Pillow" in codec_environment()
    assert "None" not in codec_environment()


@given(pixels=pixel_arrays, kind=st.sampled_from(FORMATS))
def test_decoding_into_memory_gives_the_same_pixels_and_refuses_other_sizes(pixels, kind):
    body = encode(pixels, CodecConfig(format=kind))
    room = np.full_like(pixels, 7)
    decode_into(memoryview(body), room)
    assert np.array_equal(room, decode(body))
    height, width, _ = pixels.shape
    for shape in ((height + 1, width, 3), (height, width + 2, 3), (height * 2, width, 3), (1, 1, 3)):
        if shape != pixels.shape:
            with pytest.raises(DataError, match=f"{width}×{height}"):
                decode_into(body, np.empty(shape, np.uint8))


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_decoding_into_memory_gives_the_colours_that_pillow_gives(mode):
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8, 4) if mode == "CMYK" else (8, 8), 100, np.uint8), mode).save(out, "JPEG")
    room = np.empty((8, 8, 3), np.uint8)
    decode_into(out.getvalue(), room)
    assert np.array_equal(room, np.asarray(Image.open(io.BytesIO(out.getvalue())).convert("RGB")))


def test_what_is_no_image_is_told_in_words():
    with pytest.raises(DataError, match=r"^not a readable image \(of no known format\)"):
        decode(bytes(200))
