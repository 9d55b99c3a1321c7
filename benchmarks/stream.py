"""The event stream against its bare parts: events a second journalled and published, and a coil fetched again.

    python benchmarks/stream.py                      # about two minutes
    python benchmarks/stream.py --folder /dev/shm    # without the disk: what the processor alone costs

In one run, by turns, because a machine drifts: a bare SQLite insert loop (ready-made text, one column, the same
batches and durability), a bare PUB -> SUB (ready-made messages, no journal), and ours: drafts through Publish, the
journal and the ZeroMQ sink to the same subscriber. The bar is 0.5 of the slower bare one. Then a coil of 200,000
events is fetched from the history socket with the client library; the bar is a minute.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import zmq
from machine import describe

from inspector.channel import Channel
from inspector.client import subscribe
from inspector.config import HistoryConfig
from inspector.events import Along, Event, Gap, Heartbeat, Reason, as_json
from inspector.history import History
from inspector.journal import Journal
from inspector.ledger import Ledger
from inspector.metrics import Metrics
from inspector.publish import Deliver, Publish, Serve
from inspector.records import Draft, Graded
from inspector.sinks import zeromq
from inspector.worker import Worker

LINE = "line1"
TOPIC = f"gap/v1/{LINE}/top1/"
LIMIT_S = 300.0


def main() -> int:
    """Exit code 0: everything ran, whatever the figures are."""
    asked = _arguments()
    found: dict[str, object] = {"machine": describe()}
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rows = [_row(Path(folder), batch, asked.events, asked.rounds, asked.synchronous) for batch in asked.batches]
        found["rows"] = rows
        if asked.coil:
            found["replay"] = _replay(Path(folder), asked.coil)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _row(folder: Path, batch: int, events: int, rounds: int, synchronous: bool) -> dict[str, object]:
    rates: dict[str, list[float]] = {"insert": [], "pubsub": [], "ours": []}
    ratios = []
    for number in range(rounds):
        place = folder / f"{batch}-{number}"
        place.mkdir()
        turn = {
            "insert": bare_insert(place / "bare.db", batch, events, synchronous),
            "pubsub": bare_publish(events),
            "ours": ours(place / "journal.db", batch, events, synchronous),
        }
        for name, rate in turn.items():
            rates[name].append(rate)
        ratios.append(turn["ours"] / min(turn["insert"], turn["pubsub"]))
    medians = {name: statistics.median(each) for name, each in rates.items()}
    print(
        f"batches of {batch:>4}: insert {medians['insert']:>9,.0f}/s  PUB-SUB {medians['pubsub']:>9,.0f}/s  "
        f"ours {medians['ours']:>9,.0f}/s  ratio to the slower {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f})",
        flush=True,
    )
    return {"batch": batch, **medians, "ratio": statistics.median(ratios), "ratios": ratios}


# ---------------------------------------------------------------- the two bare ones


def bare_insert(path: Path, batch: int, events: int, synchronous: bool) -> float:
    """Ready-made text into one column, a transaction a batch; rows a second."""
    body = as_json(_event(1)).decode()
    with sqlite3.connect(path, isolation_level=None) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if synchronous else 'NORMAL'}")
        db.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, body TEXT NOT NULL)")
        started = time.perf_counter()
        for _ in range(0, events, batch):
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO event (body) VALUES (?)", [(body,)] * batch)
            db.execute("COMMIT")
        rate = events / (time.perf_counter() - started)
    db.close()
    return rate


def bare_publish(events: int) -> float:
    """Ready-made messages from a PUB socket to a subscriber in another process; received events a second."""
    message = (TOPIC.encode(), as_json(_event(1)))
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
        publisher.sndhwm = 0
        publisher.bind("tcp://127.0.0.1:*")
        with subscriber(publisher.getsockopt_string(zmq.LAST_ENDPOINT), events) as (ready, done):
            while not ready():
                publisher.send_multipart((b"probe/", b""))
                time.sleep(0.01)
            started = time.perf_counter()
            for _ in range(events):
                publisher.send_multipart(message)
            done()
            return events / (time.perf_counter() - started)


# ---------------------------------------------------------------- ours


def ours(path: Path, batch: int, events: int, synchronous: bool) -> float:
    """Drafts through Publish, the journal and the sink, as in the daemon; events a second received."""
    sink = zeromq.open(zeromq.Options(address="tcp://127.0.0.1:*", patience_ms=1000))
    with ExitStack() as held:
        journal = held.enter_context(_journal(path, synchronous))
        graded, outbox = Channel[Graded](64), Channel[Event](10_000)
        publish = Publish(
            LINE,
            journal,
            Ledger(["top1"]),
            {"zeromq": outbox},
            lambda: ("running", "C1"),
            1.0,
            Metrics(),
            True,
            waiting=graded.take,
        )
        deliver = Deliver(
            "zeromq",
            sink,
            True,
            lambda sent, refused, why: publish.sent("zeromq", sent, refused, why),
            waiting=outbox.take,
        )
        workers = [Worker("publish", publish, graded), Worker("sink", deliver, outbox)]
        for worker in workers:
            worker.start()
        while not sink.endpoints:
            time.sleep(0.01)
        items = [
            Graded(drafts=[Draft(TOPIC, time.time_ns(), _gap(first + i)) for i in range(batch)])
            for first in range(0, events, batch)
        ]
        with subscriber(sink.endpoint, events) as (ready, done):
            while not ready():
                time.sleep(0.01)
            started = time.perf_counter()
            for item in items:
                if not graded.put(item, LIMIT_S):
                    raise RuntimeError("the journal stands")
            done()
            rate = events / (time.perf_counter() - started)
        graded.close()
        for worker in workers:
            worker.join(30)
            if worker.failure is not None:
                raise worker.failure
    return rate


@contextmanager
def subscriber(address: str, events: int) -> Iterator[tuple[Callable[[], bool], Callable[[], None]]]:
    """A plain SUB in a process of its own: has it heard anything?, and wait until it has had `events`."""
    code = (
        "import sys, zmq\n"
        "s = zmq.Context().socket(zmq.SUB); s.rcvhwm = 0; s.connect(sys.argv[1]); s.subscribe(b'')\n"
        "s.recv_multipart(); print('ready', flush=True)\n"
        "left = int(sys.argv[2])\n"
        "while left: left -= s.recv_multipart()[0].startswith(b'gap/')\n"
        "print('done', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, address, str(events)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        heard = threading.Event()
        lines = iter(process.stdout.readline, b"")
        waiting = threading.Thread(target=lambda: (next(lines), heard.set()), daemon=True)
        waiting.start()
        try:
            yield heard.is_set, lambda: next(lines) and None
        finally:
            process.kill()


def _journal(path: Path, synchronous: bool) -> Journal:
    return Journal.open(
        path,
        line=LINE,
        source=f"/inspector/{LINE}",
        synchronous=synchronous,
        capacity_frames=64,
        cameras=["top1"],
        digest="sha256:0",
    )


def _gap(number: int) -> Gap:
    return Gap(
        camera="top1",
        frame_sequence=number,
        frames=1,
        reason=Reason.OVERLOAD,
        detail="the line was behind",
        source=None,
        coil="4711",
        along_mm=Along(start=number * 128.0, end=number * 128.0 + 128.0),
    )


def _event(number: int) -> Event:
    return Event(
        id=f"1795369002193/{TOPIC}{number}",
        source=f"/inspector/{LINE}",
        type="inspector.gap.v1",
        time="2026-11-22T15:13:04.215343663Z",
        subject=TOPIC,
        dataschema="urn:inspector:schema:event:v1",
        epoch=1795369002193,
        sequence=number,
        data=_gap(number),
    )


# ---------------------------------------------------------------- a coil again


def _replay(folder: Path, events: int) -> dict[str, object]:
    """A coil of so many events from the history socket to an iterating client, as the sockets are set by default."""
    path = folder / "coil.db"
    with _journal(path, False) as journal:
        for first in range(0, events, 1000):
            journal.append([Graded(drafts=[Draft(TOPIC, time.time_ns(), _gap(first + i)) for i in range(1000)])])
            journal.commit({})
        seconds = _fetch(path, journal, events)
    rate = events / seconds
    print(f"a coil of {events:,} events from the history: {seconds:.1f} s, {rate:,.0f} events/s", flush=True)
    return {"events": events, "seconds": seconds, "rate": rate}


def _fetch(path: Path, journal: Journal, events: int) -> float:
    stop = threading.Event()
    history = History(path, f"/inspector/{LINE}", journal.epoch, HistoryConfig(address="tcp://127.0.0.1:*"), Metrics())
    history.open()
    serving = Worker("history", Serve("history", history.serve, stop))
    serving.start()
    sink = zeromq.open(zeromq.Options(address="tcp://127.0.0.1:*"))
    with sink:
        beating = threading.Thread(target=_beat, args=(sink, journal, history.endpoint, stop))
        beating.start()
        started = time.perf_counter()
        with subscribe(sink.endpoint, since="beginning") as stream:
            for _, _event in zip(range(events), stream, strict=False):
                pass
        seconds = time.perf_counter() - started
        stop.set()
        beating.join(10)
    serving.join(10)
    history.close()
    return seconds


def _beat(sink: zeromq.Zeromq, journal: Journal, history: str, stop: threading.Event) -> None:
    """The heartbeats of a line."""
    while not stop.is_set():
        data = Heartbeat(
            state="running",
            coil="4711",
            high_water=journal.high_water(),
            cameras={},
            undelivered={},
            journal=journal.mark(),
            history=history,
        )
        sink.send([journal.identify(Draft(f"heartbeat/v1/{LINE}/", time.time_ns(), data))])
        stop.wait(1.0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000, help="in each turn (default: 20000)")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 10, 100], help="events a transaction")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--coil", type=int, default=200_000, help="events of the coil that is fetched; 0: none")
    parser.add_argument("--folder", type=Path, help="where the journals lie (default: the temporary folder)")
    parser.add_argument("--no-sync", dest="synchronous", action="store_false", help="commits are not forced")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
