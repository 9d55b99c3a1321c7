"""The durable event log and the ledger of frames: one SQLite file, written ahead (WAL), one writer, any readers.

The journal is the truth, a sink is only fast. An event is durable before any sink sees it, and in the same
transaction the frames it came from get their fate, so that nothing can be reported without being booked or booked
without being reported.

    store.py    the file: format, connections, what an error of SQLite means to a person; lock.py: one daemon a file
    migrate.py  an older format becomes this one
    ranges.py   arithmetic of frame ranges
    identity.py numbers events; fates.py books frames until the next commit; settle.py: what a kill -9 left in flight
    marks.py    a small file beside it: what was sent while the disk was full, so that a kill -9 does not hide it
    spans.py    coils as stretches of the journal; telegrams.py: what the plant told; retention.py: what is forgotten
    writer.py   Journal: commit, and what happens when the disk is full
    reader.py   events, thumbnails and runs for reports and tools; pages.py: events for the history socket
    proof.py    the audit, which proves that issued = inspected + lost + in flight

What a commit does NOT promise: frames that a camera issued after the last commit before a kill -9 are in no book
(the strip they showed is still known to be missing, by `Journal.resumed`), and with `synchronous: false` a power cut
may take the newest commits with it, whole ones, never a part.
"""

from inspector.journal.identity import rfc3339
from inspector.journal.pages import Page, Pages
from inspector.journal.proof import Audit, Books, audit, format_audit
from inspector.journal.reader import Run, read_bodies, read_events, read_runs, read_thumbnail, read_thumbnails
from inspector.journal.retention import Retired
from inspector.journal.settle import Resumed
from inspector.journal.store import FORMAT, RunState, check
from inspector.journal.telegrams import Telegram
from inspector.journal.writer import Journal

__all__ = [
    "FORMAT",
    "Audit",
    "Books",
    "Journal",
    "Page",
    "Pages",
    "Resumed",
    "Retired",
    "Run",
    "RunState",
    "Telegram",
    "audit",
    "check",
    "format_audit",
    "read_bodies",
    "read_events",
    "read_runs",
    "read_thumbnail",
    "read_thumbnails",
    "rfc3339",
]
