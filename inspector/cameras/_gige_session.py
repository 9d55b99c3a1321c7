"""One opening of a `gige` camera: found, taken, set up, streaming; and given back in the order that is safe."""

from __future__ import annotations

import logging
import re
import socket
from contextlib import ExitStack, suppress

import numpy as np
from numpy.typing import NDArray

from inspector.cameras import _aravis, _gige_setup, _gvcp
from inspector.cameras._aravis import Device, Refused
from inspector.cameras._aravis_stream import ChunkParser, Stream
from inspector.cameras._gige_options import Options
from inspector.errors import CameraError
from inspector.logbook import LogKind, as_kind

log = logging.getLogger(__name__)

ANSWER_S = 0.3
"""A camera answers the reading of a register within a millisecond or so, but a busy host may not see it."""
TRIES = 3
LARGEST_PACKET = 9000
"""Bytes; what most cards and switches call a jumbo frame."""
OVERHEAD = {False: 36, True: 48}
"""IP, UDP and GVSP headers in a packet, bytes, by whether ids are extended (GigE Vision 2.0, 24.3)."""
RESEND_RETENTION_S = 0.1
RETENTION_S = 10.0
CLEAN_TRIES = 8
"""A stream that began with packets of others is made anew: the driver counts frames from the first packet it sees."""
_NO_PACKET_SOCKET = 1
"""ARV_GV_STREAM_OPTION_PACKET_SOCKET_DISABLED."""
_FAKE = re.compile(r"Fake_\w+")


