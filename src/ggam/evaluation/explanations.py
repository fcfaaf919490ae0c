"""Every measure of every kind of heat map over a split, beside two maps that know nothing of the picture."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from ggam.data.loaders import eval_loader
from ggam.data.records import FineGrainedDataset
from ggam.evaluation.accuracy import EvaluationError, Prediction, predictions_from
from ggam.evaluation.agreement import STAGES, channel_agreement, randomized, rank_correlation
from ggam.evaluation.annotations import GRID, Annotations, discriminative_pairs
from ggam.evaluation.estimates import CONTROLS
from ggam.evaluation.evaluate import Precision, check_fits, in_one_line, relative_path
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
from ggam.evaluation.heat import centre_map, peak
from ggam.evaluation.localization import LocalScores, local_scores
from ggam.explanations.explanation import available_maps, explain_maps, weights_at_features
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
        kinds: of `ggam.explanations.explanation.MAPS`; None takes all that the model has.
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
    passes = _Passes(
        model, kinds, seed, batch_size, workers, precision, _counter(count + each * len(rows), on_batch)
    )
    found = _look(passes, chosen)
    measured, similarity = (
        _perturb(passes, chosen.subset(rows.tolist()), with_road) if len(rows) else ({}, {})
    )
    return ExplanationReport(
        settings=settings,
        class_names=dataset.class_names,
        part_names=dataset.part_names,
        predictions=tuple(found.predictions),
        rivals=tuple(found.rivals),
        values=_values(found, rows, measured),
        percentiles={kind: scores.percentiles for kind, scores in found.local.items()},
        agreement=None if np.isnan(found.agreement).all() else found.agreement,
        similarity=similarity,
        maps=found.maps,
    )


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


@dataclass(frozen=True)
class _Passes:
    """How pictures are passed through a model."""

    model: FineGrainedModel
    kinds: tuple[str, ...]
    seed: int
    batch_size: int
    workers: int
    precision: Precision
    count: Callable[[int], None]
    """Told how many forward passes were made."""

    def images(self, dataset: FineGrainedDataset) -> Iterator[tuple[Tensor, Tensor]]:
        """The pictures on the model's device, with their labels."""
        loader = eval_loader(dataset, batch_size=self.batch_size, workers=self.workers)
        device = next(self.model.parameters()).device
        for images, labels in in_one_line(loader):
            yield images.to(device, memory_format=torch.channels_last), labels

    def autocast(self, images: Tensor) -> torch.autocast:
        """A block in the precision that was asked for."""
        return torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def with_controls(self, maps: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """The maps of some pictures, a random one for each, and the same blob (1, G, G) for all."""
        like = maps[self.kinds[0]]
        chance = [np.random.default_rng((self.seed, crc32(name.encode()))) for name in names]
        random = np.stack([rng.random(like.shape[1:], dtype=np.float32) for rng in chance])
        controls = (torch.from_numpy(random).to(like), centre_map(GRID).to(like))
        return {**maps, **dict(zip(CONTROLS, controls, strict=True))}


@dataclass(frozen=True)
class _Seen:
    """What one pass over N pictures shows."""

    predictions: list[Prediction]
    rivals: list[int]
    local: dict[str, LocalScores]
    maps: dict[str, np.ndarray]
    agreement: np.ndarray


def _look(passes: _Passes, dataset: FineGrainedDataset) -> _Seen:
    """Explain every picture once, and measure where the heat lies."""
    names = [relative_path(sample.path, dataset.root) for sample in dataset.samples]
    predictions: list[Prediction] = []
    rivals: list[int] = []
    agreement = np.full(len(dataset), np.nan)
    local: dict[str, LocalScores] = {}
    maps: dict[str, np.ndarray] = {}
    pairs = discriminative_pairs(dataset)
    for images, labels in passes.images(dataset):
        rows = range(len(predictions), len(predictions) + len(labels))
        with passes.autocast(images):
            explanation, found = explain_maps(passes.model, images, kinds=passes.kinds)
        some = [names[row] for row in rows]
        temperature = passes.model.config.temperature
        predictions += predictions_from(explanation.logits, labels, some, temperature=temperature)
        rival = _rivals(explanation.logits.cpu(), labels)
        rivals += rival.tolist()
        if (channel := explanation.shown.get("channel")) is not None:
            with passes.autocast(images):
                _, weights = weights_at_features(passes.model, images, explanation.classes)
            agreement[rows] = channel_agreement(channel, weights)
        known = Annotations.of(dataset, rows)
        apart = None if pairs is None else pairs[labels, rival]
        for kind, heat in passes.with_controls(found, some).items():
            heat = heat.float().cpu()
            scores = local_scores(heat, known, apart)
            if kind not in local:
                local[kind] = scores.blank(len(dataset))
            local[kind].put(rows.start, scores)
            if kind in found:
                if kind not in maps:
                    maps[kind] = np.empty((len(dataset), *heat.shape[1:]), dtype=np.float32)
                maps[kind][rows] = heat
        passes.count(len(labels))
    return _Seen(predictions, rivals, local, maps, agreement)


def _values(
    found: _Seen, rows: np.ndarray, measured: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, dict[str, np.ndarray]]:
    """All metrics by kind of map, per picture; those that only `rows` have are NaN elsewhere."""
    values = {kind: scores.metrics() for kind, scores in found.local.items()}
    for kind, metrics in values.items():
        heat = found.maps.get(kind)
        bare = None if heat is None else peak(torch.from_numpy(heat)).isnan().any(dim=1)
        # The controls are never empty.
        metrics["empty"] = np.zeros(len(found.rivals)) if bare is None else bare.double().numpy()
        for metric, some in measured.get(kind, {}).items():
            metrics[metric] = np.full(len(found.rivals), np.nan)
            metrics[metric][rows] = some
    return values


def _perturb(
    passes: _Passes, dataset: FineGrainedDataset, with_road: bool
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, np.ndarray]]]:
    """Exchange pixels of pictures, and shuffle the model's weights.

    Returns:
        By kind and metric (N,), and by stage of the shuffling and kind (N,).
    """
    names = [relative_path(sample.path, dataset.root) for sample in dataset.samples]
    metrics: dict[str, dict[str, list[np.ndarray]]] = {}
    similarity: dict[str, dict[str, list[np.ndarray]]] = {}
    done = 0
    for images, labels in passes.images(dataset):
        with passes.autocast(images):
            explanation, maps = explain_maps(passes.model, images, kinds=passes.kinds)
        passes.count(len(labels))
        some = names[done : done + len(labels)]
        done += len(labels)
        for kind, heat in passes.with_controls(maps, some).items():
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
    own = {kind: heat.float().cpu().flatten(1).numpy() for kind, heat in maps.items()}
    for stage, model in randomized(passes.model, images[:1], seed=passes.seed):
        with passes.autocast(images):
            _, others = explain_maps(model, images, classes, kinds=passes.kinds)
        for kind, heat in others.items():
            flat = heat.float().cpu().flatten(1).numpy()
            alike = rank_correlation(own[kind], flat)
            # A map that has become flat has nothing in common with one that was not.
            yield stage, kind, np.where(np.ptp(own[kind], axis=1) > 0, np.nan_to_num(alike), np.nan)
        passes.count(len(images))


def _rivals(logits: Tensor, labels: Tensor) -> Tensor:
    """The most probable class beside the label (B,): what the picture was, or was nearly, taken for."""
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)


def _joined(parts: Mapping[str, Mapping[str, list[np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    return {
        outer: {inner: np.concatenate(arrays) for inner, arrays in found.items()}
        for outer, found in parts.items()
    }


def _counter(total: int, tell: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """What adds up passes and tells how many of all are done."""
    done = 0

    def count(passes: int) -> None:
        nonlocal done
        done += passes
        if tell is not None:
            tell(done, total)

    return count
