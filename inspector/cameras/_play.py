"""How pictures and videos become shots. Whatever is wrong with a file becomes `Missed`; nothing is raised."""

from __future__ import annotations

import stat
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from inspector.cameras import _pictures, _recorded
from inspector.cameras._ffmpeg import quiet
from inspector.cameras._shots import Down, Missed, Shot, Unreadable, Up
from inspector.cameras._sources import Kind, Reel
from inspector.records import Pixels

Shots = Generator[Shot | Missed | Up | Down, None, None]
MAX_BYTES = 1 << 30
"""No picture file is larger."""


def shots(reel: Reel, frame_lines: int | None) -> Shots:
    """All that a reel holds, decoded one by one. Closing the iterator closes the file."""
    if reel.kind is Kind.PICTURE:
        return _picture(reel, frame_lines)
    if reel.kind is Kind.VIDEO:
        return _video(reel, frame_lines)
    return _recorded.shots(reel.parts or (reel.path,))


def count(reel: Reel) -> int:
    """Frames of a reel as far as can be told without decoding it; at least 1."""
    if reel.kind is Kind.RECORDING:
        return max(1, _recorded.count(reel.parts or (reel.path,)))
    if reel.kind is Kind.PICTURE:
        return 1
    capture = _capture(reel.path)
    try:
        return max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        capture.release()


def _cut(pixels: Pixels, name: str, exposed_ns: int, frame_lines: int | None) -> Iterator[Shot]:
    """Pixels, grey [H, W] or BGR [H, W, 3], as one shot or several of `frame_lines` lines, named `name#first line`."""
    height, width = pixels.shape[:2]
    step = frame_lines or height
    for row in range(0, height, step):
        part = pixels[row : row + step]
        source = name if height <= step else f"{name}#{row}"
        yield Shot(part.shape[0], width, partial(_fill, part), source, exposed_ns, row)


def _fill(part: Pixels, pixels: Pixels) -> None:
    if part.ndim == 2:
        np.copyto(pixels, part)
    else:
        cv2.cvtColor(part, cv2.COLOR_BGR2GRAY, dst=pixels)


# ---------------------------------------------------------------- pictures


def _picture(reel: Reel, frame_lines: int | None) -> Shots:
    try:
        data, modified_ns = _bytes(reel.path)
        header = _pictures.inspect(data)
    except Unreadable as error:
        yield Missed(reel.name, str(error), lines=error.lines)
        return
    several = len(header.pages) > 1
    for page in header.pages:
        name = f"{reel.name}#page{page + 1}" if several else reel.name
        try:
            pixels = _pictures.decode(data, header, page)
        except Unreadable as error:
            yield Missed(name, str(error), lines=error.lines)
        else:
            yield from _cut(pixels, name, modified_ns, frame_lines)


def _bytes(path: Path) -> tuple[bytes, int]:
    """A picture file's bytes and the time of its last change, ns since the epoch."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise Unreadable("is a folder named like a picture; rename it, or name it as a source of its own")
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("is a device or a pipe, not a file; take it away")
        if status.st_size == 0:
            raise Unreadable(f"is empty (0 bytes); {_pictures.AGAIN}")
        if status.st_size > MAX_BYTES:
            raise Unreadable(f"has {status.st_size:,} bytes, more than {MAX_BYTES:,}; cut it into smaller pictures")
        return path.read_bytes(), status.st_mtime_ns
    except OSError as error:
        hint = "give the user of this process the right to read it, or take it away"
        raise Unreadable(f"cannot be read: {error.strerror}; {hint}") from None


# ---------------------------------------------------------------- videos


def _capture(path: Path) -> cv2.VideoCapture:
    """FFmpeg on the file; not OpenCV's other back ends, which would take a numbered picture for a series.

    Not opened where the path is no file (a pipe would wait for its writer), or where FFmpeg refuses it.
    """
    quiet()
    capture = cv2.VideoCapture()
    with suppress(cv2.error, UnicodeError):  # a name that is no UTF-8
        if path.is_file():
            capture.open(str(path), cv2.CAP_FFMPEG)
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    return capture


def _video(reel: Reel, frame_lines: int | None) -> Shots:
    capture = _capture(reel.path)
    try:
        if capture.isOpened():
            yield from _frames(capture, reel, frame_lines)
        else:
            hint = f"{_pictures.AGAIN}, or store it as FFV1 in .avi or as pictures"
            yield Missed(reel.name, f"cannot be opened as a video; {hint}")
    except OSError as error:
        yield Missed(reel.name, f"cannot be read: {error.strerror}; {_pictures.AGAIN}")
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, reel: Reel, frame_lines: int | None) -> Shots:
    """Every frame of a video, one behind the decoder: the last one of a file that is cut short may be torn."""
    status = reel.path.stat()
    announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    if not 0 < announced <= status.st_size:
        announced = 1  # not known; a frame has at least one byte
    period_ns = 1e9 / (capture.get(cv2.CAP_PROP_FPS) or 25.0)
    number, last = 0, _next(capture)
    while last is not None:
        following = _next(capture)
        if following is None and number + 1 < announced:
            break
        exposed_ns = status.st_mtime_ns + round(number * period_ns)
        yield from _cut(last, f"{reel.name}#{number}", exposed_ns, frame_lines)
        number, last = number + 1, following
    if number < announced:
        detail = f"ends after {number} whole frames of {announced}; {_pictures.AGAIN}"
        lines = None if last is None else (announced - number) * last.shape[0]
        yield Missed(f"{reel.name}#{number}", detail, announced - number, lines=lines)


def _next(capture: cv2.VideoCapture) -> Pixels | None:
    """The next frame, uint8 [height, width, 3] BGR or [height, width] grey; None at the end or where it is broken."""
    try:
        whole, pixels = capture.read()
    except cv2.error:
        return None
    return cast(Pixels, pixels) if whole and pixels.size else None
