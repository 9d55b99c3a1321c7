"""Waits until a daemon's /metrics counts an inspected frame, and prints when: seconds of the monotonic clock."""

from __future__ import annotations

import re
import sys
import time
import urllib.request
from contextlib import suppress

COUNT = re.compile(r"^inspector_frames_inspected_total\{.*\} (.*)$", re.MULTILINE)


def main(address: str) -> None:
    """Asks a hundred times a second; a daemon that is not there yet is no fault."""
    while True:
        with suppress(OSError), urllib.request.urlopen(f"{address}/metrics", timeout=1) as answer:
            if sum(map(float, COUNT.findall(answer.read().decode()))):
                print(time.monotonic())
                return
        time.sleep(0.01)


if __name__ == "__main__":
    main(sys.argv[1])
