"""GVCP, the control protocol of GigE Vision, as far as to ask a camera beside the driver whether it is there.

The driver asks on a socket of its own and waits up to 3 s for a dead camera. Any program may read a camera's registers
while another controls it, so this asks without waiting: a read of one register (GigE Vision 1.2, chapter 14).
"""

from __future__ import annotations

import select
import socket
import struct
import time
from types import TracebackType
from typing import Self

PORT = 3956
_READ, _READ_ANSWER = 0x0080, 0x0081
_IP_MTU = 14
"""Linux: the largest packet that the way to a connected socket's other end takes (ip(7))."""

PRIVILEGE = 0x0A00
"""Register: who controls the camera."""
CONTROLLED = 0b11
"""Bits of `PRIVILEGE`: some program has control, exclusive or not."""
CAPABILITY = 0x0934
"""Register: what of the protocol the camera can."""
CAN_RESEND = 0b100
TICK_FREQUENCY = 0x093C
"""Two registers: ticks a second of the camera's clock, 0 where it has none."""
TIMESTAMP_CONTROL = 0x0944
LATCH = 2
"""To `TIMESTAMP_CONTROL`: keep the time of now in `TIMESTAMP`."""
TIMESTAMP = 0x0948
"""Two registers: the ticks that were latched."""


class Line:
    """A line to a camera's registers. Asking never waits; answers come when they come."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._number = 0
        try:
            self._socket.connect((address, PORT))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def host(self) -> str:
        """The host's own address on the way to the camera."""
        return str(self._socket.getsockname()[0])

    @property
    def mtu(self) -> int:
        """The largest packet that the host's network card takes on this way, bytes with its IP header."""
        return self._socket.getsockopt(socket.IPPROTO_IP, _IP_MTU)

    def ask(self, register: int) -> None:
        """Send a question. The answer to one asked before no longer counts."""
        self._number = self._number % 0xFFFF + 1
        try:
            self._socket.send(struct.pack(">BBHHHI", 0x42, 0x01, _READ, 4, self._number, register))
        except OSError:  # no way to the camera: the same as no answer
            return

    def answer(self, timeout_s: float = 0.0) -> int | None:
        """The register's value, or None while there is no answer."""
        deadline = time.monotonic() + timeout_s
        while select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                answer = self._socket.recv(64)
            except OSError:  # nobody listens there
                return None
            if len(answer) == 12:
                status, command, _, number, value = struct.unpack(">HHHHI", answer)
                if (status, command, number) == (0, _READ_ANSWER, self._number):
                    return int(value)
        return None

    def read(self, register: int, timeout_s: float, tries: int) -> int | None:
        """Ask and wait: at most so many times so long, seconds. None: no answer."""
        for _ in range(tries):
            self.ask(register)
            value = self.answer(timeout_s)
            if value is not None:
                return value
        return None
