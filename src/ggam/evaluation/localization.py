"""Where the heat lies: does the highest point of a heat map fall on the object, and on its telling part?

Heat maps (N, H, W) belong to the square crop that the model saw. Fractions of the crop run from (0, 0),
its top left corner, to (1, 1); pixels are those of the picture as stored, in which boxes, parts and
masks are given. Points are (x, y).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ggam.data.records import Box, DataError, FineGrainedDataset, Sample, reading
from ggam.data.transforms import ImageTransform, Region
from ggam.evaluation.accuracy import EvaluationError
from ggam.evaluation.evaluate import Precision, evaluate
from ggam.methods.base import FineGrainedModel

ALPHA = 0.1
"""How near to a part counts as on it, as a share of the longer side of the object's box."""
_ORIENTATION = 0x0112
_MASK_THRESHOLD = 127


@dataclass(frozen=True)
class LocalizationReport:
    """How often the peak of the heat map is where it should be; all rates are shares from 0 to 1.

    A map that is zero everywhere has no peak: it counts as a miss, and `empty` says how many did.
    The centre is the control: what a model without any idea would reach by always pointing at the
    middle of the picture. A heat map that does no better says nothing.
    """

    pictures: int
    """Maps looked at."""
    empty: int
    """Maps without a peak, zero everywhere."""
    object_pictures: int
    """Pictures with a mask or a box."""
    on_object: float | None
    """The share of these with the peak on the mask, or in the box where there is no mask."""
    centre_on_object: float | None
    """The same for the centre of the picture."""
    part_pictures: int
    """Pictures of which at least one discriminative part is visible in the crop."""
    on_part: float | None
    """The share of these with the peak within alpha · max(w, h) of such a part, w × h the box."""
    centre_on_part: float | None
    """The same for the centre of the picture."""
    alpha: float
    """The radius of a part, as a share of max(w, h)."""


def localize(
    model: FineGrainedModel,
    dataset: FineGrainedDataset,
    *,
    alpha: float = ALPHA,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    on_batch: Callable[[int, int], None] | None = None,
) -> LocalizationReport:
    """Score where the model's Grad-CAM maps of the predicted classes peak.

    The arguments are those of `ggam.evaluation.evaluate.evaluate`, whose maps (`maps=True`) can be
    given to `localize_maps` instead, where the predictions are wanted too.

    Raises:
        ValueError: as `evaluate` and `localize_maps`.
    """
    report = evaluate(
        model,
        dataset,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision,
        maps=True,
        on_batch=on_batch,
    )
    assert report.maps is not None
    return localize_maps(torch.from_numpy(report.maps), dataset, alpha=alpha)


def localize_maps(maps: Tensor, dataset: FineGrainedDataset, *, alpha: float = ALPHA) -> LocalizationReport:
    """Score where heat maps peak, against the data set's masks, boxes and discriminative parts.

    Args:
        maps: (N, H, W), one for each sample, of the crop that the data set's transform shows.
        dataset: with its evaluation transform.
        alpha: the radius of a part, as a share of the longer side of the box.

    Raises:
        EvaluationError: if there is not one map for each sample, or no transform.
        DataError: if a picture or a mask cannot be read.
    """
    if maps.ndim != 3 or len(maps) != len(dataset) or dataset.transform is None:
        raise EvaluationError(
            f"maps of shape {tuple(maps.shape)} for {len(dataset)} pictures: expected one map (H, W) "
            "each, and a data set with its transform"
        )
    fractions = peak(maps)
    objects: list[Tensor] = []
    parts: list[Tensor] = []
    for sample, fraction in zip(dataset.samples, fractions, strict=True):
        frame = Frame.of(sample, dataset.transform)
        points = frame.to_picture(torch.stack([fraction, torch.tensor([0.5, 0.5])]))
        target = object_of(sample)
        if target is not None:
            objects.append(pointing_game(points, [target] * 2))
        telling = telling_parts(sample, frame, dataset.discriminative.get(sample.label, ()))
        if sample.box is not None and len(telling):
            radius = alpha * max(sample.box.width, sample.box.height)
            parts.append(part_hit(points, telling.expand(2, -1, -1), torch.full((2,), radius)))
    on_object, centre_on_object = _rates(objects)
    on_part, centre_on_part = _rates(parts)
    return LocalizationReport(
        pictures=len(dataset),
        empty=int(fractions.isnan().any(dim=1).sum()),
        object_pictures=len(objects),
        on_object=on_object,
        centre_on_object=centre_on_object,
        part_pictures=len(parts),
        on_part=on_part,
        centre_on_part=centre_on_part,
        alpha=alpha,
    )


def peak(maps: Tensor) -> Tensor:
    """The highest point of each heat map, in fractions of the crop.

    Cell (i, j) of H × W is centred at ((j + ½)/W, (i + ½)/H), as in bilinear upsampling without
    aligned corners, whose maximum is a cell's too. Cells that tie share it: their mean position, so
    that a flat map peaks in the middle rather than in a corner.

    Args:
        maps: (N, H, W), not negative.

    Returns:
        (x, y) (N, 2), float64; NaN where a map is nowhere above zero.
    """
    count, height, width = maps.shape
    highest = maps.amax(dim=(1, 2), keepdim=True)
    ties = ((maps == highest) & (highest > 0)).double()
    x = (torch.arange(width, dtype=torch.float64, device=maps.device) + 0.5) / width
    y = (torch.arange(height, dtype=torch.float64, device=maps.device) + 0.5) / height
    number = ties.sum(dim=(1, 2))
    sums = torch.stack([ties.sum(dim=1) @ x, ties.sum(dim=2) @ y], dim=1)
    missing = torch.full((count, 2), torch.nan, dtype=torch.float64, device=maps.device)
    return torch.where(number[:, None] > 0, sums / number.clamp(min=1)[:, None], missing)


