"""The directories of a TIFF or BigTIFF, as far as they tell what its pages are.

Sources: TIFF 6.0 (Adobe, 1992), sections 2 and 8; BigTIFF: https://www.awaresystems.be/imaging/tiff/bigtiff.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

Tags = dict[int, int]
SUBFILE, WIDTH, HEIGHT, BITS, COLOUR = 254, 256, 257, 258, 262
CMYK = 5
NOT_STRIP = 1 | 4
"""Bits of SUBFILE: a reduced copy of another page, a transparency mask."""
NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
"""Field types that hold whole numbers: BYTE, SHORT, LONG, LONG8."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`struct` formats of the two kinds of file: an offset, the number of entries, the head of an entry."""

    order: str
    offset: str
    count: str
    head: str

    def get(self, form: str, data: bytes, at: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + form, data, at)

    def size(self, form: str) -> int:
        return struct.calcsize(self.order + form)


def directories(data: bytes) -> list[Tags]:
    """The whole-number tags of each page, in the file's order; of a tag with several values the first.

    Raises:
        struct.error, OverflowError: a directory or value lies beyond the end of the file.
    """
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    layout = Layout(order, "Q", "Q", "HHQ") if big else Layout(order, "I", "H", "HHI")
    pages: list[Tags] = []
    seen: set[int] = set()
    (at,) = layout.get(layout.offset, data, 8 if big else 4)
    while at and at not in seen:
        seen.add(at)
        tags, at = _directory(layout, data, at)
        pages.append(tags)
    return pages


def is_strip(tags: Tags) -> bool:
    """Is the page a picture of its own, not a thumbnail or a mask?"""
    return not tags.get(SUBFILE, 0) & NOT_STRIP


def _directory(layout: Layout, data: bytes, at: int) -> tuple[Tags, int]:
    """One directory, and where the next one lies (0: nowhere)."""
    (entries,) = layout.get(layout.count, data, at)
    at += layout.size(layout.count)
    size = layout.size(layout.head) + layout.size(layout.offset)
    tags: Tags = {}
    for place in range(at, at + entries * size, size):
        tag, kind, count = layout.get(layout.head, data, place)
        if tag <= COLOUR and kind in NUMBERS and count:
            tags[tag] = _value(layout, data, place + layout.size(layout.head), NUMBERS[kind], count)
    (following,) = layout.get(layout.offset, data, at + entries * size)
    return tags, following


def _value(layout: Layout, data: bytes, at: int, form: str, count: int) -> int:
    if count * layout.size(form) > layout.size(layout.offset):
        (at,) = layout.get(layout.offset, data, at)
    return layout.get(form, data, at)[0]
