"""The daemon with one stage that hangs when it is told to: python hanging.py STAGE FOLDER run CONFIG.yaml

The thread of that stage hangs, once, as soon as there is a file FOLDER/hang, and writes FOLDER/hung: when, in seconds
of the monotonic clock. Everything else is the daemon's own, which has no such hook.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from inspector.__main__ import main
from inspector.worker import Worker

beat = Worker.beat


def hang(stage: str, folder: Path) -> None:
    """From now on the threads of `stage` look for the file whenever they show life."""

    def beat_or_hang(worker: Worker) -> None:
        beat(worker)
        flag = folder / "hang"
        if worker.name.startswith(stage) and flag.exists():
            flag.unlink()
            (folder / "hung").write_text(f"{time.monotonic()}")
            threading.Event().wait()

    Worker.beat = beat_or_hang  # type: ignore[method-assign]


if __name__ == "__main__":
    hang(sys.argv[1], Path(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
