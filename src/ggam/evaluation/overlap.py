"""Boxes and masks cut from heat maps at every threshold, against the true ones.

Choe et al., "Evaluating weakly supervised object localization methods right" (CVPR 2020), and its journal
version "Evaluation for weakly supervised object localization: protocol, metrics, and datasets" (TPAMI
2022). A map is scaled to 0…1 between its lowest and its highest value; M(τ) are the cells at or above τ.
"""

from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_iou

from ggam.evaluation.heat import scaled

THRESHOLDS = np.arange(50) / 50
"""τ: 0, 0.02, … 0.98. The source steps by 0.001 on 224 × 224 cells."""
FIXED_THRESHOLD = 0.2
"""The threshold of Zhou et al., "Learning deep features for discriminative localization" (CVPR 2016)."""
_DELTAS = (0.3, 0.5, 0.7)
_APART = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


class Overlaps(NamedTuple):
    """Intersection over union at each of T thresholds; rows of NaN where there is nothing to overlap with."""

    largest: np.ndarray
    """Of the true box and the box around the largest component of M(τ) (N, T)."""
    best: np.ndarray
    """The best among the boxes around all components of M(τ) (N, T)."""
    mask: np.ndarray
    """Of the true mask and M(τ) (N, T)."""


class _Components(NamedTuple):
    threshold: np.ndarray
    area: np.ndarray
    boxes: np.ndarray


def overlaps(heat: Tensor, boxes: Tensor, coverage: Tensor, masked: Tensor) -> Overlaps:
    """What is cut from each map at each threshold, against the box and the mask of its picture.

    Args:
        heat: (N, G, G), or (1, G, G) for the same map on all pictures; not negative.
        boxes: left, top, right, bottom (N, 4), fractions of the crop; NaN without a box.
        coverage: how much of each cell the object covers (N, G, G).
        masked: whether that is a mask (N,); a box is no mask.

    Returns:
        The overlaps; all 0 for a map without heat. A box without any area in the crop, or a mask without
        a cell that it covers by half, is left out (NaN).
    """
    shape = (len(boxes), len(THRESHOLDS))
    largest, best, mask = (np.full(shape, np.nan) for _ in range(3))
    size = heat.shape[1]
    known = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).numpy()
    truth = ((coverage >= 0.5) & masked[:, None, None]).numpy()
    true_boxes = (boxes * size).double().numpy()
    cuts = ((cut, _components(cut)) for cut in map(_cut, heat))
    if len(heat) == 1:
        cuts = repeat(next(cuts), len(boxes))
    for row, (cut, found) in enumerate(cuts):
        if known[row]:
            largest[row], best[row] = _box_overlaps(found, true_boxes[row])
        if truth[row].any():
            both = (cut & truth[row]).sum(axis=(1, 2))
            mask[row] = both / (cut | truth[row]).sum(axis=(1, 2))
    return Overlaps(largest, best, mask)


def max_box_acc(overlap: Overlaps) -> np.ndarray:
    """MaxBoxAcc: max over τ of the share of pictures with IoU(largest box, true box) ≥ 0.5.

    Returns:
        Per picture (N,), 1 for a hit at the τ that is best over these pictures; NaN without a box.
    """
    return _hits(overlap.largest, 0.5)


def max_box_acc_v2(overlap: Overlaps) -> np.ndarray:
    """MaxBoxAccV2: the mean over δ = 0.3, 0.5, 0.7 of max over τ of the share with best IoU ≥ δ.

    Any component's box may be the one, and each δ has its own τ.

    Returns:
        Per picture (N,), the share of the three δ that it hits; NaN without a box.
    """
    return np.mean([_hits(overlap.best, delta) for delta in _DELTAS], axis=0)


def mask_iou(overlap: Overlaps, threshold: float | None = None) -> np.ndarray:
    """IoU of M(τ) and the mask, at a fixed threshold or at the one that is best over these pictures.

    Args:
        overlap: of N pictures.
        threshold: τ, rounded to the nearest of `THRESHOLDS`; None takes the best.

    Returns:
        Per picture (N,), from 0 to 1; NaN without a mask.
    """
    if threshold is not None:
        return overlap.mask[:, int(np.abs(THRESHOLDS - threshold).argmin())]
    return _at_best(overlap.mask)


def _hits(ious: np.ndarray, delta: float) -> np.ndarray:
    return _at_best(np.where(np.isnan(ious), np.nan, ious >= delta))


def _at_best(values: np.ndarray) -> np.ndarray:
    """The column with the largest mean over the rows that are not NaN; the first of several."""
    rows = values[~np.isnan(values[:, 0])]
    return values[:, int(rows.mean(axis=0).argmax()) if len(rows) else 0]


def _cut(heat: Tensor) -> np.ndarray:
    """M(τ) (T, G, G), bool; nothing where there is no heat, everything where it is flat."""
    levels = scaled(heat[None]).numpy()
    return (levels >= THRESHOLDS[:, None, None].astype(levels.dtype)) & (levels > 0).any()


def _components(cut: np.ndarray) -> _Components:
    """The connected cells (8 neighbours) of all M(τ), each with its area and box, in cells."""
    labels = np.empty(cut.shape, dtype=np.int32)
    ndimage.label(cut, _APART, output=labels)
    places: list[Any] = ndimage.find_objects(labels)
    area = np.bincount(labels.ravel(), minlength=len(places) + 1)[1:]
    boxes = [(x.start, y.start, x.stop, y.stop) for _, y, x in places]
    threshold = np.array([t.start for t, _, _ in places], dtype=np.int64)
    return _Components(threshold, area, np.array(boxes, dtype=np.float64).reshape(-1, 4))


def _box_overlaps(found: _Components, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU with the box of the largest component and with the best box, at each threshold (T,) (T,)."""
    ious = box_iou(torch.from_numpy(found.boxes), torch.from_numpy(box[None]))[:, 0].numpy()
    largest, best = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
    np.maximum.at(best, found.threshold, ious)
    # Of several values for one place the last stays: the largest area, the first of equal ones.
    order = np.lexsort((-np.arange(len(ious)), found.area))
    largest[found.threshold[order]] = ious[order]
    return largest, best
