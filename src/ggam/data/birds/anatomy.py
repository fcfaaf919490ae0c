"""How a bird is built and how it stands: frames of its body, and where its fifteen parts are.

Points are complex numbers x + iy, y downwards. The bird faces right and its body is about one unit
long; a frame turns and shifts the points of one limb into those of the whole bird.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.complex128]

PARTS = (
    "back",
    "beak",
    "belly",
    "breast",
    "crown",
    "forehead",
    "left eye",
    "left leg",
    "left wing",
    "nape",
    "right eye",
    "right leg",
    "right wing",
    "tail",
    "throat",
)
"""The parts of CUB-200-2011, in its order."""


@dataclass(frozen=True)
class Frame:
    """A limb's own coordinates: where its origin lies and where its x axis points."""

    origin: complex
    axis: complex

    def __call__(self, points: ArrayLike) -> Points:
        """Points of the limb as points of the whole bird."""
        return self.origin + self.axis * np.asarray(points, dtype=np.complex128)

    def at(self, point: complex) -> complex:
        """One point of the limb as a point of the whole bird."""
        return self.origin + self.axis * point


@dataclass(frozen=True)
class View:
    """From the bird's units to pixels of a canvas: mirrored or not, turned, scaled and shifted."""

    centre: complex
    scale: float
    """Pixels per unit."""
    turn: float
    """In radians, clockwise."""
    mirrored: bool

    def __call__(self, points: ArrayLike) -> Points:
        """Points of the bird in pixels."""
        points = np.asarray(points, dtype=np.complex128)
        points = -points.conj() if self.mirrored else points
        return self.centre + self.scale * np.exp(1j * self.turn) * points


@dataclass(frozen=True)
class Bird:
    """A bird in a pose."""

    body: Frame
    head: Frame
    tail: Frame
    """Origin at the root; the tail lies along its negative x axis."""
    wing: Frame
    """Origin at the shoulder; the folded wing lies along its negative x axis."""
    girth: float
    """How full the body is; 1 is average."""
    tail_length: float
    tail_spread: float
    """Half the width of the tail's end."""
    feet: tuple[complex, complex]
    """Of the near leg and of the far leg."""

    @property
    def hips(self) -> tuple[complex, complex]:
        """Where the legs leave the body: the near one and the far one."""
        return self.body.at(-0.02 + 0.26j * self.girth), self.body.at(-0.12 + 0.24j * self.girth)

    @property
    def ends(self) -> Points:
        """The points that reach farthest out."""
        body = self.body([0.5, 0.1 + 0.33j * self.girth])
        head = self.head([0.55 + 0.06j, 0.2 - 0.2j, -0.23j, -0.30 - 0.37j])
        tail = self.tail([complex(-self.tail_length, side * self.tail_spread) for side in (-1, 1)])
        return np.concatenate([body, head, tail, np.array(self.feet) + 0.06j])

    def parts(self, mirrored: bool) -> dict[str, complex | None]:
        """Where each part is; None for those on the side that is turned away.

        Args:
            mirrored: whether the bird is shown facing left, so that its left side is seen.
        """
        near, far = ("left", "right") if mirrored else ("right", "left")
        legs = [0.45 * hip + 0.55 * foot for hip, foot in zip(self.hips, self.feet, strict=True)]
        places: dict[str, complex | None] = {
            "back": self.body.at(-0.12 - 0.25j * self.girth),
            "beak": self.head.at(0.33 + 0.03j),
            "belly": self.body.at(-0.06 + 0.24j * self.girth),
            "breast": self.body.at(0.33 + 0.17j),
            "crown": self.head.at(-0.02 - 0.16j),
            "forehead": self.head.at(0.17 - 0.12j),
            "nape": self.head.at(-0.21 + 0.06j),
            "tail": self.tail.at(-0.8 * self.tail_length),
            "throat": self.head.at(0.14 + 0.19j),
            f"{near} eye": self.head.at(EYE),
            f"{near} wing": self.wing.at(-0.19 + 0.04j),
            f"{near} leg": legs[0],
            f"{far} leg": legs[1],
        }
        return {part: places.get(part) for part in PARTS}


EYE = 0.085 - 0.025j
"""In the head's frame."""


def pose(rng: np.random.Generator) -> Bird:
    """A bird in a random pose."""
    pitch = rng.uniform(0.1, 0.65)
    body = Frame(0j, complex(np.exp(-1j * pitch)))
    girth = rng.uniform(0.88, 1.1)
    head = Frame(
        body.at(0.37 - 0.25j) + complex(rng.uniform(-0.03, 0.04), rng.uniform(-0.05, 0.03)),
        complex(np.exp(-1j * rng.uniform(-0.3, 0.35))),
    )
    tail = Frame(body.at(-0.44 + 0.02j), body.axis * complex(np.exp(-1j * rng.uniform(-0.5, 0.15))))
    wing = Frame(body.at(0.26 - 0.09j * girth), body.axis * complex(np.exp(-1j * rng.uniform(-0.08, 0.12))))
    stance, leg = rng.uniform(0.10, 0.22), rng.uniform(0.16, 0.28)
    ground = body.at(-0.06 + 0.31j * girth).imag + leg
    near = complex(body.at(-0.02 + 0.26j).real + rng.uniform(-0.02, 0.1), ground)
    return Bird(
        body=body,
        head=head,
        tail=tail,
        wing=wing,
        girth=girth,
        tail_length=rng.uniform(0.46, 0.62),
        tail_spread=rng.uniform(0.10, 0.16),
        feet=(near, near - stance),
    )


def outline(corners: Sequence[complex], steps: int = 6) -> Points:
    """A closed smooth curve (Catmull-Rom) through the corners, each stretch of it in `steps` points."""
    return _spline([corners[-1], *corners, *corners[:2]], steps)


def stroke(corners: Sequence[complex], steps: int = 8) -> Points:
    """An open smooth curve through the corners, its ends included."""
    first, last = 2 * corners[0] - corners[1], 2 * corners[-1] - corners[-2]
    return np.append(_spline([first, *corners, last], steps), corners[-1])


def ribbon(line: Points, width: float, end_width: float | None = None) -> Points:
    """A line given a width, which may taper towards its end, as a closed curve."""
    along = np.concatenate([line[1:], line[-1:]]) - np.concatenate([line[:1], line[:-1]])
    across = 0.5j * along / np.maximum(np.abs(along), 1e-9)
    across *= np.linspace(width, width if end_width is None else end_width, len(line))
    return np.concatenate([line + across, (line - across)[::-1]])


def disc(centre: complex, radius: float) -> Points:
    """A circle."""
    return centre + radius * _CIRCLE


_CIRCLE: Points = np.exp(2j * np.pi * np.arange(20) / 20)


def _spline(corners: Sequence[complex], steps: int) -> Points:
    """The curve from the second corner to the last but one, without its end."""
    here = np.array(corners, dtype=np.complex128)
    around = np.stack([here[:-3], here[1:-2], here[2:-1], here[3:]])
    return (_weights(steps) @ around).T.reshape(-1)


@cache
def _weights(steps: int) -> NDArray[np.float64]:
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    return 0.5 * np.hstack(
        [2 * t**2 - t - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    )
