"""A network camera for tests: a small RTSP server in a process of its own, whose pictures arrive bit for bit.

It sends uncompressed pictures (RFC 4175, sampling BGR) over RTP, in the RTSP connection (RFC 2326, 10.12) or by UDP,
and can do what cameras do wrong. Each client sees it from its first picture on. The standard library is all it needs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from urllib.parse import quote

HEIGHT, WIDTH = 64, 320
PICTURES = 40
"""Then they start over."""
CLOCK_HZ = 90_000


@dataclass(frozen=True)
class Script:
    """What the camera does; frames are counted from 0 for each client."""

    rate_hz: float = 100.0
    skip: dict[int, int] = field(default_factory=dict)
    """Frame -> so many from it on are never sent."""
    restamp: dict[int, float] = field(default_factory=dict)
    """Frame -> from it on the time stamps are so many seconds further on, or back."""
    freeze_at: int | None = None
    """From this frame on nothing comes, but the connection stays."""
    close_at: int | None = None
    """Before this frame the camera hangs up."""
    mute: bool = False
    """It takes connections and says nothing."""
    user: str | None = None
    """USER:PASSWORD that it wants, by digest."""
    path: str = "/strip"
    tcp: bool = True
    """It sends in the RTSP connection; else it insists on UDP."""
    http: bool = False
    """It is a web server instead, with JPEGs in one endless answer and no time stamps that were measured."""


def picture(number: int) -> bytes:
    """Frame `number`: HEIGHT x WIDTH grey bytes."""
    return random.Random(number % PICTURES).randbytes(HEIGHT * WIDTH)


class Server:
    """The running camera."""

    def __init__(self, process: subprocess.Popen[str], port: int, script: Script) -> None:
        self.process = process
        self.port = port
        self._script = script

    @property
    def url(self) -> str:
        user, _, password = (quote(part, safe="") for part in (self._script.user or "").partition(":"))
        who = f"{user}:{password}@" if user else ""
        return f"{'http' if self._script.http else 'rtsp'}://{who}127.0.0.1:{self.port}{self._script.path}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(script: Script | None = None, port: int = 0) -> Iterator[Server]:
    """A camera on loopback; it is killed in the end."""
    script = script or Script()
    command = [sys.executable, __file__, str(port), json.dumps(asdict(script))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        server = Server(process, 0, script)
        try:
            assert process.stdout is not None
            server.port = int(process.stdout.readline())
            yield server
        finally:
            server.kill()


# ---------------------------------------------------------------- the process


def sdp() -> str:
    return (
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=strip\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
        f"a=rtpmap:96 raw/{CLOCK_HZ}\r\n"
        f"a=fmtp:96 sampling=BGR; width={WIDTH}; height={HEIGHT}; depth=8; colorimetry=SMPTE240M\r\n"
        "a=control:track0\r\n"
    )


def packets(grey: bytes, first: int, stamp: int) -> list[bytes]:
    """One picture as RTP packets of one row each, numbered from `first` on."""
    found = []
    for row in range(HEIGHT):
        line = grey[row * WIDTH : (row + 1) * WIDTH]
        number, last = first + row, row == HEIGHT - 1
        rtp = struct.pack(">BBHII", 0x80, 96 | last << 7, number & 0xFFFF, stamp & 0xFFFFFFFF, 0x5354)
        scan = struct.pack(">HHHH", number >> 16 & 0xFFFF, WIDTH * 3, row, 0)
        colour = bytearray(3 * WIDTH)
        colour[0::3] = colour[1::3] = colour[2::3] = line
        found.append(rtp + scan + colour)
    return found


class Client:
    """One client's connection."""

    def __init__(self, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._script = script
        self._reader = reader
        self._writer = writer
        self._udp: socket.socket | None = None
        self._playing: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        try:
            while request := await self._request():
                if not self._script.mute:
                    self._answer(*request)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if self._playing is not None:
                self._playing.cancel()
            if self._udp is not None:
                self._udp.close()
            self._writer.close()

    async def _request(self) -> tuple[str, str, dict[str, str]] | None:
        """Method, address, header; RTCP packets between requests are passed over."""
        while (start := await self._reader.read(1)) == b"$":
            _, length = struct.unpack(">BH", await self._reader.readexactly(3))
            await self._reader.readexactly(length)
        if not start:
            return None
        lines = (start + await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, address, _ = lines[0].split(" ")
        fields = (line.partition(":")[::2] for line in lines[1:] if line)
        return method, address, {key.lower(): value.strip() for key, value in fields}

    def _reply(self, header: dict[str, str], status: str, *fields: str, body: str = "") -> None:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {header.get('cseq', '0')}", *fields]
        lines += [f"Content-Length: {len(body)}"] if body else []
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _answer(self, method: str, address: str, header: dict[str, str]) -> None:
        if self._script.http:
            self._playing = asyncio.create_task(self._film(address))
        elif self._script.user and not proves(self._script.user, method, header.get("authorization", "")):
            self._reply(header, "401 Unauthorized", 'WWW-Authenticate: Digest realm="camera", nonce="1234"')
        elif method == "OPTIONS":
            self._reply(header, "200 OK", "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
        elif not re.fullmatch(rf"rtsp://[^/]*{self._script.path}(/track0|/)?", address):
            self._reply(header, "404 Not Found")
        elif method == "DESCRIBE":
            self._reply(header, "200 OK", f"Content-Base: {address}/", "Content-Type: application/sdp", body=sdp())
        elif method == "SETUP":
            self._set_up(header)
        else:
            self._reply(header, "200 OK", "Session: 1")
            if method == "PLAY":
                self._playing = asyncio.create_task(self._play())

    def _set_up(self, header: dict[str, str]) -> None:
        transport = header["transport"]
        if "TCP" in transport:
            if self._script.tcp:
                self._reply(header, "200 OK", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1")
            else:
                self._reply(header, "461 Unsupported Transport")
            return
        ports = re.search(r"client_port=(\d+)-(\d+)", transport)
        assert ports is not None
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._udp.connect(("127.0.0.1", int(ports[1])))
        own = self._udp.getsockname()[1]
        self._reply(
            header, "200 OK", f"Transport: RTP/AVP;unicast;{ports[0]};server_port={own}-{own + 1}", "Session: 1"
        )

    async def _frames(self) -> AsyncIterator[int]:
        """The numbers of the frames that are sent, each when it is time."""
        began, skip = time.monotonic(), 0
        number = 0
        while number != self._script.close_at:
            if number == self._script.freeze_at:
                await asyncio.Event().wait()
            skip = max(skip - 1, 0) or self._script.skip.get(number, 0)
            await asyncio.sleep(max(0.0, began + number / self._script.rate_hz - time.monotonic()))
            if not skip:
                yield number
            number += 1
        self._writer.close()

    async def _play(self) -> None:
        number, shift = 65_000, 0.0
        first = random.randrange(1 << 32)  # RFC 3550, 5.1: time stamps begin anywhere, and wrap
        with suppress(OSError):
            async for frame in self._frames():
                shift += self._script.restamp.get(frame, 0.0)
                stamp = first + round((frame / self._script.rate_hz + shift) * CLOCK_HZ)
                self._send(packets(picture(frame), number, stamp))
                number += HEIGHT
                await self._writer.drain()

    def _send(self, rtp: list[bytes]) -> None:
        if self._udp is None:
            self._writer.write(b"".join(b"$" + struct.pack(">BH", 0, len(packet)) + packet for packet in rtp))
            return
        for packet in rtp:
            self._udp.send(packet)

    async def _film(self, address: str) -> None:
        if address != self._script.path:
            self._writer.write(b"HTTP/1.0 404 Not Found\r\nConnection: close\r\n\r\n")
            self._writer.close()
            return
        jpeg = grey_jpeg()
        self._writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=next\r\n\r\n")
        with suppress(OSError):
            async for _ in self._frames():
                part = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                self._writer.write(part + jpeg + b"\r\n")
                await self._writer.drain()


def grey_jpeg() -> bytes:
    """HEIGHT x WIDTH px of one grey, 128."""
    import cv2
    import numpy as np

    return cv2.imencode(".jpg", np.full((HEIGHT, WIDTH), 128, dtype=np.uint8))[1].tobytes()


def proves(user: str, method: str, answer: str) -> bool:
    """Does the header's digest (RFC 2069) prove that the client knows USER:PASSWORD?"""
    said = dict(re.findall(r'(\w+)="([^"]*)"', answer))
    name, _, password = user.partition(":")
    secret = md5(f"{name}:camera:{password}")
    return said.get("response") == md5(f"{secret}:1234:{md5(f'{method}:' + said.get('uri', ''))}")


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


async def run(port: int, script: Script) -> None:
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # clients may go when they like

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Client(script, reader, writer).serve()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    told = json.loads(sys.argv[2])
    for numbered in ("skip", "restamp"):  # JSON has no numbers for keys
        told[numbered] = {int(key): value for key, value in told[numbered].items()}
    asyncio.run(run(int(sys.argv[1]), Script(**told)))
