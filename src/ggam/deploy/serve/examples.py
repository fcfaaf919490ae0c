"""Example pictures of the classes: kept by a training run, or put there by somebody."""

import re
from collections import defaultdict
from pathlib import Path

from ggam.data.records import FineGrainedDataset, limit_per_class, reading
from ggam.deploy.serve.limits import ServeError
from ggam.deploy.serve.pictures import thumbnail
from ggam.runs.run import Run
from ggam.system.files import write_atomic

_NAME = re.compile(r"(\d{1,6})(?:[-_ .].*)?\.(?:jpe?g|png|webp)", re.IGNORECASE)
_PER_CLASS = 3
_KEPT = 2
_SIDE = 320


def keep_examples(run: Run, dataset: FineGrainedDataset, seed: int) -> None:
    """Keep two small pictures of each class in a run directory, for the page of `ggam serve`.

    Args:
        run: the run directory.
        dataset: what they are drawn from.
        seed: of the drawing.

    Raises:
        DataError: if one of them cannot be read.
    """
    kept: dict[int, int] = defaultdict(int)
    for sample in limit_per_class(dataset, _KEPT, seed).samples:
        kept[sample.label] += 1
        with reading(sample.path):
            picture = thumbnail(sample.path.read_bytes(), _SIDE)
        write_atomic(run.examples / f"{sample.label}-{kept[sample.label]}.jpg", picture)


class Examples:
    """Pictures by class index, found once and read when they are asked for.

    Args:
        folder: holds files named after the index of their class: `7.jpg`, `7-2.png`, `7-daisy.jpg`; None
            for no examples.
        classes: K; pictures of other classes are left out.

    Raises:
        ServeError: if the folder is not there.
    """

    def __init__(self, folder: Path | None, classes: int) -> None:
        if folder is not None and not folder.is_dir():
            raise ServeError(f"{folder}: no such folder; expected example pictures like 0.jpg, 1.jpg")
        self._files: dict[int, list[Path]] = defaultdict(list)
        for file in sorted(folder.iterdir()) if folder is not None else ():
            match = _NAME.fullmatch(file.name)
            if match and int(match[1]) < classes and len(self._files[int(match[1])]) < _PER_CLASS:
                self._files[int(match[1])].append(file)

    @classmethod
    def beside(cls, source: Path, classes: int) -> "Examples":
        """Those of a run directory or model folder; none if it keeps none."""
        folder = Run(source).examples
        return cls(folder if folder.is_dir() else None, classes)

    def counts(self) -> dict[int, int]:
        """Class index → how many."""
        return {index: len(files) for index, files in sorted(self._files.items())}

    def jpeg(self, index: int, number: int) -> bytes:
        """One picture, small.

        Raises:
            KeyError: if there is no such picture.
            OSError: if it cannot be read.
        """
        files = self._files.get(index, [])
        if not 0 <= number < len(files):
            raise KeyError((index, number))
        return thumbnail(files[number].read_bytes(), _SIDE)
