"""Where the birds are: sky, foliage and ground out of focus, and what they stand on."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ggam.data.birds.anatomy import Points, disc, outline, ribbon, stroke
from ggam.data.birds.drawing import PIGMENTS, Brush, Colour, from_hsv, mix, tone


@dataclass(frozen=True)
class Scene:
    """A place: its colours, and what there is to stand on."""

    above: Colour
    middle: Colour
    below: Colour
    leaf: Colour
    wood: Colour
    horizon: float
    """Where `above` becomes `below`, as a share of the picture's height."""
    stone: bool
    """Whether birds stand on a stone rather than on a branch."""


def scene(rng: np.random.Generator) -> Scene:
    """A random place."""
    green = rng.choice([0.08, 0.13, 0.2, 0.26, 0.33, 0.4])
    return Scene(
        above=from_hsv(rng.choice([0.55, 0.58, 0.12, 0.3]), rng.uniform(0.05, 0.45), rng.uniform(0.6, 0.95)),
        middle=from_hsv(green + rng.uniform(-0.03, 0.03), rng.uniform(0.25, 0.7), rng.uniform(0.25, 0.7)),
        below=from_hsv(rng.choice([0.07, 0.1, 0.25, 0.6]), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.65)),
        leaf=from_hsv(green + rng.uniform(-0.06, 0.06), rng.uniform(0.4, 0.8), rng.uniform(0.35, 0.75)),
        wood=from_hsv(rng.uniform(0.05, 0.1), rng.uniform(0.15, 0.5), rng.uniform(0.25, 0.5)),
        horizon=rng.uniform(0.0, 0.6),
        stone=bool(rng.random() < 0.3),
    )


