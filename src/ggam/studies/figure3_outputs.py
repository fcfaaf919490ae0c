"""Figure 3 as files: PNG and PDF, the raw maps, the caption, and a page."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ggam.drawing.overlays import render
from ggam.drawing.pages import PICTURE_BYTES, data_uri, write_page
from ggam.evaluation.targets import ALPHA
from ggam.studies.figure3 import Cell, Figure3, Subject
from ggam.studies.figure3_drawing import GUIDANCE, colour_bar, draw_figure3, scaled, tile, verdict
from ggam.studies.figure3_networks import COLUMNS, ROWS, Figure3Error
from ggam.system.files import write_atomic

PAGE = "index.html"
KIND_TITLES = {
    "gradcam": "Grad-CAM of the predicted class, behind the attention where there is one",
    "gradcam-features": "Grad-CAM of the predicted class at the feature map A, before the attention",
    "spatial": "the spatial attention T",
    "channel": "the feature map A weighted by the channel attention S",
}
_KIND_NOTES = {
    "gradcam": "It is taken at the feature map that the classifier pools.",
    "gradcam-features": (
        "Networks without attention at work have no such map. The gradient goes through the attention, and "
        "Eq. (3) couples all places: there can be heat where T leaves little of it."
    ),
    "spatial": "It is the same for all classes. Networks without spatial attention have no such map.",
    "channel": "It is the same for all classes. Networks without channel attention have no such map.",
}
_CLAIM = (
    "The paper (arXiv 2101.09666) shows such a grid as its Figure 3, and claims that such maps show its "
    "method to be superior; it gives no number for it. Neither does this figure: a few pictures and one "
    "seed prove nothing either way. Where the heat lies is measured over all test pictures by ggam study "
    "table3, if boxes or parts are known, and by ggam evaluate --explanations."
)
_SIDE = 208
"""Height and width of a tile on the page, in pixels."""
_SUBJECT_SIDE = 336
_PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


def write_figure3(directory: Path | str, content: Figure3, *, dpi: int = 300) -> Path:
    """Write `figure3.png`, `.pdf`, `.npz` (the raw maps), `.md` (the caption) and `index.html`.

    Args:
        directory: where; made if missing, files of an earlier call are replaced, each at once.
        content: what `ggam.studies.figure3.gather` found.
        dpi: pixels per inch, 30 to 1200.

    Returns:
        The page.

    Raises:
        Figure3Error: for another resolution.
        OSError: if the directory cannot be written to.
    """
    if not 30 <= dpi <= 1200:
        raise Figure3Error(f"dpi {dpi}: expected 30 to 1200 pixels per inch")
    directory = Path(directory)
    drawn = draw_figure3(content, dpi)
    write_atomic(directory / "figure3.png", render(drawn, "png", dpi))
    write_atomic(directory / "figure3.pdf", render(drawn, "pdf", dpi))
    write_atomic(directory / "figure3.npz", raw_maps(content))
    write_atomic(directory / "figure3.md", _markdown(content))
    return write_page(
        directory / PAGE,
        "figure3.html",
        title="Figure 3: where the networks look",
        caption=caption(content),
        heads=list(COLUMNS),
        bar=data_uri(colour_bar(6)),
        subjects=[_on_page(subject, content) for subject in content.subjects],
    )


def raw_maps(content: Figure3) -> bytes:
    """An `.npz` archive of P pictures and the eight rows of Table 3.

    `maps` (P, 8, H, W) float32, not normalised, NaN where a network has no such map; `predicted`,
    `probability` (P, 8); `label` (P,), empty if unknown; `pictures` (P,), `rows` (8,), `kind`, `seed`.
    """
    shape = next(
        cell.heat.shape for s in content.subjects for cell in s.cells.values() if cell.heat is not None
    )
    missing = np.full(shape, np.nan, dtype=np.float32)
    cells = [[subject.cells[row] for row in ROWS] for subject in content.subjects]
    archive = io.BytesIO()
    np.savez_compressed(
        archive,
        maps=np.array([[missing if c.heat is None else c.heat for c in row] for row in cells], np.float32),
        predicted=np.array([[cell.predicted for cell in row] for row in cells]),
        probability=np.array([[cell.probability for cell in row] for row in cells]),
        label=np.array([subject.label or "" for subject in content.subjects]),
        pictures=np.array([subject.name for subject in content.subjects]),
        rows=np.array(ROWS),
        kind=np.array(content.kind),
        seed=np.array(content.networks.seed),
    )
    return archive.getvalue()


class Caption(NamedTuple):
    """A paragraph each."""

    shown: str
    reading: str
    """How to read it."""
    choice: str
    """How the pictures were chosen."""
    claim: str
    """What the paper claims of such figures, and where to find numbers instead."""


def caption(content: Figure3) -> Caption:
    """The figure in words, but for what each network answers."""
    shown = KIND_TITLES[content.kind]
    known = any(subject.label is not None for subject in content.subjects)
    reading = [
        "Upper rows: networks trained without guidance; lower rows: with it. Columns: which attention is at "
        "work. In the lower baseline the channel attention is guided, but not applied.",
        "Each map is coloured from zero to its own maximum: colours compare places within a map, not "
        "strengths between maps.",
        "Below each map: the predicted class and its softmax probability"
        + (", ✓ right, ✗ wrong." if known else "."),
        _KIND_NOTES[content.kind],
    ]
    if any(subject.box is not None for subject in content.subjects):
        reading.append("Thin box: the object.")
    if any(subject.rings for subject in content.subjects):
        reading.append(
            "Rings: the parts by which the class is told from those most like it, as wide as a peak may lie "
            f"off and count as on the part ({ALPHA:g} of the box's longer side)."
        )
    if training := [subject.name for subject in content.subjects if subject.split == "train"]:
        reading.append(f"From the training part, so perhaps learnt by heart: {', '.join(training)}.")
    return Caption(
        shown=f"{shown[:1].upper()}{shown[1:]}, for {_setting(content)}.",
        reading=" ".join(reading),
        choice=content.choice,
        claim=_CLAIM,
    )


def peak_place(cell: Cell) -> str:
    """Where a map is highest, in words, for those who cannot see it."""
    if cell.heat is None:
        return "no such map"
    if not (cell.heat > 0).any():
        return "the map is empty"
    height, width = cell.heat.shape
    row, column = divmod(int(cell.heat.argmax()), width)
    down, across = int(3 * (row + 0.5) / height), int(3 * (column + 0.5) / width)
    return f"highest {_PLACES[down][across]}"


def network_name(row: str) -> str:
    """A row of Table 3 by its place in the figure: "channel, with guidance"."""
    column, pair = next((column, pair) for column, pair in COLUMNS.items() if row in pair)
    return f"{column}, {GUIDANCE[pair.index(row)]}"


def _setting(content: Figure3) -> str:
    """Which pictures and networks, in words."""
    number = len(content.subjects)
    pictures = "1 picture" if number == 1 else f"{number} pictures"
    return (
        f"{pictures} and the networks of Table 3 trained on {content.networks.data}: {content.backbone} at "
        f"{content.image_size} pixels, seed {content.networks.seed}"
    )


def _markdown(content: Figure3) -> str:
    """The caption, and the figure as a table for those who cannot see it."""
    lines = [
        "| picture | class | network | predicted | probability | | map |",
        "|---|---|---|---|--:|---|---|",
    ]
    for subject in content.subjects:
        for row in ROWS:
            cell = subject.cells[row]
            cells = [
                subject.name,
                subject.label or "unknown",
                network_name(row),
                cell.predicted,
                f"{cell.probability:.1%}",
                verdict(cell),
                peak_place(cell),
            ]
            lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    first, *others = caption(content)
    return "\n\n".join([f"**Figure 3.** {first}", *others, "\n".join(lines)]) + "\n"


def _on_page(subject: Subject, content: Figure3) -> dict[str, Any]:
    """One picture as the template wants it: cells column by column, without guidance first."""
    return {
        "name": subject.name,
        "label": subject.label or "class unknown",
        "tally": subject.tally,
        "source": data_uri(scaled(subject.crop, _SUBJECT_SIDE), 2 * PICTURE_BYTES),
        "box": subject.box,
        "rings": subject.rings,
        "cells": [
            _cell_on_page(subject, pair[guided], content) | {"column": 2 + number, "row": 2 + guided}
            for number, pair in enumerate(COLUMNS.values())
            for guided in (0, 1)
        ],
    }


def _cell_on_page(subject: Subject, row: str, content: Figure3) -> dict[str, Any]:
    cell = subject.cells[row]
    return {
        "where": network_name(row).split(", "),
        "source": None if cell.heat is None else data_uri(tile(subject, cell, _SIDE)),
        "alt": f"{KIND_TITLES[content.kind]}, {network_name(row)}: {peak_place(cell)}",
        "sign": verdict(cell),
        "kind": "" if cell.right is None else "right" if cell.right else "wrong",
        "predicted": cell.predicted,
        "probability": f"{cell.probability:.0%}",
    }
