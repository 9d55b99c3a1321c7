"""The daemon's side of a GenTL camera's process: start it, hear what it says, notice that it is dead, end it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import msgspec

from inspector.cameras._gentl_ring import Gone, Ring
from inspector.cameras._gentl_words import Kind, Nonsense, Record, Request
from inspector.errors import CameraError
from inspector.logbook import LogKind, as_kind

log = logging.getLogger(__name__)

COMMAND = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", "inspector.cameras._gentl_child"]
BEAT_S = 1.0
"""A process that has not shown for so long that it lives is held for hung; it shows it every 50 ms."""
STOP_S = 1.5
"""How long a process may take to give the camera back before it is killed."""
WORDS = 2000
"""Newest characters kept of what the process, and the producer in it, print."""


class Process:
    """One process from its start to its end; owned by one thread.

    Raises:
        CameraError: it cannot be started; as every message here, without the camera's name.
    """

    def __init__(self, request: Request, command: list[str] | None = None) -> None:
        try:
            self.ring = Ring(msgspec.json.encode(request))
        except OSError as error:
            raise CameraError(f"no shared memory for its process: {error.strerror}") from None
        self._said = ""
        self._hung = False
        """It hears nothing any more: there is no use in being polite."""
        self._suspect_ns = 0
        """Its last beat, if that was too long ago at the last look."""
        self._words, words_end = os.pipe()
        # A producer that prints more than anybody reads must not wait for a reader: what does not fit is lost.
        for end in (self._words, words_end):
            os.set_blocking(end, False)
        try:
            self._process = subprocess.Popen(
                [*(command or COMMAND), *(str(end) for end in self.ring.ends), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=words_end,
                stderr=words_end,
                pass_fds=self.ring.ends,
                start_new_session=True,  # Ctrl-C in a terminal is for the daemon
            )
        except OSError as error:
            os.close(self._words)
            self.ring.close()
            raise CameraError(f"its process cannot be started: {error.strerror}") from None
        finally:
            os.close(words_end)
        self.ring.started()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self, timeout_s: float) -> bytes:
        """The notice with which the process says that it has done what it was asked.

        Raises:
            CameraError: it could not, it died, or it took too long.
        """
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            record = self.get(min(left, 0.1))
            if record is not None and record.kind == Kind.READY:
                return self.ring.notice(Kind.READY)
            self._not_dead()
        self._hung = True
        raise CameraError(f"not open after {timeout_s:g} s (open_timeout_s){self._last_words()}")

    def get(self, timeout_s: float) -> Record | None:
        """The next record, or None if none came for `timeout_s` seconds.

        Raises:
            CameraError: the process said that it is over, talks nonsense, or has died.
        """
        try:
            record = self.ring.get(timeout_s)
        except Gone:
            raise CameraError(self._death()) from None
        except Nonsense:
            self._hung = True
            raise CameraError(f"its process talks nonsense{self._last_words()}") from None
        if record is not None and record.kind == Kind.ERROR:
            raise CameraError(self.ring.notice(Kind.ERROR).decode(errors="replace"))
        return record

    @property
    def beats(self) -> bool:
        """It showed that it lives just now."""
        return self._age_s < BEAT_S / 2

    @property
    def _age_s(self) -> float:
        return (time.monotonic_ns() - self.ring.beat_ns) / 1e9

    def look(self) -> None:
        """Is the process at work? Only for one that streams.

        Raises:
            CameraError: it is not.
        """
        self._not_dead()
        late, self._suspect_ns = self._suspect_ns, self.ring.beat_ns if self._age_s > BEAT_S else 0
        if late and late == self._suspect_ns:  # at two looks: after a pause of the whole machine it gets a second one
            self._hung = True
            raise CameraError(f"its process hangs, in the producer as it seems{self._last_words()}")

    def _not_dead(self) -> None:
        self.listen()
        # Not by the end of the pipe alone: a helper that the producer started may have inherited it.
        if self._process.poll() is not None and self.ring.empty:
            raise CameraError(self._death())

    def _death(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        code = self._process.poll()
        self._hung = code is None
        how = "broke off" if code is None else f"ended with {code}" if code >= 0 else f"was ended by {_signal(-code)}"
        return f"its process {how}{self._last_words()}"

    def listen(self) -> None:
        """Take in what it printed; it is said only when it dies."""
        with suppress(BlockingIOError):
            while data := os.read(self._words, 1 << 16):
                text = data.decode(errors="replace")
                log.debug("process %d: %s", self.pid, text.rstrip())
                self._said = (self._said + text)[-WORDS:]

    def _last_words(self) -> str:
        self.listen()
        lines = [line.strip() for line in self._said.splitlines() if line.strip()]
        printable = "".join(c if c.isprintable() else "?" for c in " / ".join(lines[-3:]))
        return f"; its last words: {printable[-500:]}" if lines else ""

    def stop(self) -> None:
        """End it, politely if it listens, so that the next one finds the camera free; and give everything back."""
        if self._hung:
            self._process.kill()
        self.ring.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:  # in the middle of a call of a driver in the kernel; it dies after that
                log.error("process %d does not end: its driver holds it", self.pid, extra=as_kind(LogKind.DRIVER_HELD))
        os.close(self._words)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
