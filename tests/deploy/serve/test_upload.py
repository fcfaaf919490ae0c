"""The form reader by itself: any cut of the stream gives the same form, and nothing stays counted."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, strategies as st

from ggam.deploy.serve.limits import Limits, Refusal
from ggam.deploy.serve.upload import Holding, Upload, receive

TYPE = "multipart/form-data; boundary=xyz"
FIELD = st.tuples(st.sampled_from(["images", "classes", "top", "map"]), st.binary(max_size=60))
PARTS = st.lists(FIELD, min_size=1, max_size=5)


def form(parts: list[tuple[str, bytes]]) -> bytes:
    body = b""
    for name, value in parts:
        file = '; filename="../../etc/passwd"' if name == "images" else ""
        head = f'--xyz\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + value + b"\r\n"
    return body + b"--xyz--\r\n"


def read(body: bytes, cuts: list[int], limits: Limits, holding: Holding, kind: str = TYPE) -> Upload:
    async def stream() -> AsyncIterator[bytes]:
        places = sorted({cut % (len(body) + 1) for cut in cuts})
        for start, end in zip([0, *places], [*places, len(body)], strict=True):
            yield body[start:end]

    return asyncio.run(receive(stream(), kind, None, limits, holding))


@given(PARTS, st.lists(st.integers(0, 10_000), max_size=8))
def test_any_cut_of_the_stream_gives_the_same_form(parts: list[tuple[str, bytes]], cuts: list[int]) -> None:
    pictures = [value for name, value in parts if name == "images"]
    holding = Holding(10_000)
    if not pictures:
        with pytest.raises(Refusal, match="no picture"):
            read(form(parts), cuts, Limits(), holding)
        assert holding.size == 0
        return
    upload = read(form(parts), cuts, Limits(), holding)
    assert [bytes(picture) for picture in upload.pictures] == pictures
    expected = [(name, value.decode("utf-8", "replace")) for name, value in parts if name != "images"]
    assert upload.fields == expected
    assert holding.size == sum(map(len, pictures))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=3))
def test_noise_is_refused_and_nothing_is_held(body: bytes, cuts: list[int]) -> None:
    holding = Holding(10_000)
    with pytest.raises(Refusal):
        read(b"--xyz\r\n" + body, cuts, Limits(), holding)
    assert holding.size == 0


@pytest.mark.parametrize(
    ("parts", "status", "reason"),
    [
        ([("images", b"x" * 51)], 413, "picture 1 is too large"),
        ([("images", b"x" * 40)] * 3, 429, "too many bytes in hand"),
        ([("images", b"x")] * 4, 413, "too many pictures: at most 3"),
        ([("top", b"1")] * 101, 413, "too many fields"),
        ([("top", b"1" * 1001)], 413, "field 'top' is too large"),
        ([("picture", b"x")], 422, "unknown field 'picture'"),
        ([("", b"x")], 422, "unknown field ''"),
    ],
)
def test_limits(parts: list[tuple[str, bytes]], status: int, reason: str) -> None:
    holding = Holding(100)
    with pytest.raises(Refusal, match=reason) as refused:
        read(form(parts), [7], Limits(max_bytes=50, max_files=3), holding)
    assert refused.value.status == status
    assert holding.size == 0


@pytest.mark.parametrize("kind", ["", "image/png", "multipart/form-data", "multipart/mixed; boundary=xyz"])
def test_another_type_is_refused(kind: str) -> None:
    with pytest.raises(Refusal) as refused:
        read(form([("images", b"x")]), [], Limits(), Holding(100), kind)
    assert refused.value.status == 415


def test_a_boundary_beyond_the_standard_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        read(b"", [], Limits(), Holding(100), "multipart/form-data; boundary=" + "b" * 500)
    assert refused.value.status == 400


def test_part_headers_without_end_are_refused() -> None:
    with pytest.raises(Refusal) as refused:
        read(b"--xyz\r\nX: " + b"y" * 100_000, [50_000], Limits(), Holding(100))
    assert refused.value.status == 400
