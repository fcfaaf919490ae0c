"""From uploaded bytes to what the model needs, and from a heat map back to a picture."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from ggam.data.transforms import ImageTransform, Region, decode_region, upright
from ggam.deploy.serve.limits import Refusal
from ggam.drawing.overlays import encoded, overlay

FORMATS = ("JPEG", "PNG", "WEBP")
_OVERLAY_SIDE = 512
_START_OF_SCAN = b"\xff\xda"
_SCANS = 20
"""Scans of a JPEG of the largest size, and more of a smaller one: a photograph has ten at most, but every
one, even if it is empty, passes over all pixels, and nothing can stop a decoder."""


class Picture(NamedTuple):
    """One uploaded picture, decoded."""

    size: tuple[int, int]
    """Width and height, upright, in pixels."""
    region: Region
    """What of it the model sees."""
    image: Tensor
    """(3, h, w), normalised."""
    crop: Image.Image | None
    """The region in RGB, larger than what the model sees; for the overlay."""


def read_picture(
    data: bytes | bytearray, transform: ImageTransform, *, max_pixels: int, crop: bool
) -> Picture:
    """Decode a picture, whatever it claims to be; of an animation, the first frame.

    Args:
        data: JPEG, PNG or WebP, recognised by its content.
        transform: of the model.
        max_pixels: width times height, checked before anything is decoded.
        crop: also keep the region for an overlay.

    Raises:
        Refusal: 413, 415 or 422.
    """
    with _open(data, max_pixels) as stored:
        scans = data.count(_START_OF_SCAN) if data.startswith(b"\xff\xd8") else 0
        if scans * stored.width * stored.height > _SCANS * max_pixels:
            raise Refusal(413, f"has too many scans ({scans}); save it again as a plain JPEG")
        try:
            image = upright(stored)
            size = image.size
            region = transform.region(*size)
            tensor = transform(image)
            return Picture(size, region, tensor, _crop(data, transform, region) if crop else None)
        # Damaged files make Pillow raise almost anything: struct.error, IndexError, zlib.error, ...
        except Exception as error:
            raise Refusal(422, "is damaged and cannot be decoded") from error


def thumbnail(data: bytes, side: int) -> bytes:
    """A trusted picture as a small JPEG of at most `side` pixels, without its metadata."""
    with Image.open(io.BytesIO(data)) as stored:
        image = upright(stored).convert("RGB")
    image.thumbnail((side, side))
    return encoded(image, "JPEG", quality=82)


def overlay_png(crop: Image.Image, heat: np.ndarray) -> str:
    """A heat map (H, W) over its crop as a PNG in base64."""
    return base64.b64encode(encoded(overlay(crop, heat), "PNG", compress_level=3)).decode()


def _open(data: bytes | bytearray, max_pixels: int) -> Image.Image:
    if not data:
        raise Refusal(422, "is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(max_pixels) from error
    except Exception as error:
        raise Refusal(415, "is not a JPEG, PNG or WebP picture, or is damaged") from error
    if image.width * image.height > max_pixels:
        raise _too_many_pixels(max_pixels)
    return image


def _too_many_pixels(max_pixels: int) -> Refusal:
    return Refusal(413, f"has too many pixels: at most {max_pixels} (width times height) are accepted")


def _crop(data: bytes | bytearray, transform: ImageTransform, region: Region) -> Image.Image:
    """Decoded a second time: the model's own pixels are too few to look at."""
    side = max(transform.image_size, min(_OVERLAY_SIDE, round(region.right - region.left)))
    with Image.open(io.BytesIO(data), formats=FORMATS) as stored:
        return decode_region(upright(stored), region, side)
