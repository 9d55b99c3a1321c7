"""What each of several pytest processes side by side has to itself: workers of pytest-xdist, or runs by chance."""

from __future__ import annotations

import itertools
import os
import socket

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Number of this worker of pytest-xdist; 0 without it."""
PORTS, OF_A_WORKER = range(10_000, 30_000), 1_000
"""Below the kernel's own (net.ipv4.ip_local_port_range begins at 32768), and how many of them a worker has."""

_ports = itertools.count(os.getpid())


def free_port() -> int:
    """A port of 127.0.0.1 that a test may close and open again.

    A port of the kernel's choice is anybody's as soon as it is closed: it may be given to the next who asks for any,
    or to a client that tries to connect to it, which then hears itself.
    """
    for number in itertools.islice(_ports, OF_A_WORKER):
        port = PORTS[(WORKER * OF_A_WORKER + number % OF_A_WORKER) % len(PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")
