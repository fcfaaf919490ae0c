"""`ggam methods`."""

import inspect
from dataclasses import fields

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ggam.methods.registry import METHODS
from ggam.system.console import CONSOLE


def methods(name: str | None = None) -> None:
    """List the systems that can be trained, their options and the papers they come from.

    Args:
        name: One of them, to read more about it.
    """
    if name is not None and name not in METHODS:
        raise ValueError(f"method {name!r}: expected one of {', '.join(METHODS)}")
    table = Table("method", "what it is", "options", "paper", box=SIMPLE_HEAD)
    for each, method in METHODS.items() if name is None else [(name, METHODS[name])]:
        summary = (inspect.getdoc(method) or "").partition("\n")[0]
        options = "\n".join(f"--{each}.{option.name.replace('_', '-')}" for option in fields(method.Options))
        table.add_row(each, summary, options or "–", method.source or "–")
    CONSOLE.print(table, markup=False)
    if name is not None:
        CONSOLE.print(inspect.getdoc(METHODS[name]), markup=False)
        CONSOLE.print(f"\nggam train --method {name} --help explains the options.")
