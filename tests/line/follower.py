"""A subscriber that may be killed at any moment: events and its place go into one SQLite file in one transaction.

    python follower.py EVENTS_ADDRESS STORE.sqlite

An event that came twice makes it fail: the table's key refuses it. So does a loss.
"""

from __future__ import annotations

import sqlite3
import sys

from inspector.client import Place, subscribe


def main(address: str, store: str) -> None:
    """Follow for ever."""
    db = sqlite3.connect(store, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")  # a kill is no power cut
    db.execute("CREATE TABLE IF NOT EXISTS event (source TEXT, id TEXT, PRIMARY KEY (source, id)) WITHOUT ROWID")
    db.execute("CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY, place BLOB)")
    found = db.execute("SELECT place FROM place").fetchone()
    place = Place.of(found[0]) if found else Place()
    with subscribe(address, place=place, since="beginning") as stream:
        for event in stream:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO event VALUES (?, ?)", (event.source, event.id))
            db.execute("REPLACE INTO place VALUES (1, ?)", (bytes(stream.place),))
            db.execute("COMMIT")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
