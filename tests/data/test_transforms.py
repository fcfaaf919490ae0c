import io
import itertools
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from ggam.data.transforms import RESIZE_RATIO, ImageTransform, Region, as_rgb, decode_region

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
sides = st.integers(1, 3000)


@cache
def landscape(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with large and small structures, as photographs have."""
    rng = np.random.default_rng(seed)
    layers = []
    for cells in (4, 16, 64):
        coarse = rng.integers(0, 255, (cells, cells, 3), dtype=np.uint8)
        layers.append(
            np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), float)
        )
    return Image.fromarray(np.average(layers, axis=0, weights=(4, 2, 1)).astype(np.uint8))


def stored(image: Image.Image, form: str, **options: Any) -> Image.Image:
    """The picture as it is read back from a file, not loaded yet."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(file)


def grey(pixels: Tensor) -> np.ndarray:
    """(3, height, width) from 0 to 1 → 0 to 255."""
    return 255 * pixels.numpy()


def reference(image: Image.Image, size: int) -> np.ndarray:
    """Resize the shorter side, then cut out the centre, as torchvision does it."""
    shorter = round(size * RESIZE_RATIO)
    pipeline = v2.Compose(
        [v2.Resize(shorter), v2.CenterCrop(size), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    )
    return grey(pipeline(image.convert("RGB")))


# Geometry


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("shape", [(500, 375), (375, 500), (1280, 960), (203, 417), (90, 70)])
@pytest.mark.parametrize("size", [64, 224])
def test_the_centre_crop_agrees_with_torchvision(form: str, shape: tuple[int, int], size: int) -> None:
    image = landscape(*shape)
    ours = grey(ImageTransform(size, ZERO, ONE)(stored(image, form)))

    # JPEGs are decoded at a smaller scale, by a different filter.
    difference = np.abs(ours - reference(stored(image, form), size)).mean()
    assert difference < (2.5 if form == "JPEG" else 1.0)


def test_the_papers_numbers() -> None:
    transform = ImageTransform(448, ZERO, ONE)

    assert transform.region(600, 600) == (76, 76, 524, 524)
    assert transform.region(800, 600) == (176, 76, 624, 524)
    assert transform.region(1200, 1600) == pytest.approx((152, 352, 1048, 1248))


@given(width=sides, height=sides, size=st.integers(8, 600), seed=st.integers(0, 99))
def test_a_crop_is_a_square_inside_the_picture(width: int, height: int, size: int, seed: int) -> None:
    transform = ImageTransform(size, ZERO, ONE, augment=True)
    for rng in (None, np.random.default_rng(seed)):
        left, top, right, bottom = transform.region(width, height, rng)

        assert 0 <= left < right <= width + 1e-6 and 0 <= top < bottom <= height + 1e-6
        assert right - left == pytest.approx(bottom - top)
        assert right - left == pytest.approx(min(width, height) * 448 / 600, rel=0.05)


def test_crops_reach_all_of_the_picture() -> None:
    transform = ImageTransform(64, ZERO, ONE, augment=True)
    rng = np.random.default_rng(0)
    regions = np.array([transform.region(300, 200, rng) for _ in range(500)])

    assert (regions.min(axis=0)[:2] < 3).all() and (regions.max(axis=0)[2:] > (297, 197)).all()


def test_a_region_of_a_jpeg_is_the_one_asked_for() -> None:
    """White but for a black square, which must fill exactly the region."""
    pixels = np.full((800, 1200, 3), 255, dtype=np.uint8)
    pixels[160:480, 640:960] = 0
    shown = decode_region(stored(Image.fromarray(pixels), "JPEG", quality=95), Region(640, 160, 960, 480), 40)
    around = decode_region(stored(Image.fromarray(pixels), "JPEG", quality=95), Region(480, 0, 1120, 640), 80)

    assert np.asarray(shown)[1:-1, 1:-1].max() < 12
    expected = np.full((80, 80), 255)
    expected[20:60, 20:60] = 0
    assert np.abs(np.asarray(around.convert("L"), float) - expected).mean() < 4


def test_a_banner_is_never_shown() -> None:
    pixels = np.full((220, 300, 3), 200, dtype=np.uint8)
    pixels[200:] = 0
    rng = np.random.default_rng(0)
    transform = ImageTransform(64, ZERO, ONE, augment=True)

    for _ in range(20):
        shown = transform(stored(Image.fromarray(pixels), "PNG"), banner=20, rng=rng)
        assert grey(shown).min() > 195
    without = ImageTransform(64, ZERO, ONE)(Image.fromarray(pixels[:200]))
    assert torch.equal(ImageTransform(64, ZERO, ONE)(Image.fromarray(pixels), banner=20), without)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (700, 2)])
def test_very_small_and_very_long_pictures(shape: tuple[int, int]) -> None:
    shown = ImageTransform(32, ZERO, ONE)(stored(Image.new("RGB", shape, (10, 20, 30)), "JPEG", quality=100))

    assert shown.shape == (3, 32, 32)
    assert np.abs(grey(shown).mean(axis=(1, 2)) - (10, 20, 30)).max() < 3


