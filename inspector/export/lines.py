"""jsonl: the envelopes as they were published, byte for byte, one a line, in the order in which they happened."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO


def write(bodies: Iterable[bytes], out: BinaryIO) -> None:
    for body in bodies:
        out.write(body + b"\n")
