"""What the published data sets hold, to tell a complete copy from one that is not."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A data set as its authors, and Table 1 of the paper, count it."""

    name: str
    classes: int
    train: int
    """Training pictures, the archive's own validation pictures included."""
    test: int
    landmarks: frozenset[str] = frozenset()
    """Classes by which a copy of the set in another layout is known."""
    caution: str = ""
    """What is known to be amiss with the set itself."""


PUBLISHED: dict[str, Published] = {
    "cub": Published(
        "CUB-200-2011",
        200,
        5994,
        5794,
        frozenset({"Black footed Albatross", "Laysan Albatross", "Common Yellowthroat"}),
        "a few of its test pictures are also in ImageNet: weights pre-trained there may have seen them",
    ),
    "aircraft": Published("FGVC-Aircraft", 100, 6667, 3333, frozenset({"707-320", "A300B4", "Yak-42"})),
    "aircraft-family": Published("FGVC-Aircraft (families)", 70, 6667, 3333),
    "aircraft-manufacturer": Published("FGVC-Aircraft (manufacturers)", 30, 6667, 3333),
    "cars": Published(
        "Stanford Cars",
        196,
        8144,
        8041,
        frozenset({"AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012"}),
    ),
    "dogs": Published(
        "Stanford Dogs",
        120,
        12000,
        8580,
        caution="its pictures are from ImageNet: weights pre-trained there may have seen the test pictures",
    ),
    "flowers102": Published("Oxford Flowers-102", 102, 2040, 6149),
    "nabirds": Published("NABirds", 555, 23929, 24633),
}


def published_as(layout: str, class_names: Collection[str]) -> Published | None:
    """The published set that a data set is a copy of, complete or not; None if it is one's own.

    CUB's layout is shared by other sets, so that there, as in class folders, the classes decide.
    """
    if layout in PUBLISHED and layout != "cub":
        return PUBLISHED[layout]
    names = frozenset(class_names)
    return next((p for p in PUBLISHED.values() if p.landmarks and p.landmarks <= names), None)
