"""cameras/gige.py against the real library: its own simulator, and a camera that sends what a test tells it to."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspector import adapters
from inspector.cameras import Link, _aravis
from inspector.cameras._aravis_stream import NO_ID, Popped, Status
from inspector.cameras._gige_count import Arrival, FrameCount
from inspector.errors import CameraError, ConfigError
from inspector.events import Reason
from inspector.pool import Pool
from inspector.records import Frame, Loss
from tests.gige import needs_aravis, needs_namespace, private_network
from tests.gige_scripted import HEIGHT, PAYLOAD, PRIVILEGE, TRIGGER, WIDTH, ScriptedCamera, Sent

pytestmark = needs_aravis

PATIENCE_S = 20.0
AGO_NS = 7 * 10**14
TIMED = {"frame_timeout_s": 60.0}
"""A camera that sends when a test tells it to is not dead in between."""


def make(address: str, **options: Any) -> Any:
    adapter = adapters.module("cameras", "gige", "cameras[0]")
    return adapter.open("top", adapters.options(adapter, {"address": address, **options}, "cameras[0].options"))


def simulator(**options: Any) -> Any:
    return make("Fake_1", **{"width_px": 64, "height_px": 8, **options})


@pytest.fixture
def scripted() -> Iterator[ScriptedCamera]:
    with ScriptedCamera() as camera:
        yield camera


def item(camera: Any, pool: Pool) -> Frame | Loss:
    """What comes next, however long the busy machine takes."""
    found = camera.read(pool, PATIENCE_S)
    assert found is not None, "nothing came"
    assert isinstance(found, Frame | Loss)
    return found


def frame(camera: Any, pool: Pool) -> Frame:
    found = item(camera, pool)
    assert isinstance(found, Frame), found
    found.release()
    return found


def until_dead(camera: Any, pool: Pool) -> str:
    """The words with which it dies; frames meanwhile are let go."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            found = camera.read(pool, 0.25)
        except CameraError as error:
            return str(error)
        if isinstance(found, Frame):
            found.release()
    raise AssertionError("it never died")


def until_came(camera: Any, packets: int) -> None:
    """The driver has taken in so many packets."""
    deadline = time.monotonic() + PATIENCE_S
    while camera._opening._stream.count("n_received_packets") < packets:
        assert time.monotonic() < deadline, "packets were lost on loopback"
        os.sched_yield()


# ---------------------------------------------------------------- every frame once


Story = list[tuple[int, str]]
"""For each frame: (how far its id is behind the one before, what becomes of its packets)."""


@st.composite
def stories(draw: st.DrawFn) -> Story:
    fates = st.sampled_from(["whole", "whole", "whole", "leader", "block", "trailer", "all"])
    return [(draw(st.sampled_from([1, 1, 1, 2, 5])), draw(fates)) for _ in range(draw(st.integers(1, 12)))]


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.sampled_from([1, 65530, 70000, 2**32 + 5]), stories())
def test_whatever_packets_are_lost_every_frame_is_delivered_or_lost_once(
    scripted: ScriptedCamera, first: int, story: Story
) -> None:
    wide = first > 0xFFFF
    pool = Pool(1)
    features = {"GevGVSPExtendedIDMode": "On" if first > 70000 else "Off"}
    with make(scripted.address, buffers=32, packet_size=1500, features=features, **TIMED) as camera:
        whole: dict[int, Sent] = {}
        bad: set[int] = set()
        issued, number = 0, first
        scripted.send(number, wide=wide)
        for step, fate in [*story, (1, "whole")]:
            issued += step
            number = first + issued
            if not wide and number > 0xFFFF:
                number -= 0xFFFF
            lost = {"leader": {0}, "block": {2}, "trailer": {scripted.packets - 1}, "all": range(10)}.get(fate, ())
            sent = scripted.send(number, lost=lost, wide=wide)
            if fate == "whole":
                whole[issued] = sent
            elif fate != "all":
                bad.add(issued)
        assert frame(camera, pool).sequence == 0
        expected, lost_by = 1, dict[Reason, int]()
        while expected <= issued:
            found = item(camera, pool)
            assert found.sequence == expected
            if isinstance(found, Frame):
                assert np.array_equal(found.pixels, whole.pop(found.sequence).pixels)
                assert found.encoder_count == expected * HEIGHT
                assert (found.piece, found.after) == (0, None)
                found.release()
                expected += 1
            else:
                lost_by[found.reason] = lost_by.get(found.reason, 0) + found.count
                expected += found.count
    assert not whole
    vanished = issued - len(story) - 1 + sum(fate == "all" for _, fate in story)
    assert lost_by == {k: v for k, v in {Reason.PACKETS: len(bad), Reason.MISSING: vanished}.items() if v}
    assert camera.link == Link(len(bad) + vanished * scripted.packets, 0)


