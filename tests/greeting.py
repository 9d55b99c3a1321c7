"""How a test knows that a subscriber's connection stands, though ZeroMQ does not tell."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import zmq

from inspector.events import Event


def greet(subscriber: zmq.Socket[bytes], say: Callable[[int], object]) -> None:
    """Publish until the subscriber hears the last event: from now on nothing is missed, and nothing is on its way.

    One may be refused, where the connection holds no more than one, so each is followed by another, later each time.

    Args:
        say: publishes an event with this sequence, to which nobody else listens.
    """
    for number in range(200):
        say(number)
        while subscriber.poll(10 + number):
            if msgspec.json.decode(subscriber.recv_multipart()[1], type=Event).sequence == number:
                return
    pytest.fail("the subscriber never heard the last of what was published")
