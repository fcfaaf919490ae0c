"""What the service takes on, and the refusal of everything else."""

from dataclasses import dataclass, fields


class ServeError(ValueError):
    """A service that cannot be started."""


class Refusal(Exception):
    """A request that is not answered as asked.

    Args:
        status: of HTTP.
        reason: one line for the caller: what was wrong, and what was expected.
        retry_after: seconds after which it is worth another try.
    """

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the service takes on at a time.

    Raises:
        ServeError: for a limit that is not above zero.
    """

    max_bytes: int = 16 * 2**20
    """Bytes of one picture file."""
    max_request_bytes: int = 64 * 2**20
    """Bytes of one request, all its files together."""
    max_held_bytes: int = 512 * 2**20
    """Bytes of files in memory, of all requests together."""
    max_pixels: int = 50_000_000
    """Width times height of one picture, read from its header before it is decoded."""
    max_files: int = 16
    """Pictures in one request; a picture counts once for every class that is to be explained."""
    max_queue: int = 64
    """Requests in hand at a time; more are answered with 429."""
    timeout: float = 30.0
    """Seconds for one request, the upload included."""
    max_batch: int = 8
    """Pictures that the model looks at together."""
    batch_wait: float = 5.0
    """Milliseconds that a batch waits for pictures that are being decoded already."""
    decoders: int = 2
    """Threads that decode pictures and draw heat maps."""

    def __post_init__(self) -> None:
        """Refuse what would refuse everything."""
        for limit in fields(self):
            value = getattr(self, limit.name)
            least = 0 if limit.name == "batch_wait" else 1e-3
            if not least <= value < float("inf"):
                raise ServeError(f"{limit.name}={value}: expected a number above 0")
