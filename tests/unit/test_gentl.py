"""gentl: TLSimu's frames bit by bit, each loss once, and a process that may die in any way without leaving anything."""

from __future__ import annotations

import importlib.util
import itertools
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector import adapters
from inspector.cameras._gentl_losses import Losses
from inspector.cameras._gentl_ring import Gone, Ring, Writer
from inspector.cameras._gentl_words import RECORD_BYTES, UNKNOWN, Kind, Nonsense, Ready, Record
from inspector.errors import CameraError, ConfigError
from inspector.events import Reason
from inspector.pool import Pool
from inspector.records import Frame, Loss
from tests.gentl import TLSIMU, VIKY, is_frame, made, needs_tlsimu, needs_viky, simulated

gentl = pytest.importorskip("inspector.cameras.gentl", reason="needs harvesters and genicam", exc_type=ImportError)

# ---------------------------------------------------------------- the ring

SIZE = 48


@contextmanager
def ring(slots: int, most: int) -> Iterator[tuple[Ring, Writer]]:
    """Both ends in one process."""
    reader = Ring(b"{}")
    ends = [os.dup(end) for end in reader.ends]
    writer = Writer(*ends)
    reader.started()
    writer.grow(slots, SIZE, most)
    reader.map(Ready(title="", link="", width=8, height=6, slots=slots, size=SIZE, triggered=False, id_bits=64))
    try:
        yield reader, writer
    finally:
        with suppress(OSError):  # a test may have closed one
            reader.close()
        for end in ends:
            with suppress(OSError):
                os.close(end)


def painted(writer: Writer, slot: int, number: int) -> Record:
    """A frame that shows `number`, in the shared memory as a driver would leave it."""
    base = np.frombuffer(writer._map, dtype=np.uint8)
    start = writer.address(slot) - base.ctypes.data
    base[start : start + SIZE] = number % 251
    return Record(Kind.FRAME, slot=slot, frame_id=number, height=6, width=7, pitch=8)


@settings(deadline=None, max_examples=150)
@given(
    most=st.integers(1, 4),
    spare=st.integers(1, 2),
    turns=st.lists(st.sampled_from(["frame", "frame", "bad", "get", "give"]), max_size=60),
)
def test_whatever_the_turns_frames_keep_order_and_content_and_each_drop_is_counted(
    most: int, spare: int, turns: list[str]
) -> None:
    with ring(most + spare, most) as (reader, writer):
        free, number, dropped = deque(range(most + spare)), itertools.count(), list[int]()
        sent, seen, held = list[int](), list[int](), deque[Record]()
        for turn in [*turns, *["get"] * len(turns)]:
            if turn in ("frame", "bad"):
                free.extend(writer.returned())
                one, slot = next(number), free.popleft()
                record = painted(writer, slot, one)
                if turn == "bad":
                    record = record._replace(kind=Kind.BAD)
                kept = writer.put(record)
                (sent if kept else dropped).append(one)
                if not kept or turn == "bad":
                    free.append(slot)
                assert kept or (turn == "frame" and writer.held == most)
            elif turn == "get" and (record := reader.get(0.0)) is not None:
                seen.append(record.frame_id)
                assert record.dropped == sum(lost < record.frame_id for lost in dropped)
                held += [record] if record.kind == Kind.FRAME else []
            elif turn == "give" and held:
                reader.give_back(held.popleft().slot)
            for record in held:
                assert (reader.pixels(record) == record.frame_id % 251).all()
        assert seen == sent
        assert reader.dropped == len(dropped) == writer.dropped


def test_rows_may_be_padded_and_begin_anywhere() -> None:
    with ring(3, 2) as (reader, writer):
        base = np.frombuffer(writer._map, dtype=np.uint8)
        start = writer.address(1) - int(base.ctypes.data)
        base[start : start + SIZE] = np.arange(SIZE)
        writer.put(Record(Kind.FRAME, slot=1, height=3, width=5, pitch=8, offset=4))
        record = reader.get(0.0)
        assert record is not None
        assert reader.pixels(record).tolist() == [[4 + 8 * row + column for column in range(5)] for row in range(3)]