def test_frames_that_found_no_buffer_are_told_from_those_that_never_came(scripted: ScriptedCamera) -> None:
    with make(scripted.address, buffers=2, **TIMED) as camera:
        for number in (1, 2, 3, 4, 5):
            scripted.send(number)
        until_came(camera, 5 * scripted.packets)
        pool = Pool(1)
        assert [frame(camera, pool).sequence for _ in range(2)] == [0, 1]
        scripted.send(7)  # 6 never came
        lost = [item(camera, pool), item(camera, pool)]
        assert [(one.sequence, one.count, one.reason) for one in lost if isinstance(one, Loss)] == [
            (2, 3, Reason.UNDERRUN),
            (5, 1, Reason.MISSING),
        ]
        assert frame(camera, pool).sequence == 6


@dataclass
class Told:
    """A stream as the driver would tell of it, and what it means."""

    arrivals: list[tuple[Arrival, int | None]]
    """(what came, status of a bad one)."""
    issued: int
    lost: dict[Reason, int]


PACKETS = 7


@st.composite
def streams(draw: st.DrawFn) -> Told:
    """Frames that come, come bad with or without an id, find no buffer, or vanish; the last one is good."""
    fates = draw(st.lists(st.sampled_from(["good", "bad", "nameless", "short", "vanished"]), max_size=20))
    number, underruns = draw(st.integers(1, 65535)), 0
    arrivals, lost = list[tuple[Arrival, int | None]](), dict[Reason, int]()
    for fate in ["good", *fates, "good"]:
        if fate == "short":
            underruns += PACKETS
        reason = {"short": Reason.UNDERRUN, "vanished": Reason.MISSING, "good": None}.get(fate, Reason.PACKETS)
        if reason is not None:
            lost[reason] = lost.get(reason, 0) + 1
        if fate in ("good", "bad", "nameless"):
            frame_id = NO_ID if fate == "nameless" else number
            arrivals.append((Arrival(frame_id, underruns), None if fate == "good" else Status.MISSING_PACKETS))
        number = number % 65535 + 1
    return Told(arrivals, len(fates) + 2, lost)


@settings(deadline=None, max_examples=200)
@given(streams())
def test_the_count_is_that_of_the_camera_whatever_the_driver_tells(told: Told) -> None:
    count, losses, goods = FrameCount("top", PACKETS), list[Loss](), list[int]()
    for arrival, status in told.arrivals:
        before, anew = count.arrive(arrival)
        assert not anew
        losses += before
        if status is None:
            goods.append(count.good())
        else:
            losses.append(count.bad(Popped(1, status, arrival.frame_id, 0, 0, 0, 0, 0), arrival, 1))
    assert count.next == told.issued
    numbers = [n for one in losses for n in range(one.sequence, one.sequence + one.count)]
    assert sorted(numbers + goods) == list(range(told.issued))
    by_reason = {reason: sum(one.count for one in losses if one.reason is reason) for reason in told.lost}
    if not any(arrival.frame_id == NO_ID for arrival, _ in told.arrivals):
        assert by_reason == told.lost
    assert by_reason.get(Reason.MISSING, 0) <= told.lost.get(Reason.MISSING, 0)


