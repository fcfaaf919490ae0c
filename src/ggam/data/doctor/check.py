"""The dataset doctor: what is wrong with a data set, found before time is spent on it."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ggam.data.doctor.inspection import inspect_all
from ggam.data.doctor.symptoms import (
    Finding,
    Picture,
    Severity,
    annotation_findings,
    class_findings,
    copy_findings,
    file_findings,
    size_findings,
)
from ggam.data.layouts.registry import SPLITS, NotADataset, find_layout, load_dataset
from ggam.data.records import DataError, FineGrainedDataset

_ORDER: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_SHOWN = 3


@dataclass(frozen=True)
class CheckReport:
    """What a data set is, and what was found."""

    path: Path
    layout: str | None
    """None if the files speak for several, or for one of which some are missing."""
    classes: int
    splits: dict[str, int]
    """Pictures in each split that could be read from the lists."""
    findings: tuple[Finding, ...]
    """The worst first."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found that would corrupt a result."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to_json(self) -> str:
        """The report as JSON, with all files of each finding."""
        return json.dumps(
            asdict(self) | {"ok": self.ok, "path": str(self.path)}, indent=2, ensure_ascii=False
        )


def check_dataset(
    path: Path | str,
    layout: str | None = None,
    *,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read the lists of a data set and every picture in them, and say what is wrong.

    Args:
        path: the data set, a folder or a manifest.
        layout: a key of `ggam.data.layouts.registry.LAYOUTS`; None recognises it by the files.
        workers: threads that read pictures at the same time; None takes one per core.
        on_progress: called after each picture with how many are done, and how many there are.

    Raises:
        DataError: if there is no data set at `path`, or no such layout. A data set that cannot be read
            is a finding.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    try:
        layout = find_layout(path, layout).name
    except DataError as error:
        if layout is not None or isinstance(error, NotADataset):
            raise
        return CheckReport(path, None, 0, {}, (Finding("error", "layout", str(error)),))
    splits: dict[str, FineGrainedDataset] = {}
    findings: list[Finding] = []
    for split in SPLITS:
        try:
            splits[split] = load_dataset(path, split=split, layout=layout)
        except DataError as error:
            finding = Finding("error", "lists", str(error))
            findings += [finding] if finding not in findings else []
    findings += _examine(splits, workers, on_progress) if splits else []
    findings.sort(key=lambda finding: list(_ORDER).index(finding.severity))
    classes = max((len(part.class_names) for part in splits.values()), default=0)
    counts = {split: len(part) for split, part in splits.items()}
    return CheckReport(path, layout, classes, counts, tuple(findings))


def _examine(
    splits: dict[str, FineGrainedDataset], workers: int | None, on_progress: Callable[[int, int], None] | None
) -> Iterator[Finding]:
    samples = [(part, sample) for part in splits.values() for sample in part.samples]
    found = inspect_all([sample.path for _, sample in samples], workers=workers, on_progress=on_progress)
    pictures = [
        Picture(part.split, sample, inspection, os.path.relpath(sample.path, part.root))
        for (part, sample), inspection in zip(samples, found, strict=True)
    ]
    yield from size_findings(splits)
    yield from class_findings(splits)
    yield from file_findings(pictures)
    yield from annotation_findings(pictures)
    yield from copy_findings(pictures)


def unreadable(dataset: FineGrainedDataset, *, workers: int | None = None) -> list[tuple[Path, str]]:
    """The pictures that cannot be read, each with the reason: the part of the check before training.

    Every picture is decoded to its end, so that a truncated one is found too.

    Args:
        dataset: the pictures; its transform is not used.
        workers: threads that decode at the same time; None takes one per core.
    """
    paths = [sample.path for sample in dataset.samples]
    inspections = inspect_all(paths, workers=workers)
    return [(path, found.reason) for path, found in zip(paths, inspections, strict=True) if found.fault]


def render(report: CheckReport) -> Group:
    """The report for a terminal; of each finding, the first few files."""
    layout = report.layout or "not recognised"
    splits = ", ".join(f"{count:,} {split}" for split, count in report.splits.items())
    counts = f" · {report.classes:,} classes · {splits} pictures" if report.splits else ""
    head = Text.assemble((str(report.path), "bold"), f"\nlayout {layout}{counts}")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in report.findings:
        style = _ORDER[finding.severity]
        message = Text.assemble(finding.message, "  ", (finding.code, style))
        for files in finding.files[:_SHOWN]:
            message.append(f"\n  {' = '.join(files)}", style="dim")
        if len(finding.files) > _SHOWN:
            message.append(f"\n  … and {len(finding.files) - _SHOWN:,} more (--json lists all)", style="dim")
        table.add_row(Text(finding.severity, style=style), message)
    numbers = [(sum(f.severity == severity for f in report.findings), severity) for severity in _ORDER]
    counted = ", ".join(f"{n} {severity}{'' if n == 1 else 's'}" for n, severity in numbers if n)
    verdict = "nothing found that would spoil a result" if report.ok else "repair the errors before you train"
    end = Text(": ".join(filter(None, (counted, verdict))), style="bold green" if report.ok else "bold red")
    return Group(head, Text(), table, Text(), end) if report.findings else Group(head, Text(), end)
