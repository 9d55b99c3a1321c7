"""What a service tells systemd: one datagram on the socket that NOTIFY_SOCKET names (sd_notify(3)).

Without systemd every call does nothing, so the daemon runs the same in a terminal.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

SEND_TIMEOUT_S = 1.0
"""systemd reads at once; a manager that does not must not hold up the line."""


def notify(*assignments: str) -> bool:
    """Send assignments such as `READY=1`, together. False if nobody listens or it could not be sent.

    A line break inside one would begin another assignment, so it becomes a space.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    message = "\n".join(" ".join(text.splitlines()) for text in assignments)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(SEND_TIMEOUT_S)
            sender.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        return False
    return True


def ready(status: str) -> bool:
    """Start-up is over: models are warm and the first frame is in."""
    return notify("READY=1", f"STATUS={status}")


def reloading() -> bool:
    """The configuration is being read again; `ready` says that this is over. What `Type=notify-reload` waits for."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def status(text: str) -> bool:
    """One line for people, shown by `systemctl status`."""
    return notify(f"STATUS={text}")


def progress(text: str) -> bool:
    """Every stage made progress: feeds the watchdog. Never call it from a bare timer."""
    return notify("WATCHDOG=1", f"STATUS={text}")


def hangs(text: str) -> bool:
    """A stage hangs while the service starts, where nobody feeds the watchdog yet: as if it had run out."""
    return notify("WATCHDOG=trigger", f"STATUS={text}")


def stopping(text: str) -> bool:
    """The drain has begun."""
    return notify("STOPPING=1", f"STATUS={text}")


def extend_timeout(seconds: float) -> bool:
    """Start-up or stop goes on and needs up to this much more from now, such as while a camera is being looked for."""
    return notify(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two `progress` calls, half of what systemd allows; None: it watches no one, or another process.

    A WATCHDOG_USEC or WATCHDOG_PID that is no number counts as none: the line matters more than its watchdog.
    """
    try:
        allowed_us = int(environ.get("WATCHDOG_USEC", "0"))
        for_pid = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return allowed_us / 2e6 if allowed_us > 0 and for_pid == os.getpid() else None
