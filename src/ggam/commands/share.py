"""`ggam card` and `ggam push`."""

import sys
from pathlib import Path
from typing import Annotated

from ggam.commands.options import Switch
from ggam.data.records import DataError, FineGrainedDataset
from ggam.deploy.hub import FILES, push_model
from ggam.deploy.model_card import write_card, write_run_card
from ggam.runs.model_folder import CARD_FILE, CONFIG_FILE
from ggam.runs.run import Run, open_model
from ggam.system.console import CONSOLE
from ggam.system.devices import default_device


def card(run: Path) -> None:
    """Write the model card of a trained model anew; one that somebody has edited is kept.

    Args:
        run: A run directory, or a model folder, of which no accuracy is known.
    """
    if Run(run.parent).config_file.is_file():  # the model folder of a run, of which more is known
        run = run.parent
    model, origin = open_model(run)
    if origin is None:
        file, written = run / CARD_FILE, write_card(run, model.config)
    else:
        file, test = origin.card, _test_pictures(origin)
        if test is not None:
            test = test.with_transform(model.config.transform())
        written = write_run_card(origin, model.to(default_device()), test)
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
    folder = run if (run / CONFIG_FILE).is_file() else Run(run).model_folder
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


def _test_pictures(run: Run) -> FineGrainedDataset | None:
    """The run's test pictures; None, and a word about it, where they are not on this machine."""
    try:
        return run.dataset("test")
    except DataError as error:
        print(f"ggam: the card shows no pictures: {error}", file=sys.stderr)
        return None
