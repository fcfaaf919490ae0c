import io

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, ImageEnhance

from ggam.data.doctor.duplicates import MAX_DISTANCE, SIDE, close_pairs, near_copies, perceptual_hashes


def photo(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Detail on several scales, as in a photograph."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (width, height))
    for cells, weight in ((3, 0.0), (8, 0.5), (24, 0.7)):
        layer = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        image = Image.blend(layer.resize((width, height), Image.Resampling.BICUBIC), image, weight)
    return image


def thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def encoded(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


PHOTOS = np.stack([thumbnail(photo(seed)) for seed in range(60)])


def test_different_pictures_are_no_copies() -> None:
    assert near_copies(PHOTOS).tolist() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encoded(image, 30),
        lambda image: encoded(image.resize((64, 48), Image.Resampling.BICUBIC), 85),
        lambda image: image.resize((200, 200), Image.Resampling.BICUBIC),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: ImageEnhance.Contrast(image).enhance(0.7),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 60),
    ],
    ids=["encoded", "smaller", "squeezed", "darker", "paler", "mirrored", "mirrored-encoded"],
)
def test_copies_are_found(change) -> None:
    for seed in (3, 17, 41):
        with_copy = np.concatenate([PHOTOS, thumbnail(change(photo(seed)))[None]])
        assert near_copies(with_copy).tolist() == [[seed, 60]]


def test_an_upside_down_picture_is_another() -> None:
    turned = thumbnail(photo(3).transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    assert near_copies(np.concatenate([PHOTOS, turned[None]])).tolist() == []


def test_pictures_without_edges_are_copies_of_nothing() -> None:
    levels = np.array([0, 0, 0, 128, 255], dtype=np.uint8)
    flat = np.broadcast_to(levels[:, None, None], (5, SIDE, SIDE))
    assert near_copies(flat).tolist() == []


def test_many_copies_of_one_are_all_connected() -> None:
    noise = np.random.default_rng(0).integers(0, 2, (3000, SIDE, SIDE), dtype=np.uint8)
    pairs = near_copies(np.minimum(PHOTOS[5], 250) + noise)
    connected = {0}
    for left, right in pairs.tolist():
        connected |= {left, right} if left in connected else set()
    assert connected == set(range(3000))


def test_a_symmetric_picture_is_no_copy_of_itself() -> None:
    half = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE // 2), dtype=np.uint8)
    symmetric = np.concatenate([half, half[:, ::-1]], axis=1)
    assert near_copies(symmetric[None]).tolist() == []
    assert near_copies(np.stack([symmetric, symmetric])).tolist() == [[0, 1]]


def test_the_hash_is_of_the_64_lowest_frequencies() -> None:
    # The definition of the cosine transform, summed up term by term.
    place = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    order = sorted((u + v, u, v) for u in range(SIDE) for v in range(SIDE))[1:65]
    wave = [(np.cos(place * u)[:, None] * np.cos(place * v) * PHOTOS[7]).sum() for _, u, v in order]
    bits = "".join(str(int(value > np.median(wave))) for value in wave)
    expected = int(bits, 2).to_bytes(8, "big")
    assert perceptual_hashes(PHOTOS[7:8].astype(np.float32)).tobytes() == expected


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12, unique=True),
    st.lists(st.tuples(st.integers(0, 11), st.sets(st.integers(0, 63), max_size=9)), max_size=12),
)
def test_close_pairs_are_those_of_comparing_all_with_all(
    values: list[int], changes: list[tuple[int, set[int]]]
) -> None:
    for index, bits in changes:
        flipped = values[index % len(values)]
        for bit in bits:
            flipped ^= 1 << bit
        values.append(flipped)
    expected = [
        [i, j]
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= MAX_DISTANCE
    ]
    assert close_pairs(np.array(values, dtype=np.uint64)).tolist() == expected