@pytest.mark.parametrize("junk", [b"x" * RECORD_BYTES, b"hello\n", b"\0" * RECORD_BYTES])
def test_what_is_no_record_is_refused(junk: bytes) -> None:
    with ring(3, 2) as (reader, writer):
        os.write(writer._records, junk)
        with pytest.raises(Nonsense):
            reader.get(0.0)


@pytest.mark.parametrize("wild", [{"slot": 3}, {"offset": 1}, {"pitch": 9}, {"width": 9}, {"width": 0}, {"height": 0}])
def test_a_frame_outside_the_memory_is_refused(wild: dict[str, int]) -> None:
    with ring(3, 2) as (reader, writer):
        writer.put(Record(Kind.FRAME, height=6, width=8, pitch=8)._replace(**wild))
        with pytest.raises(Nonsense):
            reader.get(0.0)


def test_the_memory_cannot_be_taken_away_from_under_the_pixels() -> None:
    with ring(3, 2) as (_, writer), pytest.raises(PermissionError):
        os.truncate(writer._memory, 0)


def test_an_error_does_not_run_over_a_notice_that_was_not_read_yet() -> None:
    with ring(3, 2) as (reader, writer):
        writer.say(Kind.READY, b"here I am")
        writer.say(Kind.ERROR, b"too long " * 100_000)
        assert [record.kind for record in (reader.get(0.0), reader.get(0.0)) if record] == [Kind.READY, Kind.ERROR]
        assert reader.notice(Kind.READY) == b"here I am"
        assert reader.notice(Kind.ERROR).startswith(b"too long too long ")
        assert (np.frombuffer(writer._map, dtype=np.uint8)[-3 * 4096 :] == 0).all()  # nor over the slots


def test_each_end_sees_the_other_go_after_what_was_said() -> None:
    with ring(3, 2) as (reader, writer):
        writer.put(painted(writer, 0, 7))
        os.close(writer._records)
        record = reader.get(0.0)
        assert record is not None
        assert record.frame_id == 7
        with pytest.raises(Gone):
            reader.get(0.0)
    with ring(3, 2) as (reader, writer):
        reader.close()
        with pytest.raises(Gone):
            writer.returned()
        with pytest.raises(Gone):
            writer.put(painted(writer, 0, 0))


# ---------------------------------------------------------------- the books

FATES = ["seen", "seen", "seen", "bad", "nameless", "dropped", "starved", "vanished"]


@settings(deadline=None, max_examples=300)
@given(
    fates=st.lists(st.sampled_from(FATES), max_size=50),
    first=st.integers(65_500, 65_535),
    bits=st.sampled_from([16, 64]),
    camera_counts=st.booleans(),
)
def test_each_lost_frame_is_counted_once_and_for_its_reason(
    fates: list[str], first: int, bits: int, camera_counts: bool
) -> None:
    """Ids by the camera count every frame; ids by the producer only those it had a buffer for, and those it has."""
    fates = ["seen", *(fate for fate in fates if camera_counts or fate != "vanished"), "seen", "seen", "seen"]
    losses, frame_id, dropped, underruns = Losses(bits), first, 0, 0
    told = dict.fromkeys(("late", "starved", "vanished"), 0)
    for fate in fates:
        if fate == "starved":
            underruns += 1
        if fate == "dropped":
            dropped += 1
        if fate in ("seen", "bad", "nameless"):
            record = Record(
                Kind.FRAME if fate == "seen" else Kind.BAD,
                frame_id=UNKNOWN if fate == "nameless" else frame_id,
                dropped=dropped,
                underruns=underruns,
                settled=1,
            )
            missing, restarted = losses.before(record)
            assert not restarted
            for part in missing:
                late = "held all" in part.detail
                kind = "vanished" if part.reason is Reason.MISSING else "late" if late else "starved"
                told[kind] += part.count
        if fate != "starved" or camera_counts:
            frame_id += 1
            if bits == 16 and frame_id > 65_535:
                frame_id = 1
    assert sum(told.values()) == sum(fate in ("dropped", "starved", "vanished") for fate in fates)
    assert told["late"] == fates.count("dropped")
    assert told["starved"] == fates.count("starved")


