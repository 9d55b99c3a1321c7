"""Arithmetic of frame ranges: both ends belong to a range, frames count from 0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Range = tuple[int, int]
"""(first, last), both included."""

MODULUS = 2**61 - 1
"""Checksums are kept below this prime, so that they fit SQLite's 64-bit integers for ever."""


def checksum(first: int, last: int) -> int:
    """The sum of the sequence numbers of a range.

    Sums of ranges add up to the same figure however the ranges are cut, and a range that is moved by one frame
    changes it: kept beside the ranges it shows a moved row that a mere count would not.
    """
    return (first + last) * (last - first + 1) // 2 % MODULUS


def holes(ranges: Iterable[Range], issued: int) -> Iterator[Range]:
    """What of [0, issued) no range covers; the ranges come sorted by their first frame."""
    position = 0
    for first, last in ranges:
        if first > position:
            if position < issued:
                yield position, min(first, issued) - 1
            position = first
        position = max(position, last + 1)
    if position < issued:
        yield position, issued - 1


def doubles(ranges: Iterable[Range]) -> Iterator[Range]:
    """What more than one range covers; the ranges come sorted by their first frame."""
    position = 0
    for first, last in ranges:
        if first < position:
            yield first, min(last, position - 1)
        position = max(position, last + 1)


def length(ranges: Iterable[Range]) -> int:
    """How many frames the ranges hold together."""
    return sum(last - first + 1 for first, last in ranges)
