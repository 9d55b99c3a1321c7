"""How fast a training could be: frames a second of the feed alone, of the network alone, and which of them waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from build_engines.feed import Feed, prepare_feed
from build_engines.losses import Raw
from build_engines.settings import Settings, stint
from build_engines.train import Run, Training, start

WARM_STEPS = 5


def measure(settings: Settings, name: str, batch: int, steps: int) -> dict[str, Any]:
    """Figures of the network `name` ("teacher" or "gate"); nothing is trained, only the split is written."""
    feed = prepare_feed(replace(settings, whole=0.0))  # whole tiles at the end would be other work
    feed = replace(feed, settings=stint(name, feed.settings, WARM_STEPS + steps, batch))
    own = feed.settings
    fed = _rate(feed.stream(0, WARM_STEPS + steps), own.batch, steps)
    learnt = _rate(_learning(feed, name, settings.out, WARM_STEPS + steps), own.batch, steps)
    return {
        "network": name,
        "device": own.device,
        "workers": own.workers,
        "batch": own.batch,
        "crop_px": [own.height, own.width],
        "feed_frames_a_second": round(fed, 1),
        "network_frames_a_second": round(learnt, 1),
        "waits": "the network" if fed < learnt else "the feed",
    }


def _rate(each: Iterator[Any], batch: int, steps: int) -> float:
    """Frames a second of what comes after the first WARM_STEPS."""
    began = time.perf_counter()
    for number, _ in enumerate(each, start=1):
        if number == WARM_STEPS:
            began = time.perf_counter()
    return batch * steps / (time.perf_counter() - began)


def _learning(feed: Feed, name: str, out: Path, steps: int) -> Iterator[float]:
    """Steps on one batch again and again; only every tenth waits for the device, as a training does."""
    network = start(name, feed.classes, out)
    training = Training(name, Run.begin(network, feed.settings), feed, out / f"{name}_measured.pt")
    raw: Raw = feed.raw(0).to(torch.device(feed.settings.device))
    for number in range(steps):
        loss = training.step(raw)
        yield float(loss) if number % 10 == 0 or number == steps - 1 else 0.0
