"""Training as one call: `ggam.fit` in Python, and what `ggam train` does."""

import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ggam.data.layouts.registry import load_dataset
from ggam.deploy.export import Exported, export_model
from ggam.deploy.model_card import write_run_card
from ggam.deploy.predictions.run import Summary, predict_files
from ggam.deploy.predictor import TorchPredictor, accuracy_of
from ggam.deploy.serve.examples import keep_examples
from ggam.evaluation.accuracy import EvalReport
from ggam.evaluation.evaluate import evaluate
from ggam.evaluation.measure import evaluator
from ggam.explanations.explanation import Explanation, explain
from ggam.methods.base import FineGrainedModel
from ggam.report import write_report
from ggam.runs.run import Results, Run
from ggam.system.console import progress
from ggam.system.devices import default_device, resolve_precision
from ggam.training.recipe import Recipe
from ggam.training.run import RunConfig, fit as train_and_measure, load_parts


class TrainedRun(Run):
    """A finished run directory, and what one does with the model in it."""

    @cached_property
    def model(self) -> FineGrainedModel:
        """The model of the chosen epoch, in eval mode, on the device that the run was trained on."""
        return self.read_model().to(default_device(self.read_config()["accelerator"]))

    def evaluate(self, data: Path | str | None = None) -> EvalReport:
        """Measure the model on test pictures, in the run's own precision.

        Args:
            data: a data set; None takes the run's own. One without a split of its own is split as it was for
                training.

        Raises:
            DataError: if the data is not there, or a picture cannot be read.
            EvaluationError: if its classes are not the model's.
            DeviceError: if this machine has not got the run's device.
        """
        config = self.read_config()
        test = self.dataset("test") if data is None else load_dataset(data, split="test", seed=config["seed"])
        device = default_device(config["accelerator"])
        precision = resolve_precision(config["precision"], device)
        return evaluate(
            self.model, test.with_transform(self.model.config.transform()), device=device, precision=precision
        )

    def explain(self, images: Tensor, classes: Tensor | None = None) -> Explanation:
        """`ggam.explain` of this model."""
        return explain(self.model, images, classes)

    def predict(self, paths: Sequence[Path | str] | Path | str, out: Path | str | None = None) -> Summary:
        """Predict pictures, or folders of them, into a table, as `ggam predict` does.

        Args:
            paths: picture files and folders of them.
            out: the CSV file to make, or to go on with; None takes `predictions.csv` in the run directory.

        Returns:
            How many pictures are in the table, how many could not be read, and where both are listed.
        """
        sources = [paths] if isinstance(paths, Path | str) else list(paths)
        predictor = TorchPredictor(self.model, device=next(self.model.parameters()).device)
        table = self.folder / "predictions.csv" if out is None else Path(out)
        return predict_files(predictor, [str(source) for source in sources], table, workers=0)

    def export(self, out: Path | str, **options: Any) -> Exported:
        """Write the model into one file: `ggam.deploy.export.export_model`, and its options."""
        return export_model(self.model, out, accuracy=accuracy_of(self), **options)


def fit(data: Path | str, *, out: Path | str, resume: bool = False, **recipe: Any) -> TrainedRun:
    """Train as `ggam train` does: the same run directory, the same numbers, a report at the end.

    Ctrl-C, or a notebook's stop button, ends it with everything saved; `resume=True` goes on. On several
    devices, this process goes on behind the call and the others end in it.

    Args:
        data: the folder of the data set.
        out: the run directory to make.
        resume: continue the run in `out` from its last checkpoint, with its own recipe; of that only what
            has no influence on results, like `workers`, may be given anew.
        **recipe: the options of `ggam train` by name, those of a method as a mapping under its name:
            `epochs=30, method="ggam", ggam={"guidance_weight": 2.0}`.

    Raises:
        ValueError: for an option that there is not, or as `ggam train` complains.
        Interrupted: if it was stopped.
    """
    run = TrainedRun(out)
    stored = RunConfig.read(run).recipe.to_dict() if resume else {}
    chosen = Recipe.from_dict({**stored, **recipe})
    if train_run(RunConfig(Path(data), chosen), run, resume=resume) is None:
        sys.exit()  # a rank other than the first
    return run


def train_run(config: RunConfig, run: Run, *, resume: bool = False) -> Results | None:
    """Train, measure, and write the card, the examples and the report.

    Args:
        config: the data and the recipe.
        run: must be new, unless `resume`.
        resume: go on from the last checkpoint.

    Returns:
        What was measured; None on ranks other than the first.

    Raises:
        ValueError, Interrupted: as `ggam.training.run.fit` says.
    """
    machine, workers = config.recipe.machine, config.recipe.data.workers
    measure = evaluator(machine.precision, workers, accelerator=machine.accelerator)
    results = train_and_measure(config, run, measure, resume=resume)
    if results is None:
        return None
    model = run.read_model().to(default_device(machine.accelerator))
    test = run.dataset("test").with_transform(model.config.transform())
    write_run_card(run, model, test)
    # Else the run was finished before: ggam evaluate may have added to the page, and somebody may have
    # changed the examples, or removed them.
    if not run.report_page.is_file():
        keep_examples(run, load_parts(config)[0], machine.seed)
        with progress("drawing the gallery") as step:
            write_report(run, model, test, workers=workers, on_batch=step)
    return results
