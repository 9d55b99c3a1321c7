from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspector import notify


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's end of the socket."""
    path = str(tmp_path / "notify") if request.param == "path" else f"@inspector-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + path[1:] if path.startswith("@") else path)
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield listening


def test_ready_comes_with_a_status_in_one_message(manager: socket.socket) -> None:
    assert notify.ready("inspecting, 2 cameras")
    assert manager.recv(4096) == b"READY=1\nSTATUS=inspecting, 2 cameras"


def test_a_status_cannot_smuggle_in_another_assignment(manager: socket.socket) -> None:
    assert notify.status("camera top1:\nREADY=1")
    assert manager.recv(4096) == b"STATUS=camera top1: READY=1"


def test_the_other_messages(manager: socket.socket) -> None:
    notify.progress("156 frames/s")
    notify.stopping("draining")
    notify.extend_timeout(30)
    assert [manager.recv(4096) for _ in range(3)] == [
        b"WATCHDOG=1\nSTATUS=156 frames/s",
        b"STOPPING=1\nSTATUS=draining",
        b"EXTEND_TIMEOUT_USEC=30000000",
    ]


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify.ready("x") is False


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@nobody-listens-here", "vsock:2:1234", ""])
def test_a_manager_that_is_gone_costs_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify.progress("x") is False


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(environ: dict[str, str], seconds: float | None) -> None:
    assert notify.watchdog_interval_s(environ) == seconds
