"""Encoded pictures to grey pixels, or a plain word on why not.

The decoder alone is not to be trusted with damaged files: it may fill what is missing with grey, turn 16 bits into 8
by a rule that makes a dim picture black, or turn a picture upright by its EXIF tag. All of these would pass for clean
strip. So the structure of the common formats is checked here first, which also gives better messages.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np

from inspector.cameras import _tiff_pages
from inspector.cameras._shots import MAX_PX, Unreadable
from inspector.records import Pixels

AGAIN = "copy it again from where it came"
DEPTH = "its grey scale is not known to the line; store it as 8-bit grey"
GREY_AS_STORED = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION

PNG = b"\x89PNG\r\n\x1a\n"
BMP_HEADERS = 12, 16, 40, 52, 56, 64, 108, 124
"""Bytes that the header behind a BMP's file header may have, by its version."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""A JPEG marker inside a scan: not a stuffed 0xFF, not a restart marker, not a fill byte."""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that start a frame header (SOFn), ITU-T T.81 table B.1."""
SOS, EOI = 0xDA, 0xD9


@dataclass(slots=True, frozen=True)
class Header:
    """What a file says of itself. `height` and `width` are 0 in formats that are not looked into."""

    height: int = 0
    width: int = 0
    pages: tuple[int, ...] = (0,)
    """Numbers of the pages that are pictures of strip; thumbnails and masks in a TIFF are not."""
    jpeg: bool = False


def is_picture(start: bytes) -> bool:
    """Are these the first 16 bytes of a JPEG, PNG, BMP or TIFF? Texts too begin with BM: a BMP must go on as one."""
    bmp = start.startswith(b"BM") and int.from_bytes(start[14:16], "little") in BMP_HEADERS
    return bmp or start.startswith((b"\xff\xd8\xff", PNG, *TIFF))


def inspect(data: bytes) -> Header:
    """The header of a whole, usable picture.

    Raises:
        Unreadable: it is cut short, damaged, too large, or of a pixel type that the line cannot take.
    """
    if not data:
        raise Unreadable(f"is empty; {AGAIN}")
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data)
    if data.startswith(PNG):
        return _png(data)
    if data.startswith(b"BM"):
        return _bmp(data)
    if data.startswith(TIFF):
        return _tiff(data)
    return Header()


