"""Columns of text as a table of CSV, Markdown or LaTeX."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from ggam.studies.wording import Column

_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "λ": r"$\lambda$",
    "β": r"$\beta$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "↓": r"$\downarrow$",
    "\N{MINUS SIGN}": r"$-$",
    "–": "--",
    "\N{NO-BREAK SPACE}": "~",
}


def to_csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated lines; None is an empty cell."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
    return buffer.getvalue()


def to_markdown(columns: Sequence[Column]) -> str:
    """A table of Markdown; what the paper claims is in italics."""

    def row(texts: Iterable[str]) -> str:
        escaped = (text.replace("|", "\\|") for text in texts)
        cells = (
            f"*{text}*" if column.kind == "claim" else text
            for column, text in zip(columns, escaped, strict=True)
        )
        return f"| {' | '.join(cells)} |"

    ruler = ("---" if column.kind == "label" else "---:" for column in columns)
    return "\n".join(
        [row(column.title for column in columns), f"| {' | '.join(ruler)} |", *map(row, _rows(columns))]
    )


def to_latex(columns: Sequence[Column], caption: str, label: str) -> str:
    r"""A floating table for LaTeX with `\usepackage{booktabs,graphicx}`, no wider than the text."""

    def row(texts: Iterable[str]) -> str:
        cells = (
            rf"\textit{{{escape_tex(text)}}}" if column.kind == "claim" else escape_tex(text)
            for column, text in zip(columns, texts, strict=True)
        )
        return f"    {' & '.join(cells)} \\\\"

    places = "".join("l" if column.kind == "label" else "r" for column in columns)
    return "\n".join(
        [
            r"\begin{table*}",
            r"  \centering",
            rf"  \caption{{{escape_tex(caption)}}}",
            rf"  \label{{{label}}}",
            r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"  \begin{{tabular}}{{{places}}}",
            r"    \toprule",
            row(column.title for column in columns),
            r"    \midrule",
            *map(row, _rows(columns)),
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table*}",
        ]
    )


def escape_tex(text: str) -> str:
    """Text for LaTeX: its special characters, and the letters and signs that tables use."""
    return "".join(_TEX.get(letter, letter) for letter in text)


def _rows(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    return list(zip(*(column.cells for column in columns), strict=True))
