"""Fake GigE Vision cameras as processes of their own, and private networks whose cable a test may pull.

A test that enters a `Network` has ports, addresses and broadcasts to itself: several tests and daemons may run at once,
each with a camera at 127.0.0.1. Whatever a test starts there is in that network too, and the network is gone with the
last process in it, so nothing is left behind whatever fails.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import pytest

PROGRAM = "arv-fake-gv-camera-0.8"
LIBRARY = "libaravis-0.8.so.0"
GVCP_PORT = 3956
PATIENCE_S = 30.0
"""A camera that has not answered after so long never will, on the busiest machine."""
TURN_S = 0.01
"""How often a camera that starts is asked."""
CLONE_NEWNET = 0x40000000
PRIVILEGE = 0x0A00
"""Register of the control channel privilege (GigE Vision 1.2, bootstrap registers): every camera has it."""


def _has_library() -> bool:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def missing() -> str | None:
    """Why no GigE camera can be made here; None: one can."""
    if not _has_library():
        return f"{LIBRARY} is not installed (apt install libaravis-0.8-0)"
    return None if shutil.which(PROGRAM) else f"{PROGRAM} is not installed (apt install aravis-tools)"


needs_aravis = pytest.mark.skipif(missing() is not None, reason=str(missing()))


class FakeCamera:
    """A GigE Vision camera that really sends packets; answers once entered, and is killed on exit.

    Its pixels are (x + y + the frame's id) modulo 255, so every picture tells its number.

    Args:
        address: an address that an interface of the network really has; on `lo` of a private network
            `Network.address` adds more than 127.0.0.1.
        serial: its serial number.
        lost_per_mille: packets that it leaves out itself, of 1,000.
        network: where it runs; the caller's when left out.
    """

    def __init__(
        self,
        address: str = "127.0.0.1",
        serial: str = "GV01",
        *,
        lost_per_mille: int = 0,
        network: Network | None = None,
    ) -> None:
        self.address = address
        self.serial = serial
        self.starts = 0
        dies_with_us = ["setpriv", "--pdeathsig", "KILL"]  # whatever becomes of the test
        self._command = [*dies_with_us, PROGRAM, "-i", address, "-s", serial, "-r", str(lost_per_mille)]
        self._network = network
        self._process: subprocess.Popen[bytes] | None = None
        self._said = os.memfd_create(serial)

    def __enter__(self) -> Self:
        self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        os.close(self._said)

    def kill(self) -> None:
        """kill -9, and the corpse; nothing when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Start it (anew), and wait until it answers."""
        self.kill()
        self.starts += 1
        with ExitStack() as inside:
            if self._network is not None:
                inside.enter_context(self._network.entered())
            self._process = subprocess.Popen(self._command, stdout=self._said, stderr=self._said)
            try:
                self._until_it_answers(self._process)
            except BaseException:
                self.kill()
                raise

    def send_signal(self, number: int) -> None:
        """SIGSTOP makes it a camera that hangs, SIGCONT mends it."""
        assert self._process is not None
        self._process.send_signal(number)

    def _until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        life = os.pidfd_open(process.pid)
        try:
            while not answers(self.address):
                died, _, _ = select.select([life], [], [], TURN_S)
                if died or time.monotonic() > deadline:
                    said = os.pread(self._said, 65536, 0).decode(errors="replace")
                    raise AssertionError(f"{' '.join(self._command)} does not answer; it said: {said!r}")
        finally:
            os.close(life)


def answers(address: str, timeout_s: float = 0.2) -> bool:
    """Whether a GigE Vision camera at this address answers the reading of a register."""
    command = struct.pack(">BBHHHI", 0x42, 0x01, 0x0080, 4, 1, PRIVILEGE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(timeout_s)
        try:
            asking.connect((address, GVCP_PORT))
            asking.send(command)
            status, answer = struct.unpack(">HH", asking.recv(64)[:4])
        except OSError:
            return False
    return (status, answer) == (0, 0x0081)


# ---------------------------------------------------------------- networks


_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _open_here() -> int:
    """A descriptor of the network that the calling thread is in."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class Network:
    """A network of its own with nothing in it but a loopback interface. Closed by `close`, or as a context."""

    def __init__(self) -> None:
        before = _open_here()
        try:
            _call("unshare", CLONE_NEWNET)
            try:
                self._here = _open_here()
                _run("ip", "link", "set", "lo", "up")
            finally:
                _call("setns", before, CLONE_NEWNET)
        finally:
            os.close(before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._here)

    @property
    def path(self) -> str:
        """For other programs, such as `ip link set DEVICE netns PATH`."""
        return f"/proc/{os.getpid()}/fd/{self._here}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and every thread and process that it starts meanwhile, is in this network."""
        before = _open_here()
        try:
            _call("setns", self._here, CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", before, CLONE_NEWNET)
        finally:
            os.close(before)

    def run(self, *command: str, stdin: str = "") -> str:
        """What a command says that runs in it."""
        with self.entered():
            return _run(*command, stdin=stdin)

    def address(self, number: int) -> str:
        """127.0.0.`number`, usable by a camera: it must stand on the interface, not only be routed to it."""
        found = f"127.0.0.{number}"
        if number != 1:
            self.run("ip", "address", "replace", f"{found}/8", "dev", "lo")
        return found

    @contextmanager
    def dropping(self, per_cent: float, device: str = "lo") -> Iterator[Drops]:
        """So many of the image packets that come in by `device` are lost; GVCP is not touched.

        The rule sits at the device's ingress: packet sockets still see what later hooks of the kernel drop. (Ports are
        accepted one by one, since nft 1.0.6 merges `sport != A dport != B` into one comparison of both.)
        """
        chance = f"numgen random mod 10000 < {round(per_cent * 100)}"
        self.run(
            *("nft", "-f", "-"),
            stdin=f"""table netdev lossy {{
                chain ingress {{
                    type filter hook ingress device {device} priority 0; policy accept;
                    udp dport {GVCP_PORT} accept
                    udp sport {GVCP_PORT} accept
                    meta l4proto udp counter
                    meta l4proto udp {chance} counter drop
                }}
            }}""",
        )
        try:
            yield Drops(self)
        finally:
            self.run("nft", "delete", "table", "netdev", "lossy")


class Drops:
    """What `Network.dropping` did so far."""

    def __init__(self, network: Network) -> None:
        self._network = network

    @property
    def packets(self) -> tuple[int, int]:
        """(image packets that came, those of them that were dropped)."""
        listed = json.loads(self._network.run("nft", "-j", "list", "table", "netdev", "lossy"))
        rules = [entry["rule"]["expr"] for entry in listed["nftables"] if "rule" in entry]
        came, dropped = (step["counter"]["packets"] for rule in rules for step in rule if "counter" in step)
        return came, dropped


class Cable:
    """Two networks joined by a cable: the line computer's is `near`, the camera's is `far`. It can be pulled.

    Attributes:
        near_address, far_address: of its ends.
    """

    near_address = "10.0.0.1"
    far_address = "10.0.0.2"
    device = "near"
    """The interface in the near network."""

    def __init__(self, near: Network, far: Network) -> None:
        self.near, self.far = near, far
        near.run("ip", "link", "add", "near", "type", "veth", "peer", "name", "far")
        near.run("ip", "link", "set", "far", "netns", far.path)
        for network, name, address in ((near, "near", self.near_address), (far, "far", self.far_address)):
            network.run("ip", "address", "add", f"{address}/24", "dev", name)
            network.run("ip", "link", "set", name, "mtu", "9000", "up")

    def pull(self) -> None:
        """Both ends lose their carrier, as when the plug comes out."""
        self.far.run("ip", "link", "set", "far", "down")

    def plug(self) -> None:
        self.far.run("ip", "link", "set", "far", "up")


def _no_namespaces() -> str | None:
    try:
        with Network():
            return None
    except (OSError, AssertionError) as error:
        return f"private networks cannot be made here: {error}"


_refused = _no_namespaces()
needs_namespace = pytest.mark.skipif(_refused is not None, reason=str(_refused))


@contextmanager
def private_network() -> Iterator[Network]:
    """The calling thread in a network of its own, with all that it starts."""
    with Network() as network, network.entered():
        yield network
