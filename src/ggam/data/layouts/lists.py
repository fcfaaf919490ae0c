"""The lists that data sets come with: text files of one line per picture, and MATLAB files."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from scipy.io import loadmat

from ggam.data.records import Box, DataError


def refuse(path: Path, reason: str, line: int | None = None) -> NoReturn:
    """Raise a `DataError` that names the file and, where there is one, the line."""
    raise DataError(f"{path}{'' if line is None else f', line {line}'}: {reason}")


def absent(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the files and folders that `root` does not have."""
    return tuple(name for name in names if not (root / name).exists())


def beside_or_in(root: Path, folder: str, name: str) -> Path:
    """A file right in `root` if it is there, else in a folder of it."""
    return root / name if (root / name).exists() else root / folder / name


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, each with its number from 1."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        refuse(path, "no such file; unpack all of the data set")
    except (OSError, UnicodeDecodeError) as error:
        refuse(path, f"cannot be read ({error})")
    return ((number, text.strip()) for number, text in enumerate(lines, start=1) if text.strip())


def read_pairs(path: Path) -> dict[str, str]:
    """A list of `key rest of the line`, in the order of the file.

    Raises:
        DataError: if a line has no second part, a key comes twice, or there is nothing in the file.
    """
    pairs: dict[str, str] = {}
    for line, text in read_lines(path):
        key, _, rest = text.partition(" ")
        if not rest.strip():
            refuse(path, f"expected a key and a value, found {text[:80]!r}", line)
        if key in pairs:
            refuse(path, f"{key} appears a second time", line)
        pairs[key] = rest.strip()
    if not pairs:
        refuse(path, "is empty")
    return pairs


def read_numbers(path: Path, count: int) -> Iterator[tuple[str, list[float]]]:
    """The lines of a list of `key number … number`, with `count` numbers in each; keys may come again."""
    for line, text in read_lines(path):
        key, *values = text.split()
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            numbers = []
        if len(numbers) != count:
            refuse(path, f"expected a key and {count} numbers, found {text[:80]!r}", line)
        yield key, numbers


def read_column(path: Path, pictures: Collection[str]) -> dict[str, str]:
    """A list of `picture value` with a line for each of the pictures."""
    pairs = read_pairs(path)
    _require(path, pairs, pictures)
    return pairs


def read_boxes(path: Path, pictures: Collection[str]) -> dict[str, Box]:
    """A list of `picture x y width height` with a line for each; empty if there is no such file."""
    if not path.exists():
        return {}
    boxes = {picture: Box(*numbers) for picture, numbers in read_numbers(path, 4)}
    _require(path, boxes, pictures)
    return boxes


def read_parts(
    folder: Path, pictures: Collection[str]
) -> tuple[dict[str, str], dict[str, tuple[tuple[float, float] | None, ...]]]:
    """The parts of birds: parts.txt, `part name`, and part_locs.txt, `picture part x y visible`.

    Args:
        folder: where the two lists are, or are not.
        pictures: what part_locs.txt may speak of.

    Returns:
        The names by number, and for each picture where its parts are, in the order of the names;
        both empty without the lists.
    """
    names_file, places_file = folder / "parts.txt", folder / "part_locs.txt"
    if not names_file.exists() or not places_file.exists():
        return {}, {}
    names = read_pairs(names_file)
    order = {float(number): position for position, number in enumerate(names)}
    places: dict[str, list[tuple[float, float] | None]] = {p: [None] * len(order) for p in pictures}
    for picture, (part, x, y, visible) in read_numbers(places_file, 4):
        if picture not in places:
            refuse(places_file, f"picture {picture} is not in images.txt")
        if part not in order:
            refuse(places_file, f"part {part:g} is not in parts.txt")
        places[picture][order[part]] = (x, y) if visible else None
    return names, {picture: tuple(found) for picture, found in places.items()}


def _require(path: Path, found: Mapping[str, object], pictures: Collection[str]) -> None:
    for picture in pictures:
        if picture not in found:
            refuse(path, f"has no line for picture {picture} of images.txt")


def read_mat(path: Path, *names: str) -> list[Any]:
    """Variables of a MATLAB file, each as an array of at least one dimension.

    Raises:
        DataError: if the file is missing, damaged, or lacks one of them.
    """
    if not path.exists():
        refuse(path, "no such file; unpack all of the data set")
    try:
        variables = loadmat(path, squeeze_me=True, variable_names=names)
    except Exception as error:  # a damaged file may raise almost anything in there
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error})") from error
    for name in names:
        if name not in variables:
            refuse(path, f"has no variable {name!r}")
    return [np.atleast_1d(variables[name]) for name in names]


def corner_box(left: float, top: float, right: float, bottom: float) -> Box:
    """A box given by two of its own pixels, in opposite corners; the first pixel of a picture is (1, 1)."""
    return Box(left - 1, top - 1, right - left + 1, bottom - top + 1)


def field(path: Path, records: Any, name: str) -> list[Any]:
    """One field of a MATLAB structure array, as Python values in the order of the array."""
    if name not in (records.dtype.names or ()):
        refuse(path, f"its records have no field {name!r}")
    return [value.item() if isinstance(value, np.ndarray | np.generic) else value for value in records[name]]
