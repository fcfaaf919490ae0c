"""What may be wrong with a data set: each function looks for one kind of fault, and returns findings.

An error would corrupt a result. A warning may, or makes numbers incomparable with others'. A note is
dealt with by the way pictures are read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ggam.data.doctor.duplicates import near_copies
from ggam.data.doctor.inspection import LARGE, SMALL, Inspection
from ggam.data.layouts.published import published_as
from ggam.data.records import FineGrainedDataset, Sample

Severity = Literal["error", "warning", "note"]

IMBALANCE = 10
"""How many times more pictures than the smallest the largest class may have."""
_OVERHANG = 2.0  # pixels; annotators' boxes often touch the edge, counted from 0 or from 1

_FAULTS = {
    "missing": "listed, but not there",
    "zero-byte": "of 0 bytes",
    "truncated": "cut off before the end",
    "unreadable": "not readable as a picture",
}
_TRAITS: dict[str, tuple[Severity, str]] = {
    "animated": ("warning", "with several frames; only the first is used"),
    "blank": ("warning", "of a single colour"),
    "large": ("warning", f"of more than {LARGE // 10**6} million pixels, slow to decode in every epoch"),
    "small": ("warning", f"with a side below {SMALL} pixels"),
    "cmyk": ("note", "in CMYK; converted to RGB without the colour profile"),
    "16-bit": ("note", "with 16 bits per pixel; reduced to 8"),
    "palette": ("note", "with a palette; converted to RGB"),
    "transparent": ("note", "with transparency; laid over white"),
    "rotated": ("note", "turned by an EXIF orientation; shown upright"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    severity: Severity
    code: str
    """Which kind, the same in every version: `truncated`, `duplicate-across`, …"""
    message: str
    files: tuple[tuple[str, ...], ...] = ()
    """The files concerned, relative to the data set; copies of one another stand together."""


class Picture(NamedTuple):
    """A sample, where it was listed, and what its file is like."""

    split: str
    sample: Sample
    inspection: Inspection
    name: str
    """Its path relative to the data set."""


def size_findings(splits: Mapping[str, FineGrainedDataset]) -> Iterator[Finding]:
    """Splits of another size than published, and what is known of a published set."""
    dataset = next(iter(splits.values()))
    published = published_as(dataset.layout, dataset.class_names)
    if published is None:
        return
    counts = [(split, len(part), getattr(published, split)) for split, part in splits.items()]
    counts.append(("the list of classes", len(dataset.class_names), published.classes))
    for what, found, wanted in counts:
        if found != wanted:
            yield Finding(
                "warning",
                "split-size",
                f"{what} has {found:,} entries where the published {published.name} has {wanted:,}: "
                "results are not comparable with those of others",
            )
    if published.caution:
        yield Finding("note", "published-caution", f"{published.name}: {published.caution}")


def class_findings(splits: Mapping[str, FineGrainedDataset]) -> Iterator[Finding]:
    """Classes that one of the splits has no pictures of, and a very uneven training set."""
    for split, part in splits.items():
        names, counts = part.class_names, Counter(part.labels)
        empty = [name for label, name in enumerate(names) if not counts[label]]
        if empty:
            listed = ", ".join(empty[:5]) + (", …" if len(empty) > 5 else "")
            message = f"{_number(empty, 'class')} without a {split} picture: {listed}"
            yield Finding("error" if split == "train" else "warning", f"class-without-{split}", message)
        (most, high), (least, low) = counts.most_common()[0], counts.most_common()[-1]
        if split == "train" and high > IMBALANCE * low:
            message = f"{names[most]} has {high:,} training pictures, {names[least]} {low:,}: "
            message += "accuracy per class (macro) says more than the total here"
            yield Finding("warning", "imbalance", message)


def file_findings(pictures: Sequence[Picture]) -> Iterator[Finding]:
    """Files that cannot be read, and unusual ones."""
    for fault, words in _FAULTS.items():
        found = [[p] for p in pictures if p.inspection.fault == fault]
        if found and fault in ("truncated", "unreadable"):
            words += f" ({found[0][0].inspection.reason})"
        yield from _about(found, "error", fault, "file", words)
    for trait, (severity, words) in _TRAITS.items():
        found = [[p] for p in pictures if trait in p.inspection.traits]
        yield from _about(found, severity, trait, "picture", words)
    turned = [[p] for p in pictures if "rotated" in p.inspection.traits and (p.sample.box or p.sample.parts)]
    words = "turned by EXIF with boxes or parts: check which way up these are"
    yield from _about(turned, "warning", "rotated-annotation", "picture", words)


def annotation_findings(pictures: Sequence[Picture]) -> Iterator[Finding]:
    """Boxes and parts that do not lie in their pictures."""
    outside, overhanging, parts = [], [], []
    for picture in pictures:
        width, height = picture.inspection.size
        if picture.inspection.fault:
            continue
        if (box := picture.sample.box) is not None:
            right, bottom = box.x + box.width, box.y + box.height
            covered = min(right, width) - max(box.x, 0), min(bottom, height) - max(box.y, 0)
            if min(covered) <= 0:
                outside.append([picture])
            elif max(-box.x, -box.y, right - width, bottom - height) > _OVERHANG:
                overhanging.append([picture])
        visible = [part for part in picture.sample.parts if part is not None]
        if any(not (0 <= x <= width and 0 <= y <= height) for x, y in visible):
            parts.append([picture])
    yield from _about(outside, "error", "box-outside", "box", "without a pixel of the picture inside")
    yield from _about(overhanging, "warning", "box-overhang", "box", "reaching over the edge of the picture")
    yield from _about(parts, "warning", "part-outside", "picture", "with a visible part outside")


def copy_findings(pictures: Sequence[Picture]) -> Iterator[Finding]:
    """Pictures that are there several times: equal files, and copies that look alike."""
    by_digest: dict[bytes, list[Picture]] = defaultdict(list)
    for picture in pictures:
        if picture.inspection.thumbnail is not None:
            by_digest[picture.inspection.digest].append(picture)
    equal = list(by_digest.values())
    yield from _copies([group for group in equal if len(group) > 1], "duplicate", "byte for byte")
    if len(equal) < 2:
        return
    firsts = [group[0].inspection.thumbnail for group in equal]
    pairs = near_copies(np.stack([t for t in firsts if t is not None]))
    links = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(equal), len(equal)))
    alike: dict[int, list[list[Picture]]] = defaultdict(list)
    for number, group in zip(connected_components(links)[1].tolist(), equal, strict=True):
        alike[number].append(group)
    near = [
        [picture for group in groups for picture in group] for groups in alike.values() if len(groups) > 1
    ]
    yield from _copies(near, "near-duplicate", "re-encoded, resized or mirrored")


def _copies(groups: list[list[Picture]], code: str, how: str) -> Iterator[Finding]:
    across = [group for group in groups if len({p.split for p in group}) > 1]
    tests = [picture for group in across for picture in group if picture.split == "test"]
    repeated = f"repeated in train, {how}"
    yield from _about(across, "error", f"{code}-across", "test picture", repeated, counted=tests)
    within = [group for group in groups if len({p.split for p in group}) == 1]
    yield from _about(within, "warning", code, "picture", f"repeated within a split, {how}")
    torn = [group for group in groups if len({p.sample.label for p in group}) > 1]
    yield from _about(torn, "error", f"{code}-label", "picture", f"repeated under another class, {how}")


def _about(
    groups: Sequence[Sequence[Picture]],
    severity: Severity,
    code: str,
    noun: str,
    words: str,
    *,
    counted: Sequence[Picture] | None = None,
) -> Iterator[Finding]:
    """A finding on groups of copies, or of one picture each, unless there are none: so many `noun`, `words`.

    `counted` are those that the noun stands for, where these are not the groups.
    """
    if groups:
        files = tuple(tuple(picture.name for picture in group) for group in groups)
        yield Finding(severity, code, f"{_number(counted or groups, noun)} {words}", files)


def _number(items: Sequence[object], noun: str) -> str:
    plural = "" if len(items) == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{len(items):,} {noun}{plural}"