def decode(data: bytes, header: Header, page: int = 0) -> Pixels:
    """One page as uint8 [height, width], C-contiguous, rows as stored (an EXIF orientation is not applied).

    Colour becomes grey by the decoder's luma; three equal channels give exactly that channel.

    Raises:
        Unreadable: the decoder refuses it, or it is not 8 bits deep.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    pixels = _decoded(buffer, header, page)
    if pixels is None or pixels.size == 0:
        raise Unreadable(f"cannot be decoded: not a picture, or damaged inside; {AGAIN}", header.height or None)
    if pixels.dtype != np.uint8 or pixels.ndim != 2:
        raise Unreadable(f"has {pixels.dtype} pixels: {DEPTH}", int(pixels.shape[0]))
    if header.jpeg and _ends_grey(pixels) and _is_short(data, pixels):
        raise Unreadable(f"is a JPEG that ends before its last row; {AGAIN}", header.height)
    return cast(Pixels, np.ascontiguousarray(pixels))


def _decoded(buffer: Pixels, header: Header, page: int) -> Pixels | None:
    try:
        if header.pages == (0,):
            return cast("Pixels | None", cv2.imdecode(buffer, GREY_AS_STORED))
        _, found = cv2.imdecodemulti(buffer, GREY_AS_STORED, None, (page, page + 1))
    except (cv2.error, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Unreadable(f"cannot be decoded ({reason}); {AGAIN}", header.height or None) from None
    return cast(Pixels, found[0]) if found else None


def _sized(height: int, width: int) -> tuple[int, int]:
    if height < 1 or width < 1:
        raise Unreadable(f"says that it is {width} x {height} px; it has no pixels. {AGAIN.capitalize()}")
    if height * width > MAX_PX:
        raise Unreadable(f"is {width} x {height} px, more than {MAX_PX:,} px; cut it into smaller pictures")
    return height, width


def _cut(kind: str, size: int, height: int | None = None) -> Unreadable:
    return Unreadable(f"is a {kind} that is cut short after {size:,} bytes; {AGAIN}", height)


# ---------------------------------------------------------------- JPEG


def _jpeg(data: bytes) -> Header:
    """Walk the markers to the end of image; a JPEG inside an EXIF thumbnail is stepped over with its segment."""
    at, header = 2, Header()
    while found := MARKER.search(data, at):
        marker, at = data[found.start() + 1], found.end()
        if marker == EOI:
            if header.height:
                return header
            raise Unreadable(f"is a JPEG without a picture in it; {AGAIN}")
        if at + 2 > len(data):
            break
        length = int.from_bytes(data[at : at + 2], "big")
        if marker < 0xC0 or length < 2:
            raise Unreadable(f"is a JPEG that is damaged at byte {found.start():,}; {AGAIN}", header.height or None)
        if marker in FRAMES:
            header = _jpeg_frame(data[at : at + length])
        at += length
    raise _cut("JPEG", len(data), header.height or None)


def _jpeg_frame(segment: bytes) -> Header:
    if len(segment) < 8:
        raise Unreadable(f"is a JPEG with a damaged header; {AGAIN}")
    _, depth, height, width, channels = struct.unpack_from(">HBHHB", segment)
    _sized(height, width)
    if depth != 8:
        raise Unreadable(f"is a {depth}-bit JPEG: {DEPTH}", height)
    if channels not in (1, 3):
        raise Unreadable("is a CMYK JPEG: its blacks may be inverted; store it as 8-bit grey", height)
    return Header(height, width, jpeg=True)


def _ends_grey(pixels: Pixels) -> bool:
    """Is the last 8 x 8 block the flat grey 128 that the decoder fills missing blocks with?"""
    rows, columns = ((n - 1) % 8 + 1 for n in pixels.shape)
    return bool((pixels[-rows:, -columns:] == 128).all())


def _is_short(data: bytes, pixels: Pixels) -> bool:
    """Did the scan end too early, though it has an end marker?

    Behind a whole scan the decoder passes over any bytes; in a short one they become picture.
    """
    end = data.rindex(b"\xff\xd9")
    longer = data[:end] + bytes(range(0x3C, 0xB4)) * 3 + data[end:]
    again = cv2.imdecode(np.frombuffer(longer, dtype=np.uint8), GREY_AS_STORED)
    return again is None or not np.array_equal(again, pixels)


# ---------------------------------------------------------------- PNG, BMP


def _png(data: bytes) -> Header:
    """Walk the chunks to IEND; the decoder checks their sums."""
    if len(data) < 33:
        raise _cut("PNG", len(data))
    height, width, depth = *struct.unpack_from(">II", data, 16)[::-1], data[24]
    if data[12:16] != b"IHDR":
        raise Unreadable(f"is a PNG with a damaged header; {AGAIN}")
    _sized(height, width)
    if depth == 16:
        raise Unreadable(f"is a 16-bit PNG: {DEPTH}", height)
    at = len(PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IEND":
            return Header(height, width)
        at += 12 + length
    raise _cut("PNG", len(data), height)


def _bmp(data: bytes) -> Header:
    if len(data) < 34:
        raise _cut("BMP", len(data))
    start, header_size, width, height, _, bits, packed = struct.unpack_from("<IIiiHHI", data, 10)
    if header_size < 40:
        return Header()  # OS/2 of 1987; left to the decoder
    height = abs(height)  # negative: stored from the top down
    _sized(height, width)
    if packed == 0 and start + (width * bits + 31) // 32 * 4 * height > len(data):
        raise _cut("BMP", len(data), height)
    return Header(height, width)


# ---------------------------------------------------------------- TIFF


def _tiff(data: bytes) -> Header:
    """The pages that show strip; the size is that of the first."""
    try:
        pages = _tiff_pages.directories(data)
    except (struct.error, OverflowError):
        raise _cut("TIFF", len(data)) from None
    wanted = tuple(number for number, tags in enumerate(pages) if _tiff_pages.is_strip(tags))
    if not wanted:
        raise Unreadable(f"is a TIFF without a picture in it; {AGAIN}")
    for tags in (pages[number] for number in wanted):
        height, _ = _sized(tags.get(_tiff_pages.HEIGHT, 0), tags.get(_tiff_pages.WIDTH, 0))
        bits = tags.get(_tiff_pages.BITS, 1)
        if bits > 8:
            raise Unreadable(f"is a {bits}-bit TIFF: {DEPTH}", height)
        if tags.get(_tiff_pages.COLOUR) == _tiff_pages.CMYK:
            raise Unreadable("is a CMYK TIFF: its blacks may be inverted; store it as 8-bit grey", height)
    first = pages[wanted[0]]
    return Header(first[_tiff_pages.HEIGHT], first[_tiff_pages.WIDTH], wanted)
