"""The daemon as a process of its own, as systemd runs it: started, waited for, listened to, killed, always reaped.

Nothing here sleeps: every wait ends when the process dies, when what it waits for is there, or loudly after PATIENCE_S
with what the daemon said.
"""

from __future__ import annotations

import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import yaml
import zmq
from prometheus_client.parser import text_string_to_metric_families

import inspector
from inspector.events import Event
from inspector.journal import Audit, audit, read_events

ROOT = Path(inspector.__file__).parents[1]
PATIENCE_S = 60.0
"""A wait that takes so long has failed, on the busiest machine."""
TURN_S = 0.02
"""How often a condition that nothing announces is looked at."""

_numbers = itertools.count()
_decode = msgspec.json.Decoder(Event).decode


def command(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command of the command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "inspector", *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def environment(**extra: str) -> dict[str, str]:
    """This one's, but for a systemd above the tests; the package under test is found from any folder."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    return {**kept, "PYTHONPATH": str(ROOT), **extra}


def write(folder: Path, config: dict[str, Any], name: str = "line.yaml") -> Path:
    """A configuration as a file."""
    path = folder / name
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


class Daemon:
    """`inspector run CONFIG` in a process; killed on exit if it still runs.

    Attributes:
        notes: what it told systemd so far, a datagram each.
        wrapper: a command that runs the daemon, such as `setpriv`.
    """

    def __init__(self, config: Path, *, watchdog_s: float | None = None, wrapper: Sequence[str] = ()) -> None:
        self.notes: list[str] = []
        number = next(_numbers)
        self._said = config.with_name(f"{config.stem}-{number}.stderr")
        name = f"inspector-test-{os.getpid()}-{number}"
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._systemd.bind("\0" + name)
        extra = {"NOTIFY_SOCKET": "@" + name}
        if watchdog_s is not None:
            extra["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
        with self._said.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-m", "inspector", "run", str(config)],
                cwd=config.parent,
                env=environment(**extra),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        self._life = os.pidfd_open(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._life)
        self._systemd.close()

    # ------------------------------------------------------------ what it says

    @property
    def stderr(self) -> str:
        return self._said.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self.process.pid

    def fail(self, what: str) -> AssertionError:
        state = "runs" if self.process.poll() is None else f"ended with {self.process.returncode}"
        return AssertionError(f"{what}. The daemon {state}; it told systemd {self.notes[-5:]} and said:\n{self.stderr}")

    # ------------------------------------------------------------ waiting

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """What `condition` says once it is true; the daemon must live."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            if self._died(TURN_S):
                raise self.fail(f"it died before {what}")
            if time.monotonic() > deadline:
                raise self.fail(f"waited {PATIENCE_S:.0f} s for {what}")
        return found

    def told(self, beginning: str) -> str:
        """The next datagram to systemd of which a line begins so."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            heard = self._systemd.fileno()
            ready, _, _ = select.select([heard, self._life], [], [], PATIENCE_S)
            if heard not in ready:
                break
            self.notes.append(self._systemd.recv(65536).decode())
            if any(line.startswith(beginning) for line in self.notes[-1].splitlines()):
                return self.notes[-1]
        raise self.fail(f"it did not tell systemd {beginning}")

    def ready(self) -> Self:
        """Wait until it is ready; returns itself."""
        self.told("READY=1")
        return self

    def wait(self) -> int:
        """Its exit code, once it has ended by itself."""
        if not self._died(PATIENCE_S):
            raise self.fail(f"waited {PATIENCE_S:.0f} s for its end")
        return self.process.wait()

    def _died(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._life], [], [], timeout_s)
        return bool(ready)

    # ------------------------------------------------------------ ending it

    def term(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM, the drain, the exit code."""
        self.term()
        return self.wait()

    def kill(self) -> None:
        """kill -9, and the corpse."""
        self.process.kill()
        assert self.wait() == -signal.SIGKILL

    # ------------------------------------------------------------ its monitor

    def monitor(self) -> str:
        """Where it is: http://HOST:PORT."""
        found = self.until(lambda: re.search(r"monitor on (http://\S+)", self.stderr), "the monitor's address")
        return str(found[1])

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of a page of the monitor."""
        try:
            with urllib.request.urlopen(self.monitor() + path, timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """`name{label=value,...}` (without the prefix `inspector_`, labels in order of their names) -> value."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                found[sample.name.removeprefix("inspector_") + (f"{{{labels}}}" if labels else "")] = sample.value
        return found

    def metric(self, name: str) -> float:
        return self.metrics()[name]


# ---------------------------------------------------------------- its events


class Subscriber:
    """Hears a daemon's ZeroMQ stream; may be there before the daemon is."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self.bodies: list[bytes] = []
        self.events: list[Event] = []

    def hear(self, timeout_s: float) -> Event | None:
        """The next event, or None if none came in time."""
        if not self._socket.poll(round(timeout_s * 1000)):
            return None
        topic, body = self._socket.recv_multipart()
        event = _decode(body)
        assert topic.decode() == event.subject
        self.bodies.append(body)
        self.events.append(event)
        return event

    def until(self, condition: Callable[[Event], bool], daemon: Daemon, what: str) -> Event:
        """The next event of which `condition` is true."""
        found: list[Event] = []

        def look() -> bool:
            while (event := self.hear(0)) is not None:
                if condition(event):
                    found.append(event)
                    return True
            return False

        daemon.until(look, what)
        return found[0]

    def rest(self) -> None:
        """All that is still on its way after the daemon has ended: it lingers until it is handed over."""
        while self.hear(0.5) is not None:
            pass


@contextmanager
def subscribed(address: str, *topics: str) -> Iterator[Subscriber]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.rcvhwm = 0
        socket.reconnect_ivl = 5
        for topic in topics or ("",):
            socket.subscribe(topic)
        socket.connect(address)
        yield Subscriber(socket)


# ---------------------------------------------------------------- its journal


def proven(path: Path) -> Audit:
    """The audit of a journal that must balance."""
    found = audit(path)
    assert found.problems == []
    return found


def journalled(path: Path, *kinds: str) -> list[Event]:
    return list(read_events(path, kinds=kinds or None))


def written(path: Path) -> list[Event]:
    """The events of a jsonl file; every line must be a whole one."""
    data = path.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    return [_decode(line) for line in data.splitlines()]
