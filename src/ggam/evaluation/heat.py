"""Measures of one heat map against one picture, as pure functions over a batch.

Maps (N, H, W) belong to the square crop that the model saw. Fractions of the crop run from (0, 0), its
top left corner, to (1, 1). Points are (x, y). A map without any heat is a miss everywhere.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ggam.data.records import Box

CENTRE_SIGMA = 0.25
"""The width of the centre control: a Gaussian of this standard deviation, as a share of the crop's side."""


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
    height, width = maps.shape[1:]
    highest = maps.amax(dim=(1, 2), keepdim=True)
    ties = ((maps == highest) & (highest > 0)).double()
    x = (torch.arange(width, dtype=torch.float64, device=maps.device) + 0.5) / width
    y = (torch.arange(height, dtype=torch.float64, device=maps.device) + 0.5) / height
    sums = torch.stack([ties.sum(dim=1) @ x, ties.sum(dim=2) @ y], dim=1)
    return sums / ties.sum(dim=(1, 2))[:, None]  # 0/0 is NaN


def without_heat(maps: Tensor) -> Tensor:
    """Which maps (N, H, W) are nowhere above zero (N,), bool."""
    return peak(maps).isnan().any(dim=1)


def pointing_game(peaks: Tensor, objects: Iterable[Box | np.ndarray], tolerance: float = 0.0) -> Tensor:
    """Whether each peak is on its object, or no further from it than the tolerance.

    The pointing game of Zhang et al., "Top-down neural attention by excitation backprop" (ECCV 2016),
    whose accuracy is hits / (hits + misses). They grant 15 pixels on pictures whose longer side is about
    500; `NEAR` in `ggam.evaluation.localization` is that share.

    Args:
        peaks: (x, y) (N, 2), pixels of the picture; NaN never hits.
        objects: N boxes, edges included, or masks (height, width) of bool.
        tolerance: pixels; the distance to a mask is that to the nearest centre of one of its pixels.

    Returns:
        (N,), bool.
    """
    hits = [_near(x, y, target, tolerance) for (x, y), target in zip(peaks.tolist(), objects, strict=True)]
    return torch.tensor(hits, dtype=torch.bool)


def part_hit(peaks: Tensor, parts: Tensor, radii: Tensor) -> Tensor:
    """Whether each peak is on one of the given parts: min over the parts of |peak − part| ≤ radius.

    Args:
        peaks: (x, y) (N, 2), in any unit; NaN never hits.
        parts: (N, P, 2), in the same unit; NaN for a part that is not visible.
        radii: (N,), in the same unit: alpha · max(w, h) of the object's box.

    Returns:
        (N,), bool.
    """
    distances = (parts - peaks[:, None]).norm(dim=2)
    return (distances <= radii[:, None]).any(dim=1)


