"""Every measure of every kind of heat map over a split, beside two maps that know nothing of the picture."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from ggam.data.records import FineGrainedDataset
from ggam.evaluation.accuracy import EvaluationError, Prediction, predictions_from
from ggam.evaluation.agreement import STAGES, randomized, rank_correlation
from ggam.evaluation.annotations import GRID, Annotations, discriminative_pairs
from ggam.evaluation.estimates import CONTROLS
from ggam.evaluation.evaluate import Precision, autocast, batches_of, check_fits
from ggam.evaluation.explanation_report import ExplanationReport, Settings
from ggam.evaluation.faithfulness import (
    ROAD_PERCENTILES,
    STEPS,
    confidence,
    deletion,
    insertion,
    probability_of,
    require_road,
    road,
)
from ggam.evaluation.heat import centre_map, without_heat
from ggam.evaluation.localization import LocalScores, local_scores
from ggam.explanations.explanation import Explanation, available_maps, explain_maps, weights_at_features
from ggam.methods.base import FineGrainedModel

PERTURBED = 32
"""Pictures that are perturbed by default: each takes some forty forward passes for each kind of map."""
_PASSES = 2 * STEPS + 4
_ROAD_PASSES = 2 * (len(ROAD_PERCENTILES) + 1)


def evaluate_explanations(
    model: FineGrainedModel,
    dataset: FineGrainedDataset,
    *,
    kinds: Sequence[str] | None = None,
    fraction: float = 1.0,
    perturbed: int = PERTURBED,
    with_road: bool = False,
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "fp32",
    on_batch: Callable[[int, int], None] | None = None,
) -> ExplanationReport:
    """Measure where the heat lies and whether the model depends on it, for several kinds of map.

    Maps are those of the predicted class. Every measure is taken of two controls as well: a map of
    random cells, and a Gaussian blob in the centre. The same seed gives the same figures, whatever
    the batch size.

    Args:
        model: moved to `device` if one is given; its own mode is restored.
        dataset: with its evaluation transform; its classes must be the model's.
        kinds: of `ggam.explanations.explanation.MAP_TITLES`; None takes all that the model has.
        fraction: the share of the pictures to measure, drawn at random, above 0 and up to 1.
        perturbed: how many of these are perturbed for insertion, deletion, average drop and the
            randomisation check, drawn at random; at most all of them.
        with_road: measure ROAD on them too; needs pytorch-grad-cam, and seconds for each picture.
        seed: of the drawing, the random maps and the shuffled weights.
        batch_size: pictures at a time.
        workers: processes that read pictures; 0 reads them here.
        device: None leaves the model where it is.
        precision: `bf16` runs the backbone in half precision.
        on_batch: called with the forward passes done and those in all, each counted per picture.

    Raises:
        EvaluationError: for a share or a count out of range, as `evaluate` does, or if ROAD is asked for
            without pytorch-grad-cam.
        ValueError: for a kind of map that the model does not have.
        DataError: if a picture or a mask cannot be read.
    """
    check_fits(model, dataset)
    settings = planned(model, dataset, fraction=fraction, perturbed=perturbed, with_road=with_road, seed=seed)
    if device is not None:
        model.to(device)
    kinds = tuple(kinds or available_maps(model))
    rng = np.random.default_rng(seed)
    count = settings.pictures
    chosen = dataset.subset(np.sort(rng.permutation(len(dataset))[:count]).tolist())
    rows = np.sort(rng.permutation(count)[: settings.perturbed])
    each = (_PASSES + with_road * _ROAD_PASSES) * (len(kinds) + len(CONTROLS)) + len(STAGES) + 1
    total = count + each * len(rows)
    passes = _Passes(model, kinds, seed, batch_size, workers, precision, total, on_batch)
    report = _look(passes, chosen, settings)
    if not len(rows):
        return report
    measured, similarity = _perturb(passes, chosen.subset(rows.tolist()), with_road)
    for kind, metrics in measured.items():
        for metric, some in metrics.items():
            values = report.values[kind][metric] = np.full(count, np.nan)
            values[rows] = some
    return replace(report, similarity=similarity)


def planned(
    model: FineGrainedModel,
    dataset: FineGrainedDataset,
    *,
    fraction: float = 1.0,
    perturbed: int = PERTURBED,
    with_road: bool = False,
    seed: int = 0,
) -> Settings:
    """What `evaluate_explanations` will measure, given the same arguments.

    Raises:
        EvaluationError: as `evaluate_explanations`, for what can be seen beforehand.
    """
    if not 0 < fraction <= 1:
        raise EvaluationError(f"fraction {fraction:g}: expected a share above 0 and up to 1")
    if perturbed < 0:
        raise EvaluationError(f"perturbed {perturbed}: expected 0 pictures or more")
    if with_road:
        require_road()
    count = max(1, round(fraction * len(dataset)))
    return Settings(
        data=dataset.root.resolve().name,
        split=dataset.split,
        method=model.config.method,
        backbone=model.config.backbone,
        image_size=model.config.image_size,
        pictures=count,
        perturbed=min(perturbed, count),
        with_road=with_road,
        seed=seed,
    )


@dataclass
class _Passes:
    """How pictures are passed through a model, and how many were."""

    model: FineGrainedModel
    kinds: tuple[str, ...]
    seed: int
    batch_size: int
    workers: int
    precision: Precision
    total: int
    on_batch: Callable[[int, int], None] | None
    done: int = 0

    def count(self, passes: int) -> None:
        """Tell how many forward passes were made."""
        self.done += passes
        if self.on_batch is not None:
            self.on_batch(self.done, self.total)

    def explained(
        self, dataset: FineGrainedDataset
    ) -> Iterator[tuple[Tensor, Tensor, list[str], Explanation, dict[str, Tensor]]]:
        """What `batches_of` yields, with the explanation of each batch and its maps by kind."""
        batches = batches_of(self.model, dataset, batch_size=self.batch_size, workers=self.workers)
        for images, labels, names in batches:
            with autocast(self.model, self.precision):
                explanation, maps = explain_maps(self.model, images, kinds=self.kinds)
            self.count(len(labels))
            yield images, labels, names, explanation, maps

    def with_controls(self, maps: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """The maps of some pictures, a random one for each, and the same blob (1, G, G) for all."""
        like = maps[self.kinds[0]]
        chance = [np.random.default_rng((self.seed, crc32(name.encode()))) for name in names]
        random = np.stack([rng.random(like.shape[1:], dtype=np.float32) for rng in chance])
        controls = (torch.from_numpy(random).to(like), centre_map(GRID).to(like))
        return {**maps, **dict(zip(CONTROLS, controls, strict=True))}


def _look(passes: _Passes, dataset: FineGrainedDataset, settings: Settings) -> ExplanationReport:
    """Explain every picture once, and measure where the heat lies."""
    predictions: list[Prediction] = []
    rivals: list[int] = []
    agreement = np.full(len(dataset), np.nan)
    local: dict[str, list[LocalScores]] = defaultdict(list)
    maps: dict[str, list[np.ndarray]] = defaultdict(list)
    pairs = discriminative_pairs(dataset)
    for images, labels, names, explanation, found in passes.explained(dataset):
        rows = range(len(predictions), len(predictions) + len(labels))
        temperature = passes.model.config.temperature
        predictions += predictions_from(explanation.logits, labels, names, temperature=temperature)
        rival = explanation.logits.cpu().scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
        rivals += rival.tolist()
        if (channel := explanation.shown.get("channel")) is not None:
            with autocast(passes.model, passes.precision):
                _, weights = weights_at_features(passes.model, images, explanation.classes)
            agreement[rows] = rank_correlation(channel, weights)
        known = Annotations.of(dataset, rows)
        apart = None if pairs is None else pairs[labels, rival]
        for kind, heat in passes.with_controls(found, names).items():
            local[kind].append(local_scores(heat.float().cpu(), known, apart))
        for kind, heat in found.items():
            maps[kind].append(heat.float().cpu().numpy().copy())  # a copy keeps no tensor alive
    scores = {kind: LocalScores.joined(parts) for kind, parts in local.items()}
    report = ExplanationReport(
        settings=settings,
        class_names=dataset.class_names,
        part_names=dataset.part_names,
        predictions=tuple(predictions),
        rivals=tuple(rivals),
        values={kind: own.metrics() for kind, own in scores.items()},
        percentiles={kind: own.percentiles for kind, own in scores.items()},
        agreement=None if np.isnan(agreement).all() else agreement,
        similarity={},
        maps={kind: np.concatenate(parts) for kind, parts in maps.items()},
    )
    for kind, metrics in report.values.items():
        # The controls, whose maps are not kept, are never empty.
        heat = torch.from_numpy(report.maps.get(kind, np.ones((len(dataset), 1, 1))))
        metrics["empty"] = without_heat(heat).double().numpy()
    return report


def _perturb(
    passes: _Passes, dataset: FineGrainedDataset, with_road: bool
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, np.ndarray]]]:
    """Exchange pixels of pictures, and shuffle the model's weights.

    Returns:
        By kind and metric (N,), and by stage of the shuffling and kind (N,).
    """
    metrics: dict[str, dict[str, list[np.ndarray]]] = {}
    similarity: dict[str, dict[str, list[np.ndarray]]] = {}
    for images, _, names, explanation, maps in passes.explained(dataset):
        for kind, heat in passes.with_controls(maps, names).items():
            for metric, values in _faithfulness(passes, images, heat, explanation.classes, with_road):
                metrics.setdefault(kind, {}).setdefault(metric, []).append(values.cpu().double().numpy())
        for stage, kind, values in _after_forgetting(passes, images, maps, explanation.classes):
            similarity.setdefault(stage, {}).setdefault(kind, []).append(values)
    return _joined(metrics), _joined(similarity)


def _faithfulness(
    passes: _Passes, images: Tensor, heat: Tensor, classes: Tensor, with_road: bool
) -> Iterator[tuple[str, Tensor]]:
    """Each metric of one kind of map, (B,)."""
    score = probability_of(passes.model, passes.precision)
    heat = heat.expand(len(images), -1, -1)
    yield "insertion", insertion(score, images, heat, classes, seed=passes.seed).area
    passes.count(len(images) * (STEPS + 1))
    yield "deletion", deletion(score, images, heat, classes, seed=passes.seed).area
    passes.count(len(images) * (STEPS + 1))
    shown = confidence(score, images, heat, classes)
    yield "average_drop", shown.drop
    yield "increase", shown.increase
    passes.count(2 * len(images))
    if with_road:
        yield "road", road(score, images, heat, classes, seed=passes.seed)
        passes.count(_ROAD_PASSES * len(images))


def _after_forgetting(
    passes: _Passes, images: Tensor, maps: Mapping[str, Tensor], classes: Tensor
) -> Iterator[tuple[str, str, np.ndarray]]:
    """How alike the maps (B,) of the same classes still are, by stage of the randomisation and kind."""
    for stage, model in randomized(passes.model, images[:1], seed=passes.seed):
        with autocast(model, passes.precision):
            _, others = explain_maps(model, images, classes, kinds=passes.kinds)
        for kind, heat in maps.items():
            alike = np.nan_to_num(rank_correlation(heat, others[kind]))
            # A map that has become flat has nothing in common with one that was not.
            flat = heat.amax(dim=(1, 2)) == heat.amin(dim=(1, 2))
            yield stage, kind, np.where(flat.cpu().numpy(), np.nan, alike)
        passes.count(len(images))


def _joined(parts: Mapping[str, Mapping[str, list[np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    return {
        outer: {inner: np.concatenate(arrays) for inner, arrays in found.items()}
        for outer, found in parts.items()
    }
