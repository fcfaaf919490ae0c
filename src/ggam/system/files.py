"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write beside its place; it moves there when the block ends, so that no reader sees half.

    Args:
        path: where it goes; missing folders are made, a file that is there is replaced.

    Raises:
        OSError: if the folder cannot be written to; nothing is left behind then, nor if the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file with `replacing`.

    Args:
        path: where it goes.
        content: text is written as UTF-8.

    Raises:
        OSError: as `replacing` says.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
