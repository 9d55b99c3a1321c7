"""The books of the running line, in memory: what each camera issued and what became of every frame.

A loss is booked here the moment it happens, wherever that is. Grading then meets the hole in the camera's sequence,
asks for its reasons and hands the fates on to the journal, which makes them durable.
"""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass, field, replace

from inspector.events import CameraTotals, Reason
from inspector.records import Loss


@dataclass(slots=True)
class _Account:
    issued: int = 0
    inspected: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    """Booked, but not yet met by grading; sorted by sequence."""


class Ledger:
    """Thread-safe books of every camera of the line."""

    def __init__(self, cameras: list[str]) -> None:
        self._lock = threading.Lock()
        self._accounts = {name: _Account() for name in cameras}

    def issue(self, camera: str, end: int) -> None:
        """The camera has issued every frame below sequence `end`."""
        with self._lock:
            account = self._accounts[camera]
            account.issued = max(account.issued, end)

    def lose(self, loss: Loss) -> None:
        """Frames are gone: `loss.count` from `loss.sequence` on."""
        with self._lock:
            account = self._accounts[loss.camera]
            bisect.insort(account.losses, loss, key=lambda entry: entry.sequence)
            account.lost[loss.reason] = account.lost.get(loss.reason, 0) + loss.count
            account.issued = max(account.issued, loss.sequence + loss.count)

    def inspect(self, camera: str, count: int) -> None:
        """Grading has settled `count` frames as inspected."""
        with self._lock:
            self._accounts[camera].inspected += count

    def take_losses(self, camera: str, first: int, end: int) -> list[Loss]:
        """What became of frames [first, end), all lost: in order, without holes, each taken once.

        Frames that nobody booked are booked now as MISSING: the camera skipped their numbers.
        """
        found: list[Loss] = []
        with self._lock:
            account = self._accounts[camera]
            booked = [entry for entry in account.losses if first <= entry.sequence < end]
            account.losses = [entry for entry in account.losses if not first <= entry.sequence < end]
            position = first
            for entry in booked:
                if entry.sequence > position:
                    found.append(self._missing(account, camera, position, entry.sequence))
                found.append(entry)
                position = entry.sequence + entry.count
            if position < end:
                found.append(self._missing(account, camera, position, end))
        return _merged(found)

    def _missing(self, account: _Account, camera: str, first: int, end: int) -> Loss:
        account.lost[Reason.MISSING] = account.lost.get(Reason.MISSING, 0) + end - first
        return Loss(camera, first, end - first, Reason.MISSING, "the camera skipped these frame numbers")

    def issued(self) -> dict[str, int]:
        """Camera -> number of frames it has issued so far."""
        with self._lock:
            return {name: account.issued for name, account in self._accounts.items()}

    def totals(self) -> dict[str, CameraTotals]:
        """Camera -> its books; what is neither inspected nor lost is in flight."""
        with self._lock:
            return {
                name: CameraTotals(issued=a.issued, inspected=a.inspected, lost=dict(a.lost))
                for name, a in self._accounts.items()
            }


def _merged(losses: list[Loss]) -> list[Loss]:
    """Neighbours with one reason are one loss, so that a long overload is one gap."""
    merged: list[Loss] = []
    for loss in losses:
        last = merged[-1] if merged else None
        if last and (last.reason, last.detail, last.source) == (loss.reason, loss.detail, loss.source):
            merged[-1] = replace(last, count=last.count + loss.count)
        else:
            merged.append(loss)
    return merged
