"""From a picture file to a normalised tensor, decoding only what the crop needs.

The paper's pipeline, as its authors' scripts have it: resize the shorter side to 600, crop 448 (at
random and flipped half the time in training, in the centre otherwise); for other image sizes the
600 scales along. The crop is found first, in the picture's own pixels, and only that region is
resized; JPEGs are decoded at the smallest size that still holds the crop.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

RESIZE_RATIO = 600 / 448
"""The shorter side after resizing, over the side of the crop."""
ORIENTATION = ExifTags.Base.Orientation


class Region(NamedTuple):
    """A rectangle in a picture's pixels: left, top, right, bottom."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class ImageTransform:
    """A picture → a normalised tensor (3, image_size, image_size).

    Attributes:
        image_size: height and width of the result, in pixels.
        mean: subtracted from each channel, after scaling to 0…1.
        std: what each channel is divided by.
        augment: crop at random and flip half the time, instead of the centre crop.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: bool = False

    @property
    def resized_side(self) -> int:
        """The shorter side, in pixels, of the resized picture that the crop is a square of."""
        return round(self.image_size * RESIZE_RATIO)

    def region(self, width: int, height: int, rng: np.random.Generator | None = None) -> Region:
        """The square of the picture that is shown to the model, in the picture's pixels.

        Args:
            width: of the picture.
            height: of the picture, without a banner.
            rng: where the crop lies; without one, in the centre.
        """
        side = min(width, height) * self.image_size / self.resized_side
        across, down = (0.5, 0.5) if rng is None else rng.random(2)
        left, top = across * (width - side), down * (height - side)
        return Region(left, top, left + side, top + side)

    def __call__(
        self, image: Image.Image, *, banner: int = 0, rng: np.random.Generator | None = None
    ) -> Tensor:
        """Crop, resize and normalise.

        Args:
            image: as `PIL.Image.open` returns it, not loaded yet.
            banner: rows at the bottom to leave out.
            rng: the source of chance for `augment`; ignored without it.

        Returns:
            (3, image_size, image_size), float32.

        Raises:
            TypeError: if `augment` is set and no `rng` is given.
        """
        rng = self._chance(rng)
        image = upright(image)
        width, height = image.size
        region = self.region(width, max(1, height - banner), rng)
        return self._tensor(decode_region(image, region, self.image_size), rng)

    def crop_resized(self, pixels: np.ndarray, *, rng: np.random.Generator | None = None) -> Tensor:
        """The same for a picture that `resize_whole` has resized, up to half a pixel.

        Args:
            pixels: (H, W, 3) uint8, the shorter side `resized_side` long.
            rng: as for a call; the same state gives the same crop.
        """
        rng = self._chance(rng)
        region = self.region(pixels.shape[1], pixels.shape[0], rng)
        left, top = round(region.left), round(region.top)
        cropped = pixels[top : top + self.image_size, left : left + self.image_size]
        return self._tensor(Image.fromarray(cropped), rng)

    def _chance(self, rng: np.random.Generator | None) -> np.random.Generator | None:
        if self.augment and rng is None:
            raise TypeError("an augmenting transform needs a random generator")
        return rng if self.augment else None

    def _tensor(self, image: Image.Image, rng: np.random.Generator | None) -> Tensor:
        if rng is not None and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.empty(3, self.image_size, self.image_size)
        # Band by band: each is contiguous, which makes this several times faster than one permutation.
        for channel, band, mean, std in zip(tensor, image.split(), self.mean, self.std, strict=True):
            channel.copy_(torch.from_numpy(np.array(band))).sub_(255 * mean).div_(255 * std)
        return tensor


def decode_region(image: Image.Image, region: Region, size: int) -> Image.Image:
    """The region of a picture as an RGB picture of size × size pixels, bilinear with antialiasing.

    Args:
        image: not loaded yet, so that a JPEG can be decoded at a smaller scale.
        region: in the pixels of `image`.
        size: in pixels.
    """
    return _resized(image, region, (size, size))


def resize_whole(image: Image.Image, side: int, *, banner: int = 0) -> Image.Image:
    """A whole picture, upright and in RGB, its shorter side `side` pixels long.

    Args:
        image: as `PIL.Image.open` returns it, not loaded yet.
        side: in pixels.
        banner: rows at the bottom to leave out.
    """
    image = upright(image)
    width, height = image.size[0], max(1, image.size[1] - banner)
    scale = side / min(width, height)
    return _resized(image, Region(0, 0, width, height), (round(width * scale), round(height * scale)))


def _resized(image: Image.Image, region: Region, size: tuple[int, int]) -> Image.Image:
    width, height = image.size
    scale = max(size[0] / (region.right - region.left), size[1] / (region.bottom - region.top))
    # libjpeg can leave out detail by factors of 2 while decoding, which is where the time goes.
    image.draft(image.mode, (math.ceil(width * scale), math.ceil(height * scale)))
    across, down = image.size[0] / width, image.size[1] / height
    box = (region.left * across, region.top * down, region.right * across, region.bottom * down)
    return as_rgb(image).resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)


def upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF orientation says; the same object where there is nothing to turn."""
    if image.getexif().get(ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: transparency over white, 16 bits down to 8, the first frame of several."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image, dtype=np.float64)
        return Image.fromarray((wide / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
