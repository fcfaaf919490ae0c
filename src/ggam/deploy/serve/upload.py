"""A form with pictures, read while it arrives, so that nothing beyond the limits is ever held."""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ggam.deploy.serve.limits import Limits, Refusal

FIELDS = ("classes", "top", "map")
PICTURES = "images"
_FIELD_BYTES = 1000
_MAX_FIELDS = 100


@dataclass
class Upload:
    """What a form holds."""

    pictures: list[bytearray] = field(default_factory=list)
    fields: list[tuple[str, str]] = field(default_factory=list)
    """Name and value, in the order of the form; one name can come several times."""


class Holding:
    """Counts the bytes of files that all requests hold together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0

    def take(self, count: int) -> None:
        """Count some more.

        Raises:
            Refusal: 429, if they would be too many.
        """
        if self.size + count > self.limit:
            raise Refusal(429, "too many bytes in hand; try again in a moment", retry_after=1)
        self.size += count

    def give_back(self, count: int) -> None:
        """Count some less."""
        self.size -= count


async def receive(
    stream: AsyncIterable[bytes], content_type: str, length: str | None, limits: Limits, holding: Holding
) -> Upload:
    """Read a form as it arrives.

    The pictures' bytes are counted in `holding`; whoever gets them gives them back.

    Args:
        stream: the body of the request.
        content_type: of the request.
        length: what the request says of its length; believed only where it is too much.
        limits: of files and requests.
        holding: counts the bytes of all requests.

    Raises:
        Refusal: 400, 413, 415, 422 or 429, as soon as it is clear; nothing is counted any more then.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refusal(415, f"expected multipart/form-data with pictures in the field {PICTURES!r}")
    if length is not None and length.isdigit() and int(length[:20]) > limits.max_request_bytes:
        raise _too_large(limits)
    reader = _Reader(options[b"boundary"], limits, holding)
    try:
        await reader.read(stream)
    except BaseException:
        holding.give_back(reader.held)
        raise
    return reader.upload


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the request is too large: at most {limits.max_request_bytes} bytes are accepted")


class _Reader:
    """The parser's callbacks; one for each request."""

    def __init__(self, boundary: bytes, limits: Limits, holding: Holding) -> None:
        self.upload = Upload()
        self.held = 0
        self._limits = limits
        self._holding = holding
        self._finished = False
        self._header = [b"", b""]
        self._disposition = b""
        self._name = ""
        self._value = bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._extend_header(0, data[start:end]),
                    "on_header_value": lambda data, start, end: self._extend_header(1, data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._finish,
                },
            )
        except FormParserError as error:
            raise Refusal(400, f"the form cannot be read: {error}") from error

    async def read(self, stream: AsyncIterable[bytes]) -> None:
        received = 0
        async for chunk in stream:
            received += len(chunk)
            if received > self._limits.max_request_bytes:
                raise _too_large(self._limits)
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise Refusal(400, f"the form cannot be read: {' '.join(str(error).split())}") from error
        if not self._finished:
            raise Refusal(400, "the form ends before its last boundary")
        if not self.upload.pictures:
            raise Refusal(422, f"no picture: expected one or several files in the field {PICTURES!r}")

    def _begin(self) -> None:
        self._disposition = b""

    def _extend_header(self, part: int, data: bytes) -> None:
        self._header[part] += data

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = [b"", b""]

    def _end_headers(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"")
        self._name = name.decode("utf-8", "replace")
        self._value = bytearray()
        if self._name == PICTURES:
            if len(self.upload.pictures) == self._limits.max_files:
                raise Refusal(413, f"too many pictures: at most {self._limits.max_files} in one request")
        elif self._name not in FIELDS:
            known = ", ".join((PICTURES, *FIELDS))
            raise Refusal(422, f"unknown field {self._name[:40]!r}: expected {known}")
        elif len(self.upload.fields) == _MAX_FIELDS:
            raise Refusal(413, f"too many fields: at most {_MAX_FIELDS} in one request")

    def _data(self, data: bytes, start: int, end: int) -> None:
        is_picture = self._name == PICTURES
        limit = self._limits.max_bytes if is_picture else _FIELD_BYTES
        if len(self._value) + end - start > limit:
            number = len(self.upload.pictures) + 1
            what = f"picture {number}" if is_picture else f"field {self._name!r}"
            raise Refusal(413, f"{what} is too large: at most {limit} bytes are accepted")
        if is_picture:
            self._holding.take(end - start)
            self.held += end - start
        self._value += data[start:end]

    def _end(self) -> None:
        if self._name == PICTURES:
            self.upload.pictures.append(self._value)
        else:
            self.upload.fields.append((self._name, self._value.decode("utf-8", "replace")))

    def _finish(self) -> None:
        self._finished = True
