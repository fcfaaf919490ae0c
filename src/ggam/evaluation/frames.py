"""Where the crop that a model saw lies in a picture, and what is known of the picture there.

Fractions of the crop run from (0, 0), its top left corner, to (1, 1); pixels are those of the picture
as stored, in which boxes, parts and masks are given. Points are (x, y).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ggam.data.records import Box, DataError, Sample, reading
from ggam.data.transforms import ORIENTATION, ImageTransform, Region, upright

_MASK_THRESHOLD = 127


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
            orientation = image.getexif().get(ORIENTATION, 1)
        if orientation not in range(1, 9):
            orientation = 1  # Pillow leaves such a picture as it is
        if orientation >= 5:
            width, height = height, width
        region = transform.region(width, max(1, height - sample.banner))
        return cls(region, width, height, orientation)

    @property
    def side(self) -> float:
        """The side of the crop, in pixels of the picture."""
        return self.region.right - self.region.left

    def to_picture(self, points: Tensor) -> Tensor:
        """Fractions of the crop (..., 2) → pixels of the stored picture (..., 2)."""
        points = torch.tensor(self.region[:2], dtype=torch.float64) + points * self.side
        return self._flipped(self._swapped(points / self._size)) * self._swapped(self._size)

    def to_crop(self, points: Tensor) -> Tensor:
        """Pixels of the stored picture (..., 2) → fractions of the crop (..., 2)."""
        points = self._swapped(self._flipped(points / self._swapped(self._size))) * self._size
        return (points - torch.tensor(self.region[:2], dtype=torch.float64)) / self.side

    def box_in_crop(self, box: Box | None) -> Tensor:
        """A box (left, top, right, bottom) (4,) in fractions of the crop, without what lies outside it.

        Without a box, NaN.
        """
        if box is None:
            return torch.full((4,), torch.nan, dtype=torch.float64)
        corners = torch.tensor([[box.x, box.y], [box.x + box.width, box.y + box.height]], dtype=torch.float64)
        corners = self.to_crop(corners).clamp(0, 1)
        return torch.cat([corners.amin(dim=0), corners.amax(dim=0)])

    def mask_in_crop(self, mask: np.ndarray, size: int) -> Tensor:
        """How much of each cell of a grid over the crop a mask covers.

        Args:
            mask: (height, width) of bool, of the stored picture.
            size: G, cells along each side.

        Returns:
            (G, G), float32, from 0 to 1 in steps of 1/255.
        """
        image = Image.fromarray(mask.astype(np.uint8) * 255)
        image.getexif()[ORIENTATION] = self.orientation
        cells = upright(image).resize((size, size), Image.Resampling.BOX, box=self.region)
        return torch.from_numpy(np.array(cells)).float() / 255

    @property
    def _size(self) -> Tensor:
        return torch.tensor([self.width, self.height], dtype=torch.float64)

    def _swapped(self, points: Tensor) -> Tensor:
        """Points (..., 2), x and y exchanged where the stored picture lies on its side."""
        return points.flip(-1) if self.orientation >= 5 else points

    def _flipped(self, fractions: Tensor) -> Tensor:
        """Fractions of the stored picture, counted from the side that is left, or on top, when upright."""
        flipped = torch.tensor([self.orientation in (2, 3, 7, 8), self.orientation in (3, 4, 6, 7)])
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


def visible_parts(sample: Sample, frame: Frame, count: int) -> Tensor:
    """A sample's parts (P, 2) in fractions of the crop; NaN where one is hidden or outside the crop.

    Args:
        sample: what is known of the picture.
        frame: of its crop.
        count: P, the parts that the data set names.
    """
    nowhere = (torch.nan, torch.nan)
    known = [point if point is not None else nowhere for point in sample.parts[:count]]
    known += [nowhere] * (count - len(known))
    points = frame.to_crop(torch.tensor(known, dtype=torch.float64).reshape(-1, 2))
    inside = ((points >= 0) & (points <= 1)).all(dim=1, keepdim=True)
    return torch.where(inside, points, torch.nan)


def discriminative_points(sample: Sample, frame: Frame, indices: Sequence[int]) -> Tensor:
    """Those of a sample's parts `indices` that are visible in the crop: (P, 2), pixels of the picture."""
    points = visible_parts(sample, frame, len(sample.parts))
    chosen = points[[i for i in indices if i < len(points)]]
    return frame.to_picture(chosen[chosen.isfinite().all(dim=1)])
