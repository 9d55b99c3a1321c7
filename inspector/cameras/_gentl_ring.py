"""What a camera's process and the daemon share: buffers in memory that neither owns, and records of what is in them.

The memory is a memfd: it has no name, so nothing is left of it when both sides have gone, however they went; and it
stays as it was when the process that filled it is killed in the middle. The driver writes straight into it, so the
copy into the pool is the only one. Its first pages are the heartbeat, a count and a text; then come the slots.

Records go through a pipe, not through the memory: a write of so few bytes is whole or not there at all, the kernel
orders it against the pixels, the reader sleeps in poll() with the GIL free, and the end of the file tells each side
that the other has died. The numbers of slots that were read come back through a second pipe.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import struct
import time
from contextlib import suppress

import numpy as np

from inspector.cameras._gentl_words import RECORD_BYTES, Kind, Nonsense, Ready, Record, packed, unpacked
from inspector.records import Pixels

PAGE = 4096
SLOTS_AT = 32 * PAGE
NOTICES = {Kind.READY: (PAGE, 23 * PAGE), Kind.ERROR: (24 * PAGE, 7 * PAGE)}
"""Where the texts are and how long at most: an error must not run over a notice that was not read yet. The first one
of all is what the daemon asks for."""
MARGIN = 64
"""Bytes before each slot that hold none of its pixels; see `_gentl_stream.borrowed`."""
BEAT, DROPPED = 1, 2
"""Places in the first page, in words of 8 bytes."""

_RETURN = struct.Struct("=H")
_LENGTH = struct.Struct("=I")


class Gone(Exception):
    """The other side has closed its end, or died."""


def _stride(size: int) -> int:
    return -(-(size + MARGIN) // PAGE) * PAGE


class Ring:
    """The daemon's end; owned by one thread.

    Raises:
        OSError: no memory or no file descriptors are left.
    """

    def __init__(self, request: bytes) -> None:
        self._memory = os.memfd_create("inspector-gentl", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.truncate(self._memory, SLOTS_AT)
        self._records, records_end = os.pipe()
        returns_end, self._returns = os.pipe()
        for end in (self._records, self._returns, records_end, returns_end):
            os.set_blocking(end, False)
        self.ends: tuple[int, ...] = (self._memory, records_end, returns_end)
        """What the process inherits."""
        self._poll = select.poll()
        self._poll.register(self._records, select.POLLIN)
        self._map: mmap.mmap | None = mmap.mmap(self._memory, SLOTS_AT, prot=mmap.PROT_READ)
        self._pixels: Pixels | None = None
        self._slots = self._size = 0
        _write_notice(self._memory, Kind.READY, request)

    def started(self) -> None:
        """The process has its ends: let go of them here, or its death would go unnoticed."""
        for end in self.ends[1:]:
            os.close(end)
        self.ends = self.ends[:1]

    def close(self) -> None:
        """Everything is given back. The process sees it as the end of its file."""
        with suppress(BufferError):  # an exception that is still being handled may look at a frame; it goes with that
            self._pixels = None
            if self._map is not None:
                self._map.close()
        self._map = None
        for end in (self._records, self._returns, *self.ends):
            os.close(end)

    def map(self, ready: Ready) -> None:
        """The process has made its slots.

        Raises:
            Nonsense: they are not there.
        """
        length = SLOTS_AT + ready.slots * _stride(ready.size)
        # Without the seal a process that runs wild could take the memory from under the pixels, and the daemon with it.
        fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        if ready.slots < 1 or ready.size < 1 or os.fstat(self._memory).st_size < length:
            raise Nonsense
        self._slots, self._size = ready.slots, ready.size
        assert self._map is not None
        self._map.close()
        self._map = mmap.mmap(self._memory, length, prot=mmap.PROT_READ)
        self._pixels = np.frombuffer(self._map, dtype=np.uint8)

    def get(self, timeout_s: float) -> Record | None:
        """The next record, or None if none came for `timeout_s` seconds.

        Raises:
            Gone: there will be none any more.
            Nonsense: what came is none.
        """
        for last in (False, True):
            try:
                data = os.read(self._records, RECORD_BYTES)
            except BlockingIOError:
                if last or timeout_s <= 0 or not self._poll.poll(max(1, timeout_s * 1000)):
                    return None
                continue
            if not data:
                raise Gone
            return self._checked(unpacked(data))
        return None

    def _checked(self, record: Record) -> Record:
        inside = record.slot < self._slots and record.offset + record.height * record.pitch <= self._size
        if record.kind == Kind.FRAME and not (inside and 0 < record.width <= record.pitch and record.height > 0):
            raise Nonsense
        return record

    def pixels(self, record: Record) -> Pixels:
        """uint8 [height, width] of a frame in the shared memory; until its slot is given back."""
        assert self._pixels is not None
        begin = SLOTS_AT + record.slot * _stride(self._size) + record.offset
        rows = self._pixels[begin : begin + record.height * record.pitch].reshape(record.height, record.pitch)
        return rows[:, : record.width]

    def give_back(self, slot: int) -> None:
        """The frame has been copied."""
        with suppress(BrokenPipeError):  # it died; the next `get` says so
            os.write(self._returns, _RETURN.pack(slot))

    @property
    def empty(self) -> bool:
        """No record waits."""
        return not any(events & select.POLLIN for _, events in self._poll.poll(0))

    def notice(self, kind: Kind) -> bytes:
        """The text that goes with READY or ERROR."""
        return _read_notice(self._memory, kind)

    @property
    def beat_ns(self) -> int:
        """When the process last showed that it lives, monotonic; 0: never yet."""
        return self._word(BEAT)

    @property
    def dropped(self) -> int:
        """As in the records, but also for those that came after the last one."""
        return self._word(DROPPED)

    def _word(self, place: int) -> int:
        assert self._map is not None
        return int(struct.unpack_from("=Q", self._map, 8 * place)[0])


class Writer:
    """The process's end.

    Args:
        memory, records, returns: the file descriptors `Ring.ends`.
    """

    def __init__(self, memory: int, records: int, returns: int) -> None:
        self._memory, self._records, self._returns = memory, records, returns
        self._map = mmap.mmap(memory, SLOTS_AT)
        self._words = memoryview(self._map).cast("Q")
        self._most = self._size = 0
        self.held = 0
        """Slots that the reader has."""
        self.dropped = 0
        self.request = _read_notice(memory, Kind.READY)

    def grow(self, slots: int, size: int, most: int) -> None:
        """Make `slots` slots of `size` bytes; the reader may hold `most` of them at a time."""
        length = SLOTS_AT + slots * _stride(size)
        os.truncate(self._memory, length)
        # The old mapping stays: the same memory, seen twice.
        self._map = mmap.mmap(self._memory, length)
        self._words = memoryview(self._map).cast("Q")
        self._size, self._most = size, most
        with suppress(OSError):  # with the usual 64 KiB it holds 500 records; then more count as dropped
            fcntl.fcntl(self._records, fcntl.F_SETPIPE_SZ, (most + 64) * RECORD_BYTES)

    def address(self, slot: int) -> int:
        """Of the slot's first byte in this process."""
        base = int(np.frombuffer(self._map, dtype=np.uint8).ctypes.data)
        return base + SLOTS_AT + slot * _stride(self._size)

    def beat(self) -> None:
        """This process is alive and at work."""
        self._words[BEAT] = time.monotonic_ns()

    def returned(self) -> list[int]:
        """Slots that the reader has given back since the last look.

        Raises:
            Gone: there is no reader any more.
        """
        try:
            data = os.read(self._returns, PAGE)
        except BlockingIOError:
            return []
        if not data:
            raise Gone
        slots = [int(slot) for (slot,) in _RETURN.iter_unpack(data)]
        self.held -= len(slots)
        return slots

    def put(self, record: Record) -> bool:
        """Hand a frame or the news of a bad one over. False: it was counted as dropped, and its slot is still here.

        Raises:
            Gone: there is no reader any more.
        """
        takes = record.kind == Kind.FRAME
        if (takes and self.held >= self._most) or not self._write(record._replace(dropped=self.dropped)):
            self.dropped += 1
            self._words[DROPPED] = self.dropped
            return False
        self.held += takes
        return True

    def say(self, kind: Kind, text: bytes) -> None:
        """READY or ERROR, with its notice."""
        _write_notice(self._memory, kind, text)
        self._write(Record(kind, dropped=self.dropped))

    def _write(self, record: Record) -> bool:
        try:
            os.write(self._records, packed(record))
        except BlockingIOError:
            return False
        except BrokenPipeError:
            raise Gone from None
        return True


def _write_notice(memory: int, kind: Kind, text: bytes) -> None:
    begin, most = NOTICES[kind]
    text = text[: most - _LENGTH.size]
    os.pwrite(memory, _LENGTH.pack(len(text)) + text, begin)


def _read_notice(memory: int, kind: Kind) -> bytes:
    begin, most = NOTICES[kind]
    (length,) = _LENGTH.unpack(os.pread(memory, _LENGTH.size, begin))
    return os.pread(memory, min(length, most), begin + _LENGTH.size)
