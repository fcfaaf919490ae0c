"""The pictures that a command line names, one after the other: never all of them in memory."""

import glob
import os
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from ggam.data.layouts.folder import EXTENSIONS
from ggam.data.layouts.manifest import SUFFIXES, picture_paths

_SORTED_TOGETHER = 10_000


class SourceError(ValueError):
    """An input that is not there, or has no pictures."""


def find_pictures(inputs: Sequence[str]) -> Iterator[str]:
    """The paths of the pictures, written as the inputs are (relative stays relative).

    A file is taken whatever it is called; a `.csv` or `.parquet` is a manifest, of which only the
    column `path` is read, and whose paths are relative to it. A folder is searched with all those below it,
    hidden ones left out, for files with a picture's extension, in the order of their names (in runs
    of 10,000 where one folder holds more). Links to folders are not followed. Anything else that
    holds `*`, `?` or `[` is a pattern, where `**` stands for any number of folders.

    Args:
        inputs: files, folders, manifests and patterns.

    Raises:
        SourceError: at once, if an input is not there, or has no pictures.
        DataError: if a manifest cannot be read.
    """
    for given in inputs:
        if not os.path.exists(given) and not glob.has_magic(given):
            raise SourceError(f"{given}: no such file or folder; expected pictures, or a quoted pattern")
        if next(_pictures_of(given), None) is None:
            what = "holds no pictures" if os.path.exists(given) else "matches no picture"
            raise SourceError(f"{given}: {what} (looked for {' '.join(sorted(EXTENSIONS))})")
    return chain.from_iterable(map(_pictures_of, inputs))


def _pictures_of(given: str) -> Iterator[str]:
    if os.path.isdir(given):
        yield from _below(given)
    elif os.path.exists(given):
        if given.lower().endswith(SUFFIXES):
            yield from map(str, picture_paths(Path(given)))
        else:
            yield given
    else:
        for match in glob.iglob(given, recursive=True):
            if _is_picture(match) and not os.path.isdir(match):
                yield match


def _below(folder: str) -> Iterator[str]:
    """The pictures of a folder, then those of the folders in it."""
    folders: list[str] = []
    with os.scandir(folder) as entries:
        visible = (entry for entry in entries if not entry.name.startswith((".", "__MACOSX")))
        while chunk := sorted(islice(visible, _SORTED_TOGETHER), key=lambda entry: entry.name):
            for entry in chunk:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif _is_picture(entry.name) and not entry.is_dir():
                    yield entry.path
    for path in sorted(folders):
        yield from _below(path)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS
