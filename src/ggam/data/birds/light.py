"""What makes a photograph of a drawing: roundness, feathers, light, blur and noise."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.float32]

LARGEST = 1024
"""The largest picture there is texture for, in pixels."""
_ANGLES = 8


def shade(
    pixels: Pixels, mask: Image.Image, roundness: float, angle: float, rng: np.random.Generator
) -> Pixels:
    """Make what the mask covers look round and feathered.

    The blurred mask is taken for the height of a relief, which is lit from above and from one side.

    Args:
        pixels: (height, width, 3), 0 to 255.
        mask: of the same size, 255 on the bird.
        roundness: over how many pixels the relief rises at its edges.
        angle: which way the feathers lie, in radians.
        rng: draws the light.
    """
    small = mask.reduce(4).filter(ImageFilter.GaussianBlur(roundness / 4))
    relief = np.asarray(small.resize(mask.size, Image.Resampling.BILINEAR), dtype=np.float32)
    down, across = np.gradient(relief * np.float32(roundness / 255))
    strength, side = rng.uniform(0.5, 0.8), rng.uniform(-0.8, 0.8)
    light = np.float32(0.9 * strength) * down + np.float32(strength * side) * across
    light += _window(_feathers(round(angle / np.pi * _ANGLES) % _ANGLES), mask.size, rng)
    cover = np.asarray(mask, dtype=np.float32) / 255
    return (pixels * (1 + cover * light.clip(-0.55, 0.45))[..., None]).astype(np.float32, copy=False)


def expose(pixels: Pixels, rng: np.random.Generator) -> Image.Image:
    """A photograph: exposure, colour of the light, the grain of the sensor, sometimes a little blur."""
    warmth = rng.uniform(-0.08, 0.08)
    gain = rng.uniform(0.8, 1.12) * np.array([1 + warmth, 1, 1 - warmth])
    grain = _window(_grain(), pixels.shape[1::-1], rng) * np.float32(rng.uniform(1, 7))
    lit = pixels * gain.astype(np.float32)
    lit += grain[..., None]
    photo = Image.fromarray(lit.clip(0, 255, out=lit).astype(np.uint8))
    blur = rng.uniform(-0.8, 0.8)
    return photo.filter(ImageFilter.BoxBlur(blur)) if blur > 0 else photo


def _window(texture: Pixels, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """A piece of a texture at a random place; `size` is (width, height)."""
    left, top = (int(rng.integers(0, LARGEST - side + 1)) for side in size)
    return texture[top : top + size[1], left : left + size[0]]


@cache
def _grain() -> Pixels:
    return np.random.default_rng(0).standard_normal((LARGEST, LARGEST), dtype=np.float32)


@cache
def _feathers(direction: int) -> Pixels:
    """Fine streaks in one of `_ANGLES` directions; their standard deviation is 0.05."""
    step = np.exp(1j * np.pi * direction / _ANGLES)
    shifts = [(round(reach * step.imag), round(reach * step.real)) for reach in range(-4, 5)]
    streaks = np.mean([np.roll(_grain(), shift, axis=(0, 1)) for shift in shifts], axis=0)
    return (streaks * (0.05 / streaks.std())).astype(np.float32)
