import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from shard_outputs import CODEC

from ffr_dist.config import parse
from ffr_dist.errors import ConfigError, DataError
from ffr_dist.shards.codec import CodecConfig, blake2b16, codec_environment, decode, encode, encode_planes, format_of

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
