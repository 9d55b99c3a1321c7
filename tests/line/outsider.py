"""Follow an inspection line's event stream and keep every event exactly once, in SQLite.

    python outsider.py EVENTS_ADDRESS STORE.sqlite [--topic PREFIX]... [--since now|beginning]

Written from docs/protocol.md (and the JSON Schema it names) alone, as somebody outside the project would: nothing of
the project is imported, and none of its code was read. Section names in the comments are that page's.

An event, and how far the program has come, are stored in one transaction, so it may be killed at any moment. What
cannot be had any more is in the table `lost`; a row of it with topic '' and no first and last means that the journal
was replaced and nobody can say what the old one still held. Heartbeats are not stored. Trouble goes to stderr.
"""

import argparse
import json
import signal
import sqlite3
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import zmq

HOLD = 20_000  # live events held back behind holes; more are dropped, the journal has them (Repair)
PATIENCE_S = 12.0  # for an answer; History socket: "wait 10 s at least"
LATE_S = 10.0  # a heartbeat older than this is old
TABLES = """
CREATE TABLE IF NOT EXISTS event(source TEXT, id TEXT, body TEXT, PRIMARY KEY(source, id));
CREATE TABLE IF NOT EXISTS lost(source TEXT, topic TEXT, epoch INTEGER, first INTEGER, last INTEGER);
CREATE TABLE IF NOT EXISTS place(source TEXT PRIMARY KEY, journal TEXT, cursor INTEGER, epoch INTEGER, topics TEXT);
CREATE TABLE IF NOT EXISTS seen(source TEXT, epoch INTEGER, topic TEXT, have INTEGER, told INTEGER,
    PRIMARY KEY(source, epoch, topic));
"""

Key = tuple[int, str]  # epoch, topic
Mark = tuple[int, str, int]  # epoch, topic, sequence


class Event(NamedTuple):
    """What matters of an event for following the stream (Events socket)."""

    key: Key
    sequence: int
    id: str
    body: str


def read_event(body: bytes) -> Event:
    """An event as the journal or the events socket sent it."""
    read = json.loads(body)
    return Event((read["epoch"], read["subject"]), read["sequence"], read["id"], body.decode())


def say(text: str) -> None:
    """Tell the people who run this."""
    print(text, file=sys.stderr, flush=True)


