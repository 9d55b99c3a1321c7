"""Records put in order on the disk: only where each lies, and its key, are kept in memory (24 bytes a record)."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np

from inspector.errors import SinkError


class Spool:
    """Takes records in any order and gives them back by key; equal keys in the order in which they came.

    A context manager: the file has no name and is gone with it.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=1 << 20)  # noqa: SIM115, closed by __exit__
        self._majors = array("q")
        self._minors = array("d")
        self._ends = array("q", [0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what did not fit is not wanted any more
            self._file.close()

    def add(self, major: int, minor: float, record: bytes) -> None:
        """Raises SinkError when the folder for temporary files is full."""
        try:
            self._file.write(record)
        except OSError as error:
            where = tempfile.gettempdir()
            raise SinkError(f"{where}: cannot be written: {error.strerror}; free space, or set TMPDIR") from None
        self._majors.append(major)
        self._minors.append(minor)
        self._ends.append(self._ends[-1] + len(record))

    def ordered(self) -> Iterator[tuple[int, float, bytes]]:
        """(major, minor, record), by major and then by minor key. Call it once, after the last `add`."""
        keys = np.frombuffer(self._minors, dtype=np.float64), np.frombuffer(self._majors, dtype=np.int64)
        for index in map(int, np.lexsort(keys)):
            start, end = self._ends[index], self._ends[index + 1]
            self._file.seek(start)
            yield self._majors[index], self._minors[index], self._file.read(end - start)
