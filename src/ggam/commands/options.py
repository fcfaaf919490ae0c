"""Options of several commands: switches, and those of every method, generated from `METHODS`."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any

from cyclopts import Group, Parameter

from ggam.methods.registry import METHODS

Switch = Parameter(negative="")
WITH_OPTIONS = {name: method for name, method in METHODS.items() if fields(method.Options)}
"""The methods that have options of their own."""
_shown = "ggam"
"""The method whose options `--help` lists."""
_COMMANDS: list[tuple[Any, list[inspect.Parameter]]] = []
"""Commands with the options of all methods, and their own parameters."""


def method_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option `--NAME.option` for every option of every method.

    Args:
        command: has a keyword parameter `options`, and gets in it what was given: name of the method → an
            instance of its `Options`.
    """
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    own = [parameter for parameter in parameters if parameter.name != "options"]

    @wraps(command)
    def run(*args: Any, **given: Any) -> None:
        options = {name: given.pop(name, method.Options()) for name, method in WITH_OPTIONS.items()}
        command(*args, **given, options=options)

    _COMMANDS.append((run, own))
    show_options_of(_shown)
    return run


def show_options_of(method: str) -> None:
    """Have `--help` list the options of one method only; all are taken all the same."""
    global _shown
    _shown = method
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=known.Options(),
            annotation=Annotated[
                known.Options, Parameter(group=Group(f"Method {name}", show=name == method))
            ],
        )
        for name, known in WITH_OPTIONS.items()
    ]
    for command, own in _COMMANDS:
        command.__signature__ = inspect.Signature([*own, *added])
        command.__annotations__ = {each.name: each.annotation for each in [*own, *added]}


def chosen_options(method: str, options: dict[str, Any]) -> Any:
    """The options of the chosen method; None where it has none.

    Raises:
        ValueError: if an option of another method was given.
    """
    for name, given in options.items():
        default = vars(WITH_OPTIONS[name].Options())
        changed = [option for option, value in vars(given).items() if value != default[option]]
        if changed and name != method:
            flag = changed[0].replace("_", "-")
            raise ValueError(f"--{name}.{flag}: an option of the method {name}, but --method is {method}")
    return options.get(method)
