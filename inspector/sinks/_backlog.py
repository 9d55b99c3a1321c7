"""Which subscribers' connections are behind: what libzmq does not tell about its own pipes.

Once XPUB has dropped one message for a full pipe, it skips that pipe without a word until about half of it has been
read: a stalled subscriber that missed 59,000 events was refused 75 times. The socket's guard knows the file number of
each connection, and the kernel how many bytes its peer has not taken. A pipe with messages left has such bytes, but
for the moments until libzmq's thread writes on: when no connection has any for a while, all have caught up.
"""

from __future__ import annotations

import array
import fcntl
import termios
import time
from collections.abc import Callable, Sequence

CLEAR_S = 0.25
"""How long no connection may have unsent bytes before all are taken to have caught up."""
STALLED_S = 10.0
"""A connection that has taken nothing of what waits for it for so long is of no use to anybody."""


class Backlog:
    """Asks the connections of a bound socket; used in the socket's own thread.

    Args:
        files: the file numbers of the connections there are now.
    """

    def __init__(self, files: Callable[[], Sequence[int]]) -> None:
        self._files = files
        self._missed = False
        self._clear_since: float | None = None
        self._waiting: dict[int, tuple[int, float]] = {}

    def stalled(self) -> list[int]:
        """The file numbers of connections that have taken nothing for STALLED_S seconds although something waits."""
        now, before = time.monotonic(), self._waiting
        self._waiting = {}
        for file in self._files():
            unsent = _unsent(file)
            if unsent:
                held, since = before.get(file, (0, now))
                self._waiting[file] = (unsent, since if unsent == held else now)
        return [file for file, (_, since) in self._waiting.items() if now - since >= STALLED_S]

    def missed(self) -> None:
        """A message was dropped for a full pipe: that peer is behind now."""
        self._missed, self._clear_since = True, None

    def behind(self) -> bool:
        """True from `missed()` until all peers have caught up or gone."""
        if self._missed:
            files = self._files()
            self._missed = bool(files) and not self._is_clear(files, time.monotonic())
        return self._missed

    def _is_clear(self, files: Sequence[int], now: float) -> bool:
        if any(_unsent(file) for file in files):
            self._clear_since = None
            return False
        self._clear_since = now if self._clear_since is None else self._clear_since
        return now - self._clear_since >= CLEAR_S


def _unsent(file: int) -> int:
    """Bytes of a connection that its peer has not taken yet; 0 for one that closed a moment ago."""
    size = array.array("i", [0])
    try:
        # Only ever read: should the number already belong to another file, no harm is done.
        fcntl.ioctl(file, termios.TIOCOUTQ, size)
    except OSError:
        return 0
    return size[0]
