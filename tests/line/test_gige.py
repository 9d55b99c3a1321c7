"""A GigE Vision camera on the daemon as a process: real packets, a camera that is killed, a cable that is pulled.

The camera is Aravis' own simulator in a private network. It runs by the host's clock, so a frame's time stamp says
which strip was under it, whoever was looking: that is the truth the gaps are held against. The synthetic camera
beside it is the clock of the tests, and must never notice anything.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inspector.events import Reason
from tests.conftest import Start
from tests.gige import Cable, FakeCamera, Network, needs_aravis, needs_namespace, private_network
from tests.line.daemon import Daemon, Subscriber, subscribed
from tests.line.lines import config, filmed
from tests.line.sights import FRAME_MM, HEIGHT, WIDTH, sights, stretches
from tests.line.told import books_of, gaps_of, gaps_tell_every_lost_frame, said, states_of
from tests.packs import make_pack

pytestmark = [needs_aravis, needs_namespace]

RATE_HZ = 25
OTHER_HZ = 50


@pytest.fixture
def network() -> Iterator[Network]:
    """The test runs in a network of its own, with all that it starts."""
    with private_network() as own:
        yield own


@pytest.fixture(scope="module")
def ribbons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack for whole frames; the simulator's ramp crosses its one class in every frame."""
    return make_pack(tmp_path_factory.mktemp("pack") / "ribbons", tile=(HEIGHT, WIDTH), classes=1)


def gige(address: str = "127.0.0.1", name: str = "seen", **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "address": address,
        "width_px": WIDTH,
        "height_px": HEIGHT,
        "acquisition_frame_rate_hz": RATE_HZ,
        "packet_size": 1400,
        "buffers": 1000,  # a busy machine is late
    }
    return {"name": name, "kind": "gige", "options": settings | options}


def line_of(pack: Path, path: Path, ipc: str, *cameras: dict[str, Any]) -> dict[str, Any]:
    """A line whose queue is so long that a busy machine loses nothing, and where each frame tells of itself."""
    return config(
        pack,
        path,
        *cameras,
        filmed("other", frames_hz=OTHER_HZ, width_px=WIDTH),
        sinks=[{"kind": "zeromq", "options": {"address": ipc}}],
        line={"name": "hot", "coil": "c1", "heartbeat_s": 0.1, "queue": 10_000},
        edges={"detect": False},
        grading={"join_frames": 1, "thumbnails": False},
    )


def more(daemon: Daemon, metric: str, count: int) -> None:
    """Wait until a counter has grown by so much."""
    before = daemon.metric(metric)
    daemon.until(lambda: daemon.metric(metric) >= before + count, f"{count} more of {metric}")


def inspected(camera: str) -> str:
    return f"frames_inspected_total{{camera={camera}}}"


def captured(camera: str) -> str:
    return f"frames_captured_total{{camera={camera}}}"


def noticed_nothing(path: Path, camera: str) -> None:
    books = books_of(path)[camera]
    assert books.issued == books.inspected > 0
    assert gaps_of(path, camera) == []
    assert ups_and_downs(path, camera) == ["up"]


def ups_and_downs(path: Path, camera: str = "seen") -> list[str]:
    return [state for state in states_of(path, camera) if state in ("up", "down")]


# ---------------------------------------------------------------- well


@pytest.mark.parametrize("packet_socket", [True, False], ids=["packet socket", "UDP socket"])
def test_frames_come_and_every_one_is_inspected(
    start: Start, network: Network, ribbons: Path, tmp_path: Path, ipc: str, packet_socket: bool
) -> None:
    path = tmp_path / "j.db"
    with FakeCamera() as camera:
        daemon = start(line_of(ribbons, path, ipc, gige(camera.address, packet_socket=packet_socket))).ready()
        more(daemon, inspected("seen"), 40)
        assert daemon.get("/readyz")[0] == 200
        heading, *sockets = Path(f"/proc/{daemon.pid}/net/packet").read_text().splitlines()
        assert len(sockets) == int(packet_socket), heading
        metrics = daemon.metrics()
        assert daemon.stop() == 0

    assert metrics["camera_up{camera=seen}"] == 1
    assert metrics["camera_packets_lost_total{camera=seen}"] == 0
    assert 0 < metrics["camera_clock_uncertainty_seconds{camera=seen}"] < 1
    books = books_of(path)["seen"]
    assert books.issued == books.inspected >= 40
    assert [seen.sequence for seen in sights(path, "seen")] == list(range(books.issued))
    assert stretches(path, "seen") == []
    assert ups_and_downs(path) == ["up"]
    noticed_nothing(path, "other")


# ---------------------------------------------------------------- killed


