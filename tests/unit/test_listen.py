"""`inspector listen` against the real sink: lines for people, lines for machines, and holes told loudly."""

from __future__ import annotations

import io
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from inspector.client.address import Keys, load_keys
from inspector.errors import ConfigError
from inspector.events import Data, Event, Heartbeat, State, as_json
from inspector.listen import Continuity, describe, listen
from inspector.sinks import zeromq
from inspector.wire import keys as certificates

GOLDEN = Path(__file__).parents[1] / "golden"
PATIENCE_S = 10.0

DEFECTS = "defect/v1/pickling-1/top-left/3/"
GAPS = "gap/v1/pickling-1/top-left/"
BEATS = "heartbeat/v1/pickling-1/"
STATES = "state/v1/pickling-1/"
HELLO = "state/v1/hello/"


def golden(kind: str) -> Event:
    return msgspec.json.decode((GOLDEN / f"{kind}.json").read_bytes(), type=Event)


def event(topic: str, sequence: int, data: Data | None = None, epoch: int = 1, source: str = "/line") -> Event:
    kind = topic.partition("/")[0]
    return msgspec.structs.replace(
        golden(kind),
        id=f"{epoch}/{topic}{sequence}",
        subject=topic,
        sequence=sequence,
        epoch=epoch,
        source=source,
        data=data or golden(kind).data,
    )


def beat(sequence: int, high_water: dict[str, int], epoch: int = 1) -> Event:
    data = Heartbeat(state="running", coil="c", high_water=high_water, cameras={}, undelivered={"zeromq": 2})
    return event(BEATS, sequence, data, epoch)


