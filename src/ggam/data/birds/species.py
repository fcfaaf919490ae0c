"""Which invented species there are, and in which parts each differs from those it is most like.

A species is a choice of one mark for each of nine parts; everything else (plumage, size, pose, light)
varies alike in all species. The species stand in a row, species k differing from k+1 in exactly one
part, and from all the others in two or more: an induced path ("snake in the box") through the marks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

MARKS: dict[str, dict[str, str]] = {
    "crown": {
        "red": "Red crowned",
        "blue": "Blue crowned",
        "yellow": "Yellow crowned",
        "crest": "Black crested",
    },
    "wing": {"bars": "Bar winged", "yellow": "Yellow winged", "blue": "Blue winged", "red": "Red winged"},
    "tail": {"white": "White tailed", "red": "Red tailed", "yellow": "Yellow tailed", "blue": "Blue tailed"},
    "throat": {
        "black": "Black throated",
        "yellow": "Yellow throated",
        "red": "Red throated",
        "blue": "Blue throated",
    },
    "breast": {
        "plain": "Plain breasted",
        "band": "Band breasted",
        "spot": "Spot breasted",
        "streaks": "Streak breasted",
    },
    "beak": {"orange": "Orange billed", "long": "Long billed", "red": "Red billed", "hook": "Hook billed"},
    "eye": {"white": "White eyed", "mask": "Black masked", "yellow": "Yellow eyed", "red": "Red eyed"},
    "nape": {
        "plain": "Plain naped",
        "white": "White naped",
        "orange": "Orange naped",
        "black": "Black naped",
    },
    "belly": {
        "plain": "Plain bellied",
        "yellow": "Yellow bellied",
        "rust": "Rust bellied",
        "black": "Black bellied",
    },
}
"""For each part, its marks and what a species is called by each."""
MOST_SPECIES = 500
_NOUNS = (
    "Tarrin Pellick Mirrow Quillet Bruntle Sollick Wennet Dapplin Farrick Oskerel "
    "Nimmet Corvick Jillow Tessark Harrowet Vintle Ellerick Gannow Puddrel Lorrin"
)


@dataclass(frozen=True)
class Species:
    """An invented species: a name that is true of it, and its mark on each part of `MARKS`."""

    name: str
    marks: dict[str, str]


def species(count: int) -> list[Species]:
    """The first `count` species; which ones they are does not depend on how many are asked for.

    A species is named after the mark by which it differs from the one before it.

    Raises:
        ValueError: if there are not that many.
    """
    if not 1 <= count <= MOST_SPECIES:
        raise ValueError(f"{count} species: expected 1 to {MOST_SPECIES}")
    codes, nouns = _path(count), _NOUNS.split()
    epithets = [word for marks in MARKS.values() for word in marks.values()]
    namesakes = dict.fromkeys(epithets, 0)
    found = []
    for code, before in zip(codes, [None, *codes[:-1]], strict=True):
        marks = {part: list(MARKS[part])[value] for part, value in zip(MARKS, code, strict=True)}
        differing = next(i for i in range(len(code)) if before is None or code[i] != before[i])
        part = list(MARKS)[differing]
        epithet = MARKS[part][marks[part]]
        noun = nouns[(namesakes[epithet] + 7 * epithets.index(epithet)) % len(nouns)]
        namesakes[epithet] += 1
        found.append(Species(f"{epithet} {noun}", marks))
    return found


def discriminative_parts(members: Sequence[Species]) -> list[list[str]]:
    """For each species, the parts in which it differs from its neighbours among `members`.

    The neighbours of a species are those that differ from it in one part only: in the row that
    `species` gives, the one before it and the one after it.
    """
    codes = np.array([[list(MARKS[part]).index(one.marks[part]) for part in MARKS] for one in members])
    found = []
    for code in codes:
        differs = codes != code
        apart = differs[differs.sum(axis=1) == 1].any(axis=0)
        found.append([part for part, own in zip(MARKS, apart, strict=True) if own])
    return found


@cache
def _path(count: int) -> list[tuple[int, ...]]:
    """At each step the part that has rested longest takes its next mark that keeps the path induced."""
    sizes = [len(marks) for marks in MARKS.values()]
    path = np.zeros((count, len(sizes)), dtype=np.int64)
    rested = list(range(len(sizes)))
    for step in range(1, count):
        for part, turn in [(p, turn) for p in rested for turn in range(1, sizes[p])]:
            path[step] = path[step - 1]
            path[step, part] = (path[step, part] + turn) % sizes[part]
            if ((path[: step - 1] != path[step]).sum(axis=1) >= 2).all():
                rested.remove(part)
                rested.append(part)
                break
    return [tuple(code) for code in path.tolist()]
