"""Files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file beside its place first and move it there, so that no reader sees half of it.

    Args:
        path: where it goes; missing folders are made, a file that is there is replaced.
        content: text is written as UTF-8.

    Raises:
        OSError: if the folder cannot be written to; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
