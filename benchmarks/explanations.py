"""What the heat maps of a study's networks are worth: every kind of map, with the controls, over the seeds.

Takes the finished runs of `ggam study`, measures each as `ggam evaluate RUN --explanations` does (what is
measured already with the same options is read again), and prints the mean ± standard deviation over the
seeds as Markdown. The controls stand beside each network: what a perturbed picture costs depends on who
is asked, so a map is to be held against the controls of its own network.

    ggam study table3 DATA --out studies/DATA --seeds 3
    python benchmarks/explanations.py studies/DATA
    python benchmarks/explanations.py studies/DATA --rows baseline SC SCG --seeds 0 1 2 --road
"""

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ggam.evaluation.accuracy import EvaluationError
from ggam.evaluation.agreement import STAGES
from ggam.evaluation.estimates import CONTROLS
from ggam.evaluation.explanation_report import SUMMARY_FILE, refuse_others
from ggam.evaluation.explanations import PERTURBED, evaluate_explanations, planned
from ggam.evaluation.metrics import FAITHFULNESS, METRICS
from ggam.runs.run import Run
from ggam.system.devices import default_device, resolve_precision

Figures = dict[str, list[float]]
"""By the name of a column, the value of each seed."""


def measured(run: Run, *, perturbed: int, road: bool) -> dict[str, Any]:
    """The explanations of one run on its own test pictures, as `explanations.json` has them.

    Raises:
        EvaluationError: if the run was measured with other options.
    """
    config, model = run.read_config(), run.read_model()
    folder = run.evaluation(Path(config["data"]).name)
    test = run.dataset("test").with_transform(model.config.transform())
    plan: dict[str, Any] = {"perturbed": perturbed, "with_road": road, "seed": config["seed"]}
    refuse_others(folder, planned(model, test, **plan))
    if not (folder / SUMMARY_FILE).is_file():
        device = default_device()
        evaluate_explanations(
            model,
            test,
            **plan,
            workers=2,
            device=device,
            precision=resolve_precision("auto", device),
            on_batch=lambda done, total: print(
                f"\r{run.folder.name}: {done}/{total} passes", end="", file=sys.stderr
            ),
        ).write(folder)
        print(file=sys.stderr)
    return json.loads((folder / SUMMARY_FILE).read_text("utf-8"))


def collect(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Figures]:
    """By kind of map, its figures in percent over the seeds."""
    found: dict[str, Figures] = {}
    for summary in summaries:
        for metric, values in summary["metrics"].items():
            for kind, estimate in values["kinds"].items():
                found.setdefault(kind, {}).setdefault(metric, []).append(100 * estimate["mean"])
        for kind, share in summary["empty"].items():
            found.setdefault(kind, {}).setdefault("empty", []).append(100 * share)
        for stage, kinds in summary["randomisation"].items():
            for kind, alike in kinds.items():
                if alike is not None:
                    found.setdefault(kind, {}).setdefault(stage, []).append(100 * alike)
    return found


def cell(values: Sequence[float] | None) -> str:
    """Mean ± standard deviation, of one seed the value alone; a dash where nothing was measured."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def show(rows: Mapping[tuple[str, str], Figures], columns: Mapping[str, str]) -> None:
    """A table in Markdown: a line for each network and kind of map, a column for each figure."""
    columns = {key: name for key, name in columns.items() if any(key in figures for figures in rows.values())}
    print("\n| network | map |", " | ".join(columns.values()), "|")
    print("|---|---|" + "---|" * len(columns))
    for (network, kind), figures in rows.items():
        print(f"| {network} | {kind} |", " | ".join(cell(figures.get(key)) for key in columns), "|")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the heat maps of a study's networks are worth.")
    parser.add_argument("study", type=Path, help="the folder given to ggam study as --out")
    parser.add_argument("--table", default="table3", help="which of its studies")
    parser.add_argument("--rows", nargs="+", default=["baseline", "SC", "SCG"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--perturbed", type=int, default=PERTURBED, help="pictures")
    parser.add_argument("--road", action="store_true")
    args = parser.parse_args()

    table = args.study / args.table / "runs.csv"
    if not table.is_file():
        parser.error(f"{table}: no such file; expected a folder that ggam study {args.table} has finished")
    with table.open(encoding="utf-8", newline="") as file:
        runs = {
            (run["row"], int(run["seed"])): Run(args.study / "runs" / run["run"])
            for run in csv.DictReader(file)
        }
    missing = [f"{row} seed {seed}" for row in args.rows for seed in args.seeds if (row, seed) not in runs]
    if missing:
        parser.error(f"{args.study} has no finished run of {', '.join(missing)}")

    lines: dict[tuple[str, str], Figures] = {}
    agreements: dict[str, list[float]] = {}
    for row in args.rows:
        try:
            summaries = [
                measured(runs[row, seed], perturbed=args.perturbed, road=args.road) for seed in args.seeds
            ]
        except EvaluationError as error:
            parser.error(str(error))
        lines |= {(row, kind): figures for kind, figures in collect(summaries).items()}
        agreements[row] = [
            100 * summary["agreement"] for summary in summaries if summary["agreement"] is not None
        ]
    named = {key: metric.directed for key, metric in METRICS.items()}
    show(lines, {key: name for key, name in named.items() if key not in FAITHFULNESS} | {"empty": "empty ↓"})
    show(lines, {key: named[key] for key in FAITHFULNESS})
    own = {line: figures for line, figures in lines.items() if line[1] not in CONTROLS}
    show(own, {stage: stage for stage in STAGES})
    print("\nRank correlation of S with β, in percent:", end=" ")
    print("; ".join(f"{row} {cell(values)}" for row, values in agreements.items() if values))


if __name__ == "__main__":
    main()
