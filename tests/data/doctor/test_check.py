import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from rich.console import Console

from ggam.data.doctor.check import check_dataset, render, unreadable
from ggam.data.layouts.registry import load_dataset
from ggam.data.records import DataError

CLASSES = ("Dunlin", "Knot", "Sanderling")
TRAIN, TEST = 4, 2


def photo(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse, fine = (
        Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(size)
        for cells in (6, 20)
    )
    return Image.blend(coarse, fine, 0.4)


def write_folders(root: Path) -> Path:
    seed = 0
    for split, count in (("train", TRAIN), ("test", TEST)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                seed += 1
                photo(seed).save(root / split / name / f"{n}.jpg", quality=95)
    return root


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("clean"))


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    shutil.copytree(clean, tmp_path / "set")
    return tmp_path / "set"


def zero_bytes(root: Path) -> None:
    (root / "train/Knot/0.jpg").write_bytes(b"")


def truncated(root: Path) -> None:
    path = root / "train/Knot/1.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def no_picture(root: Path) -> None:
    (root / "test/Knot/0.jpg").write_text("<html>404 not found</html>")


def dangling_link(root: Path) -> None:
    (root / "train/Knot/extra.jpg").symlink_to("/nowhere/else.jpg")


def cmyk(root: Path) -> None:
    photo(101).convert("CMYK").save(root / "train/Knot/cmyk.jpg")


def sixteen_bit(root: Path) -> None:
    grey = np.asarray(photo(102).convert("L"), dtype=np.uint16) * 257
    Image.fromarray(grey).save(root / "train/Knot/deep.png")


def palette(root: Path) -> None:
    photo(103).convert("P", palette=Image.Palette.ADAPTIVE).save(root / "train/Knot/palette.png")


def animated(root: Path) -> None:
    photo(104).save(root / "train/Knot/moving.gif", save_all=True, append_images=[photo(105)])


def rotated(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(106).save(root / "train/Knot/phone.jpg", exif=exif)


def large(root: Path) -> None:
    photo(107).convert("1").resize((7200, 7000)).save(root / "train/Knot/poster.png")


def small(root: Path) -> None:
    photo(108, (300, 40)).save(root / "train/Knot/strip.jpg")


def blank(root: Path) -> None:
    Image.new("RGB", (96, 80), "white").save(root / "train/Knot/white.jpg")


def transparent(root: Path) -> None:
    image = photo(109)
    image.putalpha(128)
    image.save(root / "train/Knot/glass.png")


def duplicate(root: Path) -> None:
    shutil.copy(root / "train/Knot/2.jpg", root / "train/Knot/copy.jpg")


def duplicate_across(root: Path) -> None:
    shutil.copy(root / "train/Dunlin/0.jpg", root / "test/Dunlin/copy.jpg")


def duplicate_label(root: Path) -> None:
    shutil.copy(root / "train/Dunlin/1.jpg", root / "train/Knot/stray.jpg")


def near_duplicate(root: Path) -> None:
    with Image.open(root / "train/Dunlin/2.jpg") as image:
        image.resize((200, 150)).save(root / "train/Dunlin/larger.png")


def near_duplicate_across(root: Path) -> None:
    with Image.open(root / "train/Dunlin/3.jpg") as image:
        ImageOps.mirror(image).save(root / "test/Dunlin/mirrored.jpg", quality=50)


def imbalance(root: Path) -> None:
    for n in range(10 * TRAIN):
        photo(1000 + n).save(root / f"train/Sanderling/more{n}.jpg")


def class_not_in_test(root: Path) -> None:
    (root / "train/Ruff").mkdir()
    photo(110).save(root / "train/Ruff/0.jpg")


def empty_class(root: Path) -> None:
    for path in (root / "train/Dunlin").iterdir():
        path.unlink()


def half_unpacked(root: Path) -> None:
    shutil.rmtree(root / "test")


DAMAGE: dict[Callable[[Path], None], tuple[str, str, str]] = {
    zero_bytes: ("error", "zero-byte", "train/Knot/0.jpg"),
    truncated: ("error", "truncated", "train/Knot/1.jpg"),
    no_picture: ("error", "unreadable", "test/Knot/0.jpg"),
    dangling_link: ("error", "missing", "train/Knot/extra.jpg"),
    cmyk: ("note", "cmyk", "train/Knot/cmyk.jpg"),
    sixteen_bit: ("note", "16-bit", "train/Knot/deep.png"),
    palette: ("note", "palette", "train/Knot/palette.png"),
    transparent: ("note", "transparent", "train/Knot/glass.png"),
    rotated: ("note", "rotated", "train/Knot/phone.jpg"),
    animated: ("warning", "animated", "train/Knot/moving.gif"),
    large: ("warning", "large", "train/Knot/poster.png"),
    small: ("warning", "small", "train/Knot/strip.jpg"),
    blank: ("warning", "blank", "train/Knot/white.jpg"),
    duplicate: ("warning", "duplicate", "train/Knot/2.jpg = train/Knot/copy.jpg"),
    duplicate_across: ("error", "duplicate-across", "train/Dunlin/0.jpg = test/Dunlin/copy.jpg"),
    duplicate_label: ("error", "duplicate-label", "train/Dunlin/1.jpg = train/Knot/stray.jpg"),
    near_duplicate: ("warning", "near-duplicate", "train/Dunlin/2.jpg = train/Dunlin/larger.png"),
    near_duplicate_across: (
        "error",
        "near-duplicate-across",
        "train/Dunlin/3.jpg = test/Dunlin/mirrored.jpg",
    ),
}


def test_a_sound_set_has_no_findings(clean: Path) -> None:
    report = check_dataset(clean)
    assert report.findings == ()
    assert report.ok
    assert (report.layout, report.classes, report.splits) == ("folder", 3, {"train": 12, "test": 6})


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_each_damage_is_diagnosed(root: Path, damage: Callable[[Path], None]) -> None:
    damage(root)
    report = check_dataset(root, workers=1)
    found = {(f.severity, f.code, *(" = ".join(files) for files in f.files)) for f in report.findings}

    severity = DAMAGE[damage][0]
    assert DAMAGE[damage] in found
    also = {"duplicate-label": {"duplicate"}, "animated": {"palette"}}  # they are that as well
    code = DAMAGE[damage][1]
    assert {f.code for f in report.findings} == {code} | also.get(code, set())
    assert report.ok == (severity != "error")


def test_all_damages_at_once_are_told_apart(root: Path) -> None:
    for damage in DAMAGE:
        damage(root)
    report = check_dataset(root)
    found = {finding.code: finding for finding in report.findings}

    assert set(found) == {code for _, code, _ in DAMAGE.values()}
    for severity, code, files in DAMAGE.values():
        assert found[code].severity == severity
        assert files in {" = ".join(group) for group in found[code].files}
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def test_uneven_classes(root: Path) -> None:
    imbalance(root)
    (finding,) = check_dataset(root).findings
    assert (finding.severity, finding.code) == ("warning", "imbalance")
    assert "Sanderling has 44 training pictures, Knot 4" in finding.message


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (class_not_in_test, "lists", "Ruff: a class that"),
        (empty_class, "lists", "Dunlin: a class without pictures"),
        (half_unpacked, "layout", "looks like folder, but test/ is missing"),
    ],
)
def test_a_set_that_cannot_be_read_is_a_finding(
    root: Path, damage: Callable[[Path], None], code: str, words: str
) -> None:
    damage(root)
    report = check_dataset(root)
    (finding,) = report.findings
    assert (finding.severity, finding.code) == ("error", code)
    assert words in finding.message
    assert not report.ok


