"""What tests of several folders share."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from inspector.cameras._ffmpeg import quiet
from tests.line.daemon import Daemon, write
from tests.packs import make_pack

Start = Callable[..., Daemon]

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # how long an example takes says how busy the machine is

quiet()  # OpenCV's FFmpeg asks once a process whether to be quiet, and some test may write a video first


@pytest.fixture(autouse=True)
def _level_of_the_log() -> Iterator[None]:
    """A command that quiets the log does so for its process: not for the tests that follow."""
    log = logging.getLogger("inspector")
    before = log.level
    yield
    log.setLevel(before)


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of easy networks that nobody may change."""
    return make_pack(tmp_path_factory.mktemp("pack") / "bands")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(config, ...) runs the daemon on it; whatever still runs at the end of the test is killed and reaped."""
    with ExitStack() as held:

        def begin(config: dict[str, Any], **options: Any) -> Daemon:
            return held.enter_context(Daemon(write(tmp_path, config), **options))

        yield begin


@pytest.fixture
def ipc() -> Iterator[str]:
    """An address for events; the paths of unix sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="ins") as folder:
        yield f"ipc://{folder}/events"
