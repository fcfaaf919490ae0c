"""Run directories: which file lies where, and what is in the small ones.

Nothing else reads or writes these files: `config.yaml` (the data and the recipe), `metrics.csv` (a row per
epoch), `results.json` (what was measured at the end, and so the sign that the run is finished).
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ggam.data.layouts.registry import load_dataset
from ggam.data.records import FineGrainedDataset
from ggam.methods.base import FineGrainedModel
from ggam.runs.model_folder import CARD_FILE, CONFIG_FILE, is_hub_id, load_model
from ggam.system.files import write_atomic

_EXPECTED = f"expected a run directory that ggam train made, or a model folder with {CONFIG_FILE}"
_EPOCHS = ("last", "best")


class RunError(ValueError):
    """A run directory that cannot be started, continued or read."""


@dataclass(frozen=True)
class Results:
    """What a run measured on the test pictures, at its end."""

    protocol: str
    """What the model was trained and chosen on, in words (docs/protocol.md)."""
    selected: str
    """The epoch whose weights are the run's model: `last` or `best`."""
    epochs: Mapping[str, Mapping[str, float]]
    """`last`, and `best` where one was chosen → `epoch` (from 1), `top1` and the other measures."""
    pictures: Mapping[str, int]
    """How many: `train`, `val`, `test`."""
    training_seconds: float

    @property
    def chosen(self) -> Mapping[str, float]:
        """What was measured of the run's model."""
        return self.epochs[self.selected]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `results.json` holds them."""
        ends = {"pictures": dict(self.pictures), "training_seconds": self.training_seconds}
        return {"protocol": self.protocol, "selected": self.selected, **self.epochs, **ends}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Results":
        """What `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: if something is missing or of another kind.
        """
        epochs = {name: dict(values[name]) for name in _EPOCHS if name in values}
        if values["selected"] not in epochs:
            raise ValueError(f"selected is {values['selected']!r}, expected one of {', '.join(epochs)}")
        return cls(
            protocol=values["protocol"],
            selected=values["selected"],
            epochs=epochs,
            pictures=dict(values["pictures"]),
            training_seconds=float(values["training_seconds"]),
        )


@dataclass(frozen=True, init=False)
class Run:
    """A run directory, which need not be there yet."""

    folder: Path

    def __init__(self, folder: Path | str) -> None:
        object.__setattr__(self, "folder", Path(folder))

    @property
    def config_file(self) -> Path:
        """The data and the recipe."""
        return self.folder / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """A row per epoch."""
        return self.folder / "metrics.csv"

    @property
    def results_file(self) -> Path:
        """What was measured at the end."""
        return self.folder / "results.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of what training goes on from."""
        return self.folder / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The state that training goes on from."""
        return self.checkpoints / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        """The weights of the best epoch on the validation part; not there where none is held out."""
        return self.checkpoints / "best.ckpt"

    @property
    def model_folder(self) -> Path:
        """The model of the chosen epoch, for use."""
        return self.folder / "model"

    @property
    def card(self) -> Path:
        """The model card."""
        return self.model_folder / CARD_FILE

    @property
    def report_page(self) -> Path:
        """The report for people; its pictures lie beside it."""
        return self.folder / "report" / "index.html"

    @property
    def examples(self) -> Path:
        """The folder of small pictures of each class, for the page of `ggam serve`."""
        return self.folder / "examples"

    @property
    def explanations(self) -> Path:
        """The folder of the panels of `ggam explain`."""
        return self.folder / "explanations"

    def evaluation(self, name: str) -> Path:
        """The folder of what was measured of an epoch (`last`, `best`), or on the data set of that name."""
        return self.folder / "evaluation" / name

    @property
    def finished(self) -> bool:
        """Whether it is trained and measured."""
        return self.results_file.is_file()

    def require_new(self) -> None:
        """Refuse to write over something.

        Raises:
            RunError: if the folder is a file, or is not empty.
        """
        if self.folder.is_file():
            raise RunError(f"{self.folder} is a file: expected a folder, or a name for a new one")
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise RunError(f"{self.folder} is not empty: continue it with --resume, or choose another --out")

    def start(self) -> None:
        """Make the folders that training writes into."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Write `config.yaml`: plain values, `data` and `version` among them."""
        write_atomic(self.config_file, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))

    def read_config(self) -> dict[str, Any]:
        """What `write_config` wrote.

        Raises:
            RunError: if the folder is no run directory, or the file is damaged.
        """
        self._require(self.config_file)
        try:
            values = yaml.safe_load(self.config_file.read_text("utf-8"))
            if not isinstance(values, dict) or not isinstance(values.get("data"), str):
                raise ValueError("expected a mapping of settings, data among them")
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise _damaged(self.config_file, error, "start a new run") from error
        return values

    def write_results(self, results: Results) -> None:
        """Write `results.json`, the last step of a run."""
        write_atomic(self.results_file, json.dumps(results.to_dict(), indent=2) + "\n")

    def read_results(self) -> Results:
        """What `write_results` wrote.

        Raises:
            RunError: if the folder is no finished run, or the file is damaged.
        """
        self._require(self.results_file)
        try:
            return Results.from_dict(json.loads(self.results_file.read_text("utf-8")))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise _damaged(self.results_file, error, "ggam train with --resume writes it again") from error

    def write_epochs(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `metrics.csv` whole; a column that a row lacks is empty there."""
        text = io.StringIO(newline="")
        columns = dict.fromkeys(column for row in rows for column in row)
        writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.metrics_file, text.getvalue())

    def read_epochs(self) -> list[dict[str, str]]:
        """The rows of `metrics.csv`; none before the first epoch has ended.

        Raises:
            RunError: if the file is damaged.
        """
        if not self.metrics_file.is_file():
            return []
        try:
            with self.metrics_file.open(newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file, restval=""))
        except (OSError, ValueError, csv.Error) as error:
            raise _damaged(self.metrics_file, error, "remove it to go on without its curves") from error

    def read_model(self) -> FineGrainedModel:
        """The model of the chosen epoch, in eval mode.

        Raises:
            RunError: if the folder is no finished run.
            CheckpointError: if the model is damaged.
        """
        self._require(self.results_file)
        return load_model(self.model_folder)

    def dataset(self, split: str) -> FineGrainedDataset:
        """A split of the run's data, without a transform: of data that is split by chance, as it was then.

        Raises:
            RunError: as `read_config` says.
            DataError: if the data is not there any more, or cannot be read.
        """
        config = self.read_config()
        seed, layout = config.get("seed", 0), config.get("layout")
        return load_dataset(config["data"], split=split, layout=layout, seed=seed)

    def _require(self, file: Path) -> None:
        """Say what the folder is instead, if a file is not there.

        Raises:
            RunError: if so.
        """
        if file.is_file():
            return
        if not self.folder.exists():
            raise RunError(f"{self.folder}: no such folder; {_EXPECTED}")
        if not self.folder.is_dir():
            export = "a file of ggam export is for ggam predict and ggam serve"
            raise RunError(f"{self.folder}: a file; {_EXPECTED} ({export})")
        if not self.config_file.is_file():
            raise RunError(f"{self.folder}: not a run directory: holds no trained model; {_EXPECTED}")
        raise RunError(
            f"{self.folder}: the run is not finished; continue it with "
            f"ggam train --out {self.folder} --resume"
        )


def open_model(source: Path | str) -> tuple[FineGrainedModel, Run | None]:
    """A trained model, in eval mode, and the run that made it where that is known.

    Args:
        source: a run directory, a model folder, or, as text, the hub id of a model that was downloaded.

    Raises:
        RunError: if it is none of these, or a run that is not finished.
        CheckpointError: if the model is damaged, or there is none of that hub id.
    """
    run = Run(source)
    if (run.folder / CONFIG_FILE).is_file() or (not run.folder.exists() and is_hub_id(source)):
        return load_model(source), None
    return run.read_model(), run


def _damaged(file: Path, error: Exception, remedy: str) -> RunError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return RunError(f"{file}: damaged ({reason}); {remedy}")