def test_the_simulators_underruns_are_counted_too() -> None:
    pool = Pool(1)
    with simulator(buffers=2, acquisition_frame_rate_hz=200.0) as camera:
        held = item(camera, pool)
        deadline = time.monotonic() + PATIENCE_S
        while not camera._opening._stream.count("n_underruns"):
            assert time.monotonic() < deadline
            assert camera.read(pool, 0.01) is None
        assert isinstance(held, Frame)
        held.release()
        found = [item(camera, pool)]
        while isinstance(found[-1], Frame):
            found[-1].release()
            found.append(item(camera, pool))
        assert found[-1].reason is Reason.UNDERRUN
        assert frame(camera, pool).sequence == found[-1].sequence + found[-1].count


def test_a_camera_that_begins_to_count_anew_is_another_piece_of_strip(scripted: ScriptedCamera) -> None:
    pool = Pool(1)
    with make(scripted.address, **TIMED) as camera:
        for number in (40000, 40001, 7, 8):
            scripted.send(number)
        found = [frame(camera, pool) for _ in range(4)]
    assert [one.sequence for one in found] == [0, 1, 2, 3]
    assert [one.after for one in found] == [None, None, Reason.RESET, None]
    assert [one.piece for one in found] == [0, 0, 1, 1]
    assert all(after.encoder_count >= before.encoder_count + HEIGHT for before, after in pairwise(found))


def test_a_long_hole_is_no_new_count_when_the_cameras_clock_bears_it_out(scripted: ScriptedCamera) -> None:
    """After a stall the host sees what is behind the hole in the same moment as what was before it."""
    scripted.clock = lambda: 0
    pool = Pool(1)
    with make(scripted.address, **TIMED) as camera:
        for number in (1, 2, 3, 4, 904, 905):
            scripted.send(number, timestamp_ns=AGO_NS + number * 10_000_000)
        assert [frame(camera, pool).after for _ in range(4)] == [None] * 4
        lost = item(camera, pool)
        assert isinstance(lost, Loss)
        assert (lost.sequence, lost.count, lost.reason) == (4, 899, Reason.MISSING)
        assert [frame(camera, pool).sequence for _ in range(2)] == [903, 904]


def test_a_frame_with_too_few_lines_is_a_failed_one(scripted: ScriptedCamera) -> None:
    pool = Pool(1)
    with make(scripted.address, **TIMED) as camera:
        scripted.send(1)
        scripted.send(2, lines=3)
        scripted.send(3)
        assert frame(camera, pool).sequence == 0
        lost = item(camera, pool)
        assert isinstance(lost, Loss)
        assert (lost.sequence, lost.count, lost.reason) == (1, 1, Reason.FAILED)
        assert "1200" in lost.detail
        assert frame(camera, pool).sequence == 2


def test_packets_that_are_sent_again_make_a_frame_whole() -> None:
    with ScriptedCamera(can_resend=True) as scripted, make(scripted.address, packet_size=1500, **TIMED) as camera:
        sent = scripted.send(1, lost={2})
        found = frame(camera, Pool(1))
        assert np.array_equal(found.pixels, sent.pixels)
        scripted.send(2)
        frame(camera, Pool(1))
        assert scripted.asked_again[0] == (1, 2, 2)
        assert (camera.link.packets_lost, camera.link.packets_resent) == (0, 1)


def test_packets_that_are_not_sent_again_in_time_lose_the_frame() -> None:
    with ScriptedCamera(can_resend=True) as scripted:
        scripted.holds_back = True
        options = {"packet_size": 1500, "packet_timeout_ms": 5, "frame_retention_ms": 30, **TIMED}
        with make(scripted.address, **options) as camera:
            scripted.send(1, lost={2})
            lost = item(camera, Pool(1))
            assert isinstance(lost, Loss)
            assert (lost.sequence, lost.reason) == (0, Reason.TIMEOUT)
            assert scripted.asked_again


def test_resending_is_not_asked_for_where_it_is_switched_off() -> None:
    with ScriptedCamera(can_resend=True) as scripted:
        with make(scripted.address, packet_size=1500, packet_resend=False, **TIMED) as camera:
            scripted.send(1, lost={2})
            scripted.send(2)
            lost = item(camera, Pool(1))
        assert isinstance(lost, Loss)
        assert lost.reason is Reason.PACKETS
        assert scripted.asked_again == []