def test_a_camera_that_is_killed_comes_back_each_time(
    start: Start, network: Network, ribbons: Path, tmp_path: Path, ipc: str
) -> None:
    kill_again_and_again(start, network, ribbons, tmp_path, ipc, times=3)


@pytest.mark.soak
def test_a_camera_that_is_killed_100_times_is_back_within_2_seconds(
    start: Start, network: Network, ribbons: Path, tmp_path: Path, ipc: str
) -> None:
    took_s = kill_again_and_again(start, network, ribbons, tmp_path, ipc, times=100)
    took_s.sort()
    print(f"\nback after {took_s[0]:.2f} to {took_s[-1]:.2f} s, median {took_s[50]:.2f} s")
    assert took_s[-1] <= 2.0


def kill_again_and_again(
    start: Start, network: Network, pack: Path, tmp_path: Path, ipc: str, times: int
) -> list[float]:
    """Returns how long each return took, from the camera's first answer to the daemon's word that it is up."""
    path, dice, elsewhere = tmp_path / "j.db", random.Random(5), network.address(2)
    twin = gige(elsewhere, "twin", buffers=64)
    with FakeCamera() as camera, FakeCamera(elsewhere, "GV02"), subscribed(ipc, "state/") as ears:
        daemon = start(line_of(pack, path, ipc, gige(camera.address), twin)).ready()
        more(daemon, inspected("seen"), 5)
        took_s = [die_and_come_back(daemon, ears, camera)]
        held = holds(daemon)
        for number in range(1, times):
            pause = dice.randrange(OTHER_HZ) if number % 2 else None
            took_s.append(die_and_come_back(daemon, ears, camera, pause))
        daemon.until(lambda: no_more(holds(daemon), held), f"no more threads and descriptors than {held}")
        metrics = daemon.metrics()
        assert daemon.stop() == 0

    assert metrics["camera_reopens_total{camera=seen}"] == times
    assert ups_and_downs(path) == ["up", *["down", "up"] * times]
    books = books_of(path)
    gaps_tell_every_lost_frame(path, books)
    assert set(books["seen"].lost) <= {Reason.PACKETS, Reason.MISSING, Reason.TIMEOUT, Reason.FAILED}
    assert sum(books["seen"].lost.values()) <= times  # the frame that it died in, no other
    assert len(sights(path, "seen")) == books["seen"].inspected
    outages_are_told_right(path, times)
    noticed_nothing(path, "other")
    noticed_nothing(path, "twin")
    return took_s