def test_without_any_ids_what_the_process_and_the_producer_count_is_all_there_is() -> None:
    losses = Losses(64)
    assert losses.before(Record(Kind.FRAME)) == ([], False)
    missing, restarted = losses.before(Record(Kind.FRAME, dropped=2, underruns=3))
    assert ([(part.count, part.reason) for part in missing], restarted) == (
        [(2, Reason.UNDERRUN), (3, Reason.UNDERRUN)],
        False,
    )
    assert losses.before(Record(Kind.FRAME, dropped=2, underruns=3)) == ([], False)


def test_ids_that_begin_again_are_no_hole() -> None:
    losses = Losses(64)
    assert losses.before(Record(Kind.FRAME, frame_id=500)) == ([], False)
    assert losses.before(Record(Kind.FRAME, frame_id=0)) == ([], True)
    missing, restarted = losses.before(Record(Kind.FRAME, frame_id=3))
    assert ([(part.count, part.reason) for part in missing], restarted) == ([(2, Reason.MISSING)], False)


def test_a_producer_that_unwraps_the_cameras_ids_is_noticed() -> None:
    losses = Losses(16)
    for frame_id in (65_534, 65_535, 65_536, 65_537):
        assert losses.before(Record(Kind.FRAME, frame_id=frame_id))[0] == []


# ---------------------------------------------------------------- with TLSimu

CHUNKS = """
from inspector.cameras import _gentl_devices
honest_put = _gentl_devices.put
_gentl_devices.put = lambda nodes, names, *more: names[0].startswith("Chunk") or honest_put(nodes, names, *more)
"""
"""For the camera's process: TLSimu has no chunks to switch on."""

Item = Frame | Loss


def items(camera: gentl.GentlCamera, pool: Pool) -> Iterator[Item]:
    """What comes, each frame given back before the next; a camera that is silent for 10 s has failed the test."""
    while True:
        for _ in range(100):
            item = camera.read(pool, 0.1)
            if item is not None:
                break
        else:
            raise AssertionError("silent")
        yield item
        if isinstance(item, Frame):
            item.release()


def until(camera: gentl.GentlCamera, wanted: Callable[[Item], bool], most: int = 1000) -> list[Item]:
    """Everything up to the first item that is wanted. Pixels are gone by then."""
    found = []
    for item in itertools.islice(items(camera, Pool(2)), most):
        found.append(item)
        if wanted(item):
            return found
    raise AssertionError(f"not among {most} items")


def frames(camera: gentl.GentlCamera, count: int) -> list[Frame]:
    """The first frames; nothing may be lost. Pixels are gone by then."""
    found = list(itertools.islice(items(camera, Pool(2)), count))
    assert all(isinstance(item, Frame) for item in found), found
    return [item for item in found if isinstance(item, Frame)]


def read_on(camera: gentl.GentlCamera) -> None:
    """Until the camera dies; until then every frame is the right one."""
    for number, item in enumerate(items(camera, Pool(1))):
        assert isinstance(item, Frame)
        assert is_frame(item, number)


def end(camera: gentl.GentlCamera, how: signal.Signals, words: str) -> None:
    """What it had delivered is still delivered; then it is dead."""
    assert camera.pid is not None
    os.kill(camera.pid, how)
    with pytest.raises(CameraError, match=words):
        deque(items(camera, Pool(1)), maxlen=0)


def files() -> set[str]:
    return {f"{n} {os.readlink(f'/proc/self/fd/{n}')}" for n in os.listdir("/proc/self/fd") if _is_open(n)}


