"""Figure 3 as files: PNG and PDF, the raw maps, the caption, and a page."""

import io
from pathlib import Path

import numpy as np

from ggam.drawing.layout import render
from ggam.drawing.overlays import colour_bar
from ggam.drawing.pages import PICTURE_BYTES, data_uri, write_page
from ggam.evaluation.annotations import ALPHA
from ggam.studies.figure3 import PLACES, Figure3, Figure3Error
from ggam.studies.figure3_drawing import draw_figure3
from ggam.system.files import write_atomic

_KINDS = {
    "gradcam": (
        "Grad-CAM of the predicted class, behind the attention where there is one",
        "It is taken at the feature map that the classifier pools.",
    ),
    "gradcam-features": (
        "Grad-CAM of the predicted class at the feature map A, before the attention",
        "Networks without attention at work have no such map. The gradient goes through the attention, and "
        "Eq. (3) couples all places: there can be heat where T leaves little of it.",
    ),
    "spatial": (
        "the spatial attention T",
        "It is the same for all classes. Networks without spatial attention have no such map.",
    ),
    "channel": (
        "the feature map A weighted by the channel attention S",
        "It is the same for all classes. Networks without channel attention have no such map.",
    ),
}
"""What each kind of map is, and what must be known to read it."""
_CLAIM = (
    "The paper (arXiv 2101.09666) shows such a grid as its Figure 3, and claims that such maps show its "
    "method to be superior; it gives no number for it. Neither does this figure: a few pictures and one "
    "seed prove nothing either way. Where the heat lies is measured over all test pictures by ggam study "
    "table3, if boxes or parts are known, and by ggam evaluate --explanations."
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
        directory / "index.html",
        "figure3.html",
        title="Figure 3: where the networks look",
        caption=caption(content),
        subjects=content.subjects,
        places=PLACES,
        shown=_KINDS[content.kind][0],
        bar=data_uri(colour_bar()),
        data_uri=data_uri,
        large=2 * PICTURE_BYTES,
    )


def raw_maps(content: Figure3) -> bytes:
    """An `.npz` archive of P pictures and the eight rows of Table 3.

    `maps` (P, 8, H, W) float32, not normalised, NaN where a network has no such map; `predicted`,
    `probability` (P, 8); `label` (P,), empty if unknown; `pictures` (P,), `rows` (8,), `kind`, `seed`.
    """
    cells = [list(subject.cells.values()) for subject in content.subjects]
    shape = next(cell.heat.shape for row in cells for cell in row if cell.heat is not None)
    missing = np.full(shape, np.nan, dtype=np.float32)
    archive = io.BytesIO()
    np.savez_compressed(
        archive,
        maps=np.array([[missing if c.heat is None else c.heat for c in row] for row in cells], np.float32),
        predicted=np.array([[cell.predicted for cell in row] for row in cells]),
        probability=np.array([[cell.probability for cell in row] for row in cells]),
        label=np.array([subject.label or "" for subject in content.subjects]),
        pictures=np.array([subject.name for subject in content.subjects]),
        rows=np.array(list(PLACES)),
        kind=np.array(content.kind),
        seed=np.array(content.seed),
    )
    return archive.getvalue()


def caption(content: Figure3) -> dict[str, str]:
    """The figure in words, but for what each network answers: four paragraphs by what they are about."""
    subjects, model = content.subjects, content.model
    shown, note = _KINDS[content.kind]
    signs = ", ✓ right, ✗ wrong" if any(subject.label is not None for subject in subjects) else ""
    reading = [
        "Upper rows: networks trained without guidance; lower rows: with it. Columns: which attention is at "
        "work. In the lower baseline the channel attention is guided, but not applied.",
        "Each map is coloured from zero to its own maximum: colours compare places within a map, not "
        "strengths between maps.",
        f"Below each map: the predicted class and its probability{signs}.",
        note,
    ]
    if any(subject.box is not None for subject in subjects):
        reading.append("Thin box: the object.")
    if any(subject.rings for subject in subjects):
        reading.append(
            "Rings: the parts by which the class is told from those most like it, as wide as a peak may lie "
            f"off and count as on the part ({ALPHA:g} of the box's longer side)."
        )
    if training := [subject.name for subject in subjects if subject.split == "train"]:
        reading.append(f"From the training part, so perhaps learnt by heart: {', '.join(training)}.")
    number = f"{len(subjects)} picture{'' if len(subjects) == 1 else 's'}"
    return {
        "shown": f"{shown[0].upper()}{shown[1:]}, for {number} and the networks of Table 3 trained on "
        f"{content.data}: {model.backbone} at {model.image_size} pixels, seed {content.seed}.",
        "reading": " ".join(reading),
        "choice": content.choice,
        "claim": _CLAIM,
    }


def _markdown(content: Figure3) -> str:
    """The caption, and the figure as a table for those who cannot see it."""
    head = "| picture | class | network | predicted | probability | | map |"
    lines = [head, "|---|---|---|---|--:|---|---|"]
    for subject in content.subjects:
        for row, cell in subject.cells.items():
            known = (subject.name, subject.label or "unknown", ", ".join(PLACES[row]))
            texts = (*known, cell.predicted, f"{cell.probability:.1%}", cell.sign, cell.peak)
            lines.append("| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |")
    return "**Figure 3.** " + "\n\n".join([*caption(content).values(), "\n".join(lines)]) + "\n"
