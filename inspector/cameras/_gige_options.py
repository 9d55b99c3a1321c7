"""The closed options of a `gige` camera."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from inspector.cameras._genicam import Name, Settings


class Options(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a `gige` camera; those that all GenICam cameras share are in _genicam.py."""

    address: Name
    """IP address. Else a serial number, MAC address or id as `inspector cameras` lists it: found by a broadcast on
    every network card, whenever it is opened and is not where it was. `Fake_1`: the simulator of the library."""
    packet_size: Annotated[int, Meta(ge=576, le=16_000)] | Literal["auto"] | None = None
    """Largest packet, bytes with IP header. Left out: what the network card takes (its MTU), 9000 at most; the switch
    must take it too. `auto`: camera and host try what arrives, which takes up to some seconds."""
    packet_resend: bool | None = None
    """Ask again for packets that did not come. Left out: if the camera says that it can."""
    packet_timeout_ms: Annotated[int, Meta(ge=1, le=10_000)] = 20
    """How long to wait for packets that were asked for again before they are asked for once more."""
    frame_retention_ms: Annotated[int, Meta(ge=1, le=600_000)] | None = None
    """A begun frame to which no packet came for this long is lost as `timeout`. Left out: 10 s, or with resend 100 ms
    or what half the buffers hold: the frames behind it wait for it in the other buffers."""
    socket_buffer_bytes: Annotated[int, Meta(ge=65_536, le=1_073_741_824)] = 16 << 20
    """The kernel's buffer for packets, without a packet socket. `net.core.rmem_max` limits it."""
    packet_socket: bool | None = None
    """Take packets from a packet socket, which loses far fewer, but needs CAP_NET_RAW. Left out: if that is given."""
