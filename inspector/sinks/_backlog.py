"""Which subscribers' connections are behind: what libzmq does not tell about its own pipes.

Once XPUB has dropped one message for a full pipe, it skips that pipe without a word until about half of it has been
read: a stalled subscriber that missed 59,000 events was refused 75 times. libzmq's monitor names the file descriptor
of each connection, and the kernel knows how many bytes its peer has not taken. A pipe with messages left has such
bytes, but for the moments until libzmq's thread writes on: when no connection has any for a while, all have caught up.
"""

from __future__ import annotations

import array
import fcntl
import itertools
import termios
import time

import zmq
from zmq.utils.monitor import parse_monitor_message

CLEAR_S = 0.25
"""How long no connection may have unsent bytes before all are taken to have caught up."""

EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED

_number = itertools.count()


class Backlog:
    """Watches the connections of a bound socket; used in the socket's own thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> None:
        address = f"inproc://backlog-{next(_number)}"
        self._files: set[int] = set()
        self._missed = False
        self._clear_since: float | None = None
        self._socket = socket
        socket.monitor(address, EVENTS)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.rcvhwm = 0  # a full monitor would stop libzmq's own thread
        self._monitor.linger = 0
        self._monitor.connect(address)

    def close(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()

    def connections(self) -> int:
        """How many peers are connected, whatever they subscribe to."""
        self._read()
        return len(self._files)

    def missed(self) -> None:
        """A message was dropped for a full pipe: that peer is behind now."""
        self._missed, self._clear_since = True, None

    def behind(self) -> bool:
        """True from `missed()` until all peers have caught up or gone."""
        if self._missed:
            self._read()
            self._missed = bool(self._files) and not self._is_clear(time.monotonic())
        return self._missed

    def _is_clear(self, now: float) -> bool:
        if any(_unsent(file) for file in self._files):
            self._clear_since = None
            return False
        self._clear_since = now if self._clear_since is None else self._clear_since
        return now - self._clear_since >= CLEAR_S

    def _read(self) -> None:
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._files.add(event["value"])
            else:
                self._files.discard(event["value"])


def _unsent(file: int) -> int:
    """Bytes of a connection that its peer has not taken yet; 0 for one that closed a moment ago."""
    size = array.array("i", [0])
    try:
        # Only ever read: should the number already belong to another file, no harm is done.
        fcntl.ioctl(file, termios.TIOCOUTQ, size)
    except OSError:
        return 0
    return size[0]
