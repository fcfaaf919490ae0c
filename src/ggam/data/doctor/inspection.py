"""One look at a picture file: whether it can be read, what is unusual about it, what it shows."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ggam.data.doctor.duplicates import SIDE
from ggam.data.transforms import ORIENTATION, as_rgb, upright

LARGE = 50_000_000
"""Pixels above which a picture counts as very large."""
SMALL = 64
"""Pixels of the shorter side below which a picture counts as very small."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found out about one picture file."""

    fault: str = ""
    """`missing`, `zero-byte`, `truncated`, `unreadable`, or empty for a picture that can be read."""
    reason: str = ""
    """The fault in the decoder's words."""
    size: tuple[int, int] = (0, 0)
    """Width and height in pixels as stored, before the EXIF orientation is applied."""
    traits: frozenset[str] = frozenset()
    """Of `cmyk`, `16-bit`, `palette`, `transparent`, `animated`, `rotated`, `large`, `small`, `blank`."""
    digest: bytes = b""
    """A hash of the file's bytes."""
    thumbnail: np.ndarray | None = None
    """(SIDE, SIDE) uint8: the picture in grey, upright, squeezed into a square."""


def inspect(path: Path) -> Inspection:
    """Read one picture to its end, a JPEG at the smallest scale that libjpeg offers."""
    try:
        content = path.read_bytes()
    except OSError as error:
        fault = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        return Inspection(fault, _words(error))
    if not content:
        return Inspection("zero-byte", "the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            size, traits = image.size, _traits(image)
            image.draft("L", (2 * SIDE, 2 * SIDE))
            grey = as_rgb(upright(image)).convert("L")
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        reason = _words(error)
        return Inspection("truncated" if "truncated" in reason.lower() else "unreadable", reason)
    thumbnail = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
    if int(thumbnail.max()) - int(thumbnail.min()) <= 2:
        traits |= {"blank"}
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Inspection("", "", size, traits, digest, thumbnail)


def inspect_all(
    paths: Sequence[Path],
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Inspection]:
    """Inspect many files at once.

    Args:
        paths: the files.
        workers: threads; Pillow decodes without holding the interpreter. None takes one per core, up
            to 16.
        on_progress: called after each picture with how many are done, and how many there are.

    Returns:
        The inspections, in the order of the paths.
    """
    inspections = []
    # Pillow warns of what the inspections say themselves. Threads share the filters: set them out here.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        for inspection in pool.map(inspect, paths):
            inspections.append(inspection)
            if on_progress:
                on_progress(len(inspections), len(paths))
    return inspections


def _traits(image: Image.Image) -> frozenset[str]:
    """What a picture's header says; nothing is decoded yet."""
    width, height = image.size
    signs = {
        "cmyk": image.mode == "CMYK",
        "16-bit": image.mode == "I" or image.mode.startswith("I;16"),
        "palette": image.mode in ("P", "PA"),
        "transparent": image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info,
        # Cameras put a preview into their JPEGs, which Pillow counts as a further frame (MPO).
        "animated": image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
        "rotated": image.getexif().get(ORIENTATION, 1) in range(2, 9),
        "large": width * height > LARGE,
        "small": min(width, height) < SMALL,
    }
    return frozenset(name for name, found in signs.items() if found)


def _words(error: Exception) -> str:
    """An error in one line, without the file it is about."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture of a known format"
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split()) or type(error).__name__
