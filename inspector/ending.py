"""The end of a libzmq context, which may never come."""

from __future__ import annotations

import logging
import threading
from typing import Any

import zmq

log = logging.getLogger(__name__)

GRACE_S = 2.0
"""Beyond what its sockets may linger; mostly it takes a millisecond."""


def end(context: zmq.Context[Any], what: str, linger_s: float = 0.0, grace_s: float = GRACE_S) -> bool:
    """Close what sockets are left and end a context; False, and a thread of it is left behind, if that takes too long.

    libzmq 4.3.5 may wait for ever for a connection that ended in the very moment in which its socket was closed
    (https://github.com/zeromq/libzmq/issues/2330, 2586). Whoever stops must not hang in that: nothing is lost by it, as
    whatever a socket had to say was said while it lingered.
    """
    ending = threading.Thread(target=context.destroy, args=[0], name="context-end", daemon=True)
    ending.start()
    ending.join(linger_s + grace_s)
    if ending.is_alive():
        log.info("%s: libzmq does not end its connections; they are left to it", what)
    return not ending.is_alive()
