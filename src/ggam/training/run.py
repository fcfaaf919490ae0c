"""A run directory from start to end: train, choose, evaluate once on the test pictures.

A run directory holds `config.yaml` (the recipe and the data), `checkpoints/` (last and best),
`metrics.csv` (a row per epoch), TensorBoard events, `model/` (the chosen epoch, for use),
`evaluation/` (last and best epoch on the test pictures) and `results.json` (a summary of it).
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import seed_everything

from ggam._version import __version__
from ggam.data.cache import PictureCache
from ggam.data.doctor.check import unreadable
from ggam.data.layouts.registry import load_dataset
from ggam.data.loaders import EpochBatches, FineGrainedDataModule, eval_loader
from ggam.data.records import DataError, FineGrainedDataset, hold_out, limit_per_class
from ggam.methods.base import FineGrainedModel
from ggam.methods.registry import create_model
from ggam.runs.model_folder import save_model
from ggam.system.devices import default_device
from ggam.system.files import write_atomic
from ggam.training.calibration import fit_temperature
from ggam.training.callbacks import BEST, LAST, read_epochs
from ggam.training.module import TrainingModule
from ggam.training.recipe import DataRecipe, Recipe, resolve_precision
from ggam.training.trainer import CHECKPOINTS, METRICS, build_trainer, run_trainer

CONFIG = "config.yaml"
RESULTS = "results.json"
_MACHINE_ONLY = {"workers", "devices", "nodes", "accelerator", "precision", "compile"}
"""What may differ between the parts of a resumed run."""

_NAMED_FILES = 20

Evaluate = Callable[[FineGrainedModel, FineGrainedDataset, Path], Mapping[str, float]]
"""(model, test pictures, folder for the report) → a summary with `top1`, `top5` and so on."""


class RunError(ValueError):
    """A run directory that cannot be started, continued or read."""


@dataclass(frozen=True)
class RunConfig:
    """What `config.yaml` holds."""

    data: Path
    recipe: Recipe

    def write(self, run: Path) -> None:
        """Write `config.yaml`; the data are found again from any working directory."""
        values = {"data": str(self.data.resolve()), "ggam": __version__, **self.recipe.to_flat()}
        write_atomic(run / CONFIG, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    @classmethod
    def read(cls, run: Path) -> "RunConfig":
        """Read `config.yaml`.

        Raises:
            RunError: if the folder is no run directory.
        """
        try:
            values = yaml.safe_load((run / CONFIG).read_text("utf-8"))
            data = Path(values.pop("data"))
            values.pop("ggam")
            return cls(data, Recipe.from_flat(values))
        except (OSError, KeyError, AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise RunError(f"{run}: not a run directory ({CONFIG} cannot be read: {reason})") from error


def fit(
    config: RunConfig, run: Path, evaluate: Evaluate, *, resume: bool = False, read: bool = False
) -> dict[str, Any] | None:
    """Train as the recipe says, then evaluate the last and the best epoch on the test pictures.

    Args:
        config: the data and the recipe.
        run: the run directory; must be new, unless `resume`.
        evaluate: measures a model on the test pictures.
        resume: go on from the last checkpoint in `run`.
        read: every picture has been read already, and need not be looked over before training.

    Returns:
        What `results.json` holds; None on ranks other than the first.

    Raises:
        RunError: if the directory is in use, there is nothing to resume, or the pictures are too few.
        DeviceError: if the devices are not there, or their memory does not suffice.
        DataError: if the data cannot be read.
        TrainingDiverged: if the loss stops being a number.
        Interrupted: if a signal stopped the run; it can be resumed.
    """
    recipe = config.recipe
    checkpoint = find_checkpoint(config, run, resume=resume)
    train, val, test = load_parts(config)
    trainer = build_trainer(recipe, run, validate=len(val) > 0)
    seed_everything(recipe.machine.seed, verbose=False)
    model = build_model(recipe, train.class_names, fresh=checkpoint is None)
    train, val, test = with_transforms(model, train, val, test)
    module = TrainingModule(model, recipe.optimization, recipe.machine.seed)
    data = FineGrainedDataModule(
        train,
        val,
        batch_size=recipe.data.batch_size,
        seed=recipe.machine.seed,
        workers=recipe.data.workers,
    )
    if _first_rank():  # what can be refused has been refused: from here on there is a run
        if not read:
            print(f"reading all {len(train) + len(val) + len(test)} pictures once", flush=True)
            require_readable(train, val, test)
        (run / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        config.write(run)
    run_trainer(trainer, module, data, checkpoint)
    if not trainer.is_global_zero:
        return None
    results = _finish(config, run, model, val, test, evaluate)
    results["pictures"] = {"train": len(train), "val": len(val), "test": len(test)}
    spent = sum(float(row["seconds"]) for row in read_epochs(run / METRICS))
    results["training_seconds"] = round(spent, 1)
    write_atomic(run / RESULTS, json.dumps(results, indent=2) + "\n")
    return results


def load_parts(config: RunConfig) -> tuple[FineGrainedDataset, FineGrainedDataset, FineGrainedDataset]:
    """The training, validation and test pictures of a run, without transforms."""
    recipe = config.recipe.data
    seed = config.recipe.machine.seed
    train = load_dataset(config.data, split="train", layout=recipe.layout, seed=seed)
    test = load_dataset(config.data, split="test", layout=recipe.layout, seed=seed)
    if recipe.cache is not None:
        train = train.with_cache(PictureCache(recipe.cache))
    if recipe.train_per_class is not None:
        train = limit_per_class(train, recipe.train_per_class, seed)
    train, val = hold_out(train, recipe.val_fraction, seed)
    machine = config.recipe.machine
    ranks = machine.devices * machine.nodes
    EpochBatches(len(train), recipe.batch_size, seed, ranks=ranks)  # refuses too few pictures
    if 0 < len(val) < ranks:
        raise RunError(
            f"{len(val)} validation pictures for {ranks} devices: expected one for each at least; raise "
            "--val-fraction, or choose the last epoch with --val-fraction 0"
        )
    return train, val, test


def require_readable(*parts: FineGrainedDataset) -> None:
    """Open every picture before time is spent on training.

    Raises:
        DataError: naming the files that cannot be read.
    """
    broken = [finding for part in parts for finding in unreadable(part)]
    if broken:
        named = "; ".join(f"{path} ({reason})" for path, reason in broken[:_NAMED_FILES])
        more = f" and {len(broken) - _NAMED_FILES} more" if len(broken) > _NAMED_FILES else ""
        count = "1 picture" if len(broken) == 1 else f"{len(broken)} pictures"
        raise DataError(f"{count} cannot be read: {named}{more}; repair or remove what is broken")


def with_transforms(model: FineGrainedModel, *parts: FineGrainedDataset) -> tuple[FineGrainedDataset, ...]:
    """The parts with the transforms the model was made for; only `train` is augmented."""
    return tuple(part.with_transform(model.config.transform(augment=part.split == "train")) for part in parts)


def build_model(recipe: Recipe, class_names: tuple[str, ...], *, fresh: bool = True) -> FineGrainedModel:
    """The model of a recipe, channels last, its backbone compiled if asked for.

    Args:
        recipe: which model.
        class_names: K names.
        fresh: start from the recipe's pre-trained weights; False where a checkpoint will replace them.
    """
    model = create_model(
        recipe.backbone,
        method=recipe.model.method,
        pretrained=recipe.model.pretrained and fresh,
        weights=recipe.model.weights if fresh else None,
        stage=recipe.model.stage,
        image_size=recipe.model.image_size,
        class_names=class_names,
        **recipe.method_options,
    ).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if recipe.machine.compile:
        # In place, so that no name of a parameter changes. The head stays eager: Grad-CAM
        # differentiates it, which a compiled graph does not allow.
        model.backbone.compile()
    return model


def find_checkpoint(config: RunConfig, run: Path, *, resume: bool) -> Path | None:
    """The checkpoint to go on from, None to start from the beginning.

    Raises:
        RunError: if a new run would overwrite something, or a resumed one would not be the same run.
    """
    if not resume:
        if _first_rank() and run.is_file():
            raise RunError(f"{run} is a file: expected a folder, or a name for a new one")
        if _first_rank() and run.is_dir() and any(run.iterdir()):
            raise RunError(f"{run} is not empty: continue it with --resume, or choose another --out")
        return None
    stored = RunConfig.read(run)
    before, now = stored.recipe.to_flat(), config.recipe.to_flat()
    changed = [name for name in now if before.get(name) != now[name] and name not in _MACHINE_ONLY]
    if stored.data.resolve() != config.data.resolve() or changed:
        what = ", ".join(f"{name}: {before.get(name)} → {now[name]}" for name in changed) or "data"
        raise RunError(f"{run}: --resume continues the same run, but {what} changed; start a new run")
    checkpoint = run / CHECKPOINTS / LAST
    return checkpoint if checkpoint.exists() else None


def _finish(
    config: RunConfig,
    run: Path,
    model: FineGrainedModel,
    val: FineGrainedDataset,
    test: FineGrainedDataset,
    evaluate: Evaluate,
) -> dict[str, Any]:
    """Choose and calibrate the epoch on the validation part, save it, and touch the test pictures, once."""
    folder = run / CHECKPOINTS
    chosen = "best" if (folder / BEST).exists() else "last"
    results: dict[str, Any] = {"protocol": _protocol(config.recipe.data, chosen), "selected": chosen}
    last = _load(folder / LAST)
    epochs = {"last": last["epoch"] + 1}
    if chosen == "best":
        epochs["best"] = last["callbacks"]["Checkpoints"]["best_epoch"]
    for name, epoch in epochs.items():
        if name == "best" and epoch == epochs["last"]:  # the same weights, measured already
            results[name] = results["last"]
            shutil.copytree(run / "evaluation/last", run / "evaluation/best", dirs_exist_ok=True)
            save_model(model, run / "model")
            continue
        state = _load(folder / f"{name}.ckpt")["state_dict"]
        model.load_state_dict(
            {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
        )
        if len(val):
            temperature = _temperature(model.eval(), val, config.recipe)
            model.config = replace(model.config, temperature=temperature)
        summary = evaluate(model.eval(), test, run / "evaluation" / name)
        results[name] = {"epoch": epoch, **summary}
        if name == chosen:
            save_model(model, run / "model")
    return results


def _temperature(model: FineGrainedModel, val: FineGrainedDataset, recipe: Recipe) -> float:
    """What makes the model's probabilities fit the validation part best."""
    device = default_device(recipe.machine.accelerator)
    half = resolve_precision(recipe.machine.precision, device) == "bf16"
    model.to(device)
    logits, labels = [], []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        for images, targets in eval_loader(
            val, batch_size=recipe.data.batch_size, workers=recipe.data.workers
        ):
            images = images.to(device, memory_format=torch.channels_last)
            logits.append(model(images).logits.float().cpu())
            labels.append(targets)
    return fit_temperature(torch.cat(logits), torch.cat(labels))


def _protocol(recipe: DataRecipe, chosen: str) -> str:
    """What the model was trained and chosen on, in words (docs/protocol.md)."""
    words = (
        f"best epoch chosen on {recipe.val_fraction:.0%} of the training pictures, held out"
        if chosen == "best"
        else "last epoch, no training picture held out (the paper's protocol)"
    )
    few = recipe.train_per_class
    return words if few is None else f"{words}; at most {few} training pictures per class"


def _first_rank() -> bool:
    """Whether this is the process that writes, before Lightning has set up the others.

    Where Lightning starts the processes of each of several machines, it knows the rank on this machine
    only.
    """
    alone_on_another = "RANK" not in os.environ and int(os.environ.get("NODE_RANK", 0)) > 0
    return getattr(rank_zero_only, "rank", 0) == 0 and not alone_on_another


def _load(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, map_location="cpu", weights_only=True)
