"""A subscriber in a process of its own, as on a plant: reads every event, and /metrics now and then.

    python benchmarks/subscriber.py ADDRESS METRICS_URL

Each line on its input is answered by one line of JSON: how old, in seconds from its exposure, each defect was that
came since the last one. It ends with its input.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request

import msgspec
import zmq

from inspector.events import Defect, Event

SCRAPE_S = 5.0
"""Three times as often as Prometheus does by default."""


def main(address: str, url: str) -> None:
    """Listen until the input ends."""
    decoder = msgspec.json.Decoder(Event)
    ages: list[float] = []
    scrape_at = time.monotonic()
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.connect(address)
        socket.subscribe(b"")
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(sys.stdin, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(1000))
            if socket in ready:
                event = decoder.decode(socket.recv_multipart()[1])
                if isinstance(event.data, Defect):
                    ages.append((time.time_ns() - event.data.exposed_ns) / 1e9)
            if sys.stdin.fileno() in ready:
                if not sys.stdin.readline():
                    return
                print(json.dumps(ages), flush=True)
                ages = []
            if time.monotonic() >= scrape_at:
                scrape_at = time.monotonic() + SCRAPE_S
                urllib.request.urlopen(url, timeout=10).read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
