"""Feeds a live events socket with what atheris thinks of, over raw TCP; by hand:

    python -m tests.fuzz.strangers -runs=100000 [CORPUS_DIR]

libzmq is not instrumented: atheris learns from our own code, the door, the guard and the subscriptions. A crash of
libzmq ends the process, and atheris writes the input that did it into a file `crash-...`. After every input an honest
subscriber must get its events. The first byte of an input says how the connection begins and ends.
"""

from __future__ import annotations

import inspect
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import ExitStack

from inspector.sinks import _subscriptions, zeromq
from inspector.wire import door, guard
from tests.strangers import Publisher, Stranger, Subscriber, greeting, honest, proved

GREETED, HANDSHAKEN, RESET, TWICE = 1, 2, 4, 8


def attack(publisher: Publisher, data: bytes) -> None:
    """One connection, or two, that say this."""
    how, words = data[:1] or b"\0", data[1:]
    for _ in range(2 if how[0] & TWICE else 1):
        with Stranger(publisher.sink.endpoint) as stranger:
            if how[0] & HANDSHAKEN:
                stranger.join()
            stranger.say(greeting() if how[0] & GREETED else b"", words)
            if how[0] & RESET:
                stranger.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def target(publisher: Publisher, subscriber: Subscriber) -> Callable[[bytes], None]:
    """What atheris calls."""

    def test_one_input(data: bytes) -> None:
        attack(publisher, data)
        if not proved(publisher, subscriber, count=2):
            raise AssertionError("the honest subscriber missed something")

    return test_one_input


def main(arguments: list[str]) -> None:
    """Does not return: atheris ends the process."""
    import atheris  # installed by hand, for fuzzing alone

    for instrumented in (zeromq.Zeromq, _subscriptions.Subscriptions, door.Door, guard.Guard):
        for name, function in vars(instrumented).items():
            if inspect.isfunction(function):
                setattr(instrumented, name, atheris.instrument_func(function))
    held = ExitStack()
    publisher = held.enter_context(Publisher())
    subscriber = held.enter_context(honest(publisher))
    atheris.Setup(arguments, target(publisher, subscriber))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
