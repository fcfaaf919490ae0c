"""A run from start to end: train, choose the epoch, calibrate it, evaluate once on the test pictures."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.fabric.utilities.seed import seed_everything
from torch import Tensor

from ggam._version import __version__
from ggam.backbones.build import eval_mode
from ggam.data.cache import PictureCache
from ggam.data.doctor.check import unreadable
from ggam.data.layouts.registry import load_dataset
from ggam.data.loaders import EpochBatches, eval_loader, without_traceback
from ggam.data.records import DataError, FineGrainedDataset, hold_out, limit_per_class
from ggam.methods.base import FineGrainedModel, require_answer
from ggam.methods.registry import create_model
from ggam.runs.model_folder import save_model
from ggam.runs.run import Results, Run, RunError
from ggam.system.devices import DeviceError, default_device, resolve_precision
from ggam.training.calibration import fit_temperature
from ggam.training.loop import Loop, build_fabric, read_checkpoint
from ggam.training.recipe import DataRecipe, Recipe, flat_options
from ggam.training.signals import Interrupted
from ggam.training.stages import planned_stages
from ggam.training.step import Batch, TrainingDiverged

_MACHINE_ONLY = {"workers", "devices", "nodes", "accelerator", "precision", "compile"}
"""What may differ between the parts of a resumed run."""
_NAMED_FILES = 20

Evaluate = Callable[[FineGrainedModel, FineGrainedDataset, Path], Mapping[str, float]]
"""(model, test pictures, folder for the report) → a summary with `top1`, `top5` and so on."""


@dataclass(frozen=True)
class RunConfig:
    """What `config.yaml` holds."""

    data: Path
    recipe: Recipe

    def write(self, run: Run) -> None:
        """Write `config.yaml`; the data are found again from any working directory."""
        run.write_config({"data": str(self.data.resolve()), "version": __version__, **self.recipe.to_dict()})

    @classmethod
    def read(cls, run: Run) -> "RunConfig":
        """Read `config.yaml`.

        Raises:
            RunError: if the folder is no run directory.
        """
        values = run.read_config()
        data = Path(values.pop("data"))
        values.pop("version", None)
        try:
            return cls(data, Recipe.from_dict(values))
        except (TypeError, ValueError) as error:
            raise RunError(f"{run.config_file}: not a recipe ({' '.join(str(error).split())})") from error


def fit(
    config: RunConfig, run: Run, evaluate: Evaluate, *, resume: bool = False, read: bool = False
) -> Results | None:
    """Train as the recipe says, then evaluate the last and the best epoch on the test pictures.

    Args:
        config: the data and the recipe.
        run: must be new, unless `resume`.
        evaluate: measures a model on the test pictures.
        resume: go on from the last checkpoint in `run`.
        read: every picture has been read already, and need not be looked over before training.

    Returns:
        What was measured; None on ranks other than the first.

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
    fabric = build_fabric(recipe)
    seed_everything(recipe.machine.seed, verbose=False)
    model = build_model(recipe, train.class_names, fresh=checkpoint is None)
    planned_stages(model, recipe.optimization.epochs)  # refuses too few epochs, and wrong stages
    require_answer(model)
    plain = train
    train, val, test = with_transforms(model, train, val, test)
    if _first_rank(recipe):  # what can be refused has been refused: from here on there is a run
        if not read:
            print(f"reading all {len(train) + len(val) + len(test)} pictures once", flush=True)
            require_readable(train, val, test)
        run.start()
        config.write(run)
    fabric.launch()
    try:
        if checkpoint is None:
            prepare_model(model, plain, recipe, fabric)
        loop = Loop(recipe, model, train, val, run, fabric)
        if checkpoint is not None:
            loop.restore(checkpoint)
        loop.run()
    except (Interrupted, TrainingDiverged):  # on all ranks together; the first one says so
        if fabric.is_global_zero:
            raise
        return None
    except DataError as error:
        raise without_traceback(error) from error
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the device's memory does not suffice for {recipe.data.batch_size} pictures at a time: lower "
            "--batch-size, and raise --accumulate to take as many for a step"
        ) from error
    if not fabric.is_global_zero:
        return None
    epochs, selected = _measure(config, run, model, val, test, evaluate, best_epoch=loop.best_epoch)
    results = Results(
        protocol=_protocol(recipe.data, selected),
        selected=selected,
        epochs=epochs,
        pictures={"train": len(train), "val": len(val), "test": len(test)},
        training_seconds=round(sum(float(row["seconds"]) for row in run.read_epochs()), 1),
    )
    run.write_results(results)
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
        **vars(recipe.options),
    ).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if recipe.machine.compile:
        # In place, so that no name of a parameter changes. The head stays eager: Grad-CAM
        # differentiates it, which a compiled graph does not allow.
        model.backbone.compile()
    return model