def pointing_game(peaks: Tensor, objects: Iterable[Box | np.ndarray]) -> Tensor:
    """Whether each peak is on its object.

    The pointing game of Zhang et al., "Top-down neural attention by excitation backprop" (ECCV 2016),
    whose accuracy is hits / (hits + misses); without the 15 pixels of tolerance granted there.

    Args:
        peaks: (x, y) (N, 2), pixels of the picture; NaN never hits.
        objects: N boxes, edges included, or masks (height, width) of bool.

    Returns:
        (N,), bool.
    """
    hits = [_inside(x, y, target) for (x, y), target in zip(peaks.tolist(), objects, strict=True)]
    return torch.tensor(hits, dtype=torch.bool)


def part_hit(peaks: Tensor, parts: Tensor, radii: Tensor) -> Tensor:
    """Whether each peak is on one of the given parts: min over the parts of |peak − part| ≤ radius.

    Args:
        peaks: (x, y) (N, 2), pixels of the picture; NaN never hits.
        parts: (N, P, 2), pixels; NaN for a part that is not visible.
        radii: (N,), pixels: alpha · max(w, h) of the object's box.

    Returns:
        (N,), bool.
    """
    distances = (parts - peaks[:, None]).norm(dim=2)
    return (distances <= radii[:, None]).any(dim=1)


@dataclass(frozen=True)
class Frame:
    """Where the crop that the model saw lies in a picture."""

    region: Region
    """In pixels of the upright picture."""
    width: int
    """Of the upright picture, as is `height`."""
    height: int
    orientation: int
    """EXIF: how the stored picture is turned to be upright; 1 leaves it as it is."""

    @classmethod
    def of(cls, sample: Sample, transform: ImageTransform) -> "Frame":
        """The frame of a sample under an evaluation transform; reads the file's header only.

        Raises:
            DataError: if the picture cannot be read.
        """
        with reading(sample.path), Image.open(sample.path) as image:
            width, height = image.size
            orientation = image.getexif().get(_ORIENTATION, 1)
        if orientation >= 5:
            width, height = height, width
        region = transform.region(width, max(1, height - sample.banner))
        return cls(region, width, height, orientation)

    def to_picture(self, points: Tensor) -> Tensor:
        """Fractions of the crop (..., 2) → pixels of the stored picture (..., 2)."""
        side = self.region.right - self.region.left
        upright = torch.tensor(self.region[:2], dtype=torch.float64) + points * side
        return self._turn(upright / self._size, back=False) * self._stored_size

    def to_crop(self, points: Tensor) -> Tensor:
        """Pixels of the stored picture (..., 2) → fractions of the crop (..., 2)."""
        upright = self._turn(points / self._stored_size, back=True) * self._size
        side = self.region.right - self.region.left
        return (upright - torch.tensor(self.region[:2], dtype=torch.float64)) / side

    @property
    def _size(self) -> Tensor:
        return torch.tensor([self.width, self.height], dtype=torch.float64)

    @property
    def _stored_size(self) -> Tensor:
        return self._size.flip(0) if self.orientation >= 5 else self._size

    def _turn(self, fractions: Tensor, *, back: bool) -> Tensor:
        """Fractions of the upright picture → of the stored one, or back."""
        flipped = torch.tensor([self.orientation in (2, 3, 7, 8), self.orientation in (3, 4, 6, 7)])
        if back:
            fractions = torch.where(flipped, 1 - fractions, fractions)
            return fractions.flip(-1) if self.orientation >= 5 else fractions
        fractions = fractions.flip(-1) if self.orientation >= 5 else fractions
        return torch.where(flipped, 1 - fractions, fractions)


def object_of(sample: Sample) -> Box | np.ndarray | None:
    """A sample's mask (height, width) of bool if it has one that is not empty, else its box, if any.

    Raises:
        DataError: if the mask cannot be read or has another size than the picture.
    """
    if sample.mask is None:
        return sample.box
    with reading(sample.mask, "mask"), Image.open(sample.mask) as image, Image.open(sample.path) as picture:
        if image.size != picture.size:
            raise DataError(
                f"{sample.mask}: {image.width}×{image.height} pixels, but its picture "
                f"{sample.path} has {picture.width}×{picture.height}"
            )
        mask = np.asarray(image.convert("L")) > _MASK_THRESHOLD
    return mask if mask.any() else sample.box


def telling_parts(sample: Sample, frame: Frame, indices: Sequence[int]) -> Tensor:
    """Those of a sample's parts `indices` that are visible in the crop: (P, 2), pixels of the picture."""
    known = [sample.parts[i] for i in indices if i < len(sample.parts)]
    points = torch.tensor([point for point in known if point is not None], dtype=torch.float64)
    points = points.reshape(-1, 2)
    inside = ((frame.to_crop(points) >= 0) & (frame.to_crop(points) <= 1)).all(dim=1)
    return points[inside]


def _inside(x: float, y: float, target: Box | np.ndarray) -> bool:
    if not (np.isfinite(x) and np.isfinite(y)):
        return False
    if isinstance(target, Box):
        return target.x <= x <= target.x + target.width and target.y <= y <= target.y + target.height
    height, width = target.shape
    if not (0 <= x <= width and 0 <= y <= height):
        return False
    return bool(target[min(int(y), height - 1), min(int(x), width - 1)])


def _rates(hits: list[Tensor]) -> Iterator[float | None]:
    """The mean of each column of N rows (2,); None where there are no rows."""
    if not hits:
        return iter((None, None))
    return iter(torch.stack(hits).double().mean(dim=0).tolist())