# Values


def test_colours_are_normalised_channel_by_channel() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    shown = ImageTransform(8, mean, std)(Image.new("RGB", (20, 20), (255, 0, 51)))

    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225])
    assert shown.dtype == torch.float32
    assert torch.allclose(shown, expected[:, None, None].expand(3, 8, 8), atol=1e-6)


def test_augmenting_depends_on_the_generator_alone() -> None:
    image = stored(landscape(200, 150), "PNG")
    transform = ImageTransform(32, ZERO, ONE, augment=True)
    once = [transform(image, rng=np.random.default_rng(seed)) for seed in range(20)]
    again = [transform(image, rng=np.random.default_rng(seed)) for seed in range(20)]

    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(once, 2))


def test_half_of_the_augmented_pictures_are_flipped() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3))
    transform, rng = ImageTransform(32, ZERO, ONE, augment=True), np.random.default_rng(0)
    shown = [transform(Image.fromarray(ramp), rng=rng)[0] for _ in range(400)]

    flipped = np.mean([float(one[:, 0].mean() > one[:, -1].mean()) for one in shown])
    assert 0.4 < flipped < 0.6


def test_without_augmenting_the_generator_is_not_used() -> None:
    image, rng = landscape(64, 64), np.random.default_rng(0)
    transform = ImageTransform(32, ZERO, ONE)

    assert torch.equal(transform(image, rng=rng), transform(image))
    assert rng.random() == np.random.default_rng(0).random()


def test_augmenting_without_a_generator_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a random generator"):
        ImageTransform(32, ZERO, ONE, augment=True)(landscape(64, 64))


# Kinds of pictures


def of_colour(image: Image.Image) -> tuple[int, ...]:
    """The colour of a one-coloured picture, after the whole pipeline."""
    shown = grey(ImageTransform(8, ZERO, ONE)(image))
    assert shown.std(axis=(1, 2)).max() < 1.5
    return tuple(round(value) for value in shown.mean(axis=(1, 2)).tolist())


def test_cmyk_jpegs_show_their_colours() -> None:
    red = Image.new("RGB", (40, 30), (250, 20, 30)).convert("CMYK")

    assert np.abs(np.subtract(of_colour(stored(red, "JPEG", quality=100)), (250, 20, 30))).max() <= 4


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(form: str) -> None:
    pixels = np.full((30, 40), 65_535 * 3 // 4, dtype=np.uint16)

    assert of_colour(stored(Image.fromarray(pixels), form)) == (191, 191, 191)


def test_grey_and_two_tone_pictures() -> None:
    assert of_colour(stored(Image.new("L", (40, 30), 77), "PNG")) == (77, 77, 77)
    assert of_colour(stored(Image.new("1", (40, 30), 1), "PNG")) == (255, 255, 255)


def test_transparency_is_white() -> None:
    assert of_colour(stored(Image.new("RGBA", (40, 30), (200, 0, 0, 0)), "PNG")) == (255, 255, 255)
    assert of_colour(stored(Image.new("RGBA", (40, 30), (200, 0, 0, 255)), "PNG")) == (200, 0, 0)
    assert of_colour(stored(Image.new("LA", (40, 30), (10, 0)), "PNG")) == (255, 255, 255)
    blend = of_colour(stored(Image.new("RGBA", (40, 30), (200, 0, 0, 128)), "PNG"))
    assert blend == pytest.approx((227, 127, 127), abs=1)


def test_a_transparent_colour_is_white() -> None:
    palette = Image.new("P", (40, 30), 1)
    palette.putpalette([0, 0, 0, 40, 90, 200])

    assert of_colour(stored(palette, "PNG")) == (40, 90, 200)
    assert of_colour(stored(palette, "PNG", transparency=1)) == (255, 255, 255)
    assert of_colour(stored(palette, "PNG", transparency=bytes([255, 0]))) == (255, 255, 255)
    assert of_colour(stored(palette, "GIF", transparency=1)) == (255, 255, 255)
    assert of_colour(stored(Image.new("RGB", (9, 9), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == (
        255,
        255,
        255,
    )


def test_the_first_frame_of_several() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    for form in ("GIF", "WEBP", "TIFF"):
        options = {"lossless": True} if form == "WEBP" else {}
        shown = of_colour(stored(frames[0], form, save_all=True, append_images=frames[1:], **options))
        assert shown == (255, 0, 0), form


def test_rgb_is_not_copied() -> None:
    image = Image.new("RGB", (4, 4))
    assert as_rgb(image) is image


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_exif_says(orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = landscape(120, 80, seed=orientation)
    kept = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    transform = ImageTransform(32, ZERO, ONE)

    shown = transform(stored(kept, "PNG", exif=exif))
    assert np.abs(grey(shown) - grey(transform(upright))).max() < 1e-3
    shown = transform(stored(kept, "JPEG", exif=exif, quality=95))
    assert np.abs(grey(shown) - grey(transform(upright))).mean() < 3