class Session:
    """A camera that streams.

    Args:
        name: of the camera, for the log.
        options: of the camera.
        memory: the buffers of an earlier opening, used again if they fit.
        known: where the camera was the last time, if it is not named by its IP address.

    Raises:
        CameraError: it is not there, belongs to somebody else, or refuses an option.
    """

    def __init__(self, name: str, options: Options, memory: NDArray[np.uint8] | None, known: str | None = None) -> None:
        self.answers = True
        """Set to False when the camera is known to be dead: it is not told that it is given back."""
        self.line: _gvcp.Line | None = None
        """Beside the driver; None for the library's own simulator."""
        self.found = options.address if _aravis.is_ip(options.address) else known
        """Its IP address."""
        self._name = name
        self._o = options
        with ExitStack() as acquired:
            self.device = self._connect(acquired)
            acquired.callback(self._give_back)
            try:
                with suppress(Refused):  # left running by a program that died: it would refuse to be set up
                    self.device.execute("AcquisitionStop")
                self.format = _gige_setup.apply(self.device, options)
                self.resend = self._may_resend()
                self.packet_size = self._set_packet_size()
                self.extended_ids = self._extended_ids()
                self.chunks = self._chunks(acquired)
                shape = options.buffers, self.format.payload
                self.memory = memory if memory is not None and memory.shape == shape else np.zeros(shape, np.uint8)
                self.stream = self._stream()
                acquired.callback(self._end_stream)
                self._start(acquired)
            except (Refused, CameraError) as error:
                self._ask_again()
                why = str(error) if self.answers else "it stopped answering while it was set up; look at its power"
                raise CameraError(why) from None
            self._acquired = acquired.pop_all()

    def close(self) -> None:
        """Stop it and give it back; the pixels in `memory` are nobody's afterwards."""
        self._ask_again()
        self._acquired.close()

    def _ask_again(self) -> None:
        """Does it still answer? Each register that is written to a dead camera takes 3 s."""
        if self.answers and self.line is not None:
            self.answers = self.line.read(_gvcp.PRIVILEGE, ANSWER_S, TRIES) is not None

    @property
    def packets(self) -> int:
        """Packets in one frame: leader, payload, trailer. 1 for the simulator, which has none."""
        if self.line is None:
            return 1
        block = self.packet_size - OVERHEAD[self.extended_ids]
        return -(-self.format.payload // block) + 2

    # ------------------------------------------------------------ the way to it

    def _connect(self, acquired: ExitStack) -> Device:
        address = self._o.address
        if _FAKE.fullmatch(address):
            return Device.fake(address.removeprefix("Fake_"))
        self.found = found = self.found or _lookup(address)
        try:
            self.line = acquired.enter_context(_gvcp.Line(found))
        except OSError as error:
            raise CameraError(f"{found}: there is no way to it ({error.strerror}); look at cable and network") from None
        privilege = self.line.read(_gvcp.PRIVILEGE, ANSWER_S, TRIES)
        if privilege is None:
            raise CameraError(
                f"{found}: no GigE Vision camera answers; look at its power, its cable and its address, "
                "or list what there is: inspector cameras"
            )
        if privilege & _gvcp.CONTROLLED:
            raise CameraError(
                f"{found}: another program controls this camera; end it. One that was killed keeps it for another 3 s"
            )
        return self._take(found)

    def _take(self, found: str) -> Device:
        assert self.line is not None
        try:
            device = Device.at(self.line.host, found)
        except Refused as error:
            raise CameraError(f"{found}: {error}; look at the camera and its cable") from None
        if not _aravis.lib.arv_gv_device_is_controller(device.handle):
            device.close()
            raise CameraError(f"{found}: another program took control of this camera just now; end it")
        return device

    # ------------------------------------------------------------ the stream

    def _may_resend(self) -> bool:
        if self.line is None:
            return False
        if self._o.packet_resend is not None:
            return self._o.packet_resend
        return bool((self.line.read(_gvcp.CAPABILITY, ANSWER_S, TRIES) or 0) & _gvcp.CAN_RESEND)

    def _set_packet_size(self) -> int:
        if self.line is None:
            return 0
        name, asked = "GevSCPSPacketSize", self._o.packet_size
        if asked == "auto":
            _aravis.call("arv_gv_device_auto_packet_size", self.device.handle)
        elif asked is not None:
            _gige_setup.set_feature(self.device, "packet_size", name, asked)
        else:
            least, most = (int(bound) for bound in self.device.bounds(name, "integer"))
            size = min(LARGEST_PACKET, self.line.mtu, most)
            size -= (size - least) % max(1, self.device.increment(name))
            _gige_setup.set_feature(self.device, "packet_size", name, size)
        return self.device.integer(name)

    def _extended_ids(self) -> bool:
        name = "GevGVSPExtendedIDMode"
        return self.device.has(name) and self.device.string(name) == "On"

    def _chunks(self, acquired: ExitStack) -> ChunkParser | None:
        if self._o.encoder.source != "chunk":
            return None
        parser = ChunkParser(self.device)
        acquired.callback(parser.close)
        return parser

    def _stream(self) -> Stream:
        if self.line is None:
            return Stream(self.device, self.memory, {})
        raw = self._packet_socket()
        _aravis.lib.arv_gv_device_set_stream_options(self.device.handle, 0 if raw else _NO_PACKET_SOCKET)
        settings = {
            "packet-resend": int(self.resend),
            "packet-timeout": self._o.packet_timeout_ms * 1000,
            "frame-retention": round(self._retention_s() * 1e6),
            "socket-buffer": 0,  # of a fixed size
            "socket-buffer-size": self._o.socket_buffer_bytes,
        }
        log.info(
            "camera %s (%s): %d x %d px, packets of %d bytes by %s, resend %s",
            *(self._name, self._o.address, self.format.width, self.format.height, self.packet_size),
            *("packet socket" if raw else "UDP socket", "on" if self.resend else "off"),
        )
        stream = Stream(self.device, self.memory, settings)
        for _ in range(CLEAN_TRIES):
            if not raw or not stream.strangers():
                break
            stream.close()
            stream = Stream(self.device, self.memory, settings)
        return stream

    def _packet_socket(self) -> bool:
        if self._o.packet_socket is False:
            return False
        allowed = _may_open_packet_sockets()
        if self._o.packet_socket and not allowed:
            raise CameraError("packet_socket: this process may not: give it CAP_NET_RAW (AmbientCapabilities=)")
        if not allowed:
            _warn_of_small_buffer(min(self._o.socket_buffer_bytes, 4 * self.format.payload))
        return allowed

    def _retention_s(self) -> float:
        """While a frame waits for packets that were asked for again, those behind it wait in the other buffers."""
        if self._o.frame_retention_ms is not None:
            return self._o.frame_retention_ms / 1000
        if not self.resend:
            return RETENTION_S
        frame_s = self.format.frame_s
        return RESEND_RETENTION_S if frame_s is None else min(RESEND_RETENTION_S, self._o.buffers / 2 * frame_s)

    def _start(self, acquired: ExitStack) -> None:
        lock = "TLParamsLocked"
        with suppress(Refused):
            self.device.set(lock, "integer", 1)
        self.stream.begin()
        self.device.execute("AcquisitionStart")
        acquired.callback(self._stop, lock)

    def _end_stream(self) -> None:
        if self.answers:
            self.stream.close()
        else:
            self.stream.abandon()

    def _give_back(self) -> None:
        if self.answers:
            self.device.close()
        else:
            self.device.abandon()

    def _stop(self, lock: str) -> None:
        if not self.answers:
            return
        with suppress(Refused):
            self.device.execute("AcquisitionStop")
            self.device.set(lock, "integer", 0)


def _lookup(name: str) -> str:
    """The address of the camera with this serial number, id or MAC address; broadcasts."""
    for entry in _aravis.discover():
        if name in (entry.serial, entry.device_id, entry.physical_id):
            return entry.address
    raise CameraError(
        f"address: no camera called {name} answers; give its IP address, or list what there is: inspector cameras"
    )


def _may_open_packet_sockets() -> bool:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError:
        return False
    return True


def _warn_of_small_buffer(needed: int) -> None:
    """Without a packet socket, packets wait in the socket's buffer, which the kernel keeps small."""
    with suppress(OSError, ValueError), open("/proc/sys/net/core/rmem_max", encoding="ascii") as file:
        allowed = int(file.read())
        if allowed < needed:
            log.warning(
                "packets may be lost: no CAP_NET_RAW, and net.core.rmem_max is %d bytes; make it %d with sysctl -w",
                *(allowed, needed),
                extra=as_kind(LogKind.PACKETS_AT_RISK),
            )
