"""ZAP: libzmq asks here for every client that has shown a key (https://rfc.zeromq.org/spec/27/).

It is asked only when a server has a ZAP domain, and lets everybody with any key in when nobody answers, unless the
domain is enforced: `secure` sets both. No thread of its own: the server's thread answers, and until it does nobody
comes in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import zmq
from zmq.utils import z85

from inspector.wire.keys import Keyring
from inspector.wire.refusals import Refusals

ADDRESS = "inproc://zeromq.zap.01"
ANSWERS = 256
"""Questions answered in one go at most."""
SHUT_OUT_S = 10.0
"""How long a client that misused a socket is kept out."""

WELCOME = (b"200", b"OK")
LATER = (b"300", b"not now")
"""libzmq sends the client nothing then; its handshake runs out, and it tries again."""
NEVER = (b"400", b"not known here")
"""libzmq tells the client, which does not try again on this connection."""


def secure(socket: zmq.Socket[bytes], keyring: Keyring, domain: str) -> None:
    """Make a socket that is not bound yet serve only clients that ZAP lets into this domain."""
    assert keyring.server.secret is not None
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keyring.server.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, keyring.server.secret.encode())
    socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without it a handler that is not there would let everybody in


class Zap:
    """Answers libzmq for all sockets of a context; in one thread.

    Args:
        context: there is one handler a context.
        keyring: who is known.
        roles: ZAP domain -> what a client must be allowed to do there.
        refusals: where those who are turned away are counted.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keyring: Keyring,
        roles: Mapping[str, str],
        refusals: Refusals,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keyring = keyring
        self._roles = roles
        self._refusals = refusals
        self._clock = clock
        self._shut_out: dict[str, float] = {}
        self.socket = context.socket(zmq.REP)
        """Readable when there is something to answer."""
        self.socket.linger = 0
        self.socket.bind(ADDRESS)

    def close(self) -> None:
        """After the sockets that ask here."""
        self.socket.close()

    def shut_out(self, name: str) -> None:
        """Let a client in no more for SHUT_OUT_S seconds."""
        self._shut_out[name] = self._clock() + SHUT_OUT_S

    def answer(self) -> None:
        """Answer whoever waits, ANSWERS at most."""
        with suppress(zmq.Again):
            for _ in range(ANSWERS):
                request = self.socket.recv_multipart(zmq.NOBLOCK)
                (status, text), user = self._verdict(request)
                number = request[1] if len(request) > 1 else b""
                self.socket.send_multipart([b"1.0", number, status, text, user.encode(), b""], zmq.NOBLOCK)

    def _verdict(self, request: Sequence[bytes]) -> tuple[tuple[bytes, bytes], str]:
        if len(request) != 7 or request[0] != b"1.0" or request[5] != b"CURVE" or len(request[6]) != 32:
            return self._refuse("not CURVE", "a client of another mechanism")
        domain, address = request[2].decode(errors="replace"), request[3].decode(errors="replace")
        client = self._keyring.holder(z85.encode(request[6]).decode())
        role = self._roles.get(domain)
        if client is None:
            return self._refuse("unknown key", address)
        if role is None or not self._keyring.allows(client.name, role):
            return self._refuse(f"may not {role or domain}", f"{client.name} at {address}")
        if self._clock() < self._shut_out.get(client.name, 0.0):
            self._refusals.add("shut out for a while", f"{client.name} at {address}")
            return LATER, ""
        return WELCOME, client.name

    def _refuse(self, reason: str, who: str) -> tuple[tuple[bytes, bytes], str]:
        self._refusals.add(reason, who)
        return NEVER, ""