# ---------------------------------------------------------------- place and time


def test_the_place_is_the_encoders_value_where_the_camera_sends_it() -> None:
    encoder = {"source": "chunk", "chunk_bits": 32, "first_count": 10}
    with ScriptedCamera(chunks=True) as scripted, make(scripted.address, encoder=encoder, **TIMED) as camera:
        pool = Pool(1)
        assert scripted.read(PAYLOAD) == HEIGHT * WIDTH + 20
        values = [2**32 - 100, 50, None, 400, 390]  # over the wrap, one without, and back
        found = []
        for number, value in enumerate(values, 1):
            sent = scripted.send(number, encoder=value)
            found.append(frame(camera, pool))
            assert np.array_equal(found[-1].pixels, sent.pixels)
    wrapped = [10 + 2**32 - 100, 10 + 2**32 + 50, 10 + 2**32 + 50 + HEIGHT, 10 + 2**32 + 400, 10 + 2**32 + 390]
    assert [one.encoder_count for one in found] == wrapped
    assert [one.counts_per_line for one in found[:4]] == [None] * 4
    assert found[4].counts_per_line is not None
    assert found[4].counts_per_line < 0


def test_a_camera_without_the_chunk_is_refused(scripted: ScriptedCamera) -> None:
    camera = make(scripted.address, encoder={"source": "chunk", "chunk": "ChunkCounterValue"})
    with pytest.raises(CameraError, match=r"encoder\.chunk: .*CounterValue.* takes Image, EncoderValue"), camera:
        pass


def test_exposure_is_the_cameras_own_and_the_hosts_is_within_what_is_said(scripted: ScriptedCamera) -> None:
    scripted.clock = lambda: time.time_ns() - AGO_NS
    pool = Pool(1)
    with make(scripted.address, **TIMED) as camera:
        for number in range(1, 6):
            exposed = scripted.clock()
            scripted.send(number, timestamp_ns=exposed)
            found = frame(camera, pool)
            assert found.camera_ns == exposed
            assert found.uncertainty_ns is not None
            assert abs(found.exposed_ns - (exposed + AGO_NS)) <= found.uncertainty_ns


def test_a_clock_that_cannot_be_read_is_bounded_by_what_comes_soonest() -> None:
    with ScriptedCamera(has_latch=True) as scripted:
        scripted.clock = lambda: 0  # the registers stand still
        with make(scripted.address, **TIMED) as camera:
            found = []
            for number in range(1, 12):
                scripted.send(number, timestamp_ns=time.time_ns() - AGO_NS)
                found.append(frame(camera, Pool(1)))
    assert found[0].uncertainty_ns is None
    assert found[-1].uncertainty_ns is not None
    assert found[-1].camera_ns is not None
    assert found[-1].exposed_ns - found[-1].camera_ns >= AGO_NS - 1_000_000


def test_a_camera_without_a_clock_has_no_camera_time() -> None:
    with ScriptedCamera(has_latch=False) as scripted, make(scripted.address, **TIMED) as camera:
        before = time.time_ns()
        scripted.send(1)
        found = frame(camera, Pool(1))
        assert (found.camera_ns, found.uncertainty_ns) == (None, None)
        assert before - 1_000_000 <= found.exposed_ns <= time.time_ns()


def test_the_count_runs_on_over_a_reopening(scripted: ScriptedCamera) -> None:
    camera, pool = make(scripted.address, **TIMED), Pool(1)
    with camera:
        for number in range(1, 4):
            scripted.send(number)
            last = frame(camera, pool)
        scripted.send(5)  # 4 never came
        assert isinstance(item(camera, pool), Loss)
        last = frame(camera, pool)
        assert camera.link.packets_lost == scripted.packets
    with camera:
        scripted.send(900)
        again = frame(camera, pool)
    assert camera.link.packets_lost == scripted.packets
    assert again.sequence == 0
    assert again.encoder_count >= last.encoder_count + HEIGHT
    assert (again.encoder_count - last.encoder_count) % HEIGHT == 0


# ---------------------------------------------------------------- death


