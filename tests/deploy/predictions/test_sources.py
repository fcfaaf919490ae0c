"""Which pictures a command line means, on real folders."""

from pathlib import Path

import pytest

from ggam.data.records import DataError
from ggam.deploy.predictions.sources import SourceError, find_pictures


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(*inputs: object) -> list[str]:
    return list(find_pictures([str(given) for given in inputs]))


def test_a_folder_gives_all_pictures_below_it_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/deep/c.webp", "a_sub/d.gif")
    touch(tmp_path, ".cache/e.jpg", "__MACOSX/f.jpg", "no_suffix")
    (tmp_path / "folder.jpg").mkdir()
    names = ["a.PNG", "b.jpg", "a_sub/d.gif", "sub/deep/c.webp"]
    assert found(tmp_path) == [str(tmp_path / name) for name in names]


def test_links_to_pictures_count_and_links_to_folders_do_not(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "in/link.jpg").symlink_to(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/loop.jpg").symlink_to(tmp_path / "in")
    assert found(tmp_path / "in") == [str(tmp_path / "in/a.jpg"), str(tmp_path / "in/link.jpg")]


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "x/1.jpg", "x/y/2.jpg", "x/y/3.txt", "x/[z].jpg")
    monkeypatch.chdir(tmp_path)
    assert sorted(found("x/*.jpg")) == ["x/1.jpg", "x/[z].jpg"]
    assert sorted(found("x/**/?.*")) == ["x/1.jpg", "x/y/2.jpg"]
    assert found("x/[z].jpg") == ["x/[z].jpg"], "a file of that very name comes before the pattern"


def test_a_named_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    touch(tmp_path, "picture")
    assert found(tmp_path / "picture", tmp_path / "picture") == [str(tmp_path / "picture")] * 2


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_needs_only_paths(suffix: str, tmp_path: Path) -> None:
    manifest = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        manifest.write_text("note,path\nx,a.jpg\ny,sub/b.jpg\n")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"path": ["a.jpg", "sub/b.jpg"], "note": [1, 2]}), manifest)
    assert found(manifest) == [str(tmp_path / "a.jpg"), str(tmp_path / "sub/b.jpg")]


def test_bad_manifests(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("file\na.jpg\n")
    with pytest.raises(DataError, match="column path is missing"):
        found(manifest)
    manifest.write_text("path,note\na.jpg,1\n,2\n")
    with pytest.raises(DataError, match="row 2: path is empty"):
        found(manifest)


def test_what_is_not_there_is_said_before_the_first_picture(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "empty/x.txt")
    with pytest.raises(SourceError, match=r"nowhere: no such file or folder"):
        find_pictures([str(tmp_path / "a"), str(tmp_path / "nowhere")])
    with pytest.raises(SourceError, match=r"empty: holds no pictures \(looked for .bmp"):
        find_pictures([str(tmp_path / "a"), str(tmp_path / "empty")])
    with pytest.raises(SourceError, match=r"\*\.tif: matches no picture"):
        find_pictures([str(tmp_path / "*.tif")])


def test_a_large_folder_is_given_in_sorted_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggam.deploy.predictions.sources._SORTED_TOGETHER", 4)
    touch(tmp_path, *(f"{number}.jpg" for number in range(10)))
    paths = found(tmp_path)
    runs = [paths[start : start + 4] for start in range(0, 10, 4)]
    assert all(run == sorted(run) for run in runs)
    assert sorted(paths) == [str(tmp_path / f"{number}.jpg") for number in range(10)]
