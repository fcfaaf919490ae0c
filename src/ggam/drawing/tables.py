"""Columns of text as a table of Markdown or LaTeX, and rows of values as CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_TEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {letter: f"${letter}$" for letter in "<>"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"λ": r"$\lambda$", "β": r"$\beta$", "±": r"$\pm$", "×": r"$\times$", "↓": r"$\downarrow$"}
    | {"\N{MINUS SIGN}": "$-$", "–": "--", "\N{NO-BREAK SPACE}": "~"}
)


@dataclass(frozen=True)
class Column:
    """A column of a table, as text."""

    title: str
    cells: tuple[str, ...]
    kind: Literal["label", "number", "claim"] = "number"
    """A claim is in italics: it was not measured here."""
    details: tuple[str, ...] = ()
    """What a page shows below each cell."""


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated lines; None is an empty cell."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def to_markdown(columns: Sequence[Column]) -> str:
    """A table of Markdown."""
    header, *rows = _rows(columns, lambda text: text.replace("|", "\\|"), "*{}*")
    ruler = ["---" if column.kind == "label" else "---:" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ruler, *rows))


def to_latex(columns: Sequence[Column], caption: str, label: str) -> str:
    r"""A floating table for LaTeX with `\usepackage{booktabs,graphicx}`, no wider than the text."""
    header, *rows = (f"    {' & '.join(row)} \\\\" for row in _rows(columns, escape_tex, r"\textit{{{}}}"))
    places = "".join("l" if column.kind == "label" else "r" for column in columns)
    body = "\n".join([r"    \toprule", header, r"    \midrule", *rows, r"    \bottomrule"])
    return rf"""\begin{{table*}}
  \centering
  \caption{{{escape_tex(caption)}}}
  \label{{{label}}}
  \resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{%
  \begin{{tabular}}{{{places}}}
{body}
  \end{{tabular}}}}
\end{{table*}}"""


def escape_tex(text: str) -> str:
    """Text for LaTeX: its special characters, and the letters and signs that tables use."""
    return text.translate(_TEX)


def _rows(columns: Sequence[Column], escape: Callable[[str], str], italics: str) -> list[tuple[str, ...]]:
    """The titles and the cells, row by row."""
    texts = [
        [italics.format(escape(text)) if column.kind == "claim" else escape(text) for text in found]
        for column in columns
        for found in [(column.title, *column.cells)]
    ]
    return list(zip(*texts, strict=True))