LIBRARYS = {"abandoned", "arv_gv_stream", "arv_gv_heartbea"}
"""Names of the threads that belong to an open camera, or to a dead one that is still being let go."""


def threads() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/task"):
        with suppress(OSError):
            found.add(Path(f"/proc/self/task/{number}/comm").read_text().strip())
    return found


def open_files() -> int:
    """How many are open once the library's threads are gone; those that let a dead camera go take up to 9 s."""
    deadline = time.monotonic() + PATIENCE_S
    while LIBRARYS & threads():
        assert time.monotonic() < deadline, "a thread of the library outlives its camera"
        threading.Event().wait(0.05)
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("dies", [False, True])
def test_however_it_ends_a_camera_leaves_no_thread_and_no_file(scripted: ScriptedCamera, dies: bool) -> None:
    camera, pool = make(scripted.address, frame_timeout_s=0.3), Pool(1)
    files = open_files()
    for number in (1, 2, 3):
        with camera:
            scripted.send(number)
            frame(camera, pool)
            if dies:
                scripted.mute = True
                until_dead(camera, pool)
        scripted.mute = False
        if dies:
            scripted.write(PRIVILEGE, 0)
    assert open_files() == files


def test_a_camera_that_runs_by_itself_and_falls_silent_is_dead(scripted: ScriptedCamera) -> None:
    with make(scripted.address, frame_timeout_s=0.6) as camera:
        scripted.send(1)
        frame(camera, Pool(1))
        assert "frame_timeout_s" in until_dead(camera, Pool(1))


def test_a_camera_of_which_no_packet_comes_is_told_apart(scripted: ScriptedCamera) -> None:
    with make(scripted.address, frame_timeout_s=0.6) as camera:
        assert "packet_size" in until_dead(camera, Pool(1))


def test_a_triggered_camera_may_be_silent_as_long_as_it_answers(scripted: ScriptedCamera) -> None:
    trigger = [{"selector": "LineStart", "source": "Encoder0"}]
    with make(scripted.address, trigger=trigger, encoder_divider=4) as camera:
        assert scripted.read(TRIGGER) == 1
        scripted.send(1)
        frame(camera, Pool(1))
        for _ in range(8):
            assert camera.read(Pool(1), 0.25) is None
        scripted.mute = True
        assert "does not answer" in until_dead(camera, Pool(1))


def test_a_camera_that_was_restarted_knows_nothing_of_us(scripted: ScriptedCamera) -> None:
    with make(scripted.address, trigger=[{"source": "Line1"}]) as camera:
        scripted.write(PRIVILEGE, 0)
        assert "restarted" in until_dead(camera, Pool(1))


def test_a_camera_of_somebody_else_is_not_taken(scripted: ScriptedCamera) -> None:
    with (
        make(scripted.address, **TIMED),
        pytest.raises(CameraError, match=r"camera top: .*another program controls"),
        make(scripted.address, **TIMED),
    ):
        pass


def test_a_waiting_frame_is_given_back_when_the_camera_closes(scripted: ScriptedCamera) -> None:
    camera, pool = make(scripted.address, buffers=2, **TIMED), Pool(1)
    for number in range(1, 6):
        with camera:
            scripted.send(number)
            scripted.send(number + 1)
            held = item(camera, pool)
            assert camera.read(pool, 0.0) is None or pool.in_use == 1
            assert isinstance(held, Frame)
            held.release()


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width_px": 9999}, r"width_px: the camera refuses Width = 9999: .*range; it takes 16 to 4096 in steps of 8"),
        ({"encoder_divider": 1000}, r"encoder_divider: .*it takes 1 to 100"),
        ({"exposure_time_us": 10.0}, r"exposure_time_us: the camera has no feature ExposureTime or ExposureTimeAbs"),
        ({"features": {"NoSuch": 1}}, r"features\.NoSuch: the camera has no feature NoSuch.*Take features\.NoSuch out"),
        ({"features": {"TriggerSource": "Line9"}}, r"features\.TriggerSource: .*it takes Line1, Encoder0"),
        ({"features": {"ChunkModeActive": "perhaps"}}, r"features\.ChunkModeActive: .*it takes true or false"),
        ({"features": {"EncoderDivider": 1.5}}, r"features\.EncoderDivider: .*whole numbers"),
        ({"trigger": [{"source": "Line7"}]}, r"trigger\[0\]\.source: .*Line7.*it takes Line1, Encoder0"),
        ({"packet_socket": True}, None),
    ],
)
def test_what_the_camera_refuses_is_named_with_what_it_takes(
    scripted: ScriptedCamera, options: dict[str, Any], words: str | None
) -> None:
    if words is None:
        if os.geteuid() == 0:
            pytest.skip("root may open packet sockets")
        words = "packet_socket: .*CAP_NET_RAW"
    files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CameraError, match=f"camera top: {words}"), make(scripted.address, **options):
        pass
    assert len(os.listdir("/proc/self/fd")) == files


