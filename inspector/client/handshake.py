"""Why a daemon does not let us in, as far as ZeroMQ's handshake tells."""

from __future__ import annotations

from collections.abc import Mapping

import zmq
from zmq.utils.monitor import parse_monitor_message

AGAIN_S = 10.0
"""A refusal is told this often at most."""
_REASONS = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the daemon there does not know our key, or it may not `{may}`: add it on that "
    "machine with `inspector keys`",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "one side uses keys and the other does not, or something else than a daemon's "
    "{socket} is there: compare keys and server_key with the daemon's YAML",
}
READS = {"may": "events", "socket": "events"}
COMMANDS = {"may": "control", "socket": "control socket"}


class Handshake:
    """Watches the handshakes of one socket that connects.

    Args:
        socket: before it connects.
        words: what a client of such sockets may do, and what they are called: READS or COMMANDS.
    """

    def __init__(self, socket: zmq.Socket[bytes], words: Mapping[str, str]) -> None:
        self._socket = socket
        self._words = words
        self._told_at = float("-inf")
        self.monitor: zmq.Socket[bytes] = socket.get_monitor_socket(sum(map(int, _REASONS)))
        """Readable when there is something to tell."""

    def refused(self, now: float) -> str:
        """Why we are not let in; empty: nothing new."""
        why = ""
        while self.monitor.poll(0):
            event = parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))["event"]
            why = _REASONS.get(zmq.Event(event), why)
        if not why or now - self._told_at < AGAIN_S:
            return ""
        self._told_at = now
        return why.format_map(self._words)

    def close(self) -> None:
        """Before the socket is closed, if it can be."""
        if not self._socket.closed:
            self._socket.disable_monitor()
        self.monitor.close(linger=0)
