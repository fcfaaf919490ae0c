"""SIGINT and SIGTERM end a run after the step that they interrupt, with everything saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """A signal asked the run to stop; everything up to the step that was running is saved.

    Attributes:
        signum: the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Whether a signal has come.

    Attributes:
        signum: of the signal that came; 0 as long as none has.
    """

    def __init__(self) -> None:
        self.signum = 0

    def remember(self, signum: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        self.signum = signum


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Remember SIGINT and SIGTERM inside the block instead of ending at once.

    Only the main thread of a process can listen; elsewhere the block is never asked to stop.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {signum: signal.signal(signum, request.remember) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
