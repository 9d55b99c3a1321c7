"""What a connection has sent that nobody has read: libzmq bounds messages, not what is not yet one.

A high-water mark counts whole messages. A peer that sends part after part and never the last one is kept in memory
without an end (measured with libzmq 4.3.5: 195 MB of parts, +192 MB of memory, nothing to read; empty parts of 2 bytes
take 40 each, 17 million a second). And our servers have no such mark (see door.py). The kernel knows how much a TCP
connection has received: who is too far ahead of what was read from it is cut. For ipc there is no such count; there
the socket file's permissions say whom the daemon trusts so far (see local.py).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from inspector.wire.guard import Peer

BYTES_RECEIVED = 128
"""Offset of tcpi_bytes_received, 8 bytes, in Linux' struct tcp_info (since 4.1)."""
LONG = 255
"""Bytes in a frame whose length ZMTP writes in one byte."""


class Unread:
    """Used in the socket's own thread.

    Args:
        most: bytes that a peer may have sent and nobody read.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._read: dict[Peer, int] = {}
        self._lately: set[Peer] = set()

    def read(self, peer: Peer, size: int) -> None:
        """A message of so many bytes in one part has been read."""
        self._read[peer] = self._read.get(peer, 0) + size + (2 if size <= LONG else 9)
        self._lately.add(peer)

    def emptied(self) -> None:
        """There is no whole message left: what else those have sent who were read from were pings and the like.

        A message that one of them has begun is forgiven too, but not again before it is whole and read.
        """
        for peer in self._lately:
            self._read[peer] = max(self._read[peer], _received(peer.file))
        self._lately.clear()

    def gone(self, peer: Peer) -> None:
        """The connection has ended."""
        self._read.pop(peer, None)
        self._lately.discard(peer)

    def ahead(self, peers: Iterable[Peer]) -> list[Peer]:
        """Those who are too far ahead."""
        return [peer for peer in peers if _received(peer.file) - self._read.get(peer, 0) > self._most]


def _received(file: int) -> int:
    """Bytes that a TCP connection has brought; 0 for any other file. Only ever read, so a stale number does no harm."""
    try:
        peer = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, file)
    except OSError:
        return 0  # it has ended
    try:
        info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED + 8)
    except OSError:
        return 0
    finally:
        peer.detach()
    return int(struct.unpack_from("Q", info, BYTES_RECEIVED)[0]) if len(info) == BYTES_RECEIVED + 8 else 0
