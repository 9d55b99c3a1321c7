"""Any bytes to what answers at the history and control sockets, without the sockets.

    python -m tests.fuzz.requests -max_total_time=60

Needs atheris. Half of the inputs are bytes as they come, the others requests that are almost right. A finding is an
exception, an answer that is none, an id that does not come back, or a request that the daemon blames on itself.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["inspector"]):
    from inspector.config import ControlConfig, HistoryConfig
    from inspector.control import CoilAnswer, Control, PacksAnswer
    from inspector.history import History
    from inspector.wire.asking import Request
    from inspector.wire.desk import Desk

from inspector.metrics import Metrics
from inspector.records import Graded
from tests.journals import coil, gap, start
from tests.unit.test_control import Notebook


class Forgetful(Notebook):
    """A plant that does not grow, and knows no bug."""

    def coil_start(self, coil: str, encoder_count: int | None, sender: str) -> CoilAnswer:
        self.told.clear()
        return self._note("start", coil, encoder_count, sender)

    def stage(self, name: str, sender: str) -> PacksAnswer:
        self.told.clear()
        return super().stage(name, sender)


ASKS = ["events", "journal", "coil start", "coil end", "coil show", "line stop", "state", "packs stage", "nothing"]
KEYS = ["ask", "id", "after", "topics", "limit", "epoch", "coil", "encoder_count", "pack", "more"]
ANSWERS = {"error", *ASKS}


def value(data: Any, depth: int = 0) -> Any:
    """Something that JSON can say."""
    kind = data.ConsumeIntInRange(0, 9 if depth < 3 else 7)
    match kind:
        case 0:
            return None
        case 1:
            return data.ConsumeBool()
        case 2:
            return data.ConsumeInt(9)
        case 3:
            return data.ConsumeIntInRange(-5, 1200)
        case 4:
            return data.ConsumeRegularFloat()
        case 5:
            return data.ConsumeUnicode(80)
        case 6:
            return data.PickValueInList(ASKS)
        case 7:
            return data.PickValueInList(["", "gap/", "coil/v1/hot/", "gap/v1/hot/a/"])
        case 8:
            return [value(data, depth + 1) for _ in range(data.ConsumeIntInRange(0, 4))]
        case _:
            return {data.PickValueInList(KEYS): value(data, depth + 1) for _ in range(data.ConsumeIntInRange(0, 4))}


def almost(data: Any) -> bytes:
    """A request with some keys right."""
    said = {data.PickValueInList(KEYS): value(data) for _ in range(data.ConsumeIntInRange(0, 6))}
    if data.ConsumeBool():
        said["ask"] = data.PickValueInList(ASKS)
    return json.dumps(said).encode("utf-8", "surrogatepass")


def tell(desk: Desk, body: bytes) -> None:
    answer = desk.respond(Request(body, "fuzz"))
    said = json.loads(answer.head)
    if said["answer"] not in ANSWERS or not (said["id"] is None or isinstance(said["id"], int | str)):
        raise AssertionError(answer.head)
    if str(said.get("error", "")).startswith("failed: "):
        raise AssertionError(f"{body!r} -> {answer.head!r}")
    if len(answer.parts) > 1000 or (answer.parts and said["answer"] != "events"):
        raise AssertionError(answer.head)
    if answer.cost < 1:
        raise AssertionError(answer)


def main() -> None:
    """Fuzz until told otherwise."""
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        with start(path) as journal:
            journal.append([Graded(drafts=[gap(), coil(), gap("b")])])
            journal.commit({"a": 0, "b": 0})
        history = History(path, "/inspector/hot", 1, HistoryConfig(), Metrics(process=False))
        plant = Forgetful()
        control = Control(ControlConfig(), plant, plant, Metrics(process=False))

        def once(raw: bytes) -> None:
            data = atheris.FuzzedDataProvider(raw)
            desk = history.desk if data.ConsumeBool() else control.desk
            body = almost(data) if data.ConsumeBool() else data.ConsumeBytes(70_000)
            tell(desk, body)

        atheris.Setup(sys.argv, once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