def find_checkpoint(config: RunConfig, run: Run, *, resume: bool) -> Path | None:
    """The checkpoint to go on from, None to start from the beginning.

    Raises:
        RunError: if a new run would overwrite something, or a resumed one would not be the same run.
    """
    if not resume:
        if _first_rank(config.recipe):
            run.require_new()
        return None
    stored = RunConfig.read(run)
    before, now = flat_options(stored.recipe.to_dict()), flat_options(config.recipe.to_dict())
    changed = [
        name for name in before | now if before.get(name) != now.get(name) and name not in _MACHINE_ONLY
    ]
    if stored.data.resolve() != config.data.resolve() or changed:
        what = ", ".join(f"{name}: {before.get(name)} → {now.get(name)}" for name in changed) or "data"
        raise RunError(f"{run.folder}: --resume continues the same run, but {what} changed; start a new run")
    return run.last_checkpoint if run.last_checkpoint.exists() else None


def prepare_model(model: FineGrainedModel, train: FineGrainedDataset, recipe: Recipe, fabric: Fabric) -> None:
    """Let a method that wants to start from the training pictures; the same on every rank."""
    if type(model).prepare is FineGrainedModel.prepare:
        return
    shown = train.with_transform(model.config.transform())
    loader = eval_loader(shown, batch_size=recipe.data.batch_size, workers=recipe.data.workers)

    def batches() -> Iterator[Batch]:
        for images, labels in loader:
            yield (
                images.to(fabric.device, memory_format=torch.channels_last),
                labels.to(fabric.device),
            )

    model.to(fabric.device)
    torch.manual_seed(recipe.machine.seed)
    half = resolve_precision(recipe.machine.precision, fabric.device) == "bf16"
    with eval_mode(model), torch.autocast(fabric.device.type, torch.bfloat16, enabled=half):
        model.prepare(batches())


def _measure(
    config: RunConfig,
    run: Run,
    model: FineGrainedModel,
    val: FineGrainedDataset,
    test: FineGrainedDataset,
    evaluate: Evaluate,
    *,
    best_epoch: int,
) -> tuple[dict[str, Mapping[str, float]], str]:
    """Calibrate the epochs on the validation part, save the chosen one, and touch the test pictures, once.

    Returns:
        What was measured, by `last` and `best`, and which of them is chosen.
    """
    measured: dict[str, Mapping[str, float]] = {}
    last_epoch = config.recipe.optimization.epochs
    chosen = "best" if best_epoch else "last"
    for name, epoch in {"last": last_epoch, "best": best_epoch}.items():
        if not epoch:
            continue
        if name == "best" and epoch == last_epoch:  # the same weights, measured already
            measured[name] = measured["last"]
            shutil.copytree(run.evaluation("last"), run.evaluation(name), dirs_exist_ok=True)
            save_model(model, run.model_folder)
            continue
        checkpoint = run.last_checkpoint if name == "last" else run.best_checkpoint
        model.load_state_dict(read_checkpoint(checkpoint)["model"])
        if len(val):
            temperature = _temperature(model.eval(), val, config.recipe)
            model.config = replace(model.config, temperature=temperature)
        measured[name] = {"epoch": epoch, **evaluate(model.eval(), test, run.evaluation(name))}
        if name == chosen:
            save_model(model, run.model_folder)
    return measured, chosen


def _temperature(model: FineGrainedModel, val: FineGrainedDataset, recipe: Recipe) -> float:
    """What makes the model's probabilities fit the validation part best."""
    device = default_device(recipe.machine.accelerator)
    half = resolve_precision(recipe.machine.precision, device) == "bf16"
    model.to(device)
    logits: list[Tensor] = []
    labels: list[Tensor] = []
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


def _first_rank(recipe: Recipe) -> bool:
    """Whether this is the process that writes, before the others are started.

    The only process of a run is, whatever a scheduler's variables say. Where Fabric starts the processes of
    each of several machines, it knows the rank on this machine only.
    """
    if recipe.machine.devices * recipe.machine.nodes == 1:
        return True
    alone_on_another = "RANK" not in os.environ and int(os.environ.get("NODE_RANK", 0)) > 0
    return getattr(rank_zero_only, "rank", 0) == 0 and not alone_on_another
