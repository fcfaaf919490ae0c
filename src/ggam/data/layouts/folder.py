"""Class folders: `train/` and `test/`, or one folder of class folders that is split by seed."""

import os
from pathlib import Path

from ggam.data.records import DataError, FineGrainedDataset, Sample, readable_names, stratified_split

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
TEST_SHARE = 0.2
"""The share of each class that is test where the folder has no split of its own."""
_TEST_FOLDERS = ("test", "val", "valid")


def missing_files(root: Path) -> tuple[str, ...] | None:
    """What a folder lacks to be of this layout; None if nothing in it speaks for it."""
    if _is_split(root / "train"):
        return () if _test_folder(root) else ("test/",)
    return () if _is_split(root) else None


def read(root: Path, split: str, *, seed: int = 0) -> FineGrainedDataset:
    """Read one split.

    The test pictures are those in `test/`; without it those in `val/` or `valid/`. Beside `test/`,
    these two are left alone: the validation part is held out of `train/`. A folder without `train/`
    is a folder of classes, of each of which the share `TEST_SHARE` is test. Pictures may lie
    in folders below that of their class; hidden files and other files are passed over.

    Args:
        root: the folder that holds `train/`, or the class folders.
        split: `train` or `test`.
        seed: draws the split where there is no `train/`.

    Raises:
        DataError: if there are fewer than two classes, one of them has no pictures, or train and
            test have different ones.
    """
    if _is_split(root / "train"):
        folder, classes = _given_split(root, split)
        samples = _samples(folder, classes)
    else:
        classes = _classes(root)
        samples = _samples(root, classes)
        parts = stratified_split([sample.label for sample in samples], TEST_SHARE, seed)
        samples = [samples[i] for i in parts[split == "test"]]
    return FineGrainedDataset(samples, readable_names(classes), root=root, layout="folder", split=split)


def _given_split(root: Path, split: str) -> tuple[Path, list[str]]:
    """The folder of a split, and the classes, which both splits must have."""
    test = _test_folder(root)
    if test is None:
        raise DataError(f"{root}: has train/ but no test/ (or val/, valid/); expected class folders in it")
    classes, test_classes = _classes(root / "train"), _classes(test)
    for name in sorted(set(classes) ^ set(test_classes)):
        there, lacking = (root / "train", test) if name in classes else (test, root / "train")
        raise DataError(f"{there / name}: a class that {lacking} does not have; both need the same classes")
    return (test if split == "test" else root / "train"), classes


def _is_split(folder: Path) -> bool:
    """Whether a folder holds class folders, that is folders with a picture right in them."""
    return folder.is_dir() and any(
        any(map(_is_picture, os.listdir(folder / name))) for name in _folders(folder)
    )


def _test_folder(root: Path) -> Path | None:
    return next((root / name for name in _TEST_FOLDERS if _is_split(root / name)), None)


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not _is_hidden(entry.name))


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and in those below it, in order."""
    pictures = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        pictures += [Path(parent, name) for name in files if _is_picture(name)]
    return sorted(pictures)


def _classes(folder: Path) -> list[str]:
    classes = _folders(folder)
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{folder}: expected a folder for each of two classes or more, found {found}")
    return classes


def _samples(folder: Path, classes: list[str]) -> list[Sample]:
    samples = []
    for label, name in enumerate(classes):
        pictures = _pictures(folder / name)
        if not pictures:
            wanted = " ".join(sorted(extension[1:] for extension in EXTENSIONS))
            raise DataError(f"{folder / name}: a class without pictures (looked for {wanted})")
        samples += [Sample(path, label) for path in pictures]
    return samples