def _is_open(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


@needs_tlsimu
def test_frames_arrive_bit_by_bit() -> None:
    with made(width_px=2048, height_px=256) as camera:
        for number, frame in enumerate(itertools.islice(items(camera, Pool(1)), 50)):
            assert isinstance(frame, Frame)
            assert frame.sequence == number
            assert frame.encoder_count == 256 * number
            assert frame.pixels.shape == (256, 2048)
            assert is_frame(frame, number)


@needs_tlsimu
def test_a_late_reader_loses_exactly_what_did_not_fit() -> None:
    pool = Pool(1)
    with made(buffers=3) as camera:
        held = next(items(camera, pool))
        assert isinstance(held, Frame)
        assert camera._feed is not None
        while camera._feed.process.ring.dropped < 5:
            assert camera.read(pool, 0.05) is None
        assert is_frame(held, 0)
        held.release()
        lost, number = 0, 1
        for item in itertools.islice(items(camera, pool), 30):
            assert item.sequence == number
            if isinstance(item, Loss):
                assert item.reason is Reason.UNDERRUN
                lost += item.count
            else:
                assert is_frame(item, number)  # the ramp knows nothing of our books
            number += item.count if isinstance(item, Loss) else 1
        assert lost >= 5


@needs_tlsimu
def test_what_was_dropped_before_the_end_is_told_before_the_end() -> None:
    pool = Pool(1)
    with made("if turn == 10: raise Trouble('the strip tore')", buffers=2) as camera:
        held = next(items(camera, pool))
        assert camera.pid is not None
        ended(camera.pid)
        held.release()
        stream, seen = items(camera, pool), list[Item]()
        with pytest.raises(CameraError, match="the strip tore"):
            seen.extend(stream)
    counts = [item.count if isinstance(item, Loss) else 1 for item in seen]
    assert sum(counts) == 9
    assert [item.sequence for item in seen] == list(itertools.accumulate([1, *counts[:-1]]))


def ended(process: int) -> None:
    """Waits for the end of a process that is perhaps not our own."""
    end = os.pidfd_open(process)
    poll = select.poll()
    poll.register(end, select.POLLIN)
    assert poll.poll(20_000), "it does not end"
    os.close(end)


@needs_tlsimu
def test_its_time_stamps_which_begin_again_each_second_are_not_used() -> None:
    with made() as camera:
        seen = until(camera, lambda item: isinstance(item, Frame) and item.camera_ns is None)
        seen += until(camera, lambda item: item.sequence >= seen[-1].sequence + 3)
    last = [item for item in seen if isinstance(item, Frame)][-3:]
    assert [frame.camera_ns for frame in last] == [None] * 3
    assert [frame.uncertainty_ns for frame in last] == [None] * 3
    assert all(b.exposed_ns > a.exposed_ns for a, b in itertools.pairwise(last))


@needs_tlsimu
def test_a_bad_buffer_is_one_failed_frame() -> None:
    with made("if record and turn % 3 == 1: record = record._replace(kind=Kind.BAD)") as camera:
        for number, item in enumerate(itertools.islice(items(camera, Pool(1)), 12)):
            assert item.sequence == number
            if number % 3 == 1:
                assert isinstance(item, Loss)
                assert (item.count, item.reason) == (1, Reason.FAILED)
            else:
                assert isinstance(item, Frame)
                assert is_frame(item, number)


@needs_tlsimu
def test_ids_that_begin_again_begin_a_new_piece_of_strip_and_no_new_numbers() -> None:
    with made("if record and turn >= 5: record = record._replace(frame_id=turn - 5)") as camera:
        seen = frames(camera, 8)
    assert [frame.sequence for frame in seen] == list(range(8))
    assert [frame.after for frame in seen] == [None] * 5 + [Reason.RESET] + [None] * 2
    assert [frame.piece for frame in seen] == [0] * 5 + [1] * 3


@needs_tlsimu
def test_the_encoders_chunk_is_the_place_on_the_strip() -> None:
    plant = "if record: record = record._replace(has_chunk=1, chunk=1000 - 10 * turn)"
    with made(plant) as camera:
        assert [frame.encoder_count for frame in frames(camera, 3)] == [0, 64, 128]  # nobody asked for the chunk
    with made(plant, CHUNKS, encoder={"source": "chunk"}) as camera:
        assert [frame.encoder_count for frame in frames(camera, 4)] == [1000, 990, 980, 970]


@needs_viky
def test_a_real_chunk_is_read() -> None:
    options = {
        "producer": str(VIKY),
        "device": "VikyTL_DEV_red",
        "width_px": 100,
        "height_px": 100,
        "acquisition_frame_rate_hz": 200,
        "features": {"PixelFormat": "Mono8"},
        "encoder": {"source": "chunk", "chunk": "ChunkNrBounces"},
    }
    with made(**options) as camera:
        seen = until(camera, lambda item: isinstance(item, Frame) and item.encoder_count == 2)
    counts = [item.encoder_count for item in seen if isinstance(item, Frame)]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2}


