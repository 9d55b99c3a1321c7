"""Another pack on a running line: staged, compared in shadow, swapped at a batch, watched, and back again if it is bad.

    store.py       packs on disk: staged whole or not at all; what a line remembers over restarts
    comparing.py   two packs on the same frames: differences, bounds
    sampling.py    frames for the shadow, taken without holding up the line; those that differ, on disk
    pair.py        both packs on one frame, timed
    trial.py       one change: its shadow, its watch, and what sends the new pack back
    begin.py       which pack a line starts with
    changes.py     the thread that brings a new pack on duty, and takes it off

docs/packs.md says how to use it.
"""
