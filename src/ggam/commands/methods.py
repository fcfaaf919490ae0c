"""`ggam methods`."""

import inspect
from dataclasses import fields

from ggam.methods.registry import METHODS
from ggam.system.console import CONSOLE


def methods(name: str | None = None) -> None:
    """List the systems that can be trained, their options and the papers they come from.

    Args:
        name: One of them, to read all that its documentation says.
    """
    if name is not None and name not in METHODS:
        raise ValueError(f"method {name!r}: expected one of {', '.join(METHODS)}")
    for each in METHODS if name is None else [name]:
        method = METHODS[each]
        about = inspect.getdoc(method) or ""
        options = [f"--{each}.{option.name.replace('_', '-')}" for option in fields(method.Options)]
        CONSOLE.print(f"[bold]{each}[/]")
        CONSOLE.print(about if name else about.partition("\n")[0], markup=False)
        if method.source:
            CONSOLE.print(method.source, markup=False)
        CONSOLE.print(" ".join(options) or "no options of its own", markup=False, style="dim")
        CONSOLE.print()
    CONSOLE.print(f"ggam train --method {name or 'NAME'} --help explains the options.", markup=False)
