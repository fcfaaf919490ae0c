"""A bird drawn feather by feather: tail, legs, body with its marks, wing, beak.

Every number in here is a length in the frame of its limb (see `ggam.data.birds.anatomy`).
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ggam.data.birds.anatomy import EYE, Bird, Points, View, disc, outline, ribbon, stroke
from ggam.data.birds.species import Species

Colour = tuple[int, ...]

PIGMENTS: dict[str, Colour] = {
    "red": (214, 30, 38),
    "orange": (245, 122, 20),
    "yellow": (252, 208, 24),
    "blue": (36, 92, 222),
    "white": (248, 248, 244),
    "black": (26, 24, 28),
    "rust": (176, 70, 24),
}
"""The colours of the marks."""


def tone(colour: Colour, factor: float) -> Colour:
    """A colour made darker (below 1) or lighter (above 1)."""
    return tuple(min(255, round(channel * factor)) for channel in colour)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """A colour between two: `share` of the other."""
    return tuple(round(a + share * (b - a)) for a, b in zip(one, other, strict=True))


def from_hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour by hue (1 is once round), saturation and value from 0 to 1."""
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue % 1, saturation, value))


@dataclass(frozen=True)
class Plumage:
    """The colours that say nothing about the species."""

    back: Colour
    under: Colour
    wing: Colour
    leg: Colour
    bill: Colour
    marks: dict[str, Colour]
    """This bird's shade of each of `PIGMENTS`."""


def plumage(rng: np.random.Generator) -> Plumage:
    """Muted browns, greys, olives and slates, lighter below."""
    hue = rng.choice([0.06, 0.09, 0.12, 0.17, 0.55, 0.6]) + rng.uniform(-0.02, 0.02)
    saturation, value = rng.uniform(0.06, 0.34), rng.uniform(0.42, 0.7)
    return Plumage(
        back=from_hsv(hue, saturation, value),
        under=from_hsv(hue, 0.6 * saturation, min(0.93, value * rng.uniform(1.22, 1.4))),
        wing=from_hsv(hue, saturation, 0.74 * value),
        leg=mix((70, 62, 60), (205, 150, 120), rng.uniform()),
        bill=(62, 60, 64),
        marks={name: tone(colour, rng.uniform(0.85, 1.06)) for name, colour in PIGMENTS.items()},
    )


