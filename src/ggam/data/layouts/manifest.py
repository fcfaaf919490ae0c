"""A manifest: one CSV or Parquet file that lists pictures lying anywhere.

path,label,split,x,y,width,height
photos/0001.jpg,Dunlin,train,40,31,120,96
photos/0002.jpg,Sanderling,test,,,,

`path` is relative to the manifest; `split` is `train`, `test` or `val` (which is left alone: the
validation part is held out of train). The box, in pixels, may be left out of a row or of the file.
"""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ggam.data.layouts.lists import refuse
from ggam.data.records import Box, DataError, FineGrainedDataset, Sample

SUFFIXES = (".csv", ".parquet")
REQUIRED = ("path", "label", "split")
_BOX = ("x", "y", "width", "height")
_SPLITS = ("train", "test", "val")


def missing_files(root: Path) -> tuple[str, ...] | None:
    """Nothing is missing from a file with one of the `SUFFIXES`; anything else is no manifest."""
    return () if root.is_file() and root.suffix.lower() in SUFFIXES else None


def read(root: Path, split: str) -> FineGrainedDataset:
    """Read one split.

    Args:
        root: the manifest, a file.
        split: `train` or `test`.

    Returns:
        The samples of the split. The classes are those of all rows, in the order of their names, or
        by value where every label is an integer.

    Raises:
        DataError: if a column is missing, or a value is not as it should be; the message names the
            file and the row, counted from 1 without the header.
    """
    rows = list(_rows(root, REQUIRED))
    for number, row in rows:
        if row["split"] not in _SPLITS:
            refuse(root, f"row {number}: split {row['split']!r}; expected one of {', '.join(_SPLITS)}")
        row["label"] = str(row["label"]).strip()
    names = {row["label"] for _, row in rows if row["split"] != "val"}
    classes = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    label_of = {name: label for label, name in enumerate(classes)}
    samples = [
        Sample(root.parent / str(row["path"]), label_of[row["label"]], box=_box(root, number, row))
        for number, row in rows
        if row["split"] == split
    ]
    if not samples:
        refuse(root, f"no row belongs to the {split} split")
    return FineGrainedDataset(samples, tuple(classes), root=root.parent, layout="manifest", split=split)


def picture_paths(root: Path) -> Iterator[Path]:
    """The pictures of a manifest, row by row; of its columns, only `path` need be there.

    Raises:
        DataError: if the manifest cannot be read, or a path is empty.
    """
    for _, row in _rows(root, ("path",)):
        yield root.parent / str(row["path"])


def _rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows, each with its number from 1; none of the required columns is empty."""
    rows = (_parquet_rows if path.suffix.lower() == ".parquet" else _csv_rows)(path, required)
    try:
        for number, row in enumerate(rows, start=1):
            for name in required:
                if row[name] is None or not str(row[name]).strip():
                    refuse(path, f"row {number}: {name} is empty")
            yield number, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a manifest ({error})") from error


def _csv_rows(path: Path, required: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        _check_columns(path, list(reader.fieldnames or ()), required)
        yield from reader


def _parquet_rows(path: Path, required: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            f"{path}: Parquet is read by pyarrow, which is not installed; pip install 'ggam[datasets]', "
            "or write the manifest as CSV"
        ) from error
    try:
        file = parquet.ParquetFile(path)
        columns = file.schema_arrow.names
        _check_columns(path, columns, required)
        for batch in file.iter_batches(columns=[name for name in (*required, *_BOX) if name in columns]):
            yield from batch.to_pylist()
    except ArrowException as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from error


def _check_columns(path: Path, found: list[str], required: tuple[str, ...]) -> None:
    if lacking := [name for name in required if name not in found]:
        refuse(path, f"column {', '.join(lacking)} is missing; found {', '.join(found) or 'nothing'}")
    boxed = [name for name in _BOX if name in found]
    if boxed and len(boxed) < len(_BOX):
        refuse(path, f"only {', '.join(boxed)} of the box; expected all of {', '.join(_BOX)}, or none")


def _box(path: Path, number: int, row: dict[str, Any]) -> Box | None:
    values = [row.get(name) for name in _BOX]
    if all(value is None or value == "" for value in values):
        return None
    try:
        box = Box(*(float(value) for value in values if value is not None))
    except (TypeError, ValueError):
        box = None
    if box is None or not all(map(math.isfinite, box)) or box.width <= 0 or box.height <= 0:
        refuse(path, f"row {number}: box {values}; expected x, y, width and height, the last two above 0")
    return box
