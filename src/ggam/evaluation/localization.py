"""Where the heat lies: on the object, on its parts, on those that tell its class from another?

The measures themselves are in `heat` (peaks, shares, ranks) and `overlap` (boxes and masks cut from maps);
here they are taken over a data set, beside a control that always looks at the middle of the picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.accuracy import EvaluationError
from ggam.evaluation.annotations import ALPHA, GRID, Annotations
from ggam.evaluation.heat import (
    centre_map,
    discs,
    heat_share,
    part_hit,
    peak,
    percentiles,
    pointing_game,
    resample,
    without_heat,
)
from ggam.evaluation.overlap import FIXED_THRESHOLD, Overlaps, mask_iou, max_box_acc, max_box_acc_v2, overlaps

NEAR = 15 / 500
"""The tolerance of the pointing game: its source grants 15 pixels on pictures about 500 long."""
_CHUNK = 64


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
    """Pictures with a mask or a box, some of it in the crop."""
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


class LocalScores(NamedTuple):
    """What is measured of each of N heat maps; NaN where a picture has nothing to measure it against."""

    values: dict[str, np.ndarray]
    """By metric (N,): `on_object`, `near_object`, `energy`, `on_any_part`, `on_part`, `part_energy`,
    `part_percentile` and, where pairs of classes were given, `pair_energy`; all from 0 to 1."""
    percentiles: np.ndarray
    """The heat's rank at each part (N, P)."""
    overlaps: Overlaps
    """Boxes and masks cut at each threshold."""

    @classmethod
    def joined(cls, parts: Sequence["LocalScores"]) -> "LocalScores":
        """The scores of several batches, one after the other."""
        return cls(
            {key: np.concatenate([part.values[key] for part in parts]) for key in parts[0].values},
            np.concatenate([part.percentiles for part in parts]),
            Overlaps(*map(np.concatenate, zip(*(part.overlaps for part in parts), strict=True))),
        )

    def metrics(self) -> dict[str, np.ndarray]:
        """Every metric that any picture has a value of, per picture (N,).

        For `maxboxacc`, `maxboxacc_v2` and `mask_iou_best` the threshold is the best over these pictures.
        """
        found = {
            **self.values,
            "maxboxacc": max_box_acc(self.overlaps),
            "maxboxacc_v2": max_box_acc_v2(self.overlaps),
            "mask_iou": mask_iou(self.overlaps, FIXED_THRESHOLD),
            "mask_iou_best": mask_iou(self.overlaps),
        }
        return {key: values for key, values in found.items() if not np.isnan(values).all()}


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
    centre = centre_map(GRID)
    pairs = [
        (peak_scores(some, known), peak_scores(centre, known))
        for known, some in _chunks(maps, dataset, alpha)
    ]
    found = {
        f"{prefix}{key}": torch.cat([pair[which][key] for pair in pairs])
        for which, prefix in enumerate(("", "centre_"))
        for key in ("on_object", "on_part")
    }
    told = {name: values[~values.isnan()] for name, values in found.items()}
    return LocalizationReport(
        pictures=len(dataset),
        empty=int(without_heat(maps).sum()),
        object_pictures=len(told["on_object"]),
        part_pictures=len(told["on_part"]),
        alpha=alpha,
        **{name: values.mean().item() if len(values) else None for name, values in told.items()},
    )


def localization_metrics(maps: Tensor | np.ndarray, dataset: FineGrainedDataset) -> dict[str, float]:
    """All localisation metrics of one heat map per picture, and of the centre control, as one flat mapping.

    Args:
        maps: (N, H, W), one for each sample, of the crop that the data set's transform shows.
        dataset: with its evaluation transform.

    Returns:
        The mean of each metric of `LocalScores.metrics`, and under `centre_…` that of a blob in the middle;
        `empty`, the share of maps without heat. Nothing where the data set knows no boxes, masks or parts.

    Raises:
        EvaluationError: if there is not one map for each sample, or no transform.
        DataError: if a picture or a mask cannot be read.
    """
    maps = torch.as_tensor(maps)
    if not any(sample.box or sample.mask or any(sample.parts) for sample in dataset.samples):
        return {}
    centre = centre_map(GRID)
    pairs = [
        (local_scores(some, known), local_scores(centre, known))
        for known, some in _chunks(maps, dataset, ALPHA)
    ]
    means = {
        f"{prefix}{key}": float(np.nanmean(values))
        for prefix, parts in zip(("", "centre_"), zip(*pairs, strict=True), strict=True)
        for key, values in LocalScores.joined(parts).metrics().items()
    }
    return {**means, "empty": without_heat(maps).float().mean().item()}