def die_and_come_back(daemon: Daemon, ears: Subscriber, camera: FakeCamera, pause: int | None = None) -> float:
    """Killed, and back once the daemon has told that it is out, or before: after so many frames of the other camera."""
    before = daemon.metric(inspected("seen"))
    camera.kill()
    if pause is None:
        ears.until(lambda event: said(event, "seen", "down"), daemon, "word that the camera is down")
        it_is_out_and_only_it(daemon)
    else:
        more(daemon, captured("other"), pause)
    camera.restart()
    answered = time.monotonic()
    if pause is not None:
        ears.until(lambda event: said(event, "seen", "down"), daemon, "word that the camera is down")
    ears.until(lambda event: said(event, "seen", "up"), daemon, "word that it is back")
    took_s = time.monotonic() - answered
    daemon.until(lambda: daemon.metric(inspected("seen")) > before + RATE_HZ // 4, "its frames again")
    assert daemon.get("/readyz")[0] == 200
    return took_s


def it_is_out_and_only_it(daemon: Daemon) -> None:
    status, body = daemon.get("/readyz")
    assert (status, "seen" in body, "other" in body) == (503, True, False)
    assert daemon.get("/healthz")[0] == 200
    assert daemon.metric("camera_up{camera=seen}") == 0
    assert daemon.metric("camera_up{camera=other}") == 1
    more(daemon, captured("other"), OTHER_HZ // 2)


def outages_are_told_right(path: Path, times: int) -> None:
    """Each is a gap as long as the strip that ran meanwhile, to one frame."""
    found = [each for each in stretches(path, "seen") if Reason.CAMERA_DOWN in {gap.reason for gap in each.gaps}]
    assert len(found) == times
    off = [each.length_mm / FRAME_MM - (each.elapsed_ns * RATE_HZ / 1e9 - 1) for each in found]
    print(f"gaps are {min(off):+.2f} to {max(off):+.2f} frames off")
    assert max(map(abs, off)) <= 1


def holds(daemon: Daemon) -> tuple[int, int]:
    """(threads, open descriptors) of the daemon."""
    return len(os.listdir(f"/proc/{daemon.pid}/task")), len(os.listdir(f"/proc/{daemon.pid}/fd"))


def no_more(now: tuple[int, int], before: tuple[int, int]) -> bool:
    return now[0] <= before[0] and now[1] <= before[1]


# ---------------------------------------------------------------- the cable


@pytest.mark.parametrize(
    ("outage_s", "timeout_s"),
    [
        pytest.param(0.8, 6.0, id="shorter than the time-out"),
        pytest.param(1.5, 1.0, id="longer than the time-out"),
        pytest.param(8.0, None, id="8 seconds", marks=pytest.mark.soak),
    ],
)
def test_a_cable_that_was_pulled_is_a_gap_of_the_right_length(
    start: Start, network: Network, ribbons: Path, tmp_path: Path, ipc: str, outage_s: float, timeout_s: float | None
) -> None:
    """A short one the stream survives, and its frame numbers tell the hole; otherwise the clock does.

    A camera that answers no question for 1.5 s is dead, whatever the time-out.
    """
    path, survived = tmp_path / "j.db", timeout_s is not None and timeout_s > outage_s
    with Network() as far, subscribed(ipc, "state/") as ears:
        cable = Cable(network, far)
        with FakeCamera(cable.far_address, network=far) as camera:
            seen = gige(camera.address, frame_timeout_s=timeout_s)
            daemon = start(line_of(ribbons, path, ipc, seen)).ready()
            more(daemon, inspected("seen"), 20)
            cable.pull()
            more(daemon, captured("other"), round(outage_s * OTHER_HZ))
            cable.plug()
            if not survived:
                ears.until(lambda event: said(event, "seen", "down"), daemon, "word that the camera is down")
                ears.until(lambda event: said(event, "seen", "up"), daemon, "word that it is back")
            more(daemon, inspected("seen"), 10)
            assert daemon.get("/readyz")[0] == 200
            assert daemon.stop() == 0

    assert ups_and_downs(path) == (["up"] if survived else ["up", "down", "up"])
    books = books_of(path)
    gaps_tell_every_lost_frame(path, books)
    if survived:
        (gap,) = stretches(path, "seen")
        assert gap.length_mm == gap.numbered * FRAME_MM
        reasons = {told.reason for told in gap.gaps}
        assert reasons - {Reason.PACKETS} == {Reason.MISSING}  # the frame on its way as the cable is pulled is torn
    else:
        outages_are_told_right(path, 1)
    assert max(stretch.elapsed_ns for stretch in stretches(path, "seen")) >= outage_s * 1e9
    noticed_nothing(path, "other")


# ---------------------------------------------------------------- packets


@pytest.mark.parametrize("per_cent", [0, 1, 5])
def test_every_frame_is_accounted_for_whatever_packets_are_lost(
    start: Start, network: Network, ribbons: Path, tmp_path: Path, ipc: str, per_cent: int
) -> None:
    """At the end the camera is killed, so that what it sent is known to the packet."""
    path, lost = tmp_path / "j.db", "camera_packets_lost_total{camera=seen}"
    seen = gige(acquisition_frame_rate_hz=100)
    with FakeCamera() as camera, network.dropping(per_cent) as drops, subscribed(ipc, "state/") as ears:
        daemon = start(line_of(ribbons, path, ipc, seen)).ready()
        daemon.until(lambda: daemon.metric(captured("seen")) >= 100 and daemon.metric(lost) >= 5 * per_cent, "losses")
        camera.kill()
        ears.until(lambda event: said(event, "seen", "down"), daemon, "word that the camera is down")
        metrics = daemon.metrics()
        came, dropped = drops.packets
        assert daemon.stop() == 0

    books = books_of(path)
    gaps_tell_every_lost_frame(path, books)
    assert abs(books["seen"].issued - came / packets_of_a_frame(1400)) <= 1  # it may have died within a frame
    assert set(books["seen"].lost) <= {Reason.PACKETS, Reason.MISSING}
    assert (metrics[lost] > 0) == (dropped > 0) == (per_cent > 0)
    assert metrics[lost] <= dropped + packets_of_a_frame(1400)
    assert (sum(books["seen"].lost.values()) > 0) == (per_cent > 0)
    assert len(sights(path, "seen")) == books["seen"].inspected
    for stretch in stretches(path, "seen"):
        assert stretch.after.sequence - stretch.before.sequence - 1 == stretch.numbered
        assert stretch.length_mm == stretch.numbered * FRAME_MM
        assert all(gap.frames * FRAME_MM == gap.along_mm.end - gap.along_mm.start for gap in stretch.gaps)
    assert ups_and_downs(path) == ["up", "down"]
    noticed_nothing(path, "other")


def packets_of_a_frame(packet_size: int) -> int:
    """Leader, data, trailer; a packet spends 36 bytes on the headers of IP, UDP and GVSP."""
    return 2 + -(-HEIGHT * WIDTH // (packet_size - 36))
