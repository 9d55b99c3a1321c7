"""One daemon, followed without losing anything: the algorithm of docs/protocol.md, "How a client loses nothing".

No socket is touched here. What comes from the daemon is given to `hear` and `answer`, which only put it down; `pull`
then works it off, one event at a time, so that what is known of the place is at every moment exactly what has been
handed over. What is to be asked of the daemon's history is told by `request`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NoReturn

from inspector.client.asking import Answer, Asking, Request
from inspector.client.books import Books, Gap, named
from inspector.client.place import SourcePlace
from inspector.client.reading import Item, read
from inspector.client.watch import Lag
from inspector.errors import Lost, Refused, StreamError
from inspector.events import Event, Heartbeat, JournalMark

HELD = 5000
"""Live events that wait at most while the past is repaired; more are dropped, the journal has them."""
AGAIN_S = 1.0
"""Between an answer from another journal than the heartbeats name and the next request."""


class Follower:
    """Follows one `source`.

    Attributes:
        lag: how far it is behind the line.
        repaired: events handed over that came from the history.
    """

    def __init__(
        self,
        source: str,
        topics: Sequence[str],
        *,
        since: str,
        place: SourcePlace | None,
        heartbeats: bool,
        max_lag_s: float | None,
    ) -> None:
        self._source = source
        self._since_beginning = since == "beginning"
        self._restored = place
        self._heartbeats = heartbeats
        self._books = Books(topics)
        self._asking = Asking(source, topics)
        self.lag = Lag(source, max_lag_s)
        self.repaired = 0
        # what the last heartbeat told
        self._first: Event | None = None
        self._mark: JournalMark | None = None
        self._told_epoch = 0
        # what is to be worked off
        self._held: deque[tuple[Item, bool]] = deque()
        self._overflowed = False
        self._page: deque[Item] = deque()
        self._page_end: Answer | None = None
        self._after: Callable[[], None] | None = None
        self._trouble: deque[StreamError] = deque()
        # how it stands
        self._begun = False
        self._repairing = False
        self._waiting = False
        """Something is missing that the journal does not have yet."""
        self._put_back = False
        """The journal ends before the place where we are: a copy of it was put back."""

    # ------------------------------------------------------------ what comes in

    def hear(self, link: int, item: Item, now: float) -> None:
        """A message of this one daemon (see `Home`); `link` tells the addresses apart that it is heard from."""
        back = False
        if item.event is not None and isinstance(item.event.data, Heartbeat):
            back = self._announce(link, item.event, item.event.data, now)
        elif item.error is not None and item.topic.startswith("heartbeat/"):
            self._trouble.append(item.error)
            return
        if len(self._held) >= HELD:
            self._overflow()
        if self._overflowed:
            self._keep_heartbeat(item, back)
        else:
            self._held.append((item, back))

    def _announce(self, link: int, event: Event, beat: Heartbeat, now: float) -> bool:
        """The newest word on where the journal stands; True: the daemon's epochs run backwards."""
        back, restarted = event.epoch < self._told_epoch, event.epoch != self._told_epoch
        self._told_epoch, self._mark = event.epoch, beat.journal
        self._asking.heard(now)
        if restarted:
            self.lag.restarted()
        if restarted or beat.history != self._asking.endpoint:
            self._asking.move(beat.history, link)
        if self._repairing and not self._mendable:
            self._break_off()
        self._first = self._first or event
        self._trouble += self.lag.heard(event.time, now, reading=self._repairing or not self._begun)
        return back

    def _break_off(self) -> None:
        """The journal that was being read is gone."""
        self._repairing = False
        self._page.clear()
        self._page_end = None

    def _overflow(self) -> None:
        """Live events come faster than the past is read: the journal has them, and the next heartbeat tells."""
        self._overflowed = True
        held, self._held = self._held, deque()
        for item, back in held:
            self._keep_heartbeat(item, back)

    def _keep_heartbeat(self, item: Item, back: bool) -> None:
        if self._begun:
            self._books.witness(item)
        if item.event is not None and isinstance(item.event.data, Heartbeat):
            back = back or any(other for _, other in self._held)
            self._held = deque([(item, back)])

    # ------------------------------------------------------------ one event at a time

    def pull(self, now: float) -> Event | None:
        """The next event to hand over; None: there is none for now.

        Raises:
            StreamError: see `Subscription`. The next call goes on with what it told taken as known.
        """
        if self._after is not None:
            after, self._after = self._after, None
            after()
        event, more = None, True
        while event is None and more:
            if self._trouble:
                raise self._trouble.popleft()
            event, more = self._step(now)
        return event

    def _step(self, now: float) -> tuple[Event | None, bool]:
        """Work one thing off; False: there was none."""
        if self._page:
            return self._take_old(self._page.popleft()), True
        if self._page_end is not None:
            end, self._page_end = self._page_end, None
            self._finish_page(end, now)
        elif self._put_back:
            self._put_back = False
            self._lose_journal(self._books.newest, back=False)
        elif not self._begun and self._first is not None:
            self._begin(self._first)
        elif self._held and self._begun and not self._repairing and not self._too_early(self._held[0][0]):
            return self._take_live(*self._held.popleft()), True
        else:
            return None, False
        return None, True

    def _too_early(self, item: Item) -> bool:
        """Of a run whose first heartbeat has yet to come: which journal it writes is not known."""
        return item.epoch > max(self._books.newest, self._told_epoch)

    def _hand(self, item: Item) -> Event | None:
        """Take the item as handed over; None: there is nothing to show for it."""
        self._books.want(item.epoch, item.topic, item.sequence)
        if item.error is not None:
            self._after = lambda: self._books.hand(item)
            raise item.error
        self._books.hand(item)
        return item.event

    # ------------------------------------------------------------ the beginning

    def _begin(self, first: Event) -> None:
        """The first heartbeat is there."""
        self._begun = True
        if self._restored is not None:
            self._books.restore(self._restored)
            if first.epoch < self._books.newest:
                self._held.appendleft((read(first.body), True))
            elif self._mendable:
                self._repair()
        elif self._since_beginning and self._mark is not None and self._asking.endpoint is not None:
            self._books.begin_at_beginning(self._mark.id, first.epoch)
            self._repair()
        elif isinstance(first.data, Heartbeat):
            self._books.begin_now(first, first.data)
            if self._since_beginning:
                raise Refused(
                    f"{self._source}: it has no history socket to read the beginning from: set `history` in its YAML; "
                    "events follow from now on"
                )

    # ------------------------------------------------------------ live

    def _take_live(self, item: Item, back: bool) -> Event | None:
        if item.epoch < self._books.floor and not back:
            return None
        if back or item.epoch > self._books.newest:
            self._held.appendleft((item, False))
            self._new_run(item.epoch, back)
            return None
        if item.topic.startswith("heartbeat/"):
            return self._beat(item)
        if not self._books.matches(item.topic):
            return None
        seen = self._books.topic(item).seen
        if item.sequence in seen:
            return None
        if item.sequence > seen.last + 1 and not self._waiting:
            self._held.appendleft((item, False))
            self._books.want(item.epoch, item.topic, item.sequence)
            self._mend([(item.epoch, item.topic, *span) for span in seen.missing(item.sequence - 1)])
            return None
        return self._hand(item)

    def _beat(self, item: Item) -> Event | None:
        self._books.witness(item)
        if item.event is not None and isinstance(item.event.data, Heartbeat) and item.epoch == self._books.newest:
            self._overflowed = False
            self._compare(item.epoch, item.event.data.journal)
        return item.event if self._heartbeats else None

    def _compare(self, epoch: int, mark: JournalMark | None) -> None:
        """What a heartbeat of the run on the line counts, with what was handed over."""
        if self._books.whole:
            self._waiting = False
            self._books.confirm(epoch, mark)
        elif not self._waiting or (mark is not None and mark.last > self._books.cursor):
            self._mend(self._books.holes())

    # ------------------------------------------------------------ holes, restarts, another journal

    @property
    def _mendable(self) -> bool:
        """The journal that we follow can be asked."""
        return self._asking.endpoint is not None and self._mark is not None and self._mark.id == self._books.journal

    def _mend(self, holes: list[Gap]) -> None:
        if not holes:
            return
        if self._mendable:
            self._repair()
        elif self._mark is None or self._asking.endpoint is None:
            self._lose(holes, "it has no history socket to ask")
        else:  # another journal was announced: when its first heartbeat has its turn, that one is asked
            self._waiting = True

    def _repair(self) -> None:
        self._repairing, self._waiting = True, False
        self._asking.again(0.0)
        self.lag.reading()

    def _new_run(self, epoch: int, back: bool) -> None:
        """The daemon has started again: what the run before did at last may be missing."""
        if self._mendable and not back:
            self._books.newest = epoch
            self._repair()
        elif self._mark is None or self._asking.endpoint is None:
            self._lose_run(epoch, back)
        else:
            self._lose_journal(epoch, back)

    def _lose_run(self, epoch: int, back: bool) -> NoReturn:
        holes = self._books.holes()
        self._after = lambda: self._books.turn_to_run(epoch, everything=back)
        raise Lost(
            f"{self._source}: it has started again and has no history socket to ask for what it published at last: "
            f"set `history` in its YAML{named(holes)}",
            self._source,
            holes,
            unknown=True,
        )

    def _lose_journal(self, epoch: int, back: bool) -> NoReturn:
        """Another journal, which may hold old events too, as a copy does: it is read from its beginning."""
        mark = self._mark

        def go_on() -> None:
            self._books.turn_to(mark.id if mark else None, epoch, everything=back)
            self._repair()

        self._after = go_on
        replaced = "was replaced (a new journal.path, a deleted or restored file)"
        raise Lost(
            f"{self._source}: its journal {replaced if self._books.journal else 'could not be asked'}: what was not "
            "read by then is lost; it goes on with the journal that is there now",
            self._source,
            unknown=True,
        )

    def _lose(self, gaps: list[Gap], why: str) -> NoReturn:
        self._after = lambda: self._books.accept(gaps)
        count = sum(last - first + 1 for _, _, first, last in gaps)
        raise Lost(f"{self._source}: {count} event(s) lost for good, {why}{named(gaps)}", self._source, gaps)

    # ------------------------------------------------------------ repair

    def request(self, now: float) -> Request | None:
        """What is to be asked now."""
        if not self._reading:
            return None
        request, refused = self._asking.request(self._books.cursor, self._books.floor, now)
        if refused is not None:
            self._trouble.append(refused)
        return request

    def wait_s(self, now: float) -> float:
        """So long until `request` may have something new to say."""
        return self._asking.wait_s(now) if self._reading else float("inf")

    @property
    def _reading(self) -> bool:
        """There is more to be read than is here."""
        return self._repairing and not self._page and self._page_end is None

    def answer(self, parts: list[bytes], now: float) -> None:
        """A message of the history socket."""
        try:
            answer = self._asking.answer(parts[0], now) if self._reading else None
        except Refused as error:
            self._trouble.append(error)
            return
        if answer is None:
            return
        mark, after = answer.journal, self._asking.after
        if mark is None or mark.id != self._books.journal:
            self._asking.again(now + AGAIN_S)  # the next heartbeat names the new journal
        elif max(mark.last, mark.retired) < after:  # its cursors mean other events than ours
            self._break_off()
            self._put_back = True
        else:
            self._books.note_retired(mark.retired, after)
            self.lag.read(mark.last, now)
            self._take_page(answer, parts[1:])

    def _take_page(self, answer: Answer, bodies: list[bytes]) -> None:
        for body in bodies:
            try:
                self._page.append(read(body))
            except StreamError as error:
                self._trouble.append(StreamError(f"{self._source}: in its journal: {error}"))
        self._page_end = answer

    def _take_old(self, item: Item) -> Event | None:
        """One event of a page."""
        if item.epoch < self._books.floor or not self._books.matches(item.topic) or not self._books.find(item):
            return None
        event = self._hand(item)
        self.repaired += event is not None
        return event

    def _finish_page(self, end: Answer, now: float) -> None:
        self._books.cursor = max(self._books.cursor, end.upto)
        if not end.done:
            self._trouble += self.lag.reached(self._books.cursor, now)
            return
        self._repairing = False
        self.lag.caught_up(now)
        lost = self._books.judge(end.marks)
        topics = {gap[:2] for gap in lost}
        self._waiting = any(gap[:2] not in topics for gap in self._books.holes())
        if lost:
            self._lose(lost, "they are no longer in the journal")

    # ------------------------------------------------------------ the place

    def place(self, without: Event | None) -> SourcePlace | None:
        """How far it has come; `without` an event that was handed over but is still being handled."""
        return self._books.place(without) if self._begun else self._restored
