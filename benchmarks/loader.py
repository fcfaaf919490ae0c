"""What reading a training picture costs: ours, with and without the cache, against torchvision's.

Both draw the paper's crops (shorter side to 600, a random crop of 448, flipped half the time,
normalised) from the same JPEGs through a `DataLoader` with one worker. Rounds are interleaved; a ratio is
the median over the rounds of torchvision's time over ours in the same round.

    python benchmarks/loader.py
    python benchmarks/loader.py --image-size 224 --rounds 15
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

import ggam
from ggam.data.cache import PictureCache
from ggam.data.loaders import Augmented, EpochBatches
from ggam.data.records import FineGrainedDataset
from ggam.data.transforms import RESIZE_RATIO, ImageTransform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = ((500, 375), (3000, 2000))
"""Width and height of a picture of CUB, and of one from a phone."""


def write_photos(folder: Path, count: int, width: int, height: int) -> None:
    """JPEGs with detail on all scales, the finer the fainter, as in photographs: 2 to 3 bits per pixel."""
    for n in range(count):
        rng = np.random.default_rng((n, width))
        image = Image.new("RGB", (width, height), "grey")
        cells, weight = 3, 0.6
        while cells < width / 1.5:
            noise = rng.integers(0, 256, (max(2, cells * height // width), cells, 3), dtype=np.uint8)
            layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
            image = Image.blend(image, layer, weight)
            cells, weight = 2 * cells, 0.85 * weight
        path = folder / ("a" if n % 2 else "b") / f"{n:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)


def torchvision_loader(folder: Path, image_size: int, batch_size: int) -> DataLoader[Any]:
    """The usual pipeline, on PIL pictures."""
    # After ggam, which makes torchvision importable beside a CPU-only torch.
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.Resize(round(image_size * RESIZE_RATIO)),
            v2.RandomCrop(image_size),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(MEAN), list(STD)),
        ]
    )
    dataset = ImageFolder(str(folder / "train"), transform)
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=1, persistent_workers=True)


def our_loader(dataset: FineGrainedDataset, image_size: int, batch_size: int) -> DataLoader[Any]:
    """What `ggam train` reads from."""
    train = dataset.with_transform(ImageTransform(image_size, MEAN, STD, augment=True))
    batches = EpochBatches(len(train), batch_size, seed=0)
    return DataLoader(Augmented(train, seed=0), batch_sampler=batches, num_workers=1, persistent_workers=True)


def read_all(loader: DataLoader[Any]) -> int:
    """One epoch; the number of pictures in it."""
    return sum(len(images) for images, _ in loader)


def measure(kinds: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Seconds per picture of each kind in each round, after an epoch that warms it up."""
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for round_ in range(rounds + 1):
        for name, epoch in kinds.items():
            start = time.perf_counter()
            count = epoch()
            if round_:
                seconds[name].append((time.perf_counter() - start) / count)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What reading a training picture costs.")
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    title = f"Reading pictures, crops of {args.image_size}, one worker, {args.rounds} rounds"
    table = Table("pictures", "pipeline", "speed", "ms per picture", title=title, title_justify="left")
    for width, height in SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for split in ("train", "test"):
                write_photos(folder / split, args.pictures if split == "train" else 2, width, height)
            train = ggam.load_dataset(folder, split="train")
            weight = sum(sample.path.stat().st_size for sample in train.samples) / len(train) / 1000
            loaders = {
                "torchvision, v2 on PIL": torchvision_loader(folder, args.image_size, args.batch_size),
                "ggam": our_loader(train, args.image_size, args.batch_size),
                "ggam --cache": our_loader(
                    train.with_cache(PictureCache(folder / "cache")), args.image_size, args.batch_size
                ),
            }
            seconds = measure({k: lambda v=v: read_all(v) for k, v in loaders.items()}, args.rounds)
        reference = next(iter(seconds.values()))
        for kind, times in seconds.items():
            ratio = statistics.median(r / t for r, t in zip(reference, times, strict=True))
            spent = f"{1000 * statistics.median(times):.1f}"
            table.add_row(f"{width}×{height}, {weight:.0f} kB", kind, f"{ratio:.2f} ×", spent)
    Console().print(table)


if __name__ == "__main__":
    main()