def local_scores(maps: Tensor, known: Annotations, pairs: Tensor | None = None) -> LocalScores:
    """Measure where the heat of a batch of maps lies.

    Args:
        maps: (N, H, W), or (1, H, W) for the same map on all pictures, of the crops.
        known: what is known of the N pictures.
        pairs: the parts by which each picture's class is told from the one it is most taken for (N, P),
            bool; none where they are not known.
    """
    heat = resample(maps.cpu(), GRID)
    every = heat.expand(len(known), -1, -1)
    ranks = percentiles(every, known.parts)
    visible = known.parts.isfinite().all(dim=2)
    values = {
        **peak_scores(maps.cpu(), known),
        "energy": heat_share(every, known.coverage),
        "part_energy": _part_energy(every, known, known.discriminative & visible),
        "part_percentile": ranks.nanmean(dim=1),
    }
    if pairs is not None:
        values["pair_energy"] = _part_energy(every, known, pairs & visible)
    cut = overlaps(heat, known.boxes, known.coverage, known.masked)
    # Copies: an array that is only another view of a tensor keeps the tensor alive.
    arrays = {key: tensor.numpy().copy() for key, tensor in values.items()}
    return LocalScores(arrays, ranks.numpy().copy(), cut)


def peak_scores(maps: Tensor, known: Annotations) -> dict[str, Tensor]:
    """Whether each map's hottest point is on or near the object, and on a part: (N,), 0 or 1, NaN if unknown.

    Args:
        maps: (N, H, W), or (1, H, W) for the same map on all pictures.
        known: what is known of the N pictures.
    """
    peaks = peak(maps).expand(len(known), -1)
    on, near = torch.full((2, len(known)), torch.nan, dtype=torch.float64)
    # No map can point at an object that the crop leaves out.
    seen = (known.coverage.nan_to_num() > 0).flatten(1).any(dim=1).tolist()
    for row, (thing, frame) in enumerate(zip(known.objects, known.frames, strict=True)):
        if thing is not None and seen[row]:
            point = frame.to_picture(peaks[row])[None]
            on[row] = pointing_game(point, [thing])
            near[row] = pointing_game(point, [thing], NEAR * max(frame.width, frame.height))
    visible = known.parts.isfinite().all(dim=2) & known.radii.isfinite()[:, None]
    return {
        "on_object": on,
        "near_object": near,
        "on_any_part": _hits(peaks, known, visible),
        "on_part": _hits(peaks, known, visible & known.discriminative),
    }


def _hits(peaks: Tensor, known: Annotations, chosen: Tensor) -> Tensor:
    """Whether the peaks are on one of the chosen parts; NaN where none is chosen."""
    parts = torch.where(chosen[:, :, None], known.parts, torch.nan)
    hits = part_hit(peaks, parts, known.radii)
    return torch.where(chosen.any(dim=1), hits.double(), torch.nan)


def _part_energy(heat: Tensor, known: Annotations, chosen: Tensor) -> Tensor:
    """The share of the heat within the radius of a chosen part; NaN where none is chosen."""
    return heat_share(heat, discs(known.parts, chosen, known.radii, GRID))


def _chunks(maps: Tensor, dataset: FineGrainedDataset, alpha: float) -> Iterator[tuple[Annotations, Tensor]]:
    """What is known of the pictures and their maps, some at a time."""
    if maps.ndim != 3 or len(maps) != len(dataset) or dataset.transform is None:
        raise EvaluationError(
            f"maps of shape {tuple(maps.shape)} for {len(dataset)} pictures: expected one map (H, W) "
            "each, and a data set with its transform"
        )
    for start in range(0, len(dataset), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(dataset)))
        yield Annotations.of(dataset, rows, alpha=alpha), maps[start : start + _CHUNK]
