"""Bad uploads, generated: the service refuses them one by one, and is afterwards as it was before."""

import errno
import random
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable

import httpx
import psutil
import pytest

from serving import encoded, photo

JPEG, PNG, WEBP = (encoded(photo(120, 90), kind) for kind in ("JPEG", "PNG", "WEBP"))
NAMES = (
    "../../../../etc/passwd",
    "..\\..\\boot.ini",
    "a\0.png",
    "/dev/zero",
    "x" * 3000,
    'q".png',
    "\r\nX: y",
    "",
)
Status = int | None
Attack = Callable[[httpx.Client, random.Random], Status]

_HUNG_UP = (errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET)


def post(client: httpx.Client, data: bytes, name: str = "a.jpg", field: str = "images") -> int:
    response = client.post("/predict", files={field: (name, data)})
    if response.status_code != 200:
        assert list(response.json()) == ["error"]
    assert "/etc" not in response.text and "site-packages" not in response.text
    return response.status_code


def raw(client: httpx.Client, *parts: bytes) -> Status:
    """Send bytes as they are; the status, or None where the server just hangs up."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=15) as caller:
        try:
            for part in parts:
                caller.sendall(part)
            caller.shutdown(socket.SHUT_WR)
            answer = caller.makefile("rb").readline()
        except OSError as error:
            if error.errno not in _HUNG_UP:
                raise
            return None
    return int(answer.split()[1]) if answer else None


def multipart(client: httpx.Client, body: bytes, length: int | None = None, boundary: str = "b") -> Status:
    kind = f"Content-Type: multipart/form-data; boundary={boundary}\r\n"
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{kind}"
    size = len(body) if length is None else length
    return raw(client, f"{head}Content-Length: {size}\r\n\r\n".encode(), body)


def part(data: bytes, head: str = 'Content-Disposition: form-data; name="images"; filename="a"') -> bytes:
    return b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n--b--\r\n"


def noise(client: httpx.Client, chance: random.Random) -> Status:
    return post(client, chance.randbytes(chance.randrange(1, 5000)))


def noise_after_a_signature(client: httpx.Client, chance: random.Random) -> Status:
    start = chance.choice((JPEG, PNG, WEBP))[: chance.randrange(4, 60)]
    return post(client, start + chance.randbytes(chance.randrange(2000)))


def truncated(client: httpx.Client, chance: random.Random) -> Status:
    data = chance.choice((JPEG, PNG, WEBP))
    return post(client, data[: chance.randrange(len(data))])


def flipped(client: httpx.Client, chance: random.Random) -> Status:
    data = bytearray(chance.choice((JPEG, PNG, WEBP)))
    for _ in range(chance.randrange(1, 30)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return post(client, bytes(data))


def huge(client: httpx.Client, chance: random.Random) -> Status:
    size = (chance.choice((10**4, 10**6, 2**31 - 1)), chance.choice((10**4, 10**5, 2**31 - 1)))
    head = b"IHDR" + struct.pack(">IIBBBBB", *size, 8, chance.choice((0, 2, 6)), 0, 0, 0)
    rows = b"IDAT" + zlib.compress(bytes(10**5))
    data = b"\x89PNG\r\n\x1a\n"
    for body in (head, rows):
        data += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return post(client, data)


def other_kinds(client: httpx.Client, chance: random.Random) -> Status:
    kind = chance.choice(("GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PDF", "EPS"))
    return post(client, encoded(photo(), kind), f"a.{chance.choice(('jpg', 'png', kind))}")


def scripts(client: httpx.Client, chance: random.Random) -> Status:
    texts = (
        "<svg onload='alert(1)'/>",
        "<?php system('id'); ?>",
        "%!PS\n(%pipe%id) (r) file",
        "PK\3\4",
        "{}",
    )
    return post(client, chance.choice(texts).encode() * chance.randrange(1, 50), "a.svg")


def polyglot(client: httpx.Client, chance: random.Random) -> Status:
    tail = chance.choice((b"<script>alert(1)</script>", b"PK\3\4", b"%PDF-1.7", PNG, JPEG))
    data = chance.choice((JPEG, PNG, WEBP))
    return post(client, chance.choice((data + tail, tail + data)))


def path_names(client: httpx.Client, chance: random.Random) -> Status:
    return post(client, chance.choice((JPEG, b"nothing", b"")), chance.choice(NAMES))


def wrong_field(client: httpx.Client, chance: random.Random) -> Status:
    return post(
        client, JPEG, field=chance.choice(("image", "file", "", "images[]", "IMAGES", "../images", "💥"))
    )


def odd_values(client: httpx.Client, chance: random.Random) -> Status:
    name = chance.choice(("top", "map", "classes"))
    values = ("", "-1", "9" * 900, "NaN", "../..", "\0", "💥", "1;2", "'; DROP TABLE", "0x1", "٣")
    fields = {"map": "raw", name: chance.choice(values)}
    return client.post("/predict", files={"images": JPEG}, data=fields).status_code


def many_parts(client: httpx.Client, chance: random.Random) -> Status:
    count = chance.choice((7, 50, 2000))
    name = chance.choice(("images", "top", "x"))
    body = f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n1\r\n'.encode() * count
    return multipart(client, body + b"--b--\r\n")


def broken_forms(client: httpx.Client, chance: random.Random) -> Status:
    whole = part(JPEG)
    bodies = (
        b"",
        b"--b",
        b"--b--",
        whole[:-9],
        whole[: chance.randrange(len(whole))],
        b"\r\n" * 500,
        whole * 2,
    )
    return multipart(
        client, chance.choice(bodies), boundary=chance.choice(("b", "c", '"', "b" * 300, "\x01"))
    )


def odd_part_headers(client: httpx.Client, chance: random.Random) -> Status:
    heads = (
        "Content-Disposition: form-data",
        "Content-Disposition: attachment; name=images",
        "X: " + "y" * chance.randrange(20_000),
        "\r\n".join(f"X-{i}: 1" for i in range(chance.randrange(1, 60))),
        ": : :",
        "Content-Disposition: form-data; name=\"images\"; filename*=utf-8''%2e%2e%2fa",
        'Content-Disposition: form-data; name*0="ima"; name*1="ges"',
        'Content-Disposition: form-data; name="' + "\\" * chance.randrange(100),
        'Content-Disposition: form-data; name="images"\r\nContent-Transfer-Encoding: base64',
    )
    return multipart(client, part(JPEG, chance.choice(heads)))


def lying_length(client: httpx.Client, chance: random.Random) -> Status:
    body = part(JPEG)
    return multipart(client, body, chance.choice((0, 1, len(body) - 5, len(body) + 500, 10**9, 10**30)))


def bad_http(client: httpx.Client, chance: random.Random) -> Status:
    heads = (
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: x\r\n\r\n",
        b"Content-Length: 1\r\nContent-Length: 9\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"Content-Type: " + b"m" * chance.randrange(100_000) + b"\r\n\r\n",
        b"Content-Type: multipart/form-data; boundary=\xff\xfe\r\nContent-Length: 3\r\n\r\nabc",
        b"Authorization: Bearer \xff\r\nContent-Length: 0\r\n\r\n",
        chance.randbytes(200),
    )
    return raw(client, b"POST /predict HTTP/1.1\r\nHost: x\r\n" + chance.choice(heads))


def odd_addresses(client: httpx.Client, chance: random.Random) -> Status:
    paths = (b"/../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"//etc/passwd", b"/static/app.py", b"/\xff")
    numbers = (b"..", b"9e9", b"9" * 400, b"-1", b"")
    path = chance.choice((*paths, b"*", b"http://x/", b"/?" + b"a" * 5000, b"/examples/%b/0"))
    path = path.replace(b"%b", chance.choice(numbers))
    method = chance.choice((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"))
    return raw(client, method + b" " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


def empty(client: httpx.Client, chance: random.Random) -> Status:
    pictures = [("images", ("a", chance.choice((b"", JPEG)))) for _ in range(chance.randrange(1, 5))]
    return client.post("/predict", files=[*pictures, ("images", ("b", b""))]).status_code


ATTACKS: tuple[Attack, ...] = (
    noise, noise_after_a_signature, truncated, flipped, huge, other_kinds, scripts, polyglot, path_names,
    wrong_field, odd_values, many_parts, broken_forms, odd_part_headers, lying_length, bad_http,
    odd_addresses, empty,
)  # fmt: skip


def resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


def attack(client: httpx.Client, count: int, seed: int) -> Counter[Status]:
    """So many attacks, every kind in turn; how they were answered."""
    chance = random.Random(seed)
    answers: Counter[Status] = Counter()
    for number in range(count):
        kind = ATTACKS[number % len(ATTACKS)]
        status = kind(client, chance)
        assert status is None or status < 500, f"{kind.__name__} was answered with {status}"
        answers[status] += 1
    return answers


def state(client: httpx.Client) -> list[str]:
    watched = ("ggam_requests_in_hand ", "ggam_queue_length ", "ggam_held_bytes ")
    return [line for line in client.get("/metrics").text.splitlines() if line.startswith(watched)]


def check(client: httpx.Client, caplog: pytest.LogCaptureFixture, count: int, growth: float) -> None:
    def good() -> dict[str, object]:
        return client.post("/predict", files={"images": PNG}, data={"map": "raw"}).json()

    before = good()
    attack(client, 2 * len(ATTACKS), seed=1)  # whatever is made once has been made then
    start = resident()
    answers = attack(client, count, seed=2)
    assert resident() - start < growth, "MiB"
    assert sum(answers[status] for status in (400, 404, 405, 413, 415, 422)) > count / 2
    assert good() == before
    assert state(client) == [
        "ggam_requests_in_hand 0.0",
        "ggam_queue_length 0.0",
        "ggam_held_bytes 0.0",
    ]
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


def test_bad_uploads(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    check(client, caplog, 150, growth=40)


@pytest.mark.slow
def test_a_thousand_bad_uploads(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    check(client, caplog, 1000, growth=40)
