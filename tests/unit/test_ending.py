"""ending.py: whoever stops does not wait for ever for libzmq."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import zmq

from inspector.ending import end


def endings() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "context-end"]


def test_a_context_ends_with_its_sockets() -> None:
    context = zmq.Context()
    left = context.socket(zmq.PULL)
    assert end(context, "test")
    assert context.closed
    assert left.closed
    assert end(context, "test")
    assert not endings()


def test_a_context_that_does_not_end_is_left_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Here it waits for somebody to take a message, which is as long as libzmq may wait for nothing at all."""
    caplog.set_level("INFO")
    address = f"ipc://{tmp_path}/late"
    context = zmq.Context()
    with context.socket(zmq.PUSH) as stuck:
        stuck.linger = -1
        stuck.connect(address)
        stuck.send(b"for nobody")
    assert not end(context, "the sink", grace_s=0.05)
    assert "the sink: libzmq does not end its connections" in caplog.text
    with zmq.Context() as other, other.socket(zmq.PULL) as late:
        late.bind(address)
        assert late.recv() == b"for nobody"
        for thread in endings():
            thread.join(10)
    assert context.closed