class Page(io.StringIO):
    """Text of another thread that one can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def write(self, text: str) -> int:
        with self._changed:
            self._changed.notify_all()
            return super().write(text)

    def has(self, text: str, timeout_s: float = PATIENCE_S) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: text in self.getvalue(), timeout_s)


class Listener:
    """`listen` in a thread of its own, connected to a sink of this one."""

    def __init__(
        self, sink: zeromq.Zeromq, topics: list[str], as_json: bool, silence_s: float, keys: Keys | None = None
    ) -> None:
        self.out, self.err = Page(), Page()
        self.stop = threading.Event()
        self.code: int | None = None
        self._sink = sink
        self._work = lambda: listen(
            sink.endpoint, topics, as_json, self.out, self.stop, keys=keys, err=self.err, silence_s=silence_s
        )
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.code = self._work()

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def greet(self) -> None:
        """Publish under a source of its own until the listener hears it."""
        for number in range(1, 1000):
            hello = event(HELLO, number, State(part="hello", state="up", detail=""), source="/hello")
            self._sink.tend()
            self._sink.send([hello])
            if self.out.has("hello", 0.01):
                return
        pytest.fail("the listener never heard anything")


@contextmanager
def listening(topics: list[str] | None = None, as_json: bool = False, silence_s: float = 1e6) -> Iterator[Listener]:
    options = zeromq.Options(address="tcp://127.0.0.1:*", linger_ms=0)
    with zeromq.open(options) as sink, Listener(sink, topics or [], as_json, silence_s) as listener:
        listener.greet()
        listener.send = sink.send  # type: ignore[attr-defined]
        yield listener


# ---------------------------------------------------------------- the whole way


def test_a_line_that_lets_in_only_known_keys_is_heard_with_one(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    certificates.make(folder)
    certificates.add(folder, "hall", ["events"])
    keys = load_keys(folder / "clients" / "hall.key_secret", folder / "server.key", ())
    options = zeromq.Options(address="tcp://127.0.0.1:*", keys=folder, linger_ms=0)
    with zeromq.open(options) as sink, Listener(sink, [], False, 1e6, keys) as listener:
        listener.greet()
    with zeromq.open(options) as sink, Listener(sink, [], False, 1e6) as stranger:
        for _ in range(1000):
            sink.tend()
            sink.send([golden("defect")])
            if sink.turned_away or stranger.out.has("scratch", 0.01):
                break
        assert sink.turned_away
        assert stranger.out.getvalue() == ""


def test_prints_a_line_for_each_event_and_ends_with_0() -> None:
    with listening() as listener:
        listener.send([golden("defect"), golden("gap"), golden("coil"), golden("heartbeat")])
        assert listener.out.has("coil 4712-A end")
    lines = [line for line in listener.out.getvalue().splitlines() if "hello" not in line]
    assert len(lines) == 3, "heartbeats are not shown unasked"
    for part in ("top-left", "coil 4711-B", "1039.411 m", "3 scratch", "MINOR", "1.5 x 1.0 mm", "0.93"):
        assert part in lines[0]
    for part in ("GAP", "NOT INSPECTED", "0.384 m", "3 frame", "overload", "0002cc93b.jpg"):
        assert part in lines[1]
    assert listener.code == 0
    assert listener.err.getvalue() == ""


def test_json_is_the_very_bytes_of_every_event() -> None:
    events = [golden(kind) for kind in ("defect", "heartbeat", "gap", "coil", "state")]
    with listening(as_json=True) as listener:
        listener.send(events)
        assert listener.out.has("coil/v1")
    lines = [line.encode() for line in listener.out.getvalue().splitlines() if "/hello" not in line]
    assert lines == [as_json(each) for each in events]


def test_topics_are_prefixes_and_may_repeat() -> None:
    with listening(["defect/v1/pickling-1/", "coil/", HELLO]) as listener:
        listener.send([golden("gap"), golden("state"), golden("defect"), golden("heartbeat"), golden("coil")])
        assert listener.out.has("coil 4712-A end")
    lines = [line for line in listener.out.getvalue().splitlines() if "hello" not in line]
    assert len(lines) == 2
    assert "scratch" in lines[0]


def test_heartbeats_are_shown_when_named() -> None:
    with listening(["heartbeat/", HELLO]) as listener:
        listener.send([golden("heartbeat")])
        assert listener.out.has("heartbeat: running, coil 4711-B, pack ef2d127de37b; overload step 3; top-left 81210 ")


def test_a_hole_is_told_on_stderr_before_what_follows() -> None:
    with listening() as listener:
        listener.send([event(DEFECTS, 5), event(DEFECTS, 9)])
        assert listener.err.has(f"LOST 3 event(s) of {DEFECTS}, sequence 6 to 8")


def test_a_lost_tail_is_found_by_the_heartbeat() -> None:
    with listening() as listener:
        listener.send([beat(7, {DEFECTS: 4}), beat(8, {DEFECTS: 6})])
        assert listener.err.has(f"LOST 2 event(s) of {DEFECTS}, sequence 5 to 6")


def test_missing_heartbeats_are_told_once_and_their_return_too() -> None:
    with listening(silence_s=0.01) as listener:
        assert listener.err.has("NO HEARTBEAT for 0.01 s from tcp://127.0.0.1:")
        listener.send([beat(1, {})])
        assert listener.err.has("heartbeat is back")
    assert listener.err.getvalue().count("is back") == 1


def test_garbage_is_told_and_survived() -> None:
    with listening(as_json=True) as listener:
        sink_socket = listener._sink._socket
        assert sink_socket is not None
        for body in (b"", b"\xff\xfe", b"[1]", b'{"data":{"kind":"\x1b[2J"}}', b'{"a":' * 5000):
            sink_socket.send_multipart([b"state/v1/x/", body])
        listener.send([golden("coil")])
        assert listener.out.has("4712-A")
        assert listener.err.getvalue().count("not an event that this version knows") == 5
    assert "\x1b[2J" not in listener.err.getvalue()


def test_ends_when_nobody_reads_its_output_though_nothing_ever_comes() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stop = threading.Event()
    alarm = threading.Timer(PATIENCE_S, stop.set)
    alarm.start()
    with os.fdopen(writer, "w") as out:
        assert listen("tcp://127.0.0.1:9", [], False, out, stop, err=io.StringIO()) == 0
    assert not stop.is_set()
    alarm.cancel()


def test_ends_when_its_output_breaks_in_the_middle() -> None:
    class Broken(Page):
        def write(self, text: str) -> int:
            super().write(text)
            raise BrokenPipeError

    options = zeromq.Options(address="tcp://127.0.0.1:*", linger_ms=0)
    with zeromq.open(options) as sink:
        listener = Listener(sink, [], False, 1e6)
        listener.out = Broken()
        with listener:
            listener.greet()
            listener._thread.join(PATIENCE_S)
            assert listener.code == 0
            assert not listener.stop.is_set()


@pytest.mark.parametrize("address", ["", "127.0.0.1:5570", "udp://127.0.0.1:1", "tcp://127.0.0.1", "tcp://127.0.0.1:x"])
def test_a_bad_address_is_explained(address: str) -> None:
    with pytest.raises(ConfigError, match=r"address .*tcp://127\.0\.0\.1:5570"):
        listen(address, [], False, io.StringIO(), threading.Event())


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    master, slave = os.openpty()
    options = zeromq.Options(address="tcp://127.0.0.1:*", linger_ms=0)
    with os.fdopen(slave, "w") as terminal, zeromq.open(options) as sink:
        stop = threading.Event()
        thread = threading.Thread(target=lambda: listen(sink.endpoint, [], False, terminal, stop, err=io.StringIO()))
        thread.start()
        seen = read_until(master, "NOT INSPECTED", lambda: sink.send([golden("gap")]))
        stop.set()
        thread.join(PATIENCE_S)
    os.close(master)
    assert "\x1b[" in seen


def read_until(file: int, text: str, nudge: Callable[[], object]) -> str:
    seen = ""
    for _ in range(1000):
        nudge()
        if select.select([file], [], [], 0.01)[0]:
            seen += os.read(file, 1 << 16).decode()
        if text in seen:
            return seen
    pytest.fail(f"{text!r} never came")


# ---------------------------------------------------------------- the parts


def holes(events: list[Event], topics: list[str] | None = None) -> list[str]:
    continuity = Continuity(topics or [])
    return [note for each in events for note in continuity.see(each)]


def test_who_joins_late_misses_nothing_of_before() -> None:
    assert holes([event(DEFECTS, 40), event(DEFECTS, 41), beat(9, {DEFECTS: 41, GAPS: 7, BEATS: 8})]) == []


def test_the_last_states_that_a_late_joiner_is_given_are_no_holes() -> None:
    """Of several parts of the line: what changed meanwhile is no longer so, and was not missed."""
    assert (
        holes([event(STATES, 1), event(STATES, 9), event(STATES, 12), beat(30, {STATES: 12}), event(STATES, 13)]) == []
    )
    assert holes([event(STATES, 1), beat(30, {STATES: 12}), event(STATES, 14)]) == [
        f"LOST 1 event(s) of {STATES}, sequence 13 to 13; the journal has them"
    ]


def test_after_the_first_heartbeat_a_new_topic_starts_at_1() -> None:
    assert holes([beat(9, {DEFECTS: 3}), event(GAPS, 1)]) == []
    assert holes([beat(9, {DEFECTS: 3}), event(GAPS, 3)]) == [
        f"LOST 2 event(s) of {GAPS}, sequence 1 to 2; the journal has them"
    ]


def test_a_topic_of_which_all_is_lost_is_found() -> None:
    assert len(holes([beat(1, {}), beat(2, {GAPS: 2})])) == 1


def test_a_hole_is_told_once() -> None:
    told = holes([event(DEFECTS, 1), beat(1, {DEFECTS: 3}), beat(2, {DEFECTS: 3}), event(DEFECTS, 4)])
    assert told == [f"LOST 2 event(s) of {DEFECTS}, sequence 2 to 3; the journal has them"]


def test_a_filter_is_no_hole() -> None:
    assert holes([beat(1, {GAPS: 1}), beat(2, {GAPS: 5, DEFECTS: 4})], ["coil/"]) == []


def test_a_lost_heartbeat_is_a_hole_too() -> None:
    assert holes([beat(1, {}), beat(3, {})]) == [f"LOST 1 event(s) of {BEATS}, sequence 2 to 2; the journal has them"]


def test_a_restart_is_told_and_counts_from_1() -> None:
    told = holes([event(DEFECTS, 8), event(DEFECTS, 2, epoch=2), event(DEFECTS, 9), event(DEFECTS, 3, epoch=2)])
    assert told == [
        "/line has started again (epoch 1 -> 2)",
        f"LOST 1 event(s) of {DEFECTS}, sequence 1 to 1; the journal has them",
    ]


def test_sources_and_repeats_do_not_mix() -> None:
    assert holes([event(DEFECTS, 8), event(DEFECTS, 2, source="/other"), event(DEFECTS, 8), event(DEFECTS, 9)]) == []


def test_time_is_local_and_no_name_steers_the_terminal() -> None:
    hostile = event(STATES, 1, State(part="\x1b[2Jpart", state="down\n", detail="\x07\u202e"))
    text, _ = describe(hostile)
    assert text.startswith(datetime.fromisoformat(hostile.time).astimezone().strftime("%H:%M:%S.123"))
    assert text.isprintable()


@pytest.mark.parametrize("kind", [path.stem for path in sorted(GOLDEN.glob("*.json"))])
def test_every_kind_is_one_line(kind: str) -> None:
    text, _ = describe(golden(kind))
    assert "\n" not in text
    assert len(text) > 30
