"""The `ggam` command: a table of names and functions; nothing heavy is imported before one runs."""

import os
import sys
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection, CycloptsError
from cyclopts.config import Dict

from ggam._version import __version__

COMMANDS = {
    "train": ("train:train", "Train a model on a data set and evaluate it once on the test pictures."),
    "evaluate": ("evaluate:evaluate", "Measure a trained model: accuracy, per class, confusions."),
    "explain": ("evaluate:explain", "Say what pictures show, and draw where the model looked."),
    "predict": ("deploy:predict", "Predict any number of pictures into a table."),
    "export": ("deploy:export", "Write a trained model into one file, ONNX or torch.export."),
    "methods": ("methods:methods", "List the systems that can be trained, their options and their papers."),
    "study": ("study:study", "Run one of the paper's experiments with several seeds, and draw its result."),
    "figure3": ("figure3:figure3", "Draw where the networks of a table3 study look: the paper's Figure 3."),
    "serve": ("serve:serve", "Answer requests for predictions over HTTP, and show a page for people."),
    "card": ("share:card", "Write the model card of a trained model anew."),
    "push": ("share:push", "Upload a trained model to the Hugging Face hub, private unless told otherwise."),
    "demo": ("demo:demo", "Generate birds, train with and without attention, and compare (4 minutes)."),
}
DATA_COMMANDS = {
    "check": ("data:check", "Look a data set over before time is spent on it."),
    "synthesize": (
        "data:synthesize",
        "Generate a fine-grained data set of birds in the CUB-200-2011 layout.",
    ),
}


def build_app() -> App:
    """The command line, with every command still to be imported."""
    app = App(
        name="ggam",
        help="Fine-grained classification with attention guided by Grad-CAM.",
        version=__version__,
        version_flags=["--version"],
        suppress_keyboard_interrupt=False,  # main says a word about it
        config=apply_recipe_file,
    )
    data = App(name="data", help="Check and generate data sets.")
    for group, commands in ((app, COMMANDS), (data, DATA_COMMANDS)):
        for name, (function, summary) in commands.items():
            group.command(f"ggam.commands.{function}", name=name, help=summary)
    app.command(data)
    return app


def apply_recipe_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take what no flag gives from the file of `--config`, or of the run that `--resume` continues.

    Raises:
        CycloptsError: if the file cannot be read, or has a key that is not an option of the command.
    """
    given = {argument.name: argument.tokens[-1] for argument in arguments if argument.tokens}
    if "--resume" in given and "--out" in given:
        if "--config" in given:
            raise CycloptsError(msg="--resume takes the recipe of the run it continues; leave out --config")
        from ggam.runs.run import Run  # here, because it imports torch

        file = Run(given["--out"].value).config_file
        if not file.is_file():
            raise CycloptsError(msg=f"nothing to resume in {file.parent}: it holds no {file.name}")
    elif "--config" in given:
        file = Path(given["--config"].value)
    else:
        return
    values = _read_recipe(file)
    values.pop("version", None)  # of the package that wrote it
    values = {name: value for name, value in values.items() if value != {}}  # of a method without options
    known = {argument.name.removeprefix("--").replace("-", "_") for argument in arguments}
    for name, value in values.items():
        if any(each.startswith(f"{name}.") for each in known) and not isinstance(value, dict):
            raise CycloptsError(
                msg=f"{file}: {name}: {value!r}: expected the options of this method below it"
            )
    for name in _dotted(values):
        if name.replace("-", "_") not in known:
            close = [each for each in known if each.endswith(f".{name}")] or get_close_matches(name, known)
            hint = f"did you mean {close[0]}?" if close else "see ggam train --help"
            raise CycloptsError(msg=f"{file}: {name!r} is not an option; {hint}")
    nested = _of_one_method(values, given["--method"].value if "--method" in given else None, commands)
    for command in reversed(commands):
        nested = {command: nested}
    Dict(nested, source=str(file))(app, commands, arguments)


def _dotted(values: dict[str, Any]) -> list[str]:
    """The names of all options, those of a method as `NAME.option`."""
    return [
        f"{name}.{inner}" if inner else str(name)
        for name, value in values.items()
        for inner in (value if isinstance(value, dict) and value else [""])
    ]


def _of_one_method(values: dict[str, Any], method: str | None, commands: tuple[str, ...]) -> dict[str, Any]:
    """What is set, without empty values; to train one method, without the sections of others."""
    from ggam.training.recipe import ModelRecipe, for_method

    if "train" in commands:
        values = for_method(values, method or values.get("method", ModelRecipe.method))
    return {
        name: {inner: each for inner, each in value.items() if each is not None}
        if isinstance(value, dict)
        else value
        for name, value in values.items()
        if value is not None
    }


def main() -> None:
    """Run the command line; a bad value ends in one line and exit code 2."""
    # OpenMP threads that spin while they wait slow the decoding processes down severalfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # PyTorch's profiler, which counts memory, announces itself on stderr; read when torch is imported.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    # DDP advises against looking for unused parameters, of which methods have some in some stages.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        _show_chosen_method(sys.argv[1:])
        build_app()(sys.argv[1:])
    except KeyboardInterrupt:
        print("ggam: interrupted", file=sys.stderr)
        sys.exit(130)
    except (OSError, ValueError) as error:
        file, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        words = f"{file}: {reason}" if file is not None and reason else error
        print(f"ggam: {words}", file=sys.stderr)
        sys.exit(2)


def _show_chosen_method(arguments: list[str]) -> None:
    """Have the help of a command list the options of the method that is named beside it."""
    if {"train", "study"} & set(arguments[:1]) and {"--help", "-h"} & set(arguments):
        from ggam.commands.options import show_options_of

        spelled = " ".join(arguments).replace("--method=", "--method ").split()
        given = dict(pairwise(spelled))
        recipe = _read_recipe(Path(given["--config"])) if "--config" in given else {}
        show_options_of(given.get("--method") or recipe.get("method", "ggam"))


def _read_recipe(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CycloptsError(msg=f"{file}: no such file; expected a recipe in YAML") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CycloptsError(
            msg=f"{file} cannot be read as a recipe: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict):
        raise CycloptsError(msg=f"{file}: expected lines of «option: value», as in recipes/")
    return values


if __name__ == "__main__":
    main()
