"""A stream's address: what may be shown of it, and why a server does not give its stream.

FFmpeg tells reasons on stderr only, so the server is asked for them in a short connection of its own, without the
password. FFmpeg opens one stream at a time in a process; asking first keeps a dead server from holding up the others.
"""

from __future__ import annotations

import socket
import time
from urllib.parse import SplitResult, urlsplit

from inspector.errors import CameraError, ConfigError

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
"""The schemes that can be opened, and where their servers listen when the address does not say."""

AS = "write rtsp://USER:PASSWORD@HOST:PORT/PATH, and @ : / # ? or a space in one of them as %40 %3A %2F %23 %3F %20"


class Unreachable(CameraError):
    """Nobody answers at the address; the message says what to look at. The adapter adds the camera's name."""


def check(url: str) -> None:
    """Is it an address that can be opened?

    Raises:
        ConfigError: it is not; the message does not show it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text may hold a piece of the password
        raise ConfigError(f"url: is no address; {AS}") from None
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise ConfigError(f"url: {AS}; known are {', '.join(PORTS)}")
    if any(c.isspace() or not c.isprintable() for c in url) or "@" in parts.path:
        raise ConfigError(f"url: {AS}")


def knocks_first(url: str) -> bool:
    """May the server be asked before the stream is opened? One for HTTP may have only one connection to give."""
    return urlsplit(url).scheme.startswith("rtsp")


def ask(url: str, timeout_s: float) -> int | None:
    """The server's status for the stream (200, 401, 404, ...); None where it is encrypted and cannot be asked.

    Raises:
        Unreachable: no connection, no answer in time, or not the protocol of the scheme.
    """
    parts = urlsplit(url)
    deadline = time.monotonic() + timeout_s
    address = parts.hostname or "", parts.port or PORTS[parts.scheme]
    try:
        with socket.create_connection(address, timeout_s) as connection:
            if parts.scheme in ("rtsps", "https"):
                return None
            connection.sendall(_request(parts))
            return _status(_first_line(connection, deadline), parts.scheme)
    except socket.gaierror:
        raise Unreachable("no such host; look at the name, or give the IP address") from None
    except ConnectionRefusedError:
        raise Unreachable("nothing listens there; look at the port, and whether the camera is on") from None
    except TimeoutError:
        raise Unreachable(f"no answer within {timeout_s:g} s; look at the address, the cable, the camera") from None
    except OSError as error:
        raise Unreachable(f"{error.strerror or 'the connection broke'}; look at the address and the network") from None


def _request(parts: SplitResult) -> bytes:
    host = parts.netloc.rpartition("@")[2]
    where = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme == "http":
        return f"GET {where} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()
    return f"DESCRIBE rtsp://{host}{where} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n".encode()


def _first_line(connection: socket.socket, deadline: float) -> bytes:
    got = b""
    while b"\n" not in got and len(got) < 1024:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        more = connection.recv(256)
        if not more:
            raise Unreachable("hangs up without an answer; look at the port, and restart the camera")
        got += more
    return got


def _status(line: bytes, scheme: str) -> int:
    words = line.split(maxsplit=2)
    protocol = f"{scheme.upper()}/".encode()
    if len(words) < 2 or not words[0].upper().startswith(protocol) or not words[1].isdigit():
        raise Unreachable(f"what answers there does not speak {scheme.upper()}; look at the port")
    return int(words[1])


def explained(status: int | None, url: str) -> str:
    """Why a server that gave this status gives no stream, and what to do about it."""
    if status in (401, 403):
        if urlsplit(url).username is None:
            return f"wants a user and a password ({status}); write them as USER:PASSWORD@ before the host"
        return f"refuses the user or the password in the url ({status}); mend them"
    if status == 404:
        return f"has no stream at this path ({status}); look it up in the camera's manual"
    if status in (453, 503):
        return f"is busy ({status}); close other clients of the camera"
    if status is None or status < 400:
        return "answers, but gives no video in time; look at `transport`, and at the stream with another player"
    return f"refuses the stream ({status}); look at the camera's settings"
