"""Decoding what strangers send."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ggam.data.transforms import ImageTransform
from ggam.deploy.serve.limits import Refusal
from ggam.deploy.serve.pictures import Picture, overlay_png, read_picture, thumbnail
from serving import encoded, photo

TRANSFORM = ImageTransform(32, (0.5,) * 3, (0.25,) * 3)


def read(data: bytes, *, crop: bool = False) -> Picture:
    return read_picture(data, TRANSFORM, max_pixels=1_000_000, crop=crop)


def refused(data: bytes) -> int:
    with pytest.raises(Refusal) as refusal:
        read(data, crop=True)
    return refusal.value.status


def test_the_tensor_is_the_transforms() -> None:
    data = encoded(photo(200, 120))
    picture = read(data)
    with Image.open(io.BytesIO(data)) as image:
        torch.testing.assert_close(picture.image, TRANSFORM(image), rtol=0, atol=0)
    assert picture.size == (200, 120)
    assert picture.crop is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    image = photo() if mode != "I;16" else Image.fromarray(np.full((60, 90), 999, np.uint16))
    picture = read(encoded(image if mode == "I;16" else image.convert(mode)), crop=True)
    assert picture.image.shape == (3, 32, 32)
    assert picture.crop is not None and picture.crop.mode == "RGB"


def test_the_camera_was_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned = read(encoded(photo(80, 40), "JPEG", exif=exif.tobytes(), quality=95))
    assert turned.size == (40, 80)
    upright = read(encoded(photo(80, 40).transpose(Image.Transpose.ROTATE_270)))
    assert (turned.image - upright.image).abs().mean() < 0.05


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("white", "black", "black")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    torch.testing.assert_close(read(data).image, torch.full((3, 32, 32), 2.0), rtol=0, atol=0.05)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes = b"", *chunks: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_dimensions_are_believed_before_anything_is_decoded() -> None:
    assert refused(png(1_000_000, 1_000_000)) == 413
    assert refused(png(2**31 - 1, 2**31 - 1)) == 413
    assert refused(png(1001, 1000)) == 413
    assert refused(png(1000, 1000)) == 422, "within the limit, but its pixels are missing"


def test_a_text_bomb_is_not_unpacked() -> None:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 80_000_000))
    assert refused(png(8, 8, bytes(25 * 8), bomb)) in (415, 422)


def test_empty_scans_without_end() -> None:
    data = encoded(photo(500, 500), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    assert read(data[:-2] + scan * 3 + data[-2:]).size == (500, 500)
    assert refused(data[:-2] + scan * 200 + data[-2:]) == 413


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (2, 999)])
def test_thin_pictures_are_pictures(size: tuple[int, int]) -> None:
    picture = read(encoded(photo(*size)), crop=True)
    assert picture.image.isfinite().all()
    assert picture.crop is not None
    assert overlay_png(picture.crop, np.ones((2, 2), np.float32))


def test_a_thumbnail_is_small_and_says_nothing() -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    small = Image.open(io.BytesIO(thumbnail(encoded(photo(400, 200), "JPEG", exif=exif.tobytes()), 100)))
    assert (small.size, small.format, dict(small.getexif())) == ((100, 50), "JPEG", {})