def write_manifest(root: Path, rows: list[str]) -> Path:
    path = root / "birds.csv"
    path.write_text("path,label,split,x,y,width,height\n" + "\n".join(rows) + "\n")
    for n in range(len(rows)):
        photo(n).save(root / f"{n}.png")
    return path


def test_what_only_lists_can_get_wrong(tmp_path: Path) -> None:
    path = write_manifest(
        tmp_path,
        [
            "0.png,Dunlin,train,0,0,96,80",
            "1.png,Knot,train,95.5,0,30,30",  # half a pixel is left inside
            "2.png,Knot,train,96,0,30,30",
            "3.png,Knot,test,-2,-2,50,50",
            "4.png,Ruff,test,10,10,90,10",
            "5.png,Ruff,test,,,,",
            "gone.png,Knot,test,,,,",
        ],
    )
    found = {finding.code: finding for finding in check_dataset(path).findings}

    assert set(found) == {
        "box-outside",
        "box-overhang",
        "class-without-train",
        "class-without-test",
        "missing",
    }
    assert found["box-outside"].files == (("2.png",),)
    assert found["box-overhang"].files == (("1.png",), ("4.png",))
    assert found["missing"].files == (("gone.png",),)
    assert found["class-without-train"].message == "1 class without a train picture: Ruff"
    assert found["class-without-test"].message == "1 class without a test picture: Dunlin"
    assert [found[code].severity for code in ("box-outside", "class-without-train")] == ["error", "error"]


