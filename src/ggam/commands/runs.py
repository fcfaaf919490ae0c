"""What was measured of trained models, as a table."""

from collections.abc import Mapping

from rich.table import Table


def results_table(rows: Mapping[str, Mapping[str, float]], selected: str | None = None) -> Table:
    """A row for each model measured on the test pictures, by its name; the selected one says so."""
    table = Table("", "top-1 %", "top-5 %", "per class %", "epoch")
    for name, row in rows.items():
        shares = (f"{100 * row[key]:.2f}" for key in ("top1", "top5", "macro"))
        chosen = " (chosen)" if name == selected else ""
        table.add_row(f"{name}{chosen}", *shares, str(row.get("epoch", "")))
    return table
