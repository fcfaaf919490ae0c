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
from ggam.data.transforms import ImageTransform, Region

_ORIENTATION = 0x0112
_MASK_THRESHOLD = 127
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
        if orientation not in _UPRIGHT:
            orientation = 1  # upright, or none of EXIF's eight: Pillow leaves such a picture as it is
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
        upright = torch.tensor(self.region[:2], dtype=torch.float64) + points * self.side
        return self._turn(upright / self._size, back=False) * self._stored_size

    def to_crop(self, points: Tensor) -> Tensor:
        """Pixels of the stored picture (..., 2) → fractions of the crop (..., 2)."""
        upright = self._turn(points / self._stored_size, back=True) * self._size
        return (upright - torch.tensor(self.region[:2], dtype=torch.float64)) / self.side

    def box_in_crop(self, box: Box) -> Tensor:
        """A box (left, top, right, bottom) (4,) in fractions of the crop, without what lies outside it."""
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
        if self.orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[self.orientation])
        cells = image.resize((size, size), Image.Resampling.BOX, box=self.region)
        return torch.from_numpy(np.array(cells)).float() / 255

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
