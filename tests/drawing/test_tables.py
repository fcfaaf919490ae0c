"""Tables as CSV, Markdown and LaTeX."""

import csv
import io

from ggam.drawing.tables import Column, escape_tex, to_csv, to_latex, to_markdown

COLUMNS = [
    Column("", ("λ = 3", "a_b & 50 %|"), "label"),
    Column("top-1 %", ("85.10 ± 0.20", "–")),
    Column("claimed", ("88.45", "–"), "claim"),
]


def test_csv_is_read_back() -> None:
    text = to_csv(["a", "b"], [[1, None], ['say "x", y', 0.5]])
    assert list(csv.reader(io.StringIO(text))) == [["a", "b"], ["1", ""], ['say "x", y', "0.5"]]


def test_markdown() -> None:
    assert to_markdown(COLUMNS).splitlines() == [
        "|  | top-1 % | *claimed* |",
        "| --- | ---: | ---: |",
        "| λ = 3 | 85.10 ± 0.20 | *88.45* |",
        r"| a_b & 50 %\| | – | *–* |",
    ]


def test_what_latex_reads_as_commands_is_escaped() -> None:
    assert escape_tex(r"\x{1}_2^3~4#5$6&7%8") == (
        r"\textbackslash{}x\{1\}\_2\textasciicircum{}3\textasciitilde{}4\#5\$6\&7\%8"
    )
    assert escape_tex("λ < −1.20 ± 3") == r"$\lambda$ $<$ $-$1.20 $\pm$ 3"


def test_a_latex_table() -> None:
    text = to_latex(COLUMNS, "Table 3: 50 % of λ", "tab:x")
    assert r"\caption{Table 3: 50 \% of $\lambda$}" in text
    assert r"\begin{tabular}{lrr}" in text
    assert r"    $\lambda$ = 3 & 85.10 $\pm$ 0.20 & \textit{88.45} \\" in text
    assert r"    a\_b \& 50 \%| & -- & \textit{--} \\" in text
    assert text.isascii()  # pdfTeX takes it whatever its input encoding
    assert text.count("{") == text.count("}")
    assert [text.count(rf"\{part}") for part in ("toprule", "midrule", "bottomrule")] == [1, 1, 1]