def resample(maps: Tensor, size: int) -> Tensor:
    """Heat maps on a grid of size × size cells: bilinear, without aligned corners, negative heat cut off.

    Args:
        maps: (N, H, W).
        size: G.

    Returns:
        (N, G, G), float32.
    """
    resized = F.interpolate(
        maps[:, None].float(), (size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[:, 0].clamp(min=0)


def scaled(maps: Tensor) -> Tensor:
    """Maps (N, H, W) from 0 at their lowest to 1 at their highest value; flat ones are 1, empty ones 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    flat = high <= low
    stretched = torch.where(flat, 1.0, (maps - low) / (high - low).masked_fill(flat, 1))
    return torch.where(high > 0, stretched, 0.0)


def heat_share(heat: Tensor, region: Tensor) -> Tensor:
    """The share of the heat that lies in a region: Σ_ij L_ij R_ij / Σ_ij L_ij.

    With a box as the region this is the energy-based pointing game of Wang et al., "Score-CAM" (CVPR
    Workshops 2020), sect. 4.2. A map of uniform heat has the region's share of the area.

    Args:
        heat: L (N, G, G), not negative.
        region: R (N, G, G), how much of each cell belongs to it; NaN or all zero where there is none.

    Returns:
        (N,), float64, from 0 to 1; 0 for a map without heat, NaN without a region.
    """
    heat, region = heat.double(), region.double()
    total = heat.sum(dim=(1, 2))
    inside = (heat * region.nan_to_num()).sum(dim=(1, 2))
    share = torch.where(total > 0, inside / total.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return torch.where(region.nan_to_num().sum(dim=(1, 2)) > 0, share, torch.nan)


def discs(points: Tensor, chosen: Tensor, radii: Tensor, size: int) -> Tensor:
    """The cells whose centres lie within a radius of one of the chosen points.

    Args:
        points: (N, P, 2), fractions of the crop; NaN for one that is not visible.
        chosen: which of them count (N, P), bool.
        radii: (N,), fractions of the crop; NaN gives no cells.
        size: G.

    Returns:
        (N, G, G), float32, 0 or 1. A disc smaller than a cell still has the cell that its centre is in.
    """
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    cells = torch.zeros(len(points), size, size, dtype=torch.bool)
    for part in range(points.shape[1]):
        x, y = points[:, part, 0], points[:, part, 1]
        squared = (centres - x[:, None])[:, None] ** 2 + (centres - y[:, None])[:, :, None] ** 2
        own = squared <= torch.clamp(radii, min=math.sqrt(0.5) / size)[:, None, None] ** 2
        cells |= own & chosen[:, part, None, None]
    return cells.float()


def percentiles(heat: Tensor, points: Tensor) -> Tensor:
    """How high the heat at a point ranks in its map: the share of cells with less heat, plus half the ties.

    A hottest point that nothing ties with has 1 − 1/(2G²), an arbitrary point ½ on average, and so has
    every point of a flat or empty map.

    Args:
        heat: (N, G, G), not negative.
        points: (N, P, 2), fractions of the crop; NaN for one that is not visible.

    Returns:
        (N, P), float64, from 0 to 1; NaN for a point that is not visible.
    """
    size = heat.shape[1]
    flat = heat.flatten(1)
    column, row = (points.nan_to_num() * size).long().clamp(max=size - 1).unbind(dim=2)
    own = flat.gather(1, row * size + column)
    ordered = flat.sort(dim=1).values
    lower = torch.searchsorted(ordered, own)
    ranks = (lower + torch.searchsorted(ordered, own, right=True)).double() / (2 * size**2)
    return torch.where(points.isfinite().all(dim=2), ranks, torch.nan)


def centre_map(size: int) -> Tensor:
    """The control that always looks at the middle: a Gaussian blob (1, G, G) of width `CENTRE_SIGMA`."""
    offset = (2 * torch.arange(size) + 1 - size) / (2 * size)
    bell = (-(offset**2) / (2 * CENTRE_SIGMA**2)).exp()
    return (bell[:, None] * bell)[None]


def _near(x: float, y: float, target: Box | np.ndarray, tolerance: float) -> bool:
    if not (np.isfinite(x) and np.isfinite(y)):
        return False
    if isinstance(target, Box):
        across = max(target.x - x, 0, x - target.x - target.width)
        down = max(target.y - y, 0, y - target.y - target.height)
        return math.hypot(across, down) <= tolerance
    return _on_mask(x, y, target) or (tolerance > 0 and _near_mask(x, y, target, tolerance))


def _on_mask(x: float, y: float, mask: np.ndarray) -> bool:
    height, width = mask.shape
    if not (0 <= x <= width and 0 <= y <= height):
        return False
    return bool(mask[min(int(y), height - 1), min(int(x), width - 1)])


def _near_mask(x: float, y: float, mask: np.ndarray, tolerance: float) -> bool:
    left, top = max(0, math.floor(x - tolerance)), max(0, math.floor(y - tolerance))
    window = mask[top : math.ceil(y + tolerance) + 1, left : math.ceil(x + tolerance) + 1]
    rows, columns = window.nonzero()
    squared = (columns + left + 0.5 - x) ** 2 + (rows + top + 0.5 - y) ** 2
    return bool((squared <= tolerance**2).any())
