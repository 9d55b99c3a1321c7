"""A small daemon that speaks docs/protocol.md and does whatever can go wrong; for the tests of clients.

`Line` is a line as its sockets show it, without sockets; `Served` puts one behind real ones, in a thread of its own.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import zmq

from inspector.events import Data, Event, Heartbeat, JournalMark, State

Message = tuple[bytes, bytes]
"""Topic and body."""


@dataclass
class Book:
    """A journal: what was written to it, and what is still kept."""

    id: str
    rows: list[tuple[int, Event]] = field(default_factory=list)
    marks: dict[tuple[int, str], int] = field(default_factory=dict)
    last: int = 0
    retired: int = 0

    def write(self, cursor: int, event: Event) -> None:
        self.rows.append((cursor, event))
        self.marks[event.epoch, event.subject] = event.sequence
        self.last = cursor

    def retire(self, count: int) -> None:
        gone, self.rows = self.rows[:count], self.rows[count:]
        if gone:
            self.retired = gone[-1][0]

    @property
    def mark(self) -> JournalMark:
        return JournalMark(id=self.id, last=self.last, retired=self.retired)

    @property
    def kept(self) -> set[str]:
        """Ids of the events in it."""
        return {event.id for _, event in self.rows}


class Line:
    """A daemon, its restarts and its journal.

    Attributes:
        published: every event ever, in order, but heartbeats.
        full: the disk takes nothing.
    """

    def __init__(self, name: str = "a", history: str | None = "tcp://127.0.0.1:1", keep: int = 6) -> None:
        self.source = f"/inspector/{name}"
        self.name = name
        self.history = history
        self.journalled = history is not None
        self.published: list[Event] = []
        self.full = False
        self.pages = 3
        self.asked: list[dict[str, Any]] = []
        self._keep = keep
        self._ids = itertools.count(1)
        self._cursors = itertools.count(1)
        self.epoch = 0
        self.replace()

    # ------------------------------------------------------------ its life

    def replace(self) -> None:
        """Start again with another journal."""
        self.book = Book(f"journal-{next(self._ids)}")
        self._cursors = itertools.count(1)
        self.restart()

    def restart(self) -> None:
        """kill -9, and start: what waits for the disk is gone."""
        self.epoch += 10
        self.high_water: dict[str, int] = {}
        self._pending: list[tuple[int, Event]] = []
        self._beats = 0

    def publish(self, topic: str, data: Data | None = None) -> Message:
        sequence = self.high_water[topic] = self.high_water.get(topic, 0) + 1
        event = self._event(topic, sequence, data or State(part=topic, state="up", detail=""))
        self.published.append(event)
        self._pending.append((next(self._cursors), event))
        del self._pending[: -self._keep]
        self.commit()
        return message(event)

    def beat(self, state: str = "running", time: str = "2026-01-01T00:00:00Z") -> Message:
        self.commit()
        self._beats += 1
        data = Heartbeat(
            state=state,
            coil="",
            high_water=dict(self.high_water),
            cameras={},
            undelivered={},
            journal=self.book.mark if self.journalled else None,
            history=self.history,
        )
        return message(self._event(f"heartbeat/v1/{self.name}/", self._beats, data, time))

    def commit(self) -> None:
        if not self.full and self.journalled:
            for cursor, event in self._pending:
                self.book.write(cursor, event)
            self._pending = []

    def _event(self, topic: str, sequence: int, data: Data, time: str = "2026-01-01T00:00:00Z") -> Event:
        return Event(
            id=f"{self.epoch}/{topic}{sequence}",
            source=self.source,
            type=f"inspector.{data.__struct_config__.tag}.v1",
            time=time,
            subject=topic,
            dataschema="urn:inspector:schema:event:v1",
            epoch=self.epoch,
            sequence=sequence,
            data=data,
        )

    @property
    def obtainable(self) -> set[str]:
        """Ids of the events that the journal has or will have."""
        return {event.id for _, event in [*self.book.rows, *self._pending]}

    # ------------------------------------------------------------ its history

    def answer(self, request: bytes) -> list[bytes]:
        asked = json.loads(request)
        self.asked.append(asked)
        if asked["ask"] != "events":
            return [json.dumps({"answer": "error", "id": asked["id"], "error": "what?"}).encode()]
        topics = tuple(asked["topics"]) or ("",)
        found = [row for row in self.book.rows if row[0] > asked["after"] and row[1].subject.startswith(topics)]
        page = found[: min(self.pages, asked["limit"])]
        done = len(page) == len(found)
        head = {
            "answer": "events",
            "id": asked["id"],
            "source": self.source,
            "journal": {"id": self.book.id, "last": self.book.last, "retired": self.book.retired},
            "upto": max(asked["after"], self.book.last) if done else page[-1][0],
            "done": done,
        }
        if done:
            head["marks"] = [
                [epoch, topic, last]
                for (epoch, topic), last in self.book.marks.items()
                if topic.startswith(topics) and epoch >= asked.get("epoch", 0)
            ]
        return [json.dumps(head).encode(), *(event.body for _, event in page)]


class Newer(Line):
    """A daemon of a later version, whose events say more."""

    def _event(self, topic: str, sequence: int, data: Data, time: str = "2026-01-01T00:00:00Z") -> Event:
        event = super()._event(topic, sequence, data, time)
        said = json.loads(event.body)
        said["data"]["added"] = [1]
        event.__dict__["body"] = json.dumps({**said, "traceparent": "x"}).encode()
        return event


def message(event: Event) -> Message:
    return event.subject.encode(), event.body


# ---------------------------------------------------------------- behind real sockets


class Served:
    """A line behind an XPUB and a ROUTER; a thread serves the ROUTER and a heartbeat every few milliseconds.

    `say(topic, n)` publishes; `mute(n)` publishes what nobody hears. All of it under one lock.
    """

    def __init__(
        self, line: Line, events: str, history: str, secure: Callable[[zmq.Socket[bytes]], None] | None = None
    ):
        self.line = line
        self.lock = threading.Lock()
        self.deaf = False
        """The history gives no answer."""
        self.quiet = False
        """No heartbeats."""
        self._context = zmq.Context()
        self._publisher = self._socket(zmq.XPUB, secure)
        self._publisher.sndhwm = 0
        self._router = self._socket(zmq.ROUTER, secure)
        self._publisher.bind(events)
        self._router.bind(history)
        self.events = self._publisher.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self.history = self._router.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        line.history = self.history if line.journalled else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="served line", daemon=True)

    def _socket(self, kind: int, secure: Callable[[zmq.Socket[bytes]], None] | None) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 200
        if secure is not None:
            secure(socket)
        return socket

    def say(self, topic: str, count: int = 1, data: Data | None = None) -> None:
        with self.lock:
            for _ in range(count):
                self._publisher.send_multipart(self.line.publish(topic, data))

    def mute(self, topic: str, count: int = 1) -> None:
        """Events that get lost on the way."""
        with self.lock:
            for _ in range(count):
                self.line.publish(topic)

    def send(self, parts: Message) -> None:
        with self.lock:
            self._publisher.send_multipart(parts)

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self._router.poll(5):
                peer, request = self._router.recv_multipart()
                if not self.deaf:
                    with self.lock:
                        self._router.send_multipart([peer, *self.line.answer(request)])
            with self.lock:
                if not self.quiet:
                    self._publisher.send_multipart(self.line.beat())
                while self._publisher.poll(0, zmq.POLLIN):
                    self._publisher.recv()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._publisher.close()
        self._router.close()
        self._context.term()
