"""Keys: made whole or not at all, never lost by accident, and followed while the daemon runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
import zmq.auth
from hypothesis import given
from hypothesis import strategies as st

from inspector.errors import ConfigError
from inspector.wire import certificates, keys
from inspector.wire.keys import Keyring


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys.make(tmp_path / "keys")
    return tmp_path / "keys"


def public(folder: Path, name: str) -> Path:
    return folder / "clients" / f"{name}.key"


def secret(folder: Path, name: str) -> Path:
    return folder / "clients" / f"{name}.key_secret"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------- making them


def test_pyzmq_reads_what_is_made(folder: Path) -> None:
    client = keys.add(folder, "press", ["events", "control"])
    own, hidden = zmq.auth.load_certificate(secret(folder, "press"))
    assert own.decode() == client.public_key == zmq.curve_public(hidden).decode()
    assert zmq.auth.load_certificate(public(folder, "press")) == (own, None)
    server, hidden = zmq.auth.load_certificate(folder / "server.key_secret")
    assert zmq.auth.load_certificate(folder / "server.key") == (server, None)
    assert (Keyring(folder).server.public, Keyring(folder).server.secret) == (server.decode(), hidden.decode())


def test_what_pyzmq_makes_is_read(folder: Path) -> None:
    zmq.auth.create_certificates(folder / "clients", "other")
    (client,) = keys.listing(folder)
    assert (client.name, client.may) == ("other", ("events",))


def test_secrets_are_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys.make(tmp_path / "keys")
        keys.add(tmp_path / "keys", "press")
    finally:
        os.umask(before)
    assert mode(tmp_path / "keys" / "server.key_secret") == 0o600
    assert mode(secret(tmp_path / "keys", "press")) == 0o600
    assert mode(public(tmp_path / "keys", "press")) == 0o644
    assert [path.name for path in (tmp_path / "keys").rglob(".*")] == [], "nothing half-written is left behind"


def test_a_secret_is_never_readable_by_others_not_even_while_it_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    fsync = os.fsync

    def look(file: int) -> None:
        seen.extend(mode(path) for path in folder.rglob("*secret*"))
        fsync(file)

    monkeypatch.setattr(os, "fsync", look)
    keys.add(folder, "press")
    assert set(seen) == {0o600}


def test_nothing_is_overwritten_unless_told(folder: Path) -> None:
    keys.add(folder, "press")
    before = {path: path.read_bytes() for path in folder.rglob("*.key*")}
    for again in (
        lambda: keys.make(folder),
        lambda: keys.add(folder, "press"),
        lambda: keys.add(folder, "press", ["control"]),
    ):
        with pytest.raises(ConfigError, match=r"exists already.*--replace"):
            again()
    public(folder, "press").unlink()
    with pytest.raises(ConfigError, match=r"press\.key_secret: exists already"):
        keys.add(folder, "press")
    public(folder, "press").write_bytes(before[public(folder, "press")])
    assert {path: path.read_bytes() for path in folder.rglob("*.key*")} == before
    keys.add(folder, "press", replace=True)
    keys.make(folder, replace=True)
    assert all(path.read_bytes() != data for path, data in before.items())


def test_a_client_may_keep_its_secret_to_itself(folder: Path) -> None:
    own = zmq.curve_keypair()[0].decode()
    client = keys.add(folder, "own", ["control"], own)
    assert (client.public_key, client.may, client.secret_path) == (own, ("control",), None)
    assert not secret(folder, "own").exists()
    keys.add(folder, "press")
    keys.add(folder, "press", public=zmq.curve_keypair()[0].decode(), replace=True)
    assert not secret(folder, "press").exists(), "the secret of the key before is of no use any more"


@pytest.mark.parametrize("key", ["", "x", "x" * 40 + "x", "~" * 40, "#" * 40, "x" * 39 + "\n"])
def test_a_public_key_that_is_none_is_refused(folder: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="is no public key; it has 40 characters"):
        keys.add(folder, "own", public=key)
    assert keys.listing(folder) == []


def test_no_two_clients_have_one_key(folder: Path) -> None:
    press = keys.add(folder, "press")
    with pytest.raises(ConfigError, match="client other: press has the same public key"):
        keys.add(folder, "other", public=press.public_key)
    with pytest.raises(ConfigError, match="the server itself has the same"):
        keys.add(folder, "other", public=Keyring(folder).server.public)
    public(folder, "copy").write_bytes(public(folder, "press").read_bytes())
    with pytest.raises(ConfigError, match=r"press\.key: copy has the same public key.*inspector keys remove"):
        Keyring(folder)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "/etc/x", ".hidden", "-x", "a b", "a\n", "ä", "x" * 65]
)
def test_names_stay_in_the_folder(folder: Path, name: str) -> None:
    for act in (keys.add, keys.remove):
        with pytest.raises(ConfigError, match="a name has 1 to 64 letters"):
            act(folder, name)


@pytest.mark.parametrize("may", ["", "all", "events,all", "Events"])
def test_an_unknown_role_is_refused(folder: Path, may: str) -> None:
    with pytest.raises(ConfigError, match="a client may events and control"):
        keys.add(folder, "press", may.split(","))
    assert keys.listing(folder) == []


def test_removed_is_removed(folder: Path) -> None:
    keys.add(folder, "press")
    keys.add(folder, "plc")
    keys.remove(folder, "press")
    assert [client.name for client in keys.listing(folder)] == ["plc"]
    assert not secret(folder, "press").exists()
    with pytest.raises(ConfigError, match=r"no such client.*inspector keys list"):
        keys.remove(folder, "press")


def test_a_folder_that_is_none_is_told_with_what_to_do(tmp_path: Path) -> None:
    for act in (keys.listing, Keyring):
        with pytest.raises(ConfigError, match=f"is no folder of keys. Make it: inspector keys make {tmp_path}"):
            act(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be created"):
        keys.make(tmp_path / "file")


# ---------------------------------------------------------------- files that are broken


@given(data=st.binary(max_size=400))
def test_garbage_is_never_taken_for_a_key(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.key"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"garbage\.key: is no ZeroMQ certificate"):
        certificates.read(path)


def test_a_file_torn_anywhere_is_told_or_whole(folder: Path) -> None:
    keys.add(folder, "press")
    whole = secret(folder, "press").read_bytes()
    made = certificates.read(secret(folder, "press"))
    torn = 0
    for length in range(len(whole)):
        secret(folder, "press").write_bytes(whole[:length])
        found = attempt(secret(folder, "press"))
        torn += found is None
        assert found is None or (found.public, found.secret) in ((made.public, made.secret), (made.public, None))
    assert torn > len(whole) / 3


def attempt(path: Path) -> certificates.Certificate | None:
    try:
        return certificates.read(path)
    except ConfigError:
        return None


def test_a_secret_of_another_pair_is_refused(folder: Path) -> None:
    path = folder / "server.key_secret"
    path.write_text(path.read_text().replace(Keyring(folder).server.public, zmq.curve_keypair()[0].decode()))
    with pytest.raises(ConfigError, match=r"server\.key_secret: is no ZeroMQ certificate, or torn"):
        Keyring(folder)


@pytest.mark.parametrize("bits", [0o604, 0o644, 0o602, 0o620])
def test_a_secret_that_others_can_read_is_refused(folder: Path, bits: int) -> None:
    path = folder / "server.key_secret"
    path.chmod(bits)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        Keyring(folder)
    path.chmod(0o640)
    assert len(Keyring(folder)) == 0


@pytest.mark.parametrize("name", ["server.key_secret", "clients/press.key"])
def test_a_broken_file_is_named_at_the_start(folder: Path, name: str) -> None:
    keys.add(folder, "press")
    (folder / name).write_bytes(b"\xff" * 100_000)
    with pytest.raises(ConfigError, match=f"{folder / name}: is no ZeroMQ certificate"):
        Keyring(folder)
    (folder / name).unlink()
    if name.startswith("server"):
        with pytest.raises(ConfigError, match="inspector keys make"):
            Keyring(folder)


# ---------------------------------------------------------------- while the daemon runs


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Ring:
    """A keyring and its folder, a look later."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.ring = Keyring(folder, self.clock)

    def changed(self) -> set[str]:
        self.clock.now += keys.LOOK_S
        return self.ring.changed()

    def names(self) -> set[str]:
        return {client.name for client in keys.listing(self.folder) if self.ring.holder(client.public_key)}


