"""How a data set may lie on disk: each layout recognised by its files, read by its own module."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from ggam.data.layouts import aircraft, cars, cub, dogs, flowers102, folder, manifest, nabirds
from ggam.data.records import DataError, FineGrainedDataset

SPLITS = ("train", "test")


class NotADataset(DataError):
    """A path where nothing speaks for any layout."""


@dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on disk."""

    name: str
    """As `--layout` takes it."""
    missing: Callable[[Path], tuple[str, ...] | None]
    """What is yet to be unpacked for a folder to be of this layout: empty if it is complete, None if
    nothing in it speaks for this layout. Looks at names only, so that it is cheap."""
    read: Callable[..., FineGrainedDataset]
    """Reads one split, from the folder and `train` or `test`."""
    drawn: bool = False
    """Whether a layout may lack splits of its own: `read` takes a seed then."""

    def detect(self, root: Path) -> bool:
        """Whether the folder is, completely, of this layout."""
        return self.missing(root) == ()


LAYOUTS: dict[str, Layout] = {
    "cub": Layout("cub", cub.missing_files, cub.read),
    "aircraft": Layout("aircraft", aircraft.missing_files, aircraft.read),
    # The coarser levels lie in the same files, so that they are chosen, never recognised.
    "aircraft-family": Layout("aircraft-family", lambda root: None, partial(aircraft.read, level="family")),
    "aircraft-manufacturer": Layout(
        "aircraft-manufacturer", lambda root: None, partial(aircraft.read, level="manufacturer")
    ),
    "cars": Layout("cars", cars.missing_files, cars.read),
    "dogs": Layout("dogs", dogs.missing_files, dogs.read),
    "flowers102": Layout("flowers102", flowers102.missing_files, flowers102.read),
    "nabirds": Layout("nabirds", nabirds.missing_files, nabirds.read),
    "manifest": Layout("manifest", manifest.missing_files, manifest.read),
    "folder": Layout("folder", folder.missing_files, folder.read, drawn=True),
}


def detect_layout(root: Path) -> str:
    """The name of the one layout that a folder (or a manifest file) is of.

    Class folders come last: the pictures of a published set may look like them.

    Raises:
        NotADataset: if it is of none; the message says where to look instead, if there is a place.
        DataError: if it is of several, or of one whose archive is half unpacked; the message says
            what is missing.
    """
    _check_folder(root)
    found = [name for name, layout in LAYOUTS.items() if name != "folder" and layout.detect(root)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{root}: could be {' or '.join(found)}; choose one with --layout")
    for name, layout in LAYOUTS.items():
        missing = layout.missing(root)
        if missing == ():
            return name
        if missing is not None:
            raise DataError(
                f"{root}: looks like {name}, but {' and '.join(missing)} is missing; unpack all of it"
            )
    for child in sorted(path for path in root.iterdir() if path.is_dir()):
        if any(layout.detect(child) for layout in LAYOUTS.values()):
            raise NotADataset(f"{root}: no data set here, but there is one in it: use {child}")
    if not any(root.iterdir()):
        raise NotADataset(f"{root}: an empty folder")
    raise NotADataset(f"{root}: none of the known layouts ({', '.join(LAYOUTS)}); see docs/datasets.md")


def load_dataset(
    path: Path | str, *, split: str, layout: str | None = None, seed: int = 0
) -> FineGrainedDataset:
    """Read one split of a data set, whatever its layout.

    Args:
        path: the folder of the data set, or a manifest (.csv, .parquet).
        split: `train` or `test`. A validation part is held out of `train` with `hold_out`.
        layout: a key of `LAYOUTS`; None recognises it by the files.
        seed: draws the split where the data set comes without one (one folder of class folders).

    Returns:
        The samples, without a transform: items are (RGB picture, label).

    Raises:
        DataError: if the folder is missing, of no known layout, or not as its layout says; one line
            that names the file.
    """
    root = Path(path)
    if split not in SPLITS:
        raise DataError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    _check_folder(root)
    found = find_layout(root, layout)
    return found.read(root, split, **({"seed": seed} if found.drawn else {}))


def find_layout(root: Path, name: str | None) -> Layout:
    """The layout of that name; None recognises the one that `root` is of.

    Raises:
        DataError: if there is none of that name, or `detect_layout` fails.
    """
    if name is None:
        return LAYOUTS[detect_layout(root)]
    if name not in LAYOUTS:
        near = get_close_matches(name, LAYOUTS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(LAYOUTS)}"
        raise DataError(f"layout {name!r}: {hint}")
    return LAYOUTS[name]


def _check_folder(root: Path) -> None:
    if root.is_file() and not LAYOUTS["manifest"].detect(root):
        raise NotADataset(
            f"{root}: is a file; expected a folder (unpack an archive first) or a manifest "
            f"({', '.join(manifest.SUFFIXES)})"
        )
    if not root.exists():
        raise NotADataset(f"{root}: no such folder")
