"""kill -9 of subscribers and of the daemon, under load: after repair every event is there exactly once.

The long form, 1,000 kills of the subscriber and 50 of the daemon: pytest tests/line/test_stream_kill.py -m soak -s
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from inspector.journal import read_events
from tests.conftest import Start
from tests.line.daemon import Daemon, environment, proven
from tests.line.lines import config, lossless, pictures, played

HERE = Path(__file__).parent
PROGRAMS = {"follower.py": (), "outsider.py": ("--since", "beginning")}
"""On the client library, and on docs/protocol.md alone: its author had read nothing else."""


@contextmanager
def following(address: str, store: Path, log: Path, program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A subscriber as a process; killed at the end if it still runs."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, str(HERE / program), address, str(store), *PROGRAMS[program]],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def stored(store: Path) -> list[str]:
    """The ids that a subscriber has."""
    if not store.exists():
        return []
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        try:
            return [name for (name,) in db.execute("SELECT id FROM event")]
        except sqlite3.OperationalError:  # its table is not there yet
            return []


def count(store: Path) -> int:
    """How many it has."""
    if not store.exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        try:
            return int(db.execute("SELECT count(*) FROM event").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def lost(store: Path) -> list[tuple[object, ...]]:
    """What the outsider says that it lost; the library's program fails instead."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        there = db.execute("SELECT name FROM sqlite_master WHERE name = 'lost'").fetchone()
        return db.execute("SELECT * FROM lost").fetchall() if there else []


def lives(process: subprocess.Popen[bytes], log: Path) -> None:
    assert process.poll() is None, f"the subscriber ended with {process.returncode}: {log.read_text()[-3000:]}"


@pytest.mark.parametrize(
    ("program", "subscriber_kills", "daemon_kills"),
    [
        pytest.param("follower.py", 12, 3, id="library"),
        pytest.param("outsider.py", 6, 2, id="from_the_document_alone"),
        pytest.param("follower.py", 1000, 50, id="library_long", marks=pytest.mark.soak),
    ],
)
def test_every_event_is_there_exactly_once(
    program: str, subscriber_kills: int, daemon_kills: int, start: Start, pack: Path, tmp_path: Path, ipc: str
) -> None:
    dice, path, store, log = random.Random(7), tmp_path / "j.db", tmp_path / "store.sqlite", tmp_path / "follower.log"
    setup = config(
        pack,
        path,
        played(pictures(tmp_path / "pictures")),
        sinks=[{"kind": "zeromq", "options": {"address": ipc, "linger_ms": 0}}],
        history={"address": f"{ipc}-history"},
        line=lossless(heartbeat_s=0.1),
    )
    daemon = start(setup).ready()
    for number in range(subscriber_kills):
        before = count(store)
        with following(ipc, store, log, program) as process:
            wanted = before + dice.choice([0, 1, 20, 200])
            daemon.until(lambda: process.poll() is not None or count(store) >= wanted, f"{wanted} events")  # noqa: B023
            lives(process, log)
            if (number + 1) * daemon_kills // subscriber_kills > number * daemon_kills // subscriber_kills:
                daemon.kill()
                daemon = start(setup).ready()
                had = count(store)
                daemon.until(lambda: process.poll() is not None or count(store) > had, "more events")  # noqa: B023
                lives(process, log)
    catch_up(daemon, path, store, log, ipc, program)


def catch_up(daemon: Daemon, path: Path, store: Path, log: Path, ipc: str, program: str) -> None:
    """What the journal holds now, the subscriber has in a while, each event once."""
    wanted = {event.id for event in read_events(path)}
    with following(ipc, store, log, program) as process:
        while (had := count(store)) < len(wanted):
            daemon.until(lambda: process.poll() is not None or count(store) > had, "more of them")
            lives(process, log)
    assert daemon.stop() == 0
    proven(path)
    found = stored(store)
    assert lost(store) == []
    assert len(found) == len(set(found))
    assert wanted <= set(found)
    assert set(found) <= {event.id for event in read_events(path)}
    print(f"\n{len(found):,} events, each once")
