"""Tables that are written in pieces, cut off anywhere, and gone on with."""

import csv
import json
import os
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from pyarrow import parquet

from ggam.deploy.predictions.table import PredictionTable, Row, TableError

COLUMNS = ("path", "class_1", "probability_1")
ORIGIN = {"model": "abc", "top": 1}
ROWS: list[Row] = [("a.jpg", "Dunlin", 0.5), ('b, "c"\n.jpg', "Ελιά", 0.25), ("d.jpg", 'the "red"', 1e-05)]
SUFFIXES = (".csv", ".jsonl", ".parquet")


def write(out: Path, rows: list[Row], origin: dict[str, object] = ORIGIN) -> PredictionTable:
    table = PredictionTable(out, COLUMNS, origin)
    table.append(row for row in rows if str(row[0]) not in table)
    table.finish()
    return table


def read(out: Path) -> list[tuple[Any, ...]]:
    if out.suffix == ".csv":
        with out.open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
    elif out.suffix == ".jsonl":
        found = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    else:
        found = parquet.read_table(out).to_pylist()
    return [(row["path"], row["class_1"], pytest.approx(float(row["probability_1"]))) for row in found]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_come_back(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / f"p{suffix}"
    assert write(out, ROWS).found == 0
    assert read(out) == ROWS
    assert sorted(file.name for file in out.parent.iterdir()) == sorted([out.name, f"{out.name}.model.json"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_finished_table_is_gone_on_with(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"p{suffix}"
    write(out, ROWS[:2])
    assert write(out, ROWS).found == 2
    assert read(out) == ROWS
    before = out.stat().st_mtime_ns
    assert write(out, ROWS).found == 3
    assert out.stat().st_mtime_ns == before or suffix != ".parquet"
    assert read(out) == ROWS


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_abandoned_table_is_gone_on_with(suffix: str, tmp_path: Path) -> None:
    table = PredictionTable(tmp_path / "live" / f"p{suffix}", COLUMNS, ORIGIN)
    table.append(ROWS[:1])
    shutil.copytree(tmp_path / "live", tmp_path / "killed")  # what kill -9 leaves behind
    table.close()
    out = tmp_path / "killed" / f"p{suffix}"
    assert write(out, ROWS).found == 1
    assert read(out) == ROWS


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_wherever_it_was_cut_off_no_whole_row_is_lost_and_no_half_one_kept(
    suffix: str, tmp_path: Path
) -> None:
    whole = tmp_path / f"whole{suffix}"
    write(whole, ROWS)
    content = whole.read_bytes()
    ends = [len(_content(tmp_path / f"{count}{suffix}", ROWS[:count])) for count in range(4)]
    out = tmp_path / f"p{suffix}"
    for length in range(len(content) + 1):
        out.write_bytes(content[:length])
        (tmp_path / f"{out.name}.model.json").write_text(json.dumps(ORIGIN))
        assert write(out, ROWS).found == max(0, sum(length >= end for end in ends) - 1), length
        assert out.read_bytes() == content, length


def _content(out: Path, rows: list[Row]) -> bytes:
    write(out, rows)
    return out.read_bytes()


def test_parquet_is_merged_once_wherever_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    lines = tmp_path / "p.parquet.partial.jsonl"
    table = PredictionTable(out, COLUMNS, ORIGIN)
    table.append(ROWS[:2])
    assert not out.exists()
    kept = lines.read_bytes()
    table.finish()
    lines.write_bytes(kept)  # stopped after the file was written, before the lines were removed
    assert write(out, ROWS).found == 2
    assert read(out) == ROWS
    assert not lines.exists()


def test_an_empty_parquet_file_is_still_a_file(tmp_path: Path) -> None:
    write(tmp_path / "p.parquet", [])
    assert parquet.read_table(tmp_path / "p.parquet").column_names == list(COLUMNS)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(max_examples=40)
@given(st.lists(TEXT, unique=True, max_size=6), st.integers(0, 6), st.sampled_from([".csv", ".jsonl"]))
def test_any_path_is_found_again(paths: list[str], cut: int, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, f"p{suffix}")
        write(out, [(path, "x", 0.5) for path in paths[:cut]])
        table = PredictionTable(out, COLUMNS, ORIGIN)
        assert [path in table for path in paths] == [index < cut for index in range(len(paths))]
        table.close()


def test_names_that_are_no_text_are_spelt_out(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    for suffix in SUFFIXES:
        out = tmp_path / f"p{suffix}"
        write(out, [(name, "x", 0.5)])
        assert read(out)[0][0] == "caf\\udce9.jpg"
        again = PredictionTable(out, COLUMNS, ORIGIN)
        assert name in again
        again.close()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_named_and_what_fitted_on_it_is_kept(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"p{suffix}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    table = PredictionTable(out, COLUMNS, ORIGIN)
    table.append(ROWS[:1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as found:
            table.append([(f"{number}.jpg", "Dunlin", 0.5) for number in range(50)])
        table.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(found.value.filename).startswith(str(out))
    assert write(out, ROWS).found >= 1
    assert set(ROWS[:1]) <= {(path, name, share.expected) for path, name, share in read(out)}


def test_another_model_does_not_go_on(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        out = tmp_path / f"p{suffix}"
        write(out, ROWS)
        before = out.read_bytes()
        with pytest.raises(TableError, match=rf"p{suffix}: was written with another model \(abc, now x\)"):
            PredictionTable(out, COLUMNS, ORIGIN | {"model": "x"})
        assert out.read_bytes() == before


def test_tables_of_somebody_else(tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    out.write_text("my,own\nprecious,data\n")
    with pytest.raises(TableError, match="is there already, and nothing says which model wrote it"):
        PredictionTable(out, COLUMNS, ORIGIN)
    (tmp_path / "p.csv.model.json").write_text(json.dumps(ORIGIN))
    with pytest.raises(TableError, match=r"expected the columns \['path', .*found \['my', 'own'\]"):
        PredictionTable(out, COLUMNS, ORIGIN)
    assert out.read_text() == "my,own\nprecious,data\n"
    for name, content in (("p.jsonl", "[1]\n"), ("p.parquet", "no")):
        (tmp_path / name).write_text(content)
        (tmp_path / f"{name}.model.json").write_text(json.dumps(ORIGIN))
        with pytest.raises(TableError, match=f"{name}.*(not a prediction|cannot be read as Parquet)"):
            PredictionTable(tmp_path / name, COLUMNS, ORIGIN)


def test_an_unknown_kind_of_table(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"p.xlsx: expected a name that ends in .csv, .jsonl, .parquet"):
        PredictionTable(tmp_path / "p.xlsx", COLUMNS, ORIGIN)
