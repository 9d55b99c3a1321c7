"""Brokers and bridges as processes of their own: started, killed and started again, always reaped.

Every wait ends when what it waits for is there, or loudly after PATIENCE_S with what the process said.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.line.daemon import PATIENCE_S, environment
from tests.workers import free_port

TURN_S = 0.02


def installed(name: str) -> str:
    """The broker's program; skips where it is not installed, but not in CI, which has to have it."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is not None:
        return found
    missing = f"needs {name}: apt-get install {name}"
    if os.environ.get("CI"):
        raise AssertionError(missing)
    pytest.skip(missing)


def until(condition: Callable[[], Any], what: Callable[[], str] | str) -> Any:
    """What `condition` says once it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what if isinstance(what, str) else what()}")
        select.select([], [], [], TURN_S)
    return found


class Process:
    """A program that can be killed and started again with the same arguments."""

    def __init__(self, arguments: Sequence[str | Path], said: Path) -> None:
        self._arguments = [str(argument) for argument in arguments]
        self._said = said
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    def start(self) -> None:
        with self._said.open("ab") as stream:
            self._process = subprocess.Popen(
                self._arguments, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment()
            )

    def kill(self) -> None:
        """kill -9, if it still runs, and the corpse."""
        self.signal(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        return self.signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        return self.signal(0)

    def tell(self, number: int) -> None:
        """A signal that it survives."""
        assert self._process is not None
        self._process.send_signal(number)

    def signal(self, number: int) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"it does not end; it said:\n{self.said}") from None


class Server(Process):
    """A broker on a port of the loopback."""

    def __init__(self, arguments: Sequence[str | Path], said: Path, port: int) -> None:
        super().__init__(arguments, said)
        self.port = port

    def start(self) -> None:
        super().start()
        until(self._answers, lambda: f"the broker; it said:\n{self.said}")

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def again(self) -> None:
        """kill -9, and start."""
        self.kill()
        self.start()


def nats_server(folder: Path, *more: str | Path) -> Server:
    port = free_port()
    program = [installed("nats-server"), "-js", "-sd", folder / "jetstream", "-a", "127.0.0.1", "-p", str(port), *more]
    return Server(program, folder / "nats.log", port)


def mosquitto(folder: Path, *more: str) -> Server:
    """Quick to save what it holds, so that a clean stop of it loses nothing."""
    port = free_port()
    (folder / "mosquitto.db").mkdir(exist_ok=True)
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "persistence true",
        f"persistence_location {folder / 'mosquitto.db'}/",
        "max_queued_messages 0",
        *more,
        *(["user root"] if os.geteuid() == 0 else []),
    ]
    config = folder / "mosquitto.conf"
    config.write_text("\n".join(lines) + "\n")
    return Server([installed("mosquitto"), "-c", config], folder / "mosquitto.log", port)


def saved(folder: Path, server: Server) -> None:
    """mosquitto has written down who subscribes to what, which a kill -9 then cannot take away."""
    file = folder / "mosquitto.db" / "mosquitto.db"
    file.unlink(missing_ok=True)
    server.tell(signal.SIGUSR1)
    until(file.exists, lambda: f"the broker's data base; it said:\n{server.said}")


def bridge(folder: Path, *arguments: str | Path) -> Process:
    """`inspector bridge ...` with its place in `folder`."""
    program = [sys.executable, "-m", "inspector", "bridge", *arguments, "--place", folder / "place"]
    return Process(program, folder / "bridge.log")
