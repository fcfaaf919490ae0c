"""A picture of a data set: a row of photographs for each class."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ggam.data.records import FineGrainedDataset, Sample
from ggam.system.files import write_atomic

_TILE, _GAP, _LABEL = 112, 6, 118
_INK, _PAPER = (32, 36, 40), (255, 255, 255)


def class_sheet(dataset: FineGrainedDataset, out: Path | str, *, per_class: int = 6) -> None:
    """Write a PNG with a row for each class: its name and its first pictures, cut to the box.

    Where the data set knows which parts tell a class from those like it, they are framed.

    Args:
        dataset: its transform is not used.
        out: the PNG to write, replaced if it is there.
        per_class: pictures in a row.
    """
    dataset = dataset.with_transform(None)
    rows = [[s for s in dataset.samples if s.label == k][:per_class] for k in range(len(dataset.class_names))]
    step = _TILE + _GAP
    sheet = Image.new("RGB", (_LABEL + step * per_class + _GAP, step * len(rows) + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for label, row in enumerate(rows):
        top = _GAP + label * step
        name = "\n".join(dataset.class_names[label].split(" "))
        draw.multiline_text((_GAP * 2, top + _TILE / 2), name, _INK, font, anchor="lm", spacing=5)
        discriminative = dataset.discriminative.get(label, ())
        for column, sample in enumerate(row):
            sheet.paste(_tile(dataset, sample, discriminative), (_LABEL + column * step, top))
    # An octree keeps the few saturated pixels that the median cut would lose.
    content = io.BytesIO()
    sheet.quantize(256, Image.Quantize.FASTOCTREE).save(content, "PNG", optimize=True)
    write_atomic(Path(out), content.getvalue())


def _tile(dataset: FineGrainedDataset, sample: Sample, discriminative: tuple[int, ...]) -> Image.Image:
    image = dataset.load(sample)
    left, top, width, height = sample.box or (0, 0, *image.size)
    side = min(1.16 * max(width, height), *image.size)
    left = min(max(left + (width - side) / 2, 0), image.size[0] - side)
    top = min(max(top + (height - side) / 2, 0), image.size[1] - side)
    tile = image.resize((_TILE, _TILE), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    draw = ImageDraw.Draw(tile)
    for part in discriminative:
        place = sample.parts[part] if sample.parts else None
        if place is not None:
            x, y = (place[0] - left) * _TILE / side, (place[1] - top) * _TILE / side
            for reach, colour in ((0.13 * _TILE, _INK), (0.13 * _TILE - 1, _PAPER), (0.13 * _TILE - 2, _INK)):
                draw.rounded_rectangle((x - reach, y - reach, x + reach, y + reach), 5, outline=colour)
    return tile
