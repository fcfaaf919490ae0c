"""What was measured of heat maps: means, intervals, what says nothing, and files for a page to draw on."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ggam.drawing.tables import to_csv
from ggam.evaluation.accuracy import EvaluationError, Prediction
from ggam.evaluation.estimates import Estimate, estimate, reading
from ggam.evaluation.metrics import METRICS
from ggam.explanations.explanation import MAP_TITLES
from ggam.system.files import replacing, write_atomic

SUMMARY_FILE = "explanations.json"
PICTURES_FILE = "explanations.csv"
TABLE_FILE = "explanations.md"
MAPS_FILE = "maps.npz"


@dataclass(frozen=True)
class Settings:
    """What was measured, and how."""

    data: str
    """The name of the data set's folder."""
    split: str
    method: str
    backbone: str | None
    image_size: int
    """Side of the crop, in pixels."""
    pictures: int
    perturbed: int
    """Pictures that were perturbed."""
    with_road: bool
    seed: int


@dataclass(frozen=True)
class ExplanationReport:
    """What was measured of N pictures' maps of the predicted classes, by kind of map.

    Attributes:
        settings: what was measured, and how.
        class_names: K names.
        part_names: P names.
        predictions: one for each picture.
        rivals: for each picture, the most probable class beside its label.
        values: by kind and metric, per picture (N,); NaN where a picture has nothing to measure. `empty` is
            1 for a map without heat.
        percentiles: by kind, the rank of the heat at each part (N, P).
        agreement: Spearman's ρ of S and β (N,), for methods with attention.
        similarity: by stage of the randomisation and kind, Spearman's ρ with the map before (M,).
        maps: by kind without the controls, the raw maps (N, H, W).
    """

    settings: Settings
    class_names: tuple[str, ...]
    part_names: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    rivals: tuple[int, ...]
    values: dict[str, dict[str, np.ndarray]] = field(repr=False)
    percentiles: dict[str, np.ndarray] = field(repr=False)
    agreement: np.ndarray | None = field(repr=False)
    similarity: dict[str, dict[str, np.ndarray]] = field(repr=False)
    maps: dict[str, np.ndarray] = field(repr=False)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that there are values of, in the order of `METRICS`."""
        return tuple(metric for metric in METRICS if metric in self.values["centre"])

    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """By metric and kind, the mean with its interval, held against the centre blob."""
        return {
            metric: estimate(
                {kind: values[metric] for kind, values in self.values.items()},
                higher=METRICS[metric].higher_is_better,
                seed=self.settings.seed,
            )
            for metric in self.metrics
        }

    def write(self, directory: Path | str) -> None:
        """Write `explanations.json`, `.csv` (a row for each picture and kind), `.md` and `maps.npz`.

        Raises:
            EvaluationError: if the folder holds explanations that differ in their `Settings`.
        """
        directory = Path(directory)
        refuse_others(directory, self.settings)
        with replacing(directory / MAPS_FILE) as file:
            paths = np.array([prediction.path for prediction in self.predictions])
            np.savez_compressed(file, paths=paths, **self.maps)  # pyright: ignore[reportArgumentType]
        write_atomic(directory / PICTURES_FILE, self._pictures())
        write_atomic(directory / TABLE_FILE, self.markdown())
        write_atomic(directory / SUMMARY_FILE, json.dumps(self.summary(), indent=1) + "\n")

    def summary(self) -> dict[str, Any]:
        """All means in one nested mapping, for JSON; a mean of nothing is None."""
        return {
            "settings": asdict(self.settings),
            "metrics": {
                metric: {
                    **METRICS[metric]._asdict(),
                    "reading": reading(estimates),
                    "kinds": {kind: estimate._asdict() for kind, estimate in estimates.items()},
                }
                for metric, estimates in self.estimates().items()
            },
            "empty": {kind: float(values["empty"].mean()) for kind, values in self.values.items()},
            "parts": {
                kind: dict(zip(self.part_names, map(_mean, ranks.T), strict=True))
                for kind, ranks in self.percentiles.items()
            },
            "agreement": None if self.agreement is None else _mean(self.agreement),
            "randomisation": {
                stage: {kind: _mean(values) for kind, values in kinds.items()}
                for stage, kinds in self.similarity.items()
            },
            "per_class": self._per_class(),
        }

    def rows(self, *, brief: bool = False) -> list[list[str]]:
        """The table of the metrics in percent, its header first; * marks what beats the blob in the centre.

        Args:
            brief: the means only, without intervals, numbers of pictures and words.
        """
        table = [["metric", *self.values] if brief else ["metric", "pictures", *self.values, "reading"]]
        for metric, estimates in self.estimates().items():
            named = METRICS[metric].directed
            means = [f"{100 * one.mean:.1f}{_star(one)}" for one in estimates.values()]
            if brief:
                table.append([named, *means])
                continue
            spreads = (f" ({100 * one.low:.1f}–{100 * one.high:.1f})" for one in estimates.values())
            cells = map("".join, zip(means, spreads, strict=True))
            pictures = str(max(one.pictures for one in estimates.values()))
            table.append([named, pictures, *cells, reading(estimates)])
        return table

    def notes(self) -> list[str]:
        """What the table does not say: what was measured, empty maps, and S against β."""
        one = self.settings
        perturbed = f"{one.perturbed} of them, drawn at random, were" if one.perturbed else "none was"
        empty = ", ".join(f"{MAP_TITLES[kind]} {self.values[kind]['empty'].mean():.1%}" for kind in self.maps)
        texts = [
            f"{one.pictures} pictures of {one.data} ({one.split}), maps of the predicted class; "
            f"{perturbed} perturbed.",
            f"Maps without any heat, which count as misses: {empty}.",
        ]
        if self.agreement is not None and (known := ~np.isnan(self.agreement)).any():
            mean, uniform = self.agreement[known].mean(), (~known).mean()
            texts.append(
                f"Rank correlation of channel attention S with Grad-CAM's β: {mean:.3f}; not defined on "
                f"{uniform:.1%} of the pictures, where all channels have the same S."
            )
        return texts

    def forgetting(self) -> list[list[str]]:
        """The table of the randomisation check, its header first; empty where nothing was perturbed."""
        if not self.similarity:
            return []
        rows = [
            [stage, *(_shown(found[kind]) for kind in self.maps)] for stage, found in self.similarity.items()
        ]
        return [["shuffled weights", *self.maps], *rows]

    def markdown(self) -> str:
        """The tables and the notes."""
        notes = "\n".join(f"- {text}" for text in self.notes())
        parts = [_markdown(self.rows()), notes + "\n"]
        if self.similarity:
            parts += [
                "Rank correlation of each map with that of the same model once weights are shuffled "
                "(1: the map does not depend on them):\n",
                _markdown(self.forgetting()),
            ]
        return "\n".join(parts)

    def _per_class(self) -> dict[str, dict[str, dict[str, float | None]]]:
        labels = np.array([prediction.label for prediction in self.predictions])
        return {
            name: {
                kind: {metric: _mean(values[metric][labels == label]) for metric in self.metrics}
                for kind, values in self.values.items()
            }
            for label, name in enumerate(self.class_names)
            if (labels == label).any()
        }

    def _pictures(self) -> str:
        """A row for each picture and kind; nothing where there is nothing to measure."""
        columns = ["empty", *self.metrics]
        rows = []
        for number, (prediction, rival) in enumerate(zip(self.predictions, self.rivals, strict=True)):
            agreement = np.nan if self.agreement is None else self.agreement[number]
            known = [prediction.path, prediction.label, prediction.predicted]
            known += [_cell(prediction.probability), rival, _cell(agreement)]
            for kind, values in self.values.items():
                rows.append([*known, kind, *(_cell(values[column][number]) for column in columns)])
        header = ["path", "label", "predicted", "probability", "rival", "agreement", "kind", *columns]
        return to_csv(header, rows)


def refuse_others(directory: Path, settings: Settings) -> None:
    """Let nobody lose the explanations of another method, backbone, data set or number of pictures.

    Other weights of the same network are the same settings: training it further replaces what was measured.

    Raises:
        EvaluationError: if the folder holds others.
    """
    file = directory / SUMMARY_FILE
    if not file.exists():
        return
    try:
        there = json.loads(file.read_text("utf-8"))["settings"]
    except (ValueError, KeyError, TypeError):
        there = {}
    own = asdict(settings)
    differing = [f"{key} {there.get(key)} there, {own[key]} now" for key in own if there.get(key) != own[key]]
    if differing:
        raise EvaluationError(
            f"{file} holds other explanations ({differing[0]}); choose another folder, or remove it"
        )


def _markdown(rows: list[list[str]]) -> str:
    header, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([header, "|" + "---|" * len(rows[0]), *others, ""])


def _star(estimate: Estimate) -> str:
    return "*" if estimate.against_centre == "better" else ""


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _shown(values: np.ndarray) -> str:
    mean = _mean(values)
    return "–" if mean is None else f"{mean:.2f}"


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
