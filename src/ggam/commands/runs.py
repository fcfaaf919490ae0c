"""Trained models as the commands meet them: measured, and put into a table."""

from collections.abc import Mapping

from rich.table import Table

from ggam.methods.base import FineGrainedModel
from ggam.runs.run import Run


def crop(model: FineGrainedModel) -> str:
    """What of each picture the model was shown."""
    transform = model.config.transform()
    return (
        f"one centre crop of {transform.image_size} pixels, the shorter side resized to "
        f"{transform.resized_side}"
    )


def training_protocol(run: Run | None) -> str:
    """What the model that is measured was trained and chosen on (docs/protocol.md)."""
    if run is None:
        return "protocol: unknown; only a finished run directory says what was trained and chosen on"
    results, data = run.read_results(), run.read_config()["data"]
    return f"protocol: {results.protocol}; epoch {results.chosen['epoch']}, trained on {data}"


def results_table(rows: Mapping[str, Mapping[str, float]], selected: str | None = None) -> Table:
    """A row for each model measured on the test pictures, by its name; the selected one says so."""
    table = Table("", "top-1 %", "top-5 %", "per class %", "epoch")
    for name, row in rows.items():
        shares = (f"{100 * row[key]:.2f}" for key in ("top1", "top5", "macro"))
        chosen = " (chosen)" if name == selected else ""
        table.add_row(f"{name}{chosen}", *shares, str(row.get("epoch", "")))
    return table
