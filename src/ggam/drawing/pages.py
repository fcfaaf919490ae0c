"""What the pages share: rendering, small pictures as data, and numbers as text."""

import base64
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image
from scipy import stats

from ggam._version import __version__
from ggam.drawing.overlays import encoded
from ggam.system.files import write_atomic

PICTURE_BYTES = 20_000
"""The most that one picture adds to a page, before base64."""
_QUALITIES = (85, 75, 62, 48, 32)


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Render a template into one file that needs nothing else.

    Args:
        path: of the HTML file.
        template: its name in `templates/`.
        **values: what the template shows.
    """
    write_atomic(path, render_page(template, **values))
    return path


def render_page(template: str, **values: Any) -> str:
    """A template as text.

    Args:
        template: its name in `templates/`.
        **values: what the template shows; escaped where it is HTML.
    """
    return _environment().get_template(template).render(values)


def data_uri(image: Image.Image, limit: int = PICTURE_BYTES) -> str:
    """A picture as a JPEG inside an address, of the best quality that stays within `limit` bytes."""
    data = b""
    for quality in _QUALITIES:
        data = encoded(image.convert("RGB"), "JPEG", quality=quality, optimize=True)
        if len(data) <= limit:
            break
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def percent(share: float | None) -> str:
    """A share as text: 0.915 is "91.5 %", with a blank that does not break."""
    return "–" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def interval(share: float, count: int) -> str:
    """The 95 % interval of a share of `count` pictures, as text.

    Wilson's score interval: how far chance in the choice of the pictures alone may have moved it.
    """
    low, high = (
        100 * end for end in stats.binomtest(round(share * count), count).proportion_ci(method="wilson")
    )
    return f"{low:.1f}\N{WORD JOINER}–\N{WORD JOINER}{high:.1f}\N{NO-BREAK SPACE}%"


def counted(number: int, noun: str) -> str:
    """How many, as text: "1 picture", "2 pictures"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(text: object) -> str:
    """Text that Markdown, and the HTML in it, leave as it is, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|#&~])", r"\\\1", " ".join(str(text).split()))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ggam.drawing"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["version"] = __version__
    environment.filters |= {"percent": percent, "interval": interval, "counted": counted}
    environment.filters |= {"capital": _capital, "plain": _plain}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return environment
