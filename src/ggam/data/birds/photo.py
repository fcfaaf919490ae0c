"""One picture of a bird, with all that is known of it."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ggam.data.birds.anatomy import Bird, View, pose
from ggam.data.birds.drawing import Brush, draw_bird
from ggam.data.birds.light import expose, shade
from ggam.data.birds.scenery import Scene, backdrop, draw_occluder, draw_perch
from ggam.data.birds.species import Species

_FINER = 2
"""Pixels of the canvas per pixel of the picture, along each side."""
_SPAN = 0.72
"""The most of the picture's side that a bird takes up: a centre crop of 448/600 shows all of it."""
_BINARY = [255 * (level > 127) for level in range(256)]


@dataclass(frozen=True)
class Photo:
    """A picture and what is known of it, in its pixels."""

    image: Image.Image
    mask: Image.Image
    """255 where the bird is seen, 0 elsewhere."""
    parts: dict[str, complex | None]
    """x + iy of each part, None where it is not seen."""


@dataclass(frozen=True)
class Chance:
    """Where the randomness of a picture comes from.

    Each aspect has its own source, so that one of them can be changed and the others stay.
    """

    bird: np.random.Generator
    """Its pose, muted colours and light."""
    scenery: np.random.Generator
    occluder: np.random.Generator


def photograph(species: Species, place: Scene, size: int, chance: Chance, *, occluded: bool = False) -> Photo:
    """Draw one picture.

    Args:
        species: of the bird.
        place: where it is.
        size: height and width of the picture, in pixels.
        chance: the sources of randomness; they are used up.
        occluded: whether a twig with leaves is in front of the bird.
    """
    bird = pose(chance.bird)
    fine = size * _FINER
    view = _frame(bird, fine, chance.bird)
    tilt = -view.turn * chance.bird.uniform(0, 1.2)
    canvas = backdrop(place, size, chance.scenery).resize((fine, fine), Image.Resampling.NEAREST)
    draw_perch(Brush(canvas, view), place, sum(bird.feet) / 2, tilt, chance.scenery)
    brush, front = Brush(canvas, view), Brush(canvas, view)
    draw_bird(brush, bird, species, chance.bird)
    cover = brush.cover.reduce(_FINER)
    if occluded:
        parts = [part for part in bird.parts(view.mirrored).values() if part is not None]
        draw_occluder(front, place, parts[chance.occluder.integers(len(parts))], chance.occluder)
        cover.paste(0, mask=front.cover.reduce(_FINER))
    pixels = np.asarray(canvas.reduce(_FINER), dtype=np.float32)
    axis = view([0, bird.body.axis])
    pixels = shade(pixels, cover, 0.13 * view.scale / _FINER, float(np.angle(axis[1] - axis[0])), chance.bird)
    return Photo(expose(pixels, chance.bird), cover.point(_BINARY), _seen(bird, view, front.cover))


def _frame(bird: Bird, size: int, rng: np.random.Generator) -> View:
    """A random view that shows all of the bird near the middle of a canvas of size × size pixels."""
    turn, mirrored = rng.uniform(-0.22, 0.22), bool(rng.random() < 0.5)
    ends = View(0j, 1.0, turn, mirrored)(bird.ends)
    low, high = complex(ends.real.min(), ends.imag.min()), complex(ends.real.max(), ends.imag.max())
    extent = high - low
    scale = size * _SPAN * rng.uniform(0.78, 1.0) / max(extent.real, extent.imag)
    across, down = rng.uniform(-0.5, 0.5, 2)
    shift = complex(
        across * (size * _SPAN - scale * extent.real), down * (size * _SPAN - scale * extent.imag)
    )
    return View(size * (0.5 + 0.5j) - scale * (low + high) / 2 + shift, scale, turn, mirrored)


def _seen(bird: Bird, view: View, front: Image.Image) -> dict[str, complex | None]:
    """Where the parts are in the picture; None for those turned away or behind what is in front."""
    parts: dict[str, complex | None] = {}
    for name, place in bird.parts(view.mirrored).items():
        at = None if place is None else complex(view(place))
        hidden = at is None or front.getpixel((round(at.real), round(at.imag)))
        parts[name] = None if at is None or hidden else at / _FINER
    return parts