def backdrop(place: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    """The background of a picture, out of focus: light and shade, twigs, leaves, berries, flowers."""
    image = _far(place, max(16, size // 4), rng).resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 5)):
        ends = sorted(rng.uniform(-0.2, 1.2, (4, 2)).tolist())
        line = stroke([size * complex(*end) for end in ends])
        width = size * rng.uniform(0.008, 0.028)
        _polygon(draw, ribbon(line, width, 0.4 * width), tone(place.wood, rng.uniform(0.7, 1.3)))
    for _ in range(rng.integers(6, 26)):
        leaf = _leaf(_somewhere(size, rng), size * rng.uniform(0.05, 0.2), rng)
        _polygon(draw, leaf, tone(place.leaf, rng.uniform(0.6, 1.3)))
    _distractors(draw, size, rng)
    return image.filter(ImageFilter.BoxBlur(size * rng.uniform(0.002, 0.01)))


def draw_perch(brush: Brush, place: Scene, ground: complex, tilt: float, rng: np.random.Generator) -> None:
    """What the bird stands on.

    Args:
        brush: paints in the bird's units.
        place: gives the colours, and whether it is a stone.
        ground: the point between the bird's feet.
        tilt: of a branch, in radians, clockwise.
        rng: draws its form.
    """
    if place.stone:
        _stone(brush, mix(place.below, (140, 138, 132), 0.6), ground, rng)
        return
    knots = ground + 0.05j + np.exp(1j * tilt) * (np.arange(-3, 4) + 1j * rng.normal(0, 0.07, 7))
    knots[3] = ground + 0.05j
    line = stroke(knots.tolist())
    for shift, width, light in ((0.012j, 0.15, 0.7), (0j, 0.125, 1.0), (-0.025j, 0.05, 1.25)):
        brush.fill(ribbon(line + shift, width), tone(place.wood, light))
    for _ in range(rng.integers(2, 6)):
        root = knots[rng.integers(0, 7)]
        tip = root + 0.35 * _direction(rng)
        brush.fill(ribbon(np.array([root, tip]), 0.045, 0.025), tone(place.wood, 0.9))
        brush.fill(_leaf(tip, rng.uniform(0.2, 0.32), rng), tone(place.leaf, rng.uniform(0.8, 1.3)))


def draw_occluder(brush: Brush, place: Scene, over: complex, rng: np.random.Generator) -> None:
    """A twig with leaves in front of the bird, by the point `over` of it."""
    along = _direction(rng)
    bend = 1j * along * rng.uniform(-0.2, 0.2)
    twig = stroke([over - 3 * along, over + bend, over + 3 * along])
    brush.fill(ribbon(twig, 0.05), tone(place.wood, 0.8))
    for at in over + along * rng.uniform(-0.3, 0.3, 3):
        brush.fill(_leaf(at, rng.uniform(0.25, 0.5), rng), tone(place.leaf, rng.uniform(0.7, 1.2)))


def _far(place: Scene, size: int, rng: np.random.Generator) -> Image.Image:
    """Soft bands of the place's colours, and discs of light."""
    height = np.linspace(0, 1, 9)[:, None, None]
    above, middle, below = np.array([place.above, place.middle, place.below], dtype=np.float64)
    foliage = np.exp(-(((height - max(place.horizon, 0.2)) / 0.35) ** 2))
    bands = np.where(height < place.horizon, above, below) * (1 - foliage) + middle * foliage
    bands = bands * rng.uniform(0.75, 1.2, (9, 9, 1)) + rng.normal(0, 8, (9, 9, 3))
    coarse = Image.fromarray(bands.clip(0, 255).astype(np.uint8))
    image = coarse.resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(5, 14)):
        colour = tone(mix(place.middle, place.above, rng.uniform()), rng.uniform(0.7, 1.3))
        _polygon(draw, disc(_somewhere(size, rng), size * rng.uniform(0.04, 0.16)), colour)
    return image.filter(ImageFilter.BoxBlur(size / 32))


def _stone(brush: Brush, colour: Colour, ground: complex, rng: np.random.Generator) -> None:
    angles = np.arange(9) * 2 * np.pi / 9
    edge = rng.uniform(1.1, 1.4, 9) * (np.cos(angles) + 0.55j * np.sin(angles))
    top = ground - 1j * edge.imag.min()
    for sink, light in ((0.0, 1.15), (0.06, 1.0), (0.2, 0.85)):
        brush.fill(top + 1j * sink + outline(edge.tolist()), tone(colour, light))


def _distractors(draw: ImageDraw.ImageDraw, size: int, rng: np.random.Generator) -> None:
    """Berries, flowers and fallen leaves in the very colours of the birds' marks."""
    pigments = list(PIGMENTS.values())
    for _ in range(rng.integers(6, 16)):
        colour = tone(pigments[rng.integers(len(pigments))], rng.uniform(0.7, 1.05))
        at, radius, turn = _somewhere(size, rng), size * rng.uniform(0.014, 0.042), _direction(rng)
        shapes = (disc(at, radius), at + 1.6 * radius * turn * _FLOWER, at + 4 * radius * turn * _LEAF)
        _polygon(draw, shapes[rng.integers(len(shapes))], colour)


_LEAF = outline([0j, 0.3 - 0.17j, 0.7 - 0.15j, 1 + 0j, 0.7 + 0.15j, 0.3 + 0.17j], 4)
_FLOWER = outline([(0.35, 1.0)[i % 2] * complex(np.exp(1j * np.pi * i / 5)) for i in range(10)], 4)


def _leaf(at: complex, length: float, rng: np.random.Generator) -> Points:
    return at + length * _direction(rng) * _LEAF


def _direction(rng: np.random.Generator) -> complex:
    return complex(np.exp(2j * np.pi * rng.random()))


def _somewhere(size: int, rng: np.random.Generator) -> complex:
    return size * complex(rng.random(), rng.random())


def _polygon(draw: ImageDraw.ImageDraw, points: Points, colour: Colour) -> None:
    draw.polygon(points.view(np.float64).tolist(), fill=colour)
