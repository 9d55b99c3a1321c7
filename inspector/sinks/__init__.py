"""The sink seam. A sink is one module here, named by `kind:`, with closed `Options` and one `open()`."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from inspector.events import Event


class Sink(Protocol):
    """Takes events that are already in the journal. Acquired on enter in the one thread that calls it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def send(self, events: Sequence[Event]) -> int:
        """Deliver events in order; returns how many it refused. Must not wait for a slow receiver.

        Success promises only that the sink took them, not that anybody received them.

        Raises:
            SinkError: the sink is broken; none of what follows will be taken until it is entered again.
        """

    def tend(self) -> None:
        """Look after receivers: let new ones in, cut off those who may not be. Called every 0.1 s at least, between
        events; must not wait.

        Raises:
            SinkError: the sink is broken, as with `send`.
        """
