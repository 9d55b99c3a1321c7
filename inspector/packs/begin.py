"""Which pack a line starts with: that of `pack:`, or the one that took over from it for good in an earlier run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from inspector import pack
from inspector.config import Config
from inspector.errors import PackError
from inspector.pack import Pack
from inspector.packs.store import Memory, Store

MISSING = "missing"
"""The state in which the pack that was on duty cannot be."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What a line starts with."""

    pack: Pack
    memory: Memory
    said: list[tuple[str, str]] = field(default_factory=list)
    """(state, detail) that people should hear."""


def begin(config: Config, store: Store) -> Begun:
    """The pack to start with.

    Raises:
        PackError: the pack of `pack:` is not whole. One that took over later and is not whole any more is passed over
            with a word, as a line that inspects with the old pack is better than none. Nothing is logged here: whoever
            starts the line says it, once.
    """
    base = pack.load(config.pack)
    fresh = Memory(base=os.path.abspath(config.pack), base_digest=base.digest)
    try:
        memory = store.recall()
    except PackError as error:
        return Begun(base, fresh, [(MISSING, f"{error}: {config.pack} is on duty")])
    if memory is None:
        return Begun(base, fresh)
    said = []
    if memory.changing is not None:
        said.append(("cut short", f"{memory.changing} when the daemon ended: stage it again to try it again"))
    if memory.base != fresh.base:
        if memory.on_duty is not None:
            said.append(("forgotten", f"{memory.on_duty} was on duty; `pack:` was changed since, and counts"))
        return Begun(base, fresh, said)
    if memory.on_duty is not None and memory.base_digest != fresh.base_digest:
        said.append(
            ("stays", f"{memory.on_duty} stays on duty, though {fresh.base} is another pack now: stage that one")
        )
    memory = msgspec.structs.replace(memory, base_digest=fresh.base_digest, changing=None)
    if memory.on_duty is None:
        return Begun(base, memory, said)
    try:
        return Begun(pack.load(Path(memory.on_duty)), memory, said)
    except PackError as error:
        return Begun(base, fresh, [*said, (MISSING, f"{error}: {config.pack} is on duty")])