def open_socket(kind: int, address: str) -> zmq.Socket[bytes]:
    """A connected socket that keeps nobody waiting when it is closed, and notices a dead connection (Events socket)."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.linger = 0
    socket.rcvhwm = HOLD
    socket.connect(address)
    return socket


def history_address(bound: str, events: str) -> str:
    """Where to reach the history socket: for tcp its port at the host that the events come from (Heartbeat)."""
    if not bound.startswith("tcp://"):
        return bound
    host = events.rpartition(":")[0] if events.startswith("tcp://") else "tcp://127.0.0.1"
    return f"{host}:{bound.rpartition(':')[2]}"


class Follower:
    """The stream of one source: its place, and what is held back (How a client loses nothing).

    The journal's order and the rule "hand over the next only" make what was handed over of a topic a plain
    1 ... `have`, with what is lost for good counted in. All repairs are made at a heartbeat, at most a second after a
    hole is seen, as only a heartbeat knows the epoch, the journal and the history socket's address of that moment.
    """

    def __init__(self, db: sqlite3.Connection, source: str, options: argparse.Namespace) -> None:
        """Know nothing yet: all live events are held back until the first heartbeat."""
        self.db, self.source, self.options = db, source, options
        self.topics: list[str] = sorted(set(options.topic))
        self.journal, self.cursor, self.printed = "", 0, 0
        self.epoch = -1  # followed now; of earlier ones nothing is awaited any more
        self.begun = self.whole = self.following = False
        self.have: dict[Key, int] = {}
        self.told: dict[Key, int] = {}  # the highest sequence that is known to exist
        self.held: dict[Key, dict[int, Event]] = {}
        self.asked = 0

    def save_place(self) -> None:
        """Store the place, within the caller's transaction."""
        row = (self.source, self.journal, self.cursor, self.epoch, json.dumps(self.topics))
        self.db.execute("INSERT OR REPLACE INTO place VALUES (?, ?, ?, ?, ?)", row)

    def save_key(self, key: Key) -> None:
        """Store how far one topic is, within the caller's transaction."""
        row = (self.source, *key, self.have.get(key, 0), self.told.get(key, 0))
        self.db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?)", row)

    def begin(self, epoch: int, high_water: dict[str, int], journal: dict[str, Any]) -> None:
        """Begin (1): take up the stored place, or make one from the first heartbeat."""
        where = " WHERE source = ?"
        row = self.db.execute("SELECT journal, cursor, epoch, topics FROM place" + where, (self.source,)).fetchone()
        if row is not None:
            if json.loads(row[3]) != self.topics:  # a cursor says nothing about topics that were not followed
                sys.exit(f"the store was begun with --topic {row[3]}: take another store for other topics")
            self.journal, self.cursor, self.epoch = row[:3]
            for number, topic, have, told in self.db.execute(
                "SELECT epoch, topic, have, told FROM seen" + where, (self.source,)
            ):
                self.have[number, topic], self.told[number, topic] = have, told
        elif self.options.since == "beginning":
            self.journal, self.epoch = journal.get("id", ""), 0
        else:
            self.journal, self.cursor, self.epoch = journal.get("id", ""), journal.get("last", 0), epoch
            self.have = {(epoch, topic): high for topic, high in high_water.items()}
            self.whole = True
            for key in self.have:
                self.save_key(key)
        self.printed, self.begun = self.cursor, True
        self.save_place()

    def store(self, event: Event) -> None:
        """Hand over: a plain INSERT, so that a double that got past the place is an error."""
        self.db.execute("INSERT INTO event VALUES (?, ?, ?)", (self.source, event.id, event.body))

    def hand_over(self, event: Event) -> None:
        """Store the next event of its topic and the place after it, within the caller's transaction."""
        self.store(event)
        self.have[event.key] = event.sequence
        self.save_key(event.key)

    def lose(self, key: Key, first: int, last: int) -> None:
        """Write down sequences that nobody can have any more, within the caller's transaction."""
        if first > last:
            return
        say(f"lost for good: {self.source} {key[1]} epoch {key[0]}: {first} to {last}")
        self.db.execute("INSERT INTO lost VALUES (?, ?, ?, ?, ?)", (self.source, key[1], key[0], first, last))
        self.have[key] = last
        self.save_key(key)

    def write_off(self, key: Key, upto: int) -> None:
        """Close a topic's holes up to a sequence: what was held back of it is handed over, the rest is lost."""
        for event in sorted(self.held.get(key, {}).values(), key=lambda held: held.sequence):
            if self.have.get(key, 0) < event.sequence <= upto:
                self.lose(key, self.have.get(key, 0) + 1, event.sequence - 1)
                self.hand_over(event)
        self.lose(key, self.have.get(key, 0) + 1, upto)

    def release(self) -> None:
        """Hand over what was held back and has no hole before it any more; forget what is done with."""
        for key in [key for key in self.held if key[0] <= self.epoch]:
            waiting = self.held[key]
            while key[0] == self.epoch and (event := waiting.get(self.have.get(key, 0) + 1)):
                self.hand_over(event)
            if key[0] < self.epoch or max(waiting) <= self.have.get(key, 0):
                del self.held[key]

    def live(self, event: Event) -> None:
        """An event from the events socket: drop what was seen, hand over what is next, hold back anything else."""
        have = self.have.get(event.key, 0)
        if event.key[0] < self.epoch or event.sequence <= have:
            return
        if event.key[0] == self.epoch and event.sequence == have + 1:
            with self.db:
                self.hand_over(event)
        elif sum(map(len, self.held.values())) < HOLD:
            self.held.setdefault(event.key, {})[event.sequence] = event

    def heartbeat(self, epoch: int, data: dict[str, Any]) -> None:
        """How far every topic is: look for holes, and repair them or move the cursor on."""
        journal = data.get("journal") or {}
        high_water = {topic: high for topic, high in data["high_water"].items() if self.wants(topic)}
        with self.db:
            if not self.begun:
                self.begin(epoch, high_water, journal)
            if epoch < self.epoch:
                return  # it was on its way when a repair reached a later epoch
            self.check_journal(journal)
            self.release()
            self.tell([(epoch, topic, high) for topic, high in high_water.items()])
            self.tell([(*key, max(held)) for key, held in self.held.items()])
            holes = any(told > self.have.get(key, 0) for key, told in self.told.items() if key[0] == epoch)
            clean = self.whole and epoch == self.epoch and not holes
            if clean and journal.get("last", 0) > self.cursor:  # never back: a heartbeat may be older than a repair
                self.cursor = journal["last"]
                self.save_place()
        if not clean:
            self.whole = self.repair(epoch, data.get("history") if journal else None)
        elif self.cursor > self.printed:
            self.printed = self.cursor
            print(f"cursor {self.cursor}", flush=True)
        if self.whole and not self.following:
            self.following = True
            print("following", flush=True)

    def wants(self, topic: str) -> bool:
        """Whether the topic is one of those followed."""
        return not self.topics or topic.startswith(tuple(self.topics))

    def tell(self, marks: Iterable[Mark]) -> None:
        """Note which sequences there are, within the caller's transaction, so that a hole outlives a restart."""
        for epoch, topic, high in marks:
            key = (epoch, topic)
            if high > max(self.told.get(key, 0), self.have.get(key, 0)):
                self.told[key] = high
                self.save_key(key)

    def check_journal(self, journal: dict[str, Any]) -> None:
        """Another journal id (4). A first journal, where there was none, has no past for us."""
        if not journal or journal["id"] == self.journal:
            return
        if self.journal:
            self.replaced(journal["id"])
        else:
            self.journal, self.cursor = journal["id"], journal["last"]
            self.save_place()

    def replaced(self, journal: str) -> None:
        """Go on at the start of another journal; say that what the old one still held is gone."""
        say(f"{self.source}: the journal was replaced at cursor {self.cursor}")
        self.db.execute("INSERT INTO lost VALUES (?, '', ?, NULL, NULL)", (self.source, self.epoch))
        self.journal, self.cursor, self.printed, self.whole = journal, 0, 0, False
        self.save_place()

    def repair(self, epoch: int, bound: str | None) -> bool:
        """Read the journal from the cursor to its end. False: it could not be done, the next heartbeat tries again."""
        if bound is None:  # no journal to ask: what is missing cannot be had
            with self.db:
                self.settle(epoch, [(*key, told) for key, told in self.told.items()])
            return True
        with open_socket(zmq.DEALER, history_address(bound, self.options.events)) as history:
            while True:
                answer, bodies = self.ask(history)
                if answer.get("source") != self.source or answer["journal"]["id"] != self.journal:
                    return False  # no answer, or the daemon was started anew meanwhile: its heartbeat will say
                with self.db:
                    if answer["journal"]["last"] < self.cursor:  # a journal that went back is another one
                        self.replaced(self.journal)
                        return False
                    for body in bodies:
                        self.from_journal(read_event(body))
                    self.cursor = max(self.cursor, answer["upto"])
                    self.save_place()
                    if answer["done"]:
                        self.settle(epoch, answer["marks"])
                        return True

    def ask(self, history: zmq.Socket[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        """One request for events, and its answer; empty when there was none."""
        self.asked += 1
        request = {"ask": "events", "id": self.asked, "after": self.cursor, "topics": self.topics, "epoch": self.epoch}
        history.send(json.dumps(request).encode())
        until = time.monotonic() + PATIENCE_S
        while history.poll(max(0, int((until - time.monotonic()) * 1000))):
            head, *bodies = history.recv_multipart()
            answer = json.loads(head)
            if answer["answer"] == "error":
                say(f"the history socket: {answer['error']}")
                return {}, []
            if answer.get("id") == self.asked:
                return answer, bodies
        say("the history socket does not answer")
        return {}, []

    def from_journal(self, event: Event) -> None:
        """An event of a repair, within the caller's transaction. What its topic skips is lost: the journal is past."""
        if event.key[0] < self.epoch:  # of an epoch whose sequences were forgotten: only its name can tell
            known = "SELECT 1 FROM event WHERE source = ? AND id = ?"
            if self.db.execute(known, (self.source, event.id)).fetchone() is None:
                self.store(event)
        elif event.sequence > self.have.get(event.key, 0):
            self.write_off(event.key, event.sequence - 1)
            self.hand_over(event)

    def settle(self, epoch: int, marks: Iterable[Mark]) -> None:
        """After a repair: find what is lost, by the marks, and go on in `epoch`, within the caller's transaction.

        An epoch that is over gets nothing more into the journal: what is missing of it is lost even above its mark.
        """
        high = {(number, topic): sequence for number, topic, sequence in marks}
        self.tell([(*key, sequence) for key, sequence in high.items() if key[0] < epoch])
        for key, told in list(self.told.items()):
            if key[0] <= epoch:
                self.write_off(key, told if key[0] < epoch else min(told, high.get(key, 0)))
        self.epoch = epoch
        for book in (self.have, self.told):
            for key in [key for key in book if key[0] < epoch]:
                del book[key]
        self.db.execute("DELETE FROM seen WHERE source = ? AND epoch < ?", (self.source, epoch))
        self.release()
        self.save_place()


def follow(db: sqlite3.Connection, options: argparse.Namespace) -> None:
    """Subscribe, to the heartbeat last (Begin), and take messages for ever; every source is followed by itself."""
    socket = open_socket(zmq.SUB, options.events)
    for topic in [*options.topic, "heartbeat/"] if options.topic else [""]:
        socket.subscribe(topic)
    followers: dict[str, Follower] = {}
    while True:
        if not socket.poll(3500):
            say("three heartbeats did not come")
            continue
        body = socket.recv_multipart()[1]
        read = json.loads(body)
        if read["source"] not in followers:
            followers[read["source"]] = Follower(db, read["source"], options)
        if read["data"]["kind"] != "heartbeat":
            followers[read["source"]].live(read_event(body))
            continue
        age = (datetime.now(UTC) - datetime.fromisoformat(read["time"])).total_seconds()
        if age > LATE_S:
            say(f"behind by {age:.0f} s")  # a store may be late; who acts on events has to stop here
        followers[read["source"]].heartbeat(read["epoch"], read["data"])


def main() -> None:
    """Read the command line, open the store and follow until SIGTERM."""
    parser = argparse.ArgumentParser(description="Keep every event of a line exactly once.")
    parser.add_argument("events", help="address of the events socket")
    parser.add_argument("store", help="SQLite file")
    parser.add_argument("--topic", action="append", default=[], help="prefix of topics; none: all")
    parser.add_argument("--since", choices=["now", "beginning"], default="now", help="only without a stored place")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # an open transaction is rolled back
    db = sqlite3.connect(options.store)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # a power cut may undo the last transactions, but events with place
    db.executescript(TABLES)
    follow(db, options)


if __name__ == "__main__":
    main()
