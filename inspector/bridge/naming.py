"""Topics and ids as a broker can carry them; two that differ never become one."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote, unquote

from inspector.errors import ConfigError

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.~/:-]*")
"""What `key` leaves as it is."""
_PLAIN = "!$&'()+,-:;=@_~"
"""Besides letters, digits and these, every byte of the UTF-8 is written %XX in a NATS subject."""


def key(source: str, name: str) -> str:
    """An event's `source` and `id` as one ASCII text, e.g. /inspector/line1#1795369002193/defect/v1/line1/top/3/17."""
    return f"{_plain(source)}#{_plain(name)}"


def _plain(text: str) -> str:
    """Almost always there is nothing to escape, and `quote` takes its time."""
    return text if _PLAIN_KEY.fullmatch(text) else quote(text, safe="/:")


def event_of(key: str) -> tuple[str, str]:
    """The `source` and `id` that `key` was made of."""
    source, _, name = key.partition("#")
    return unquote(source), unquote(name)


@lru_cache(maxsize=4096)
def subject(prefix: str, topic: str) -> str:
    """A topic as a NATS subject: defect/v1/line1/top/3/ becomes PREFIX.defect.v1.line1.top.3.

    A level that is empty becomes a lone %, as NATS has no empty ones.
    """
    levels = topic.removesuffix("/").split("/")
    return ".".join([prefix, *(quote(level, safe=_PLAIN).replace(".", "%2E") or "%" for level in levels)])


@lru_cache(maxsize=4096)
def mqtt_topic(prefix: str, topic: str) -> str:
    """A topic as an MQTT topic, without the last slash: defect/v1/line1/top/3/ becomes PREFIX/defect/v1/line1/top/3.

    Only % + # and what is no printable ASCII is written %XX: the wildcards, and what brokers refuse in topics.
    """
    printable = "".join(map(chr, range(32, 127)))
    safe = "".join(character for character in printable if character not in "%+#")
    return f"{prefix}/{quote(topic.removesuffix('/'), safe=safe)}"


def checked_subject(prefix: str) -> str:
    """Raises ConfigError unless `prefix` can begin NATS subjects."""
    if all(level and quote(level, safe=_PLAIN).replace(".", "%2E") == level for level in prefix.split(".")):
        return prefix
    raise ConfigError(f"--subject-prefix {prefix!r}: give levels of letters, digits, - and _ with dots between them")


def checked_topic(prefix: str) -> str:
    """Raises ConfigError unless `prefix` can begin MQTT topics."""
    if prefix and mqtt_topic("", prefix) == f"/{prefix}" and prefix[0] not in "$/" and not prefix.endswith("/"):
        return prefix
    raise ConfigError(f"--prefix {prefix!r}: give levels of letters, digits, - and _ with / between them")


def covers(pattern: str, wanted: str) -> bool:
    """Whether a stream's subject `pattern` takes every subject that the pattern `wanted` does."""
    ours, theirs = pattern.split("."), wanted.split(".")
    for index, level in enumerate(ours):
        if level == ">":
            return index < len(theirs)
        if index >= len(theirs) or theirs[index] == ">" or level not in ("*", theirs[index]):
            return False
    return len(ours) == len(theirs)
