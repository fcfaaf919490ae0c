"""What a data set knows of a batch of pictures, brought into the frame of the crops."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ggam.data.birds.species import MOST_SPECIES, species
from ggam.data.records import Box, FineGrainedDataset
from ggam.evaluation.accuracy import EvaluationError
from ggam.evaluation.frames import Frame, object_of, visible_parts

GRID = 112
"""G: maps and masks are compared on G × G cells of the crop (a cell is 4 pixels of 448)."""
ALPHA = 0.1
"""How near to a part counts as on it, as a share of the longer side of the object's box."""


@dataclass(frozen=True)
class Annotations:
    """Objects and parts of N pictures; lengths and places are fractions of the crop, P parts."""

    objects: tuple[Box | np.ndarray | None, ...]
    """Masks, or boxes where there is none, in pixels of the stored pictures."""
    frames: tuple[Frame, ...]
    coverage: Tensor
    """How much of each cell the object covers (N, G, G); NaN where nothing is known of it."""
    masked: Tensor
    """Whether the object is a mask (N,)."""
    boxes: Tensor
    """The part of each box inside the crop (N, 4): left, top, right, bottom; NaN without a box."""
    parts: Tensor
    """The parts (N, P, 2); NaN where one is hidden or outside the crop."""
    discriminative: Tensor
    """Which parts set the picture's class apart from those it is most like (N, P), bool."""
    radii: Tensor
    """How near to a part counts as on it (N,): alpha · max(w, h) of the box; NaN without a box."""

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def of(
        cls, dataset: FineGrainedDataset, indices: Sequence[int], *, alpha: float = ALPHA
    ) -> "Annotations":
        """Read what is known of some of a data set's pictures.

        Args:
            dataset: with its evaluation transform.
            indices: of the samples.
            alpha: the radius of a part, as a share of the longer side of the box.

        Raises:
            EvaluationError: if the data set has no transform.
            DataError: if a picture or a mask cannot be read.
        """
        if dataset.transform is None:
            raise EvaluationError(f"{dataset.root}: evaluation needs a transform with augment=False")
        samples = [dataset.samples[i] for i in indices]
        frames = [Frame.of(sample, dataset.transform) for sample in samples]
        objects = [object_of(sample) for sample in samples]
        boxes = torch.stack([frame.box_in_crop(s.box) for s, frame in zip(samples, frames, strict=True)])
        coverage = box_coverage(boxes, GRID)
        parts = torch.full((len(samples), len(dataset.part_names), 2), torch.nan, dtype=torch.float64)
        discriminative = torch.zeros(parts.shape[:2], dtype=torch.bool)
        radii = torch.full((len(samples),), torch.nan, dtype=torch.float64)
        for row, (sample, frame, thing) in enumerate(zip(samples, frames, objects, strict=True)):
            if isinstance(thing, np.ndarray):
                coverage[row] = frame.mask_in_crop(thing, GRID)
            parts[row] = visible_parts(sample, frame, parts.shape[1])
            told = dataset.discriminative.get(sample.label, ())
            discriminative[row, [i for i in told if i < parts.shape[1]]] = True
            if sample.box is not None:
                radii[row] = alpha * max(sample.box.width, sample.box.height) / frame.side
        return cls(
            objects=tuple(objects),
            frames=tuple(frames),
            coverage=coverage,
            masked=torch.tensor([isinstance(thing, np.ndarray) for thing in objects]),
            boxes=boxes,
            parts=parts,
            discriminative=discriminative,
            radii=radii,
        )


def box_coverage(boxes: Tensor, size: int) -> Tensor:
    """How much of each cell of a grid boxes cover, exactly.

    Args:
        boxes: left, top, right, bottom (N, 4) in fractions of the grid's side.
        size: G, cells along each side.

    Returns:
        (N, G, G), float32, from 0 to 1; NaN for a box of NaN.
    """
    edges = torch.arange(size + 1, dtype=torch.float64) / size

    def along(low: Tensor, high: Tensor) -> Tensor:
        shared = torch.minimum(edges[1:], high[:, None]) - torch.maximum(edges[:-1], low[:, None])
        return shared.clamp(min=0) * size

    left, top, right, bottom = boxes.double().unbind(dim=1)
    return (along(top, bottom)[:, :, None] * along(left, right)[:, None]).float()


def discriminative_pairs(dataset: FineGrainedDataset) -> Tensor | None:
    """The parts that set each class of generated birds apart from each other one.

    Returns:
        (K, K, P), bool; None for all other data, of which that is not known.
    """
    count = len(dataset.class_names)
    if not dataset.discriminative or count > MOST_SPECIES:
        return None
    members = species(count)
    if tuple(member.name for member in members) != dataset.class_names:
        return None
    table = torch.zeros(count, count, len(dataset.part_names), dtype=torch.bool)
    for index, part in enumerate(dataset.part_names):
        mark = part.removeprefix("left ").removeprefix("right ")
        if mark in members[0].marks:
            looks = np.array([member.marks[mark] for member in members])
            table[:, :, index] = torch.from_numpy(looks[:, None] != looks)
    return table
