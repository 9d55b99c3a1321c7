"""The process of one GenTL camera: `python -m inspector.cameras._gentl_child MEMORY RECORDS RETURNS PARENT`.

fetch() of the GenTL packages holds the interpreter while it waits, and a producer is a stranger's machine code: here
neither can hold or tear down the daemon. It ends when the daemon closes its pipe, and dies with it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from inspector.cameras._gentl_ring import Gone, Writer
from inspector.cameras._gentl_words import Kind, Request

WAIT_MS = 50
"""Longest wait for a frame before the process shows that it lives and looks what the daemon wants."""
ASK_S = 1.0
"""A camera that is silent for so long is asked whether it still answers; then again."""
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve the ring whose file descriptors are the arguments, then end without going through any library's exit."""
    memory, records, returns, parent = (int(argument) for argument in sys.argv[1:5])
    _die_with(parent)
    for end in (memory, records, returns):
        os.set_inheritable(end, False)  # a producer's helper that outlives us must not keep the pipes open
    status = 1
    with suppress(Gone):
        _serve(Writer(memory, records, returns))
        status = 0
    sys.stdout.flush()
    sys.stderr.flush()
    # Buffers lie in the mapping and are not freed: a library's exit handler could still look at them.
    os._exit(status)


def _die_with(parent: int) -> None:
    """However the daemon ends, no process is left that has the camera open."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the daemon, which ends us when its line is drained
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _serve(writer: Writer) -> None:
    request = msgspec.json.decode(writer.request, type=Request)
    try:
        # A package that cannot be loaded is something to tell, too.
        from inspector.cameras import _gentl_devices as devices
    except (ImportError, OSError) as error:
        writer.say(Kind.ERROR, f"harvesters or genicam cannot be loaded: {error}. Install inspector[gentl]".encode())
        return
    with _telling(writer):
        if request.discover_ms is not None:
            found = [seat.listed for seat in devices.seats(request.producers, request.discover_ms)]
            writer.say(Kind.READY, msgspec.json.encode(found))
        else:
            _stream(request, writer)


@contextmanager
def _telling(writer: Writer) -> Iterator[None]:
    """What goes wrong is told to the daemon at once: what comes after it, such as a camera's closing, may take long."""
    from inspector.cameras import _gentl_devices as devices
    from inspector.cameras._gentl_features import Trouble

    try:
        yield
    except Gone:
        raise
    except Trouble as trouble:
        writer.say(Kind.ERROR, str(trouble).encode())
    except Exception as error:
        writer.say(Kind.ERROR, f"{type(error).__name__}: {devices.words(error)}".encode())
        if not isinstance(error, devices.VENDORS):
            traceback.print_exc()


def _stream(request: Request, writer: Writer) -> None:
    from inspector.cameras import _gentl_devices as devices
    from inspector.cameras._gentl_stream import Stream

    with devices.Opened(devices.choose(devices.seats(request.producers), request.device)) as opened:
        opened.set_up(request)
        with Stream(opened, request, writer) as stream, _telling(writer):
            writer.beat()
            writer.say(Kind.READY, msgspec.json.encode(stream.ready))
            _pass_on(stream, writer)


def _pass_on(stream: Any, writer: Writer) -> None:
    """Frames, until the daemon closes its end."""
    asked_at = time.monotonic()
    while True:
        writer.beat()
        for slot in writer.returned():
            stream.queue(slot)
        record = stream.next(WAIT_MS)
        if record is not None:
            asked_at = time.monotonic()
            if not writer.put(record) or record.kind == Kind.BAD:
                stream.queue(record.slot)
        elif time.monotonic() - asked_at > ASK_S:
            asked_at = time.monotonic()
            stream.answers()


if __name__ == "__main__":
    main()
