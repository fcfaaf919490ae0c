"""`ggam card` and `ggam push`."""

import sys
from pathlib import Path
from typing import Annotated

from ggam.commands.console import CONSOLE, Switch
from ggam.commands.runs import open_run
from ggam.data.layouts.registry import load_dataset
from ggam.data.records import DataError, FineGrainedDataset
from ggam.deploy.hub import FILES, push_model
from ggam.deploy.model_card import CARD_FILE, write_card, write_run_card
from ggam.system.devices import default_device
from ggam.training.run import CONFIG, RunConfig


def card(run: Path) -> None:
    """Write the model card of a trained model anew; one that somebody has edited is kept.

    Args:
        run: A run directory, or a model folder, of which no accuracy is known.
    """
    if (run.parent / CONFIG).is_file():  # the model folder of a run, of which more is known
        run = run.parent
    model, config = open_run(run)
    if config is None:
        file, written = run / CARD_FILE, write_card(run, model.config)
    else:
        file = run / "model" / CARD_FILE
        test = _test_pictures(config)
        if test is not None:
            test = test.with_transform(model.config.transform())
        written = write_run_card(run, model.to(default_device()), test)
    say_card(file, written=written)


def push(run: Path, name: str, *, public: Annotated[bool, Switch] = False) -> None:
    """Upload a trained model to the Hugging Face hub: weights, configuration, model card and its picture.

    Needs a login: hf auth login, or a token in HF_TOKEN. Read the card before: it shows test pictures, and
    the licence is for you to fill in.

    Args:
        run: A run directory or a model folder.
        name: What it shall be called on the hub: user/name.
        public: Let everybody see it; otherwise only you, or the organisation, can.
    """
    folder = run if (run / "config.json").is_file() else run / "model"
    if not (folder / CARD_FILE).exists():
        card(run)
    url = push_model(folder, name, public=public)
    uploaded = ", ".join(file for file in FILES if (folder / file).is_file())
    CONSOLE.print(f"{url}: {'public' if public else 'private'}; uploaded {uploaded}")


def say_card(file: Path, *, written: bool) -> None:
    """Where a card is, and what is left to do about it."""
    if written:
        CONSOLE.print(f"model card: {file}; the licence is yours to fill in")
    else:
        CONSOLE.print(f"model card: {file} was edited and is kept; remove it to have it written anew")


def _test_pictures(config: RunConfig) -> FineGrainedDataset | None:
    """The run's test pictures; None, and a word about it, where they are not on this machine."""
    layout, seed = config.recipe.data.layout, config.recipe.machine.seed
    try:
        return load_dataset(config.data, split="test", layout=layout, seed=seed)
    except DataError as error:
        print(f"ggam: the card shows no pictures: {error}", file=sys.stderr)
        return None
