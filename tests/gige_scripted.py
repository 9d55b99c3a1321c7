"""A GigE Vision camera that sends just the packets a test tells it to, with what the library's own simulator lacks.

Chunks, a clock that can be read, packets sent again, extended ids, a count that begins anew, a camera that falls
silent: by GVCP and GVSP on a loopback address of its own (GigE Vision 2.0, chapters 14-18 and 24).
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tests.workers import WORKER

PORT = 3956
HEIGHT, WIDTH = 8, 400
XML_AT = 0x100000
PAYLOAD, TRIGGER, CHUNKS = 0x1000C, 0x10024, 0x10030
ENCODER_CHUNK, IMAGE_CHUNK = 0x0E0C, 0x0001
NO_PACKET: frozenset[int] = frozenset()
PRIVILEGE = 0xA00
DENIED = 0x8006
_number = itertools.count(os.getpid())
"""No two cameras have one address: what lets a dead one go still talks to it for some seconds."""

_NUMBER = """<Integer Name="{0}"><pValue>{0}Reg</pValue><Min>{2}</Min><Max>{3}</Max><Inc>{4}</Inc></Integer>"""
_REGISTER = """<IntReg Name="{0}"><Address>{1}</Address><Length>4</Length><AccessMode>RW</AccessMode>
 <pPort>Device</pPort><Sign>Unsigned</Sign><Endianess>BigEndian</Endianess></IntReg>"""
_CHOICE = """<Enumeration Name="{0}">{2}<pValue>{0}Reg</pValue></Enumeration>"""


def _numbers() -> Iterator[str]:
    for name, at, least, most, step in (
        ("Width", 0x10000, 16, 4096, 8),
        ("Height", 0x10004, 1, 4096, 1),
        ("EncoderDivider", 0x10034, 1, 100, 1),
    ):
        yield _NUMBER.format(name, at, least, most, step) + _REGISTER.format(name + "Reg", at)


def _choices() -> Iterator[str]:
    for name, at, entries in (
        ("PixelFormat", 0x10008, {"Mono8": 0x01080001, "Mono12": 0x01100005}),
        ("TriggerSelector", 0x1001C, {"LineStart": 0, "FrameStart": 1}),
        ("TriggerSource", 0x10020, {"Line1": 0, "Encoder0": 1}),
        ("TriggerMode", TRIGGER, {"Off": 0, "On": 1}),
        ("ChunkSelector", 0x10028, {"Image": 0, "EncoderValue": 1}),
        ("GevGVSPExtendedIDMode", 0x10040, {"Off": 0, "On": 1}),
    ):
        listed = "".join(f'<EnumEntry Name="{k}"><Value>{v}</Value></EnumEntry>' for k, v in entries.items())
        yield _CHOICE.format(name, at, listed) + _REGISTER.format(name + "Reg", at)


def _switches() -> Iterator[str]:
    for name, at in (("ChunkModeActive", CHUNKS), ("ChunkEnable", 0x1002C)):
        yield f'<Boolean Name="{name}"><pValue>{name}Reg</pValue></Boolean>' + _REGISTER.format(name + "Reg", at)
    for name, at in (("AcquisitionStart", 0x10010), ("AcquisitionStop", 0x10014)):
        yield f'<Command Name="{name}"><pValue>{name}Reg</pValue><CommandValue>1</CommandValue></Command>'
        yield _REGISTER.format(name + "Reg", at)


def _xml() -> bytes:
    names = ("Width", "Height", "PixelFormat", "PayloadSize", "AcquisitionStart", "AcquisitionStop")
    return f"""<?xml version="1.0" encoding="utf-8"?>
<RegisterDescription ModelName="Scripted" VendorName="Test" StandardNameSpace="None" SchemaMajorVersion="1"
 SchemaMinorVersion="1" SchemaSubMinorVersion="0" MajorVersion="1" MinorVersion="0" SubMinorVersion="0"
 ToolTip="" ProductGuid="0" VersionGuid="0" xmlns="http://www.genicam.org/GenApi/Version_1_1">
<Category Name="Root">{"".join(f"<pFeature>{name}</pFeature>" for name in names)}</Category>
{"".join(itertools.chain(_numbers(), _choices(), _switches()))}
{_REGISTER.format("PayloadSize", PAYLOAD)}
<IntReg Name="ChunkEncoderValue"><Address>0</Address><Length>4</Length><AccessMode>RO</AccessMode>
 <pPort>EncoderChunk</pPort><Sign>Unsigned</Sign><Endianess>BigEndian</Endianess></IntReg>
