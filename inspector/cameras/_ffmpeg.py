"""FFmpeg through OpenCV: opened within a time, kept quiet, and its time stamps."""

from __future__ import annotations

import os
import threading

import cv2
from cv2.utils import logging as chatter

CAPTURE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""OpenCV reads it at every open, and there is no other way to say this."""
TRANSPORT = {"tcp": "rtsp_transport;tcp", "udp": "rtsp_transport;udp"}

_opening = threading.Lock()


class Busy(Exception):
    """Other streams of this process were being opened all the time."""


def quiet() -> None:
    """Let FFmpeg and OpenCV not print what comes back as an error, once a second while a camera is off.

    Only in this process, and not where the environment of the daemon asks for their words.
    """
    if "OPENCV_FFMPEG_DEBUG" not in os.environ:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET; OpenCV reads it once
    os.environ.setdefault(CAPTURE, TRANSPORT["tcp"])  # now, while there are few threads; later it is only replaced
    if chatter.getLogLevel() == chatter.LOG_LEVEL_WARNING:
        chatter.setLogLevel(chatter.LOG_LEVEL_ERROR)


def capture(
    source: str, *, transport: str, open_s: float, read_s: float, threads: int, queue_s: float
) -> cv2.VideoCapture | None:
    """FFmpeg on a file or stream, and not OpenCV's other back ends, which take a numbered picture for a series.

    Args:
        source: file name or address.
        transport: of RTSP, `tcp` or `udp`; other options in the environment are left as they are.
        open_s: longest that it may take, seconds.
        read_s: longest that one `grab` may take; after that none gives a frame any more.
        threads: that decode.
        queue_s: longest wait for others that open a stream: OpenCV opens one at a time, and would wait for ever.

    Returns:
        None where FFmpeg refuses it.

    Raises:
        Busy: `queue_s` was over.
    """
    limits = {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: round(open_s * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: round(read_s * 1000),
        cv2.CAP_PROP_N_THREADS: threads,
    }
    if not _opening.acquire(timeout=queue_s):
        raise Busy
    try:
        if os.environ.get(CAPTURE, TRANSPORT["tcp"]) in TRANSPORT.values():
            os.environ[CAPTURE] = TRANSPORT[transport]
        opened = cv2.VideoCapture(source, cv2.CAP_FFMPEG, [number for pair in limits.items() for number in pair])
    except (cv2.error, UnicodeError):  # a name that is no UTF-8
        return None
    finally:
        _opening.release()
    if not opened.isOpened():
        return None
    opened.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # rows as they come
    return opened


def stamp_ns(opened: cv2.VideoCapture) -> int:
    """Presentation time stamp of the newest frame, ns since the stream's first; 0 where the stream has none."""
    milliseconds = opened.get(cv2.CAP_PROP_POS_MSEC)
    return round(milliseconds * 1e6) if abs(milliseconds) < 1e14 else 0  # beyond: FFmpeg's word for none
