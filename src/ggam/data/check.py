"""What can be wrong with the pictures of a data set, found before training."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from ggam.data.records import FineGrainedDataset

_PROBE = 32


def unreadable(dataset: FineGrainedDataset, *, workers: int = 4) -> list[tuple[Path, str]]:
    """The pictures that cannot be read, each with the reason.

    Every picture is decoded to its end, so that a truncated one is found too; JPEGs at the smallest
    scale that libjpeg offers, which costs a third of a full decode.

    Args:
        dataset: the pictures; its transform is not used.
        workers: threads that decode at the same time.
    """
    paths = [sample.path for sample in dataset.samples]
    with ThreadPoolExecutor(workers) as pool:
        reasons = list(pool.map(_reason, paths))
    return [(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason]


def _reason(path: Path) -> str:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (_PROBE, _PROBE))
            image.load()
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        return " ".join(str(error).split()) or type(error).__name__
    return ""
