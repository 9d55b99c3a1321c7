"""`inspector bridge mqtt` against the real mosquitto, killed and started again: every event is there at least once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from inspector.events import CoilEvent, State, as_json
from tests.line.bridges import Process, Server, bridge, mosquitto, saved, until
from tests.streaming import Line, Newer, Served

paho = pytest.importorskip("paho.mqtt.client", reason="needs paho-mqtt: pip install 'inspector[mqtt]'")
enums = pytest.importorskip("paho.mqtt.enums", reason="needs paho-mqtt: pip install 'inspector[mqtt]'")

GAPS = "gap/v1/a/top/"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def line() -> Iterator[Served]:
    plant = Line(keep=10**6)
    plant.pages = 500
    with Served(plant, "tcp://127.0.0.1:*", "tcp://127.0.0.1:*") as served:
        yield served


def forwarding(folder: Path, server: Server, line: Served, *more: str) -> Process:
    url = f"mqtt://127.0.0.1:{server.port}"
    return bridge(folder, "mqtt", line.events, "--broker", url, "--client-id", "the-bridge", *more)


class Consumer:
    """A subscriber whose session the broker keeps; it connects again by itself."""

    def __init__(self, server: Server, topic: str = "inspector/#") -> None:
        self.messages: list[Any] = []
        self._subscribed = threading.Event()
        self._client = client = paho.Client(
            enums.CallbackAPIVersion.VERSION2, client_id="consumer", protocol=enums.MQTTProtocolVersion.MQTTv5
        )
        client.reconnect_delay_set(1, 1)
        client.on_connect = lambda *_: client.subscribe(topic, qos=1)
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.on_message = lambda _client, _data, message: self.messages.append(message)
        self._port = server.port

    def __enter__(self) -> Self:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", self._port, 10, clean_start=False, properties=properties)
        self._client.loop_start()
        assert self._subscribed.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def events(self) -> list[Any]:
        return [message for message in list(self.messages) if "/bridge/" not in message.topic]

    @property
    def bodies(self) -> set[bytes]:
        return {message.payload for message in self.events}

    def statuses(self) -> list[bytes]:
        return [message.payload for message in list(self.messages) if message.topic.endswith("/status")]


def published(line: Served) -> set[bytes]:
    return {event.body for event in line.line.published}


def test_events_arrive_as_they_were_published(tmp_path: Path, server: Server, line: Served) -> None:
    with Consumer(server) as consumer, forwarding(tmp_path, server, line) as process:
        line.say("defect/v1/a/top+1/3/", 2)
        line.say(GAPS)
        until(lambda: len(consumer.events) == 3, lambda: process.said)
        assert process.stop() == 0
        first, second, third = consumer.events
        assert [message.payload for message in (first, second, third)] == [as_json(e) for e in line.line.published]
        assert first.topic == "inspector/defect/v1/a/top%2B1/3"
        assert third.topic == "inspector/gap/v1/a/top"
        assert first.properties.UserProperty == [("id", "/inspector/a#10/defect/v1/a/top%2B1/3/1")]
        assert first.properties.ContentType == "application/cloudevents+json"
        assert first.qos == 1
        until(lambda: consumer.statuses() == [b"online", b"offline"], lambda: str(consumer.statuses()))


def test_the_coil_on_the_line_is_kept_for_those_who_come_later(tmp_path: Path, server: Server, line: Served) -> None:
    with forwarding(tmp_path, server, line) as process:
        for name in ("c1", "c2"):
            data = CoilEvent(coil=name, phase="start", encoder_count=0)
            line.say("coil/v1/a/", data=data)
        line.say(GAPS)
        with Consumer(server, "inspector/gap/#") as consumer:
            line.say(GAPS)
            until(lambda: consumer.events, lambda: process.said)
        with Consumer(server) as late:
            # Among them may be the second gap, live.
            until(lambda: sum(message.retain for message in late.messages) >= 2, lambda: process.said)
            assert [message.retain for message in late.events if b'"coil":"c2"' in message.payload] == [True]
            assert late.statuses() == [b"online"]
            process.kill()
            until(lambda: late.statuses() == [b"online", b"offline"], "the will")


def test_what_a_newer_daemon_adds_goes_on(tmp_path: Path, server: Server) -> None:
    with (
        Served(Newer(), "tcp://127.0.0.1:*", "tcp://127.0.0.1:*") as line,
        Consumer(server) as consumer,
        forwarding(tmp_path, server, line) as process,
    ):
        line.mute(GAPS)
        line.say(GAPS)
        until(lambda: len(consumer.events) == 2, lambda: process.said)
        assert process.stop() == 0
        assert consumer.bodies == published(line)
        assert all(b'"traceparent": "x"' in body for body in consumer.bodies)


def test_it_goes_on_where_it_was(tmp_path: Path, server: Server, line: Served) -> None:
    with Consumer(server) as consumer:
        for turn in range(3):
            line.say(GAPS, 10)
            with forwarding(tmp_path, server, line) as process:
                until(lambda turn=turn: len(consumer.events) == 10 * (turn + 1), lambda: process.said)
                assert process.stop() == 0
        assert [message.payload for message in consumer.events] == [as_json(event) for event in line.line.published]


def test_the_broker_is_killed(tmp_path: Path, server: Server, line: Served) -> None:
    """What mosquitto has acknowledged and not yet handed on dies with it, so it is killed while it holds nothing."""
    with Consumer(server) as consumer, forwarding(tmp_path, server, line) as process:
        for _ in range(3):
            line.say(GAPS, 500)
            until(lambda: published(line) == consumer.bodies, lambda: process.said)
            saved(tmp_path, server)
            server.kill()
            line.say(GAPS, 500)
            server.start()
        until(lambda: published(line) <= consumer.bodies, lambda: process.said)
        assert process.stop() == 0
        assert consumer.bodies == published(line)


def test_the_broker_is_stopped_in_full_flow(tmp_path: Path, server: Server, line: Served) -> None:
    with Consumer(server) as consumer, forwarding(tmp_path, server, line) as process:
        for _ in range(3):
            before = len(consumer.events)
            line.say(GAPS, 3000)
            until(lambda before=before: len(consumer.events) > before + 50, lambda: process.said)
            server.stop()
            server.start()
        until(lambda: published(line) <= consumer.bodies, lambda: process.said)
        assert process.stop() == 0
        assert consumer.bodies == published(line)


def test_the_bridge_is_killed(tmp_path: Path, server: Server, line: Served) -> None:
    with Consumer(server) as consumer:
        for _ in range(3):
            with forwarding(tmp_path, server, line) as process:
                before = len(consumer.events)
                line.say(GAPS, 2000)
                until(lambda before=before: len(consumer.events) > before + 50, lambda: process.said)
                process.kill()
        with forwarding(tmp_path, server, line) as process:
            until(lambda: published(line) <= consumer.bodies, lambda: process.said)
            assert process.stop() == 0
        assert consumer.bodies == published(line)
        named = {(message.properties.UserProperty[0][1], message.payload) for message in consumer.events}
        assert len(named) == len(published(line))  # who drops doubles by the id has each event once


def test_the_broker_comes_later(tmp_path: Path, server: Server, line: Served) -> None:
    server.kill()
    with forwarding(tmp_path, server, line) as process:
        line.say(GAPS, 20)
        until(lambda: "events wait" in process.said, lambda: process.said)
        server.start()
        with Consumer(server):
            until(lambda: "connected again" in process.said, lambda: process.said)
            assert process.stop() == 0


def test_an_event_that_is_too_large_is_told(tmp_path: Path, line: Served) -> None:
    with (
        mosquitto(tmp_path, "max_packet_size 2500") as server,
        Consumer(server) as consumer,
        forwarding(tmp_path, server, line) as process,
    ):
        line.say(GAPS, data=State(part="a", state="up", detail="x" * 3000))
        line.say(GAPS)
        until(lambda: len(consumer.messages) >= 3, lambda: process.said)
        assert process.stop() == 0
        (told,) = [message for message in consumer.messages if message.topic == "inspector/bridge/lost"]
        assert b"more than the broker takes" in told.payload
        assert [message.payload for message in consumer.events] == [as_json(line.line.published[1])]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--broker", "http://x"], "mqtt://HOST:PORT"),
        (["--broker", "mqtt://127.0.0.1:x"], "--broker"),
        (["--prefix", "a/#"], "--prefix"),
        (["--client-id", "a+"], "--client-id"),
        (["--broker", "mqtts://127.0.0.1", "--tls-ca", "nowhere.pem"], "--tls-ca nowhere.pem"),
        (["--password-file", "nowhere"], "--password-file nowhere"),
    ],
)
def test_settings_that_will_not_do(
    tmp_path: Path, server: Server, line: Served, arguments: list[str], word: str
) -> None:
    with forwarding(tmp_path, server, line, *arguments) as process:
        assert process.wait() == 78
        assert word in process.said
