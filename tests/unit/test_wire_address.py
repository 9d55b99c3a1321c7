"""Where a socket may be bound: open to the network only with keys."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.errors import ConfigError, TakenError
from inspector.wire.address import bindable, refusal, require_free
from tests.workers import free_port

PUBLIC = ["tcp://*:5570", "tcp://0.0.0.0:5570", "tcp://[::]:5570", "tcp://192.0.2.7:5570", "tcp://[2001:db8::1]:1"]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_needs_keys(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        bindable(address, secured=False, where="history.address")
    text = str(refused.value)
    assert text.startswith(f"history.address {address!r} is open to the network")
    for part in ("CURVE", "inspector keys make DIR", "inspector keys add DIR NAME", "`keys: DIR`", "tcp://127.0.0.1:"):
        assert part in text
    assert bindable(address, secured=True) == address


@pytest.mark.parametrize("secured", [True, False])
def test_this_machine_is_allowed_either_way(secured: bool, tmp_path: Path) -> None:
    assert bindable("tcp://localhost:5570", secured) == "tcp://127.0.0.1:5570"
    for address in ("tcp://127.0.0.1:*", "tcp://127.9.9.9:1", "tcp://[::1]:65535", f"ipc://{tmp_path}/events"):
        assert bindable(address, secured) == address


@pytest.mark.parametrize("host", ["eth0", "a.test", "localhost.", "1.2.3", "256.1.1.1"])
def test_names_are_refused_even_with_keys(host: str) -> None:
    with pytest.raises(ConfigError, match="is a name, and where it leads may change"):
        bindable(f"tcp://{host}:5570", secured=True)


@given(st.text(max_size=40), st.sampled_from(["{}", "tcp://{}", "tcp://{}:5570"]))
def test_whatever_is_written_it_is_bound_here_or_refused(text: str, form: str) -> None:
    with suppress(ConfigError):
        bound = bindable(form.format(text), secured=False)
        assert bound.startswith(("ipc://", "tcp://127.", "tcp://[", "tcp://0"))


def test_a_taken_port_is_told_with_the_setting() -> None:
    port = free_port()
    told = rf"control\.address 'tcp://\*:{port}' is in use.*sport = :{port}"
    with socket.create_server(("0.0.0.0", port)), pytest.raises(ConfigError, match=told):
        require_free(f"tcp://*:{port}", "control.address")
    require_free(f"tcp://*:{port}")


def test_an_address_that_is_not_here_is_told() -> None:
    with pytest.raises(ConfigError, match=r"cannot be bound.*Name an address of this machine"):
        require_free("tcp://192.0.2.7:5570")
    assert "permission" in refusal("tcp://127.0.0.1:1", errno.EACCES).lower()


def test_whoever_holds_a_path_does_not_hear_that_it_was_asked_for(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/events"
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind(f"{tmp_path}/events")
        holder.listen()
        holder.setblocking(False)
        with pytest.raises(TakenError, match=r"is in use. See who holds it: ss -lxp"):
            require_free(address)
        with pytest.raises(BlockingIOError):
            holder.accept()
    assert (tmp_path / "events").exists()
    require_free(address)  # it died and left its file