def test_boxes_of_turned_pictures_are_doubted(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, [f"{n}.png,Knot,{s},1,1,9,9" for n, s in enumerate(("train", "test"))])
    exif = Image.Exif()
    exif[0x0112] = 3
    photo(0).save(tmp_path / "0.png", exif=exif)
    assert [f.code for f in check_dataset(path).findings] == ["rotated-annotation", "rotated"]


def test_parts_outside_and_labels_out_of_range(tmp_path: Path) -> None:
    lists = {
        "classes.txt": "1 001.Knot\n2 002.Ruff\n",
        "images.txt": "1 a.png\n2 b.png\n3 c.png\n4 d.png\n",
        "image_class_labels.txt": "1 1\n2 2\n3 1\n4 2\n",
        "train_test_split.txt": "1 1\n2 1\n3 0\n4 0\n",
        "parts/parts.txt": "1 beak\n",
        "parts/part_locs.txt": "1 1 50 50 1\n2 1 97 10 1\n3 1 500 500 0\n4 1 0 0 1\n",
    }
    for folder in ("images", "parts"):
        (tmp_path / folder).mkdir()
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    for seed, name in enumerate("abcd"):
        photo(seed).save(tmp_path / "images" / f"{name}.png")
    (finding,) = check_dataset(tmp_path).findings
    assert (finding.code, finding.files) == ("part-outside", (("images/b.png",),))

    (tmp_path / "image_class_labels.txt").write_text("1 1\n2 9\n3 1\n4 2\n")
    report = check_dataset(tmp_path)
    assert [f.code for f in report.findings] == ["lists"]
    assert "class 9" in report.findings[0].message


def test_an_incomplete_copy_of_a_published_set(tmp_path: Path) -> None:
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "200.Common_Yellowthroat")
    for seed, (split, name) in enumerate((s, n) for s in ("train", "test") for n in names):
        (tmp_path / split / name).mkdir(parents=True)
        photo(seed).save(tmp_path / split / name / "1.jpg")
    report = check_dataset(tmp_path)

    assert [f.code for f in report.findings] == ["split-size"] * 3 + ["published-caution"]
    assert "train has 3 entries where the published CUB-200-2011 has 5,994" in report.findings[0].message
    assert report.ok


def test_json_and_table_say_the_same(root: Path) -> None:
    for damage in (truncated, duplicate_across, cmyk):
        damage(root)
    for n in range(5):
        shutil.copy(root / "train/Knot/cmyk.jpg", root / f"test/Sanderling/c{n}.jpg")
    report = check_dataset(root)
    data = json.loads(report.to_json())
    screen = io.StringIO()
    Console(file=screen, width=160).print(render(report))

    assert data["ok"] is False
    assert data["path"] == str(root)
    assert data["splits"] == {"train": 13, "test": 12}
    assert [f["code"] for f in data["findings"]] == [f.code for f in report.findings]
    assert len(next(f for f in data["findings"] if f["code"] == "cmyk")["files"]) == 6
    for finding in report.findings:
        assert finding.code in screen.getvalue()
    assert "… and 3 more" in screen.getvalue()
    assert "repair the errors before you train" in screen.getvalue()


def test_nothing_there_and_no_such_layout(clean: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        check_dataset(clean / "nothing")
    (clean / "empty").mkdir()
    with pytest.raises(DataError, match="an empty folder"):
        check_dataset(clean / "empty")
    (clean / "empty").rmdir()
    with pytest.raises(DataError, match="is a file; expected a folder"):
        check_dataset(clean / "train/Knot/0.jpg")
    with pytest.raises(DataError, match=r"layout 'fodler': did you mean 'folder'"):
        check_dataset(clean, "fodler")


def test_progress_and_workers(root: Path) -> None:
    duplicate_across(root)
    seen: list[tuple[int, int]] = []
    reports = [check_dataset(root, workers=n, on_progress=lambda *a: seen.append(a)) for n in (1, 4)]
    assert reports[0] == reports[1]
    assert seen == [(n, 19) for n in range(1, 20)] * 2


def test_unreadable_before_training(root: Path) -> None:
    for damage in (zero_bytes, truncated, cmyk):
        damage(root)
    found = unreadable(load_dataset(root, split="train"))
    assert [path.relative_to(root).as_posix() for path, _ in found] == [
        "train/Knot/0.jpg",
        "train/Knot/1.jpg",
    ]
    assert found[0][1] == "the file is empty"
    assert "truncated" in found[1][1]
