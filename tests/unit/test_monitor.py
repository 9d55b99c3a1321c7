from __future__ import annotations

import gzip
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from inspector import monitor as monitor_module
from inspector.config import MonitorConfig
from inspector.errors import ConfigError
from inspector.metrics import Metrics
from inspector.monitor import CLIENTS, Health, Monitor, check
from tests.workers import free_port

ANYWHERE = MonitorConfig(port=0)


class Line:
    """A monitor that serves in a thread, and the health that it is told."""

    def __init__(self, client_timeout_s: float) -> None:
        self.metrics = Metrics()
        self.metrics.for_cameras(["top1"])
        self.health = Health(live=True, ready=True, status="inspecting")
        self.monitor = Monitor(ANYWHERE, self.metrics.registry, lambda: self.health, client_timeout_s=client_timeout_s)

    def get(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.monitor.port, timeout=10)
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.monitor.port), timeout=10)


@contextmanager
def serving(client_timeout_s: float = 30.0) -> Iterator[Line]:
    line, stop = Line(client_timeout_s), threading.Event()
    line.monitor.open()
    thread = threading.Thread(target=line.monitor.serve, args=(stop,))
    thread.start()
    try:
        yield line
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()
        line.monitor.close()


@pytest.fixture
def line() -> Iterator[Line]:
    with serving() as made:
        yield made


def test_metrics_are_scraped_as_text(line: Line) -> None:
    line.metrics.camera("top1").captured.inc(3)
    status, body, headers = line.get("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    found = {s.name: s.value for f in plain_text(body.decode()) for s in f.samples if s.labels.get("camera") == "top1"}
    assert found["inspector_frames_captured_total"] == 3


def test_metrics_are_scraped_as_openmetrics_and_packed(line: Line) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"}
    status, body, headers = line.get("/metrics", headers=accept)
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics(gzip.decompress(body).decode())}
    assert {"inspector_frames_captured", "inspector_build", "process_open_fds"} <= names


def test_part_of_the_metrics_by_name(line: Line) -> None:
    _, body, _ = line.get("/metrics?name[]=inspector_camera_up")
    assert [family.name for family in plain_text(body.decode())] == ["inspector_camera_up"]


def test_health_while_all_is_well(line: Line) -> None:
    assert line.get("/healthz")[:2] == (200, b"inspecting\n")
    assert line.get("/readyz")[:2] == (200, b"inspecting\n")


def test_not_ready_says_which_camera_is_out(line: Line) -> None:
    line.health = Health(live=True, ready=False, reasons=["camera top2: no frame yet"])
    assert line.get("/healthz")[0] == 200
    assert line.get("/readyz")[:2] == (503, b"camera top2: no frame yet\n")


def test_not_live_is_not_ready_either(line: Line) -> None:
    line.health = Health(live=False, ready=True, reasons=["stage cascade: no progress for 12 s"])
    for path in ("/healthz", "/readyz"):
        assert line.get(path)[:2] == (503, b"stage cascade: no progress for 12 s\n")


def test_a_head_request_has_no_body(line: Line) -> None:
    status, body, headers = line.get("/metrics", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1000


def test_other_paths_and_methods_are_refused_with_the_way(line: Line) -> None:
    status, body, _ = line.get("/nowhere")
    assert status == 404
    assert b"/metrics" in body
    status, _, headers = line.get("/metrics", method="POST")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert line.get("/")[0] == 200


def test_a_request_that_fails_does_not_end_the_monitor(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> float:
        raise RuntimeError("no such queue")

    line.metrics.ready.set_function(broken)
    status, body, _ = line.get("/metrics")
    assert (status, body) == (500, b"RuntimeError: no such queue\n")
    assert "monitor: /metrics failed" in caplog.text
    assert line.get("/healthz")[0] == 200


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
        (b"GET /metrics SMTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_nonsense_is_answered(line: Line, request_head: bytes, status: bytes) -> None:
    with line.connect() as client:
        client.sendall(request_head)
        assert client.recv(4096).startswith(b"HTTP/1.1 " + status)


def test_clients_that_say_nothing_hold_up_nobody(line: Line) -> None:
    threads = threading.active_count()
    with ExitStack() as stack:
        silent = [stack.enter_context(line.connect()) for _ in range(CLIENTS * 2)]
        for client in silent[::2]:
            client.sendall(b"GET /metrics HT")
        assert line.get("/metrics")[0] == 200
        assert line.get("/healthz")[0] == 200
        assert threading.active_count() == threads


def test_a_client_that_never_ends_its_request_is_cut_off() -> None:
    with serving(client_timeout_s=0.05) as line, line.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert client.recv(1) == b""
        assert line.get("/healthz")[0] == 200


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 20_000_000
    monkeypatch.setattr(monitor_module, "INDEX", "x" * size)
    with serving(client_timeout_s=0.2) as line, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", line.monitor.port))
        deaf.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with line.connect() as later:
            assert later.recv(1) == b""  # it was cut off, so the deaf one, who came before it, was too
        assert line.get("/metrics")[0] == 200
        assert sum(len(part) for part in iter(lambda: deaf.recv(1 << 20), b"")) < size


def test_stopping_cuts_off_a_half_open_client() -> None:
    with ExitStack() as stack:
        with serving() as line:
            client = stack.enter_context(line.connect())
            client.sendall(b"GET /met")
            assert line.get("/healthz")[0] == 200
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_port_in_use_is_named_and_so_is_the_way_to_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"monitor: 127\.0\.0\.1:{port}: .* in use.*ss -ltnp .*:{port}"):
            Monitor(MonitorConfig(port=port), Metrics().registry, lambda: Health(True, True)).open()


@pytest.mark.parametrize(
    ("host", "wanted"), [("192.0.2.1", "no such address"), ("no.such.host.invalid", "monitor.host")]
)
def test_an_address_that_cannot_be_is_named(host: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        check(MonitorConfig(host=host, port=0))


def test_checking_leaves_the_port_free() -> None:
    port = free_port()
    check(MonitorConfig(port=port))
    check(MonitorConfig(port=port))


def test_opening_and_closing_without_serving_frees_the_port() -> None:
    made = Monitor(MonitorConfig(port=free_port()), Metrics().registry, lambda: Health(True, True))
    made.open()
    made.close()
    made.close()
    check(MonitorConfig(port=made.port))