<Port Name="EncoderChunk"><ChunkID>{ENCODER_CHUNK:x}</ChunkID></Port>
<Port Name="Device"/></RegisterDescription>""".encode()


@dataclass
class Sent:
    """A frame that was sent."""

    frame_id: int
    pixels: NDArray[np.uint8]
    packets: list[bytes] = field(repr=False)


class ScriptedCamera:
    """Answers GVCP while entered; sends frames when told to.

    Attributes:
        address: of its own, 127.x.x.x.
        mute: it answers nothing any more.
        clock: its own, ns; read through the latch registers, which `has_latch` allows.
        can_resend: it sends packets again that it sent in the last frames.
        holds_back: packets to be asked for again are answered only when this is False.
    """

    def __init__(self, *, has_latch: bool = True, can_resend: bool = False, chunks: bool = False) -> None:
        self.mute = False
        self.holds_back = False
        self.clock: Callable[[], int] = time.monotonic_ns
        self.asked_again: list[tuple[int, int, int]] = []
        """(frame id, first packet, last packet) of each request for packets."""
        self._chunks = chunks
        self._has_latch = has_latch
        self._memory: dict[int, bytes] = {}
        self._controller: tuple[str, int] | None = None
        self._sent: dict[int, Sent] = {}
        self._xml = _xml()
        url = f"Local:scripted.xml;{XML_AT:x};{len(self._xml):x}".encode().ljust(512, b"\0")
        for offset in range(0, 512, 4):
            self._memory[0x200 + offset] = url[offset : offset + 4]
        for at, value in {
            0x0: 0x00010002,
            0x4: 0x80000001,
            0x900: 1,
            0x904: 1,
            0x934: 0b100 * can_resend | 0b10,
            0x938: 3000,
            0x940: 1_000_000_000 if has_latch else 0,
            0xD04: 1500,
            0x10000: WIDTH,
            0x10004: HEIGHT,
            0x10008: 0x01080001,
        }.items():
            self.write(at, value)
        self._resize()

    # ------------------------------------------------------------ registers

    def read(self, at: int) -> int:
        return int.from_bytes(self._memory.get(at, bytes(4)), "big")

    def write(self, at: int, value: int) -> None:
        self._memory[at] = value.to_bytes(4, "big")
        if at == 0x944 and value == 2 and self._has_latch:
            now = self.clock()
            self.write(0x948, now >> 32)
            self.write(0x94C, now & 0xFFFFFFFF)
        if at in (0x10000, 0x10004, CHUNKS):
            self._resize()

    def _resize(self) -> None:
        chunks = 20 if self._chunks and self.read(CHUNKS) else 0
        self.write(PAYLOAD, self.read(0x10000) * self.read(0x10004) + chunks)

    def _read_memory(self, at: int, size: int) -> bytes:
        if at >= XML_AT:
            return self._xml[at - XML_AT : at - XML_AT + size].ljust(size, b"\0")
        return b"".join(self._memory.get(a, bytes(4)) for a in range(at, at + size, 4))[:size]

    # ------------------------------------------------------------ GVCP

    def __enter__(self) -> Self:
        self._control = self._bound()
        self._stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stream.bind((self.address, 0))
        self._wake, self._woken = os.pipe()
        self._server = threading.Thread(target=self._serve, name="scripted-camera", daemon=True)
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._woken)
        self._server.join()
        os.close(self._wake)
        self._control.close()
        self._stream.close()

    def _bound(self) -> socket.socket:
        for number in itertools.islice(_number, 1000):
            self.address = f"127.{1 + number // 250 % 250}.{1 + number % 250}.{9 + WORKER % 240}"
            control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                control.bind((self.address, PORT))
            except OSError:
                control.close()
                continue
            return control
        raise AssertionError("no free loopback address")

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._control.fileno(), self._wake], [], [])
            if self._wake in ready:
                return
            packet, sender = self._control.recvfrom(2048)
            if self.mute:
                continue
            answer = self._answer(packet, sender)
            if answer is not None:
                self._control.sendto(answer, sender)

    def _may_write(self, body: bytes, sender: tuple[str, int]) -> bool:
        """Only who has control may write; who has it not may take it if nobody has it."""
        if not self.read(PRIVILEGE):
            self._controller = sender if int.from_bytes(body[:4], "big") == PRIVILEGE else None
        return sender == self._controller

    def _answer(self, packet: bytes, sender: tuple[str, int]) -> bytes | None:
        command, _, number = struct.unpack(">HHH", packet[2:8])
        body = packet[8:]
        if command in (0x82, 0x86) and not self._may_write(body, sender):
            return struct.pack(">HHHHHH", DENIED, command + 1, 4, number, 0, 0)
        if command == 0x80:
            found = b"".join(self._read_memory(at, 4) for (at,) in struct.iter_unpack(">I", body))
            return struct.pack(">HHHH", 0, 0x81, len(found), number) + found
        if command == 0x82:
            for at, value in struct.iter_unpack(">II", body):
                self.write(at, value)
            return struct.pack(">HHHHHH", 0, 0x83, 4, number, 0, 1)
        if command == 0x84:
            at, size = struct.unpack(">IxxH", body)
            return struct.pack(">HHHHI", 0, 0x85, size + 4, number, at) + self._read_memory(at, size)
        if command == 0x86:
            at, values = int.from_bytes(body[:4], "big"), body[4:]
            for offset in range(0, len(values), 4):
                self.write(at + offset, int.from_bytes(values[offset : offset + 4], "big"))
            return struct.pack(">HHHHHH", 0, 0x87, 4, number, 0, len(values))
        if command == 0x40:
            self._send_again(body)
        return None

    def _send_again(self, body: bytes) -> None:
        _, frame_id, first, last = struct.unpack(">HHII", body[:12])
        self.asked_again.append((frame_id, first & 0xFFFFFF, last & 0xFFFFFF))
        sent = self._sent.get(frame_id)
        if sent is not None and not self.holds_back:
            for packet in sent.packets[first & 0xFFFFFF : (last & 0xFFFFFF) + 1]:
                self._put(packet)

    # ------------------------------------------------------------ GVSP

    def send(
        self,
        frame_id: int,
        *,
        timestamp_ns: int | None = None,
        encoder: int | None = None,
        lost: Collection[int] = NO_PACKET,
        wide: bool = False,
        lines: int | None = None,
    ) -> Sent:
        """Send a frame but for the packets that are lost; its pixels are told by its id.

        Args:
            lost: numbers of packets; 0 is the leader, the last one the trailer.
            encoder: value of its chunk; None: the frame comes without one.
            wide: with extended ids.
            lines: so many lines only, with the trailer behind them.
        """
        height, width = lines or self.read(0x10004), self.read(0x10000)
        pixels = np.random.default_rng(frame_id).integers(0, 256, (height, width), dtype=np.uint8)
        stamp = self.clock() if timestamp_ns is None else timestamp_ns
        sent = Sent(frame_id, pixels, list(self._packets(frame_id, stamp, pixels, encoder, wide)))
        self._sent = {frame_id: sent} if len(self._sent) > 8 else {**self._sent, frame_id: sent}
        for number, packet in enumerate(sent.packets):
            if number not in lost:
                self._put(packet)
        return sent

    @property
    def packets(self) -> int:
        """Packets of a whole frame with short ids."""
        return -(-self.read(PAYLOAD) // (self._packet_size - 36)) + 2

    @property
    def _packet_size(self) -> int:
        return self.read(0xD04) & 0xFFFF

    def _packets(
        self, frame_id: int, stamp: int, pixels: NDArray[np.uint8], encoder: int | None, wide: bool
    ) -> Iterator[bytes]:
        height, width = pixels.shape
        payload, kind = pixels.tobytes(), 0x0001
        if self.read(CHUNKS):
            payload += struct.pack(">II", IMAGE_CHUNK, len(payload))
            kind = 0x4001
        if encoder is not None:
            payload += struct.pack(">III", encoder, ENCODER_CHUNK, 4)
        leader = struct.pack(">HHQIIIIIHH", 0, kind, stamp, 0x01080001, width, height, 0, 0, 0, 0)
        block = self._packet_size - (48 if wide else 36)
        blocks = [payload[n : n + block] for n in range(0, len(payload), block)]
        for number, (form, body) in enumerate(
            [(1, leader), *((3, b) for b in blocks), (2, struct.pack(">HHI", 0, kind, height))]
        ):
            if wide:
                yield struct.pack(">HHIQI", 0, 0, (0x80 | form) << 24, frame_id, number) + body
            else:
                yield struct.pack(">HHI", 0, frame_id, form << 24 | number) + body

    def _put(self, packet: bytes) -> None:
        to = socket.inet_ntoa(self._memory.get(0xD18, bytes(4))), self.read(0xD00) & 0xFFFF
        self._stream.sendto(packet, to)