# ---------------------------------------------------------------- a camera that cannot be opened


@needs_tlsimu
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "4711"}, "no device '4711'; set `device` to .* SN_InterfaceA_0.* SN_InterfaceB_1"),
        ({"device": None}, "more than one device; set `device`"),
        ({"device": "TLSimuMono"}, "2 devices are called 'TLSimuMono'"),
        ({"width_px": 3}, "width_px: the camera refuses Width = 3: .*; it takes 8 to 4096 in steps of 4"),
        ({"features": {"Widht": 8}}, r"features\.Widht: the camera has no feature Widht \(did you mean Width"),
        ({"features": {"TriggerMode": "Of"}}, r"features\.TriggerMode: .*TriggerMode = Of: [a-z].*; it takes Off, On"),
        ({"features": {"DeviceVersion": "2"}}, r"features\.DeviceVersion: .*DeviceVersion = 2: it is read-only"),
        (
            {"acquisition_line_rate_hz": 20_000},
            "acquisition_line_rate_hz: .* no feature AcquisitionLineRate or AcquisitionLineRateAbs.* under features$",
        ),
        (
            {"grabber": {"stream": {"BufferHeight": 8}}},
            r"grabber\.stream\.BufferHeight: the producer's stream has no feature BufferHeight",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_choices(options: dict[str, Any], words: str) -> None:
    before = files()
    with pytest.raises(CameraError, match=f"camera cam-1: .*{words}"):
        made(**options).__enter__()
    assert files() == before


@needs_tlsimu
@pytest.mark.parametrize(
    ("plant", "words"),
    [
        ("raise Trouble('the lens cap is on')", "the lens cap is on"),
        ("raise ZeroDivisionError('a fault')", "ZeroDivisionError: a fault"),
        ("if turn > 2: ctypes.string_at(0)", "was ended by SIGSEGV"),
        ("if turn > 2: print('no licence', flush=True), os._exit(3)", "ended with 3; its last words: no licence"),
        ("if turn > 2: time.sleep(100)", "hangs"),
        ("if turn > 2: os.write(int(sys.argv[2]), b'garbage' * 20)", "talks nonsense"),
        ("if turn > 2: record = None", r"no frame for 1 s \(frame_timeout_s\)"),
    ],
    ids=["trouble", "exception", "crash", "exit", "hang", "nonsense", "silence"],
)
def test_a_process_that_fails_is_a_dead_camera_that_comes_back(plant: str, words: str) -> None:
    camera, before = made(plant), files()
    with pytest.raises(CameraError, match=f"camera cam-1: .*{words}"), camera:
        read_on(camera)
    assert files() == before
    camera.command = None
    with camera:
        item = next(items(camera, Pool(1)))
        assert isinstance(item, Frame)
        assert is_frame(item, 0)


@needs_tlsimu
def test_killed_again_and_again_it_comes_back_and_leaves_nothing() -> None:
    camera, reached = made(), -1
    before = files()
    for _ in range(5):
        with camera:
            pid = camera.pid
            seen = frames(camera, 3)
            assert seen[0].encoder_count > reached
            reached = seen[-1].encoder_count
            end(camera, signal.SIGKILL, "was ended by SIGKILL")
        assert files() == before
        assert not os.path.exists(f"/proc/{pid}")  # reaped: not even a zombie


@needs_tlsimu
def test_a_process_that_is_stopped_hangs_and_is_got_rid_of() -> None:
    camera = made()
    with camera:
        pid = camera.pid
        frames(camera, 1)
        end(camera, signal.SIGSTOP, "hangs")
    assert not os.path.exists(f"/proc/{pid}")


@needs_tlsimu
def test_what_a_producer_prints_goes_nowhere_it_could_hurt() -> None:
    plant = "with contextlib.suppress(BlockingIOError): os.write(turn % 2 + 1, b'noise' * 20_000)"
    with made(plant) as camera:
        assert [frame.sequence for frame in frames(camera, 40)] == list(range(40))


@needs_tlsimu
def test_the_process_dies_with_the_daemon() -> None:
    daemon = """
    from inspector.pool import Pool
    from tests.gentl import made
    camera = made()
    with camera:
        print(camera.pid, flush=True)
        input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(daemon)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    with suppress(ProcessLookupError):  # gone already
        ended(child)


@needs_tlsimu
def test_a_triggered_camera_may_be_silent() -> None:
    with made(features={"TriggerMode": "On"}, frame_timeout_s=0.05) as camera:
        assert [camera.read(Pool(1), 0.1) for _ in range(4)] == [None] * 4


@needs_tlsimu
def test_a_silent_camera_is_asked_whether_it_still_answers() -> None:
    plant = "self._nodes = None"  # whatever is asked, it cannot be answered
    with pytest.raises(CameraError, match="does not answer"), made(plant, features={"TriggerMode": "On"}) as camera:
        read_on(camera)


# ---------------------------------------------------------------- what is there


@needs_tlsimu
def test_what_is_discovered_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TLSIMU is not None
    monkeypatch.setenv(gentl.PRODUCERS, f"/nowhere:{TLSIMU.parent}")
    before = files()
    found = [device for device in gentl.discover(20.0) if device.options["producer"] == str(TLSIMU)]
    assert files() == before
    assert [(device.serial, device.model, device.detail) for device in found] == [
        (f"SN_Interface{card}_{n}", f"TLSimu{model}", f"Center, on XX::Interface{card}")
        for card in "AB"
        for n, model in enumerate(("Mono", "Color"))
    ]
    with made(**found[2].options) as camera:
        assert isinstance(next(items(camera, Pool(1))), Frame)


@needs_tlsimu
def test_a_producer_that_cannot_be_loaded_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert TLSIMU is not None
    (tmp_path / "broken.cti").write_text("no library")
    monkeypatch.setenv(gentl.PRODUCERS, f"{tmp_path}:{TLSIMU.parent}")
    assert len([device for device in gentl.discover(20.0) if device.options["producer"] == str(TLSIMU)]) == 4
    assert "broken.cti" in caplog.text


def test_a_producer_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(gentl.PRODUCERS, raising=False)
    with pytest.raises(ConfigError, match=r"no file /nowhere/maker\.cti"):
        made(producer="/nowhere/maker.cti")
    adapter = adapters.module("cameras", "gentl", "")
    with pytest.raises(ConfigError, match="GENICAM_GENTL64_PATH names no folder"):
        adapter.open("cam-1", adapters.options(adapter, {}, "options"))
    with pytest.raises(ConfigError, match="GENICAM_GENTL64_PATH names no folder"):
        gentl.discover(1.0)


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "genicam" else find(name))
    monkeypatch.delitem(sys.modules, "inspector.cameras.gentl")
    with pytest.raises(ConfigError, match=r"genicam.*pip install 'inspector\[gentl\]'"):
        adapters.module("cameras", "gentl", "cameras[0]")


@needs_tlsimu
def test_a_camera_that_gives_other_pixels_is_refused() -> None:
    adapter = adapters.module("cameras", "gentl", "cameras[0]")
    options = adapters.options(adapter, simulated(features={"PixelFormat": "Mono16"}), "cameras[0].options")
    with pytest.raises(ConfigError, match=r"gentl: features\.PixelFormat: Mono16 cannot be used"):
        adapter.check(options)
    camera = adapter.GentlCamera("cam-1", options)  # as one that stands like this and was not asked to change
    with pytest.raises(CameraError, match=r"PixelFormat is Mono16, and only Mono8 .* {PixelFormat: Mono8}"), camera:
        pass


def test_the_daemon_itself_loads_nothing_of_the_vendor() -> None:
    code = "import sys, inspector.cameras.gentl; print([m for m in sys.modules if m in ('genicam', 'harvesters')])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert seen.stdout == "[]\n"


def test_options_of_the_simulator_are_options() -> None:
    adapter = adapters.module("cameras", "gentl", "")
    options = adapters.options(adapter, simulated(device=3, frame_id_bits=32), "options")
    assert (options.device, options.frame_id_bits, options.buffers) == (3, 32, 256)
