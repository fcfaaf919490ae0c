"""A table of predictions that grows on disk, survives any kind of end, and can be gone on with.

CSV and JSON lines are appended to in whole lines; half a line that a crash left is cut off when the
table is opened again. A Parquet file is readable only once it has been closed, so its rows are kept as
JSON lines beside it (`NAME.partial.jsonl`) until `finish` turns them into the file.

Beside the table lies `NAME.model.json`: which model wrote it, so that no other one goes on with it.
"""

import csv
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ggam.system.files import replacing, write_atomic

SUFFIXES = (".csv", ".jsonl", ".parquet")
Row = Sequence[str | float]
_ROWS_AT_A_TIME = 10_000


class TableError(ValueError):
    """A table that cannot be written, read, or gone on with."""


class PredictionTable:
    """Rows of a path and what was predicted; open it again to go on.

    Args:
        out: `.csv`, `.jsonl` or `.parquet`.
        columns: the first one is `path`.
        origin: plain values that must be the same whenever the table is opened: the model and the
            settings that wrote it.

    Attributes:
        found: how many rows were there when the table was opened.

    Raises:
        TableError: for another kind of file, a table of another origin, or a file that is no table of ours.
        OSError: if it cannot be written.
    """

    def __init__(self, out: Path, columns: Sequence[str], origin: Mapping[str, Any]) -> None:
        self._kind = out.suffix.lower()
        if self._kind not in SUFFIXES:
            raise TableError(f"{out}: expected a name that ends in {', '.join(SUFFIXES)}")
        self.out = out
        self._columns = list(columns)
        self._lines = out.with_name(f"{out.name}.partial.jsonl") if self._kind == ".parquet" else out
        if self._kind == ".parquet":
            _require_pyarrow(out)
        self._claim(dict(origin))
        finished = _Paths(self._parquet_paths())
        if self._lines != out and next(self._line_paths(), None) in finished:
            self._lines.unlink()  # stopped after the Parquet file was written, before this was removed
        self._done = _Paths(path for paths in (self._parquet_paths(), self._line_paths()) for path in paths)
        self.found = len(self._done)
        self._file = self._open()

    def __contains__(self, path: str) -> bool:
        """Whether the picture was in the table when it was opened."""
        return _printable(path) in self._done

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows, all of them or, where the process is killed, whole ones from the first on.

        Raises:
            OSError: naming the file, if the disk is full.
        """
        text = "".join(self._line([_printable(str(row[0])), *row[1:]]) for row in rows)
        try:
            self._file.write(text.encode())
            self._file.flush()  # what was appended is with the operating system, whatever ends the process
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._lines)) from error

    def finish(self) -> None:
        """Close the table; Parquet is written now."""
        self._file.close()
        if self._kind == ".parquet":
            if self._lines.stat().st_size or not self.out.exists():
                self._write_parquet()
            self._lines.unlink()

    def close(self) -> None:
        """Close the table as it is, to be gone on with later."""
        with suppress(OSError):  # a full disk, which append() has told of; half a line is cut off next time
            self._file.close()

    def _claim(self, origin: dict[str, Any]) -> None:
        """Say whose table this is, or refuse one of somebody else."""
        note = self.out.with_name(f"{self.out.name}.model.json")
        if not self.out.exists() and not self._lines.exists():
            write_atomic(note, json.dumps(origin, indent=2, ensure_ascii=False) + "\n")
            return
        try:
            stored = json.loads(note.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise TableError(
                f"{self.out}: is there already, and nothing says which model wrote it ({note.name} cannot be "
                "read); remove it, or choose another --out"
            ) from error
        for name, value in json.loads(json.dumps(origin)).items():
            if stored.get(name) != value:
                raise TableError(
                    f"{self.out}: was written with another {name} ({stored.get(name)}, now {value}); "
                    "choose another --out"
                )

    def _open(self) -> BinaryIO:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self._lines.exists():
            os.truncate(self._lines, sum(len(record.encode()) for record in self._records()))
        file = self._lines.open("ab")
        if self._kind == ".csv" and file.tell() == 0:
            file.write(self._line(self._columns).encode())
            file.flush()
        return file

    def _line(self, row: Row) -> str:
        if self._kind == ".csv":
            return ",".join(map(_cell, row)) + "\n"
        return json.dumps(dict(zip(self._columns, row, strict=True)), ensure_ascii=False) + "\n"

    def _records(self) -> Iterator[str]:
        """The whole records in the file of lines; one of CSV may have line breaks between quotes."""
        with self._lines.open("rb") as file:
            record = b""
            for line in file:
                record += line
                if record.endswith(b"\n") and not (self._kind == ".csv" and record.count(b'"') % 2):
                    yield record.decode()
                    record = b""

    def _line_paths(self) -> Iterator[str]:
        """The paths of the whole records in the file of lines."""
        if not self._lines.exists():
            return
        records = self._records()
        if self._kind == ".csv":
            rows = (next(csv.reader([record])) for record in records)
            header = next(rows, self._columns)
            if header != self._columns:
                raise TableError(f"{self.out}: expected the columns {self._columns}, found {header}")
            yield from (row[0] for row in rows)
            return
        for number, record in enumerate(records, start=1):
            try:
                yield json.loads(record)["path"]
            except (KeyError, TypeError, ValueError) as error:
                raise TableError(f"{self._lines}, line {number}: not a prediction ({error})") from error

    def _parquet_paths(self) -> Iterator[str]:
        if self._kind != ".parquet" or not self.out.exists():
            return
        for batch in self._old_batches(["path"]):
            yield from batch.column(0).to_pylist()

    def _old_batches(self, columns: list[str]) -> Iterator[Any]:
        from pyarrow import ArrowException, parquet

        try:
            with parquet.ParquetFile(self.out) as file:
                yield from file.iter_batches(columns=columns, batch_size=_ROWS_AT_A_TIME)
        except ArrowException as error:
            raise TableError(f"{self.out}: cannot be read as Parquet ({error})") from error

    def _write_parquet(self) -> None:
        """The rows of the file that is there, and the new ones, a row group at a time."""
        import pyarrow
        from pyarrow import parquet

        kinds = {True: pyarrow.float32(), False: pyarrow.string()}
        schema = pyarrow.schema([(name, kinds[name.startswith("probability")]) for name in self._columns])
        with replacing(self.out) as file, parquet.ParquetWriter(file, schema) as writer:
            if self.out.exists():
                for batch in self._old_batches(self._columns):
                    writer.write_batch(batch)
            rows = map(json.loads, self._records())
            while some := list(islice(rows, _ROWS_AT_A_TIME)):
                writer.write_table(pyarrow.Table.from_pylist(some, schema))


class _Paths:
    """A set of paths in eight bytes each: their hashes, sorted.

    Among a million paths, the chance that any two are taken for the same is 3 in a hundred million.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._hashes = np.array(array("Q", (_hash(path) for path in paths)), dtype=np.uint64)
        self._hashes.sort()

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, path: object) -> bool:
        if not isinstance(path, str):
            return False
        wanted = np.uint64(_hash(path))
        place = int(np.searchsorted(self._hashes, wanted))
        return place < len(self._hashes) and self._hashes[place] == wanted


def _hash(path: str) -> int:
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest())


def _printable(path: str) -> str:
    """A path as text: bytes of a file name that are no UTF-8 are spelt out."""
    return path.encode("utf-8", "backslashreplace").decode()


def _cell(value: object) -> str:
    """A value in CSV; csv.writer leaves a carriage return, which file names may have, bare (before 3.13)."""
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def _require_pyarrow(out: Path) -> None:
    if find_spec("pyarrow") is None:
        raise TableError(
            f"{out}: Parquet is written by pyarrow, which is not installed; pip install 'ggam[datasets]', "
            "or choose .csv or .jsonl"
        )