def test_clients_come_and_go(folder: Path) -> None:
    rig = Ring(folder)
    press = keys.add(folder, "press")
    assert rig.ring.changed() == set()
    assert rig.ring.holder(press.public_key) is None, "it looks once a second"
    assert rig.changed() == set()
    assert rig.ring.holder(press.public_key) == press
    assert (rig.ring.allows("press", "events"), rig.ring.allows("press", "control")) == (True, False)
    assert rig.changed() == set()
    keys.add(folder, "press", ["control"], replace=True)
    assert rig.changed() == {"press"}
    assert rig.ring.holder(press.public_key) is None
    assert (rig.ring.allows("press", "events"), rig.ring.allows("press", "control")) == (False, True)
    keys.remove(folder, "press")
    assert rig.changed() == {"press"}
    assert not rig.ring.allows("press", "control")


def test_roles_that_change_within_a_file_are_followed(folder: Path) -> None:
    keys.add(folder, "press", ["control"])
    rig = Ring(folder)
    path = public(folder, "press")
    path.write_text(path.read_text().replace("control", "events"))
    assert rig.changed() == {"press"}
    assert rig.ring.allows("press", "events")


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"torn"), lambda path: path.chmod(0)])
def test_a_file_that_breaks_shuts_nobody_out_and_nobody_in(
    folder: Path, spoil: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid() == 0 and "chmod" in spoil.__code__.co_names:
        pytest.skip("root may read everything")
    press, plc = keys.add(folder, "press"), keys.add(folder, "plc")
    rig = Ring(folder)
    spoil(public(folder, "press"))
    public(folder, "new").write_text("no key")
    keys.remove(folder, "plc")
    for _ in range(3):
        assert rig.changed() in ({"plc"}, set())
    assert rig.ring.holder(press.public_key) is not None, "as it was"
    assert rig.ring.holder(plc.public_key) is None, "gone is gone, whatever the others look like"
    assert sum("press.key: " in record.message for record in caplog.records) == 1, "told once"
    assert sum("new.key: " in record.message for record in caplog.records) == 1


def test_a_newcomer_with_a_key_that_is_taken_waits_until_it_is_free(folder: Path) -> None:
    press = keys.add(folder, "press")
    rig = Ring(folder)
    public(folder, "a-thief").write_bytes(public(folder, "press").read_bytes())
    assert rig.changed() == set()
    assert rig.ring.holder(press.public_key) == press
    keys.remove(folder, "press")
    assert rig.changed() == {"press"}
    assert rig.ring.allows("a-thief", "events")


def test_a_folder_that_is_away_for_a_while_changes_nothing(folder: Path) -> None:
    press = keys.add(folder, "press")
    rig = Ring(folder)
    (folder / "clients").rename(folder / "away")
    assert rig.changed() == set()
    assert rig.ring.holder(press.public_key) == press
    (folder / "away").rename(folder / "clients")
    assert rig.changed() == set()
    assert rig.ring.holder(press.public_key) == press
