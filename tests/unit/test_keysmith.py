"""`inspector keys`: what it says, and that it leaves the files as it says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import zmq

from inspector import keysmith
from inspector.__main__ import main
from inspector.errors import ConfigError
from inspector.wire import keys


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    keysmith.arguments(parser)
    return keysmith.run(parser.parse_args([str(word) for word in words]))


def test_from_nothing_to_a_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "keys"
    assert run("make", folder) == 0
    assert f"keys: {folder}" in capsys.readouterr().out
    assert run("add", folder, "level2", "--may", "events,control") == 0
    said = capsys.readouterr().out
    for part in (f"{folder}/clients/level2.key_secret", f"{folder}/server.key", "subscribe(", "Control("):
        assert part in said
    assert 'keys="level2.key_secret", server_key="server.key"' in said
    assert keys.listing(folder)[0].may == ("events", "control")
    assert run("list", folder) == 0
    shown = capsys.readouterr().out
    assert all(
        part in shown for part in ("level2", "events, control", keys.listing(folder)[0].public_key, "still here")
    )
    assert run("remove", folder, "level2") == 0
    assert "let in no more" in capsys.readouterr().out
    assert keys.listing(folder) == []


def test_a_client_that_keeps_its_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = zmq.curve_keypair()[0].decode()
    run("make", tmp_path)
    run("add", tmp_path, "own", "--public", own)
    said = capsys.readouterr().out
    assert "own.key_secret" not in said
    assert "Control(" not in said
    run("list", tmp_path, "--json")
    assert json.loads(capsys.readouterr().out) == [
        {"name": "own", "may": ["events"], "public_key": own, "secret": None}
    ]


def test_no_secret_is_ever_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("make", tmp_path)
    run("add", tmp_path, "press")
    run("list", tmp_path)
    run("list", tmp_path, "--json")
    shown = capsys.readouterr().out
    for name in ("server.key_secret", "clients/press.key_secret"):
        secret = (tmp_path / name).read_text().split('secret-key = "')[1].split('"')[0]
        assert secret not in shown


def test_a_key_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Z85 has brackets and colons, which on a terminal may mean bold or a picture."""
    key = "0[b]00:on:" + "0" * 30
    run("make", tmp_path)
    run("add", tmp_path, "own", "--public", key)
    run("list", tmp_path)
    assert key in capsys.readouterr().out


def test_a_key_may_begin_with_a_dash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As one in 85 does."""
    key = "-" + "0" * 39
    run("make", tmp_path)
    assert main(["keys", "add", str(tmp_path), "own", "--public", key]) == 0
    run("list", tmp_path)
    assert key in capsys.readouterr().out
    words = ["--keys", str(tmp_path / "missing"), "--server-key", key]
    assert main(["listen", "tcp://127.0.0.1:1", *words]) == main(["coil", "show", *words]) == 78
    with pytest.raises(SystemExit, match="2"):
        main(["coil", "show", "--server-key", "--keys", "x"])


def test_replacing_has_to_be_said(tmp_path: Path) -> None:
    run("make", tmp_path)
    run("add", tmp_path, "press")
    for words in (("make", tmp_path), ("add", tmp_path, "press")):
        with pytest.raises(ConfigError, match="--replace"):
            run(*words)
        assert run(*words, "--replace") == 0


def test_what_is_wrong_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("make", tmp_path)
    with pytest.raises(ConfigError, match="--may: may 'all' is unknown"):
        run("add", tmp_path, "press", "--may", "all")
    with pytest.raises(SystemExit, match="2"):
        run()
    assert "ACTION" in capsys.readouterr().err
