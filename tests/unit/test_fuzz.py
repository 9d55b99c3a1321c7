"""The fuzz targets that are run by hand still run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.strangers import GREETED, HANDSHAKEN, RESET, TWICE, target
from tests.strangers import PATIENCE_S, Publisher, honest, subscription

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("how", [0, GREETED, HANDSHAKEN, HANDSHAKEN | RESET, HANDSHAKEN | TWICE])
def test_one_input(how: int) -> None:
    with Publisher() as publisher, honest(publisher) as subscriber:
        one_input = target(publisher, subscriber)
        for words in (b"", b"\0", b"\xff" * 100, subscription(b"gap/") * 3):
            one_input(bytes([how]) + words)
        one_input(b"")


@pytest.mark.parametrize("name", ["strangers", "requests"])
def test_atheris_drives_it(name: str) -> None:
    pytest.importorskip("atheris")
    run = [sys.executable, "-m", f"tests.fuzz.{name}", "-runs=20", "-seed=1"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=12 * PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "Done 20" in done.stderr