class Brush:
    """Paints shapes on a canvas, and keeps what they cover.

    Args:
        canvas: painted on in place.
        view: from the bird's units to the canvas.
    """

    def __init__(self, canvas: Image.Image, view: View) -> None:
        self.canvas = canvas
        self.view = view
        self.cover = Image.new("L", canvas.size)
        self._paint = ImageDraw.Draw(canvas)
        self._stencil = ImageDraw.Draw(self.cover)

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill the inside of a closed curve."""
        flat = self.view(points).view(np.float64).tolist()
        self._paint.polygon(flat, fill=colour)
        self._stencil.polygon(flat, fill=255)

    def tint(self, points: Points, colour: Colour) -> None:
        """Colour the inside of a closed curve as far as other shapes cover it."""
        self._paint.polygon(self.view(points).view(np.float64).tolist(), fill=colour)

    def overlay(self, other: "Brush") -> None:
        """Put what another brush painted on top."""
        self.canvas.paste(other.canvas, mask=other.cover)
        self.cover.paste(255, mask=other.cover)


def draw_bird(brush: Brush, bird: Bird, species: Species, rng: np.random.Generator) -> None:
    """Draw a bird of a species; its muted colours are drawn by `rng`."""
    feathers, marks = plumage(rng), species.marks
    body = Brush(Image.new("RGB", brush.canvas.size, feathers.back), brush.view)
    _body(body, bird, feathers)
    _belly(body, bird, marks["belly"], feathers)
    _breast(body, bird, marks["breast"], feathers)
    _head(body, bird, marks, feathers)
    _eye(body, bird, marks["eye"], feathers)
    _tail(brush, bird, marks["tail"], feathers)
    _legs(brush, bird, feathers)
    if marks["crown"] == "crest":
        _crest(brush, bird, feathers)
    brush.overlay(body)
    _wing(brush, bird, marks["wing"], feathers)
    _beak(brush, bird, marks["beak"], feathers)


def _tail(brush: Brush, bird: Bird, mark: str, feathers: Plumage) -> None:
    length, spread = bird.tail_length, bird.tail_spread
    for row in (-1.0, 1.0, -0.5, 0.5, 0.0):
        end = complex(-length * (1 - 0.08 * abs(row)), row * spread)
        side = 0.45j * spread
        tip = [end * 0.94 - side, end, end * 0.94 + side]
        brush.fill(
            bird.tail(stroke([0.05 + 0.04j * row, end * 0.5 - side, *tip, end * 0.5 + side])),
            tone(feathers.wing, 0.91 + 0.05 * row),
        )
        brush.fill(
            bird.tail(stroke([end * 0.6 - side, *tip, end * 0.6 + side])),
            tone(feathers.marks[mark], 0.94 + 0.06 * row),
        )
        brush.fill(bird.tail(ribbon(np.array([0.3 * end, end]), 0.008)), tone(feathers.wing, 0.55))


def _legs(brush: Brush, bird: Bird, feathers: Plumage) -> None:
    for hip, foot, light in zip(bird.hips[::-1], bird.feet[::-1], (0.72, 1.0), strict=True):
        colour = tone(feathers.leg, light)
        knee = 0.5 * (hip + foot) - 0.04
        brush.fill(ribbon(stroke([hip, knee, foot]), 0.045, 0.028), colour)
        for toe in (0.095 + 0.03j, 0.065 + 0.05j, -0.07 + 0.03j):
            brush.fill(ribbon(stroke([foot, foot + 0.6 * toe.real, foot + toe]), 0.032, 0.018), colour)


def _body(brush: Brush, bird: Bird, feathers: Plumage) -> None:
    girth = bird.girth
    back = [-0.50 + 0.07j, -0.48 - 0.06j, -0.20 - 0.22j * girth, 0.12 - 0.28j * girth, 0.40 - 0.24j]
    front = [0.50 + 0.0j, 0.40 + 0.21j * girth, 0.10 + 0.32j * girth, -0.24 + 0.25j * girth]
    brush.fill(bird.body(outline(back + front)), feathers.back)
    head, chest = bird.head.origin, bird.body.at(0.24 - 0.02j)
    across = 1j * (chest - head) / abs(chest - head)
    neck = [head - 0.225 * across, head + 0.225 * across, chest + 0.27 * across, chest - 0.27 * across]
    brush.fill(np.array(neck), feathers.back)
    brush.fill(bird.head(disc(0j, 0.232)), feathers.back)
    edge = [0.6 - 0.3j, 0.36 + 0.0j, 0.10 + 0.06j, -0.30 + 0.06j, -0.6 + 0.1j]
    for step in range(5):
        pale = [corner + 0.03j * step + 0.015 * step for corner in edge]
        colour = mix(feathers.back, feathers.under, (step + 1) / 5)
        brush.tint(bird.body(outline([*pale, -0.5 + 0.5j, 0.8 + 0.5j])), colour)


def _belly(brush: Brush, bird: Bird, mark: str, feathers: Plumage) -> None:
    if mark == "plain":
        return
    edge = [0.18 + 0.28j, 0.06 + 0.18j, -0.18 + 0.15j, -0.34 + 0.2j]
    brush.tint(bird.body(outline([*edge, -0.25 + 0.5j, 0.2 + 0.5j])), feathers.marks[mark])


def _breast(brush: Brush, bird: Bird, mark: str, feathers: Plumage) -> None:
    black = feathers.marks["black"]
    if mark == "band":
        inner, outer = [0.12 + 0.13j, 0.30 + 0.15j, 0.6 + 0.02j], [0.6 + 0.15j, 0.31 + 0.27j, 0.10 + 0.24j]
        brush.tint(bird.body(np.append(stroke(inner), stroke(outer))), black)
    elif mark == "spot":
        brush.tint(bird.body(disc(0.33 + 0.17j, 0.105)), feathers.marks["orange"])
    elif mark == "streaks":
        for row in range(3):
            for column in range(4):
                at = complex(0.15 + 0.085 * column + 0.04 * (row % 2), 0.11 + 0.075 * row - 0.02 * column)
                brush.tint(bird.body(outline([at - 0.036, at + 0.02j, at + 0.036, at - 0.02j], 3)), black)


def _head(brush: Brush, bird: Bird, marks: dict[str, str], feathers: Plumage) -> None:
    if marks["nape"] != "plain":
        patch = [-0.10 - 0.02j, -0.20 - 0.10j, -0.40 - 0.05j, -0.45 + 0.22j, -0.22 + 0.24j, -0.10 + 0.14j]
        brush.tint(bird.head(outline(patch)), feathers.marks[marks["nape"]])
    edge = [0.30 + 0.03j, 0.16 + 0.08j, 0.03 + 0.10j, 0.0 + 0.18j, 0.05 + 0.26j]
    brush.tint(bird.head(outline([*edge, 0.20 + 0.28j, 0.45 + 0.2j])), feathers.marks[marks["throat"]])
    crown = feathers.marks["black" if marks["crown"] == "crest" else marks["crown"]]
    edge = [0.30 - 0.10j, 0.12 - 0.115j, -0.05 - 0.11j, -0.17 - 0.05j, -0.30 - 0.02j]
    brush.tint(bird.head(outline([*edge, -0.30 - 0.35j, 0.25 - 0.35j])), crown)


def _eye(brush: Brush, bird: Bird, mark: str, feathers: Plumage) -> None:
    if mark == "mask":
        above = [0.30 + 0.01j, 0.20 - 0.07j, 0.06 - 0.085j, -0.10 - 0.05j]
        below = [-0.2 + 0.0j, -0.10 + 0.045j, 0.08 + 0.04j, 0.2 + 0.05j]
        brush.tint(bird.head(outline(above + below)), feathers.marks["black"])
        brush.tint(bird.head(disc(EYE, 0.05)), (104, 90, 82))
    else:
        brush.tint(bird.head(disc(EYE, 0.076)), feathers.marks[mark])
    brush.tint(bird.head(disc(EYE, 0.042)), PIGMENTS["black"])
    brush.tint(bird.head(disc(EYE + 0.013 - 0.015j, 0.013)), (250, 250, 250))


def _crest(brush: Brush, bird: Bird, feathers: Plumage) -> None:
    for back in (0.0, 0.05, 0.1):
        tips = [0.16 - 0.12j, 0.4 * back - 0.30j, back - 0.30 - 0.36j, -0.12 - 0.2j, -0.1 - 0.1j]
        brush.fill(bird.head(outline(tips)), tone(feathers.marks["black"], 1 + 3 * back))


def _wing(brush: Brush, bird: Bird, mark: str, feathers: Plumage) -> None:
    girth, tip = bird.girth, -0.92 + 0.13j
    upper = stroke([0.02 + 0.02j, -0.05 - 0.09j * girth, -0.3 - 0.09j * girth, -0.62 + 0.0j, tip], 10)
    lower = stroke([0.02 + 0.02j, -0.03 + 0.14j, -0.24 + 0.22j, -0.55 + 0.2j, tip], 10)

    def between(start: int, end: int, slant: int) -> Points:
        """The part of the wing from one point to another of its edges."""
        return bird.wing(np.append(upper[start:end], lower[max(0, start - slant) : end - slant][::-1]))

    shadow = tone(mix(feathers.under, feathers.back, 0.6), 0.62)
    brush.tint(bird.wing(np.append(upper, lower[::-1]) + 0.025j), shadow)
    brush.fill(between(0, 41, 0), tone(feathers.wing, 0.92))
    for feather in range(6):
        start = upper[14] + (lower[14] - upper[14]) * (0.1 + 0.16 * feather)
        end = lower[38 - 2 * feather]
        quill = ribbon(stroke([start, 0.5 * (start + end) - 0.015j, end]), 0.014, 0.008)
        brush.tint(bird.wing(quill), tone(feathers.wing, 0.6))
    brush.fill(between(0, 20, 2), tone(feathers.wing, 1.16))
    if mark == "bars":
        brush.fill(between(9, 13, 3), feathers.marks["white"])
        brush.fill(between(16, 20, 3), feathers.marks["white"])
    else:
        brush.fill(between(10, 20, 3), feathers.marks[mark])


def _beak(brush: Brush, bird: Bird, mark: str, feathers: Plumage) -> None:
    stout = ([0.19 - 0.07j, 0.28 - 0.05j, 0.36 + 0.03j], [0.36 + 0.03j, 0.28 + 0.09j, 0.17 + 0.10j])
    above, below = {
        "long": ([0.20 - 0.035j, 0.36 - 0.01j, 0.56 + 0.06j], [0.56 + 0.06j, 0.36 + 0.05j, 0.19 + 0.065j]),
        "hook": ([0.18 - 0.08j, 0.32 - 0.075j, 0.40 + 0.09j], [0.38 + 0.11j, 0.29 + 0.07j, 0.17 + 0.09j]),
    }.get(mark, stout)
    colour = feathers.marks.get(mark, feathers.bill)
    brush.fill(bird.head(np.append(stroke(above), stroke(below))), colour)
    brush.fill(bird.head(ribbon(np.array([0.19 + 0.02j, above[-1]]), 0.014)), tone(colour, 0.55))
