import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ggam.data.cache import PictureCache
from ggam.data.layouts.registry import load_dataset
from ggam.data.records import DataError, FineGrainedDataset, Sample
from ggam.data.transforms import ImageTransform, resize_whole

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse, fine = (
        Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize((width, height))
        for cells in (5, 40)
    )
    return Image.blend(coarse, fine, 0.3)


def dataset(path: Path, transform: ImageTransform, banner: int = 0) -> FineGrainedDataset:
    sample = Sample(path, 0, banner=banner)
    return FineGrainedDataset(
        [sample], ("a",), root=path.parent, layout="x", split="train", transform=transform
    )


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    photo(300, 200).save(tmp_path / "p.jpg", quality=95)
    return tmp_path / "p.jpg"


def stored(cache: PictureCache) -> list[Path]:
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


def test_the_second_reading_is_mapped_from_disk(picture: Path, tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "cache")
    first, second = cache.pixels(picture, 90), cache.pixels(picture, 90)

    assert isinstance(second, np.memmap)
    assert second.dtype == np.uint8
    assert second.shape == (90, 135, 3)
    assert np.array_equal(first, second)
    assert not second.flags.writeable
    assert len(stored(cache)) == 1


def test_it_holds_what_resizing_gives(picture: Path, tmp_path: Path) -> None:
    with Image.open(picture) as image:
        reference = np.asarray(v2.Resize(90, antialias=True)(image), dtype=np.float64)
    pixels = PictureCache(tmp_path / "cache").pixels(picture, 90)
    assert pixels.shape == reference.shape
    assert np.abs(pixels - reference).mean() < 1  # grey level of 255


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 330), (64, 64), (900, 700)])
def test_crops_lie_where_they_lie_without_it(tmp_path: Path, width: int, height: int, augment: bool) -> None:
    photo(width, height).save(tmp_path / "p.png")
    plain = dataset(tmp_path / "p.png", ImageTransform(112, MEAN, STD, augment=augment), banner=9)
    cached = plain.with_cache(PictureCache(tmp_path / "cache"))
    for seed in range(5):
        tensors = [
            part.load(part.samples[0], np.random.default_rng(seed)) for part in (plain, cached, cached)
        ]
        assert torch.equal(tensors[1], tensors[2])
        grey = [tensor.mul(torch.tensor(STD)[:, None, None]).mean(dim=0) for tensor in tensors]
        assert (grey[0] - grey[1]).abs().mean() < 0.012  # of 1; half a pixel of detail
        assert tensors[1].shape == (3, 112, 112)
        assert tensors[1].dtype == torch.float32


def test_the_reference_pipeline_shows_the_same(picture: Path, tmp_path: Path) -> None:
    transform = ImageTransform(112, (0.0,) * 3, (1.0,) * 3)
    cached = dataset(picture, transform).with_cache(PictureCache(tmp_path / "cache"))
    reference = v2.Compose(
        [
            v2.Resize(150, antialias=True),
            v2.CenterCrop(112),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    with Image.open(picture) as image:
        assert (cached[0][0] - reference(image)).abs().mean() < 1 / 255


def test_another_size_or_banner_is_another_entry(picture: Path, tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "cache")
    assert cache.pixels(picture, 50).shape == (50, 75, 3)
    assert cache.pixels(picture, 60).shape == (60, 90, 3)
    assert cache.pixels(picture, 60, banner=50).shape == (60, 120, 3)
    assert len(stored(cache)) == 3


def test_a_changed_file_is_read_again(picture: Path, tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "cache")
    before = cache.pixels(picture, 50)
    state = picture.stat()
    photo(300, 200, seed=1).save(picture, quality=95)
    os.utime(picture, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    after = cache.pixels(picture, 50)
    assert not np.array_equal(before, after)
    os.utime(picture, ns=(state.st_atime_ns, state.st_mtime_ns + 2))
    assert np.array_equal(cache.pixels(picture, 50), after)
    assert len(stored(cache)) == 3


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"something else"])
def test_a_damaged_entry_is_made_again(picture: Path, tmp_path: Path, content: bytes) -> None:
    cache = PictureCache(tmp_path / "cache")
    whole = cache.pixels(picture, 50)
    (entry,) = stored(cache)
    for damaged in (content, entry.read_bytes()[:5000]):
        entry.write_bytes(damaged)
        assert np.array_equal(cache.pixels(picture, 50), whole)
        assert isinstance(cache.pixels(picture, 50), np.memmap)


def test_upright_and_in_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(80, 40).convert("L").save(tmp_path / "p.jpg", exif=exif)
    assert PictureCache(tmp_path / "cache").pixels(tmp_path / "p.jpg", 20).shape == (40, 20, 3)


def test_what_cannot_be_read_or_stored_is_named(tmp_path: Path, picture: Path) -> None:
    transform = ImageTransform(32, MEAN, STD)
    cached = dataset(tmp_path / "gone.jpg", transform).with_cache(PictureCache(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"gone.jpg: cannot be read as a picture \(.*No such file"):
        cached[0]
    with pytest.raises(DataError, match=r"p.jpg: cannot be .*p.jpg/"):
        dataset(picture, transform).with_cache(PictureCache(picture))[0]


def test_processes_fill_it_together(squares: Path, tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "cache")
    paths = [sample.path for sample in load_dataset(squares, split="train").samples]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        others = pool.starmap_async(cache.pixels, [(path, 32) for path in paths * 2], chunksize=len(paths))
        while not (stored(cache) or others.ready()):
            time.sleep(0.01)
        own = [cache.pixels(path, 32) for path in paths]
        theirs = others.get(60)

    assert all(np.array_equal(a, b) for a, b in zip(own * 2, theirs, strict=True))
    assert len(stored(cache)) == len(paths)
    assert all(path.suffix == ".npy" for path in stored(cache))


def test_workers_change_nothing(squares: Path, tmp_path: Path) -> None:
    train = load_dataset(squares, split="train").with_transform(ImageTransform(32, MEAN, STD))
    batches = [
        torch.cat([images for images, _ in DataLoader(part, batch_size=8, num_workers=workers)])
        for workers, part in (
            (0, train.with_cache(PictureCache(tmp_path / "a"))),
            (2, train.with_cache(PictureCache(tmp_path / "b"))),
            (0, train.with_cache(PictureCache(tmp_path / "b"))),
        )
    ]
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])


def test_derived_sets_share_it(picture: Path, tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "cache")
    cached = dataset(picture, ImageTransform(32, MEAN, STD)).with_cache(cache)
    assert cached.subset([0]).cache is cached.with_transform(ImageTransform(40, MEAN, STD)).cache is cache
    assert cached.with_cache(None).cache is None
    plain = cached.with_transform(None)
    assert plain[0][0].size == (300, 200)
    assert stored(cache) == []


def test_the_whole_picture_is_resized_without_its_banner() -> None:
    image = Image.new("RGB", (100, 120), "red")
    image.paste("blue", (0, 100, 100, 120))
    whole = resize_whole(image, 50, banner=20)
    assert whole.size == (50, 50)
    assert np.array_equal(np.unique(np.asarray(whole)[:-1].reshape(-1, 3), axis=0), [(255, 0, 0)])


def test_a_cache_without_space_is_named(picture: Path, tmp_path: Path) -> None:
    cached = dataset(picture, ImageTransform(64, MEAN, STD)).with_cache(PictureCache(tmp_path / "cache"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"p\.jpg.*the cache .*cache cannot keep it: .*too large"):
            cached[0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not stored(PictureCache(tmp_path / "cache"))
    assert cached[0][0].shape == (3, 64, 64)