def test_what_is_set_arrives_at_the_camera(scripted: ScriptedCamera) -> None:
    features = {"TriggerSource": "Encoder0", "EncoderDivider": 7, "ChunkModeActive": False}
    with make(scripted.address, width_px=160, height_px=4, features=features, **TIMED) as camera:
        sent = scripted.send(1)
        assert sent.pixels.shape == (4, 160)
        assert np.array_equal(frame(camera, Pool(1)).pixels, sent.pixels)
    assert (scripted.read(0x10020), scripted.read(0x10034)) == (1, 7)


def test_the_log_says_which_camera_it_speaks_of(scripted: ScriptedCamera, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="inspector.cameras"), make(scripted.address, **TIMED):
        pass
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert [line.split(" px,")[0] for line in said] == [f"camera top ({scripted.address}): {WIDTH} x {HEIGHT}"]


def test_another_pixel_format_is_changed_to_mono8(scripted: ScriptedCamera) -> None:
    scripted.write(0x10008, 0x01100005)
    with make(scripted.address, **TIMED):
        assert scripted.read(0x10008) == 0x01080001


def test_a_camera_that_comes_back_with_another_height_says_so(scripted: ScriptedCamera) -> None:
    camera = make(scripted.address, **TIMED)
    with camera:
        pass
    scripted.write(0x10004, 16)
    with pytest.raises(CameraError, match=r"16 lines.*had 8; state height_px"), camera:
        pass


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(ConfigError, match="apt-get install libaravis"):
        _aravis._Library()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "10.0.0.300"}, "address: .*no IP address"),
        ({"address": "Fake_1", "features": {"PixelFormat": "Mono12"}}, "only Mono8"),
        ({"address": "Fake_1", "packet_size": 100}, "packet_size"),
        ({"address": "Fake_1", "exposure": 1}, "exposure"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_opened(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(**options)


def test_packets_are_as_large_as_the_card_takes_up_to_9000(scripted: ScriptedCamera) -> None:
    with make(scripted.address, **TIMED):
        assert scripted.read(0xD04) & 0xFFFF == 9000
    with make(scripted.address, packet_size=1400, **TIMED):
        assert scripted.read(0xD04) & 0xFFFF == 1400


# ---------------------------------------------------------------- the way to a camera


@needs_namespace
def test_discovery_finds_what_is_there_and_a_serial_number_opens_it() -> None:
    from tests.gige import FakeCamera

    with private_network(), FakeCamera(serial="GV07"):
        found = adapters.module("cameras", "gige", "").discover(1.0)
        assert [(one.kind, one.address, one.serial) for one in found] == [("gige", "127.0.0.1", "GV07")]
        with make("GV07", width_px=64, height_px=8) as camera:
            frame(camera, Pool(1))
        with pytest.raises(CameraError, match="no camera called GV08"), make("GV08"):
            pass


def test_a_frame_lies_where_its_lines_say() -> None:
    encoder = {"counts_per_line": 2.5, "first_count": 100}
    with simulator(acquisition_frame_rate_hz=500.0, encoder=encoder) as camera:
        found = [frame(camera, Pool(1)) for _ in range(4)]
    assert [one.encoder_count for one in found] == [100, 120, 140, 160]
