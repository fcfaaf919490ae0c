"""Which trained networks Figure 3 is about: one for each row of Table 3, all of one seed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggam.studies.definition import ATTENTION, PLAIN, table3
from ggam.studies.runner import RUNS

COLUMNS: Mapping[str, tuple[str, str]] = {
    "baseline": (PLAIN, "G"),
    "channel": ("C", "CG"),
    "spatial": ("S", "SG"),
    "channel-spatial": (ATTENTION, "SCG"),
}
"""The columns of heat maps: the rows of Table 3 without and with guidance."""
ROWS = tuple(row for pair in COLUMNS.values() for row in pair)
_TABLE = Path("table3", "table.json")


class Figure3Error(ValueError):
    """A figure that cannot be made of this study, or not as asked."""


@dataclass(frozen=True)
class Networks:
    """The trained networks of one seed of a `table3` study."""

    study: Path
    data: str
    """Name of the data set."""
    seed: int
    runs: Mapping[str, Path]
    """The run directory of each of `ROWS`."""

    @classmethod
    def find(cls, study: Path, seed: int | None = None) -> "Networks":
        """Read what a study has finished.

        Args:
            study: its folder.
            seed: whose runs; None takes the first seed.

        Raises:
            Figure3Error: if one of the eight rows has no finished run with that seed.
        """
        table = _read_table(study)
        found = {(run["row"], run["seed"]): study / RUNS / run["run"] for run in table["runs"]}
        seeds = sorted({number for _, number in found})
        chosen = min(seeds, default=0) if seed is None else seed
        missing = [row for row in ROWS if (row, chosen) not in found]
        if missing:
            labels = ", ".join(table3().row(row).label for row in missing)
            raise Figure3Error(
                f"{study}: no finished run with seed {chosen} of {labels} (seeds with runs: "
                f"{', '.join(map(str, seeds)) or 'none'}); go on with: {table['command']}"
            )
        return cls(study, table["data"], chosen, {row: found[row, chosen] for row in ROWS})


def _read_table(study: Path) -> dict[str, Any]:
    file = study / _TABLE
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise Figure3Error(
            f"{study}: holds no result of table3 ({_TABLE} is missing); make it with "
            f"ggam study table3 DATA --out {study}"
        ) from error
    except ValueError as error:
        raise Figure3Error(
            f"{file}: cannot be read ({error}); write it again with the study's command"
        ) from error
