"""cameras/_pylon_books.py and _pylon_grab.py where pylon's emulation shows nothing: ids, clocks, chunks, packets."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspector.cameras import Link
from inspector.cameras._genicam import Settings
from inspector.cameras._odometer import Encoder, Odometer
from inspector.cameras._pylon_books import NO_ID, Counters, Numbers, blame
from inspector.errors import CameraError
from inspector.events import Reason
from inspector.pool import Pool
from inspector.records import Frame, Loss
from tests.basler import needs_pylon

# ---------------------------------------------------------------- why a buffer is bad


@pytest.mark.parametrize(
    ("code", "description", "reason"),
    [
        (0xE1000014, "The buffer was incompletely grabbed. This can be caused by ...", Reason.PACKETS),
        (0xE2000212, "Payload data has been discarded.", Reason.PACKETS),
        (0xE2000011, "A payload or trailer transfer timed out.", Reason.TIMEOUT),
        (0xE2000011, "Read operation failed.", Reason.FAILED),
        (0, "The buffer was incompletely grabbed.", Reason.FAILED),
        (0, "", Reason.FAILED),
    ],
)
def test_the_code_says_why(code: int, description: str, reason: Reason) -> None:
    found, detail = blame(code, description)
    assert found == reason
    assert f"0x{code:08X}" in detail
    assert description.rstrip() in detail


# ---------------------------------------------------------------- numbers


@given(
    gige=st.booleans(),
    first=st.integers(1, 200_000),
    gaps=st.lists(st.integers(0, 300), min_size=1, max_size=40),
    wide=st.booleans(),
)
def test_every_id_is_a_frame_or_missing(gige: bool, first: int, gaps: list[int], wide: bool) -> None:
    """16 bits that skip 0, or 64 bits: the same holes."""
    numbers, place, reached = Numbers(gige=gige), first, 0
    for number, gap in enumerate(gaps):
        place += 1 + gap if number else 0
        block = (place - 1) % 65_535 + 1 if gige and not wide else place
        counted = numbers.count(block)
        assert not counted.restarted
        missing = sum(count for count, _, _ in counted.missing)
        assert counted.index == reached + missing
        assert missing == (gap if number else 0)
        assert {reason for _, reason, _ in counted.missing} <= {Reason.MISSING}
        reached = counted.index + 1
    assert reached == place - first + 1


@given(
    holes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30),
)
def test_reasons_share_a_hole_and_never_more(holes: list[tuple[int, int, int]]) -> None:
    """Each hole is explained by the driver's counters as far as they reach; the counters may run ahead."""
    numbers, block, known, told = Numbers(gige=False), 0, 0, 0
    numbers.count(0)
    for hole, skipped, underruns in holes:
        block += 1 + hole
        known += underruns
        counted = numbers.count(block, skipped=skipped, underruns=underruns)
        by_reason = {reason: count for count, reason, _ in counted.missing}
        assert sum(by_reason.values()) == hole
        assert all(by_reason.values())
        told += by_reason.get(Reason.UNDERRUN, 0)
        assert told <= known
        assert by_reason.get(Reason.OVERRUN, 0) <= skipped
        assert Reason.MISSING not in by_reason or told == known
        assert counted.index == block


def test_an_underrun_counted_before_its_hole_is_remembered() -> None:
    numbers = Numbers(gige=True)
    assert numbers.count(1, underruns=2).missing == []
    assert numbers.count(2).missing == []
    assert [(n, reason) for n, reason, _ in numbers.count(6).missing] == [(2, Reason.UNDERRUN), (1, Reason.MISSING)]


def test_a_camera_without_ids_is_counted_by_its_results_and_the_drivers_counters() -> None:
    numbers = Numbers(gige=True)
    assert [numbers.count(0).index for _ in range(3)] == [0, 1, 2]
    counted = numbers.count(0, underruns=2)
    assert (counted.index, [(n, reason) for n, reason, _ in counted.missing]) == (5, [(2, Reason.UNDERRUN)])
    assert numbers.count(0).index == 6


def test_a_bad_frame_without_an_id_fills_its_hole() -> None:
    numbers = Numbers(gige=False)
    assert numbers.count(0).index == 0
    assert numbers.count(NO_ID).index == 1
    counted = numbers.count(3)
    assert (counted.index, [(n, reason) for n, reason, _ in counted.missing]) == (3, [(1, Reason.MISSING)])


@pytest.mark.parametrize(("gige", "last", "first"), [(False, 5000, 0), (True, 5000, 1), (True, 100_000, 1)])
def test_ids_that_start_again_are_a_restart_and_no_hole(gige: bool, last: int, first: int) -> None:
    numbers = Numbers(gige=gige)
    numbers.count(last)
    counted = numbers.count(first)
    assert counted.restarted
    assert (counted.index, counted.missing) == (1, [])
    assert not numbers.count(first + 1).restarted


# ---------------------------------------------------------------- a GigE camera, as pylon would show it


@dataclass
class Node:
    """A feature with a value."""

    value: float = 0
    read: list[str] = field(default_factory=list)

    def IsValid(self) -> bool:  # noqa: N802
        return True

    IsReadable = IsValid

    def GetAccessMode(self) -> str:  # noqa: N802
        return "RW"

    def GetValue(self) -> float:  # noqa: N802
        return self.value

    def Execute(self) -> None:  # noqa: N802
        self.read.append("latch")


class Nothing(Node):
    def IsValid(self) -> bool:  # noqa: N802
        return False


class Nodes(dict[str, Node]):
    def GetNode(self, name: str) -> Node:  # noqa: N802
        return self.get(name, Nothing())

    def InvalidateNodes(self) -> None:  # noqa: N802
        pass


class View:
    """pylon's memory views are left with `with`."""

    def __init__(self, pixels: bytes) -> None:
        self.pixels = memoryview(pixels)

    def __enter__(self) -> memoryview:
        return self.pixels

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pixels.release()


@dataclass
class Result:
    """A grab result of 2 x 3 px with rows padded to 4 bytes."""

    block: int
    ticks: int = 0
    chunk: int | None = None
    code: int = 0
    after_s: float = 0.01
    """It comes so long after the one before."""
    released: bool = False

    def __getattr__(self, name: str) -> Any:
        plain = {
            "GetBlockID": self.block,
            "GetTimeStamp": self.ticks,
            "GetNumberOfSkippedImages": 0,
            "GrabSucceeded": not self.code,
            "GetErrorCode": self.code,
            "GetErrorDescription": "The buffer was incompletely grabbed.",
            "IsChunkDataAvailable": self.chunk is not None,
            "GetChunkDataNodeMap": Nodes(ChunkEncoderValue=Node(self.chunk or 0)),
            "GetHeight": 2,
            "GetWidth": 3,
            "IsValid": True,
        }
        if name not in plain:
            raise AttributeError(name)
        return lambda: plain[name]

    def GetImageMemoryView(self) -> View:  # noqa: N802
        return View(bytes([1, 2, 3, 0, 4, 5, 6, 0]))

    def Release(self) -> None:  # noqa: N802
        self.released = True


@dataclass
class Host:
    """The host's clocks, which stand still until a frame comes."""

    now_ns: int = 1_795_000_000_000_000_000

    def time_ns(self) -> int:
        return self.now_ns

    monotonic_ns = time_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9


class Device:
    """Gives these results, with the statistics as they stand at each."""

    def __init__(self, results: list[Result], nodes: Nodes, statistics: Nodes) -> None:
        self.results = deque(results)
        self.nodes, self.statistics = nodes, statistics
        self.host = Host()

    def __getattr__(self, name: str) -> Any:
        plain = {
            "IsGigE": True,
            "GetNodeMap": self.nodes,
            "GetStreamGrabberNodeMap": self.statistics,
            "IsCameraDeviceRemoved": False,
            "IsGrabbing": True,
        }
        if name not in plain:
            raise AttributeError(name)
        return lambda: plain[name]

    def StartGrabbing(self, strategy: object) -> None:  # noqa: N802
        pass

    def RetrieveResult(self, timeout_ms: int, handling: object) -> Result:  # noqa: N802
        result = self.results.popleft()
        self.host.now_ns += round(result.after_s * 1e9)
        return result


@dataclass
class Rig:
    """An open camera of 2 lines a frame, a frame each 10 ms."""

    results: list[Result]
    settings: Settings = field(default_factory=Settings)
    nodes: Nodes = field(default_factory=lambda: Nodes(Height=Node(2)))
    statistics: Nodes = field(default_factory=Nodes)
    link: Link = field(default_factory=Link)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        from inspector.cameras._pylon_grab import Grab, Pace

        pace = Pace(2, False, 0, 0.01)
        odometer = Odometer(self.settings.encoder, 2, 0.01)
        device = Device(self.results, self.nodes, self.statistics)
        self.grab = Grab("cam-1", self.settings, device, pace, odometer, self.link, lambda: self.seconds)

    def run(self, pool: Pool | None = None) -> list[Frame | Loss]:
        """Everything that comes of the results."""
        items: list[Frame | Loss] = []
        while self.grab._device.results or self.grab._losses or self.grab._waiting:
            item = self.grab.read(pool or Pool(1), 0.0)
            assert item is not None
            if isinstance(item, Frame):
                item.release()
            items.append(item)
        assert all(result.released for result in self.results)
        return items


HZ = 125_000_000
STEP = HZ // 100
"""Ticks in a frame of 10 ms."""


@needs_pylon
def test_padded_rows_are_cut() -> None:
    rig, pool = Rig([Result(1)]), Pool(1)
    frame = rig.grab.read(pool, 0.0)
    assert isinstance(frame, Frame)
    assert np.array_equal(frame.pixels, [[1, 2, 3], [4, 5, 6]])
    assert frame.pixels.flags.c_contiguous


@needs_pylon
def test_a_hole_is_told_by_reason_before_the_frame_behind_it() -> None:
    statistics = Nodes(Statistic_Buffer_Underrun_Count=Node())
    rig = Rig([Result(65_533), Result(2, code=0xE1000014), Result(3)], statistics=statistics)
    first = rig.grab.read(Pool(1), 0.0)
    assert isinstance(first, Frame)
    statistics["Statistic_Buffer_Underrun_Count"].value = 2
    lost = rig.run()
    told = [(item.sequence, item.count, item.reason) for item in lost if isinstance(item, Loss)]
    assert told == [(1, 2, Reason.UNDERRUN), (3, 1, Reason.MISSING), (4, 1, Reason.PACKETS)]
    assert lost[-1].sequence == 5


@needs_pylon
def test_the_cameras_clock_is_latched_and_mapped() -> None:
    latch, stamps = Node(), [HZ * 100 + STEP * k for k in range(4)]
    nodes = Nodes(GevTimestampTickFrequency=Node(HZ), GevTimestampControlLatch=latch, GevTimestampValue=Node(HZ * 101))
    before_ns = time.time_ns()
    frames = Rig([Result(k + 1, ticks) for k, ticks in enumerate(stamps)], nodes=nodes).run()
    after_ns = time.time_ns()
    assert latch.read == ["latch"] * 3
    for frame, ticks in zip(frames, stamps, strict=True):
        assert isinstance(frame, Frame)
        assert frame.camera_ns == ticks * 8
        assert frame.uncertainty_ns is not None
        read_ns = frame.exposed_ns + 101_000_000_000 - frame.camera_ns  # when the camera's clock was read
        assert before_ns - frame.uncertainty_ns <= read_ns <= after_ns + frame.uncertainty_ns


@needs_pylon
@pytest.mark.parametrize(
    ("block", "ticks"), [(1, STEP), (9, STEP), (2, STEP * 6)], ids=["both", "the clock", "the ids"]
)
def test_a_camera_that_counts_anew_is_a_reset_and_a_new_piece(
    block: int, ticks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [Result(k, STEP * k) for k in (3, 4, 5)]
    after = [Result(block, ticks, after_s=1.0), Result(block + 1, ticks + STEP)]
    rig = Rig(before + after, nodes=Nodes(GevTimestampTickFrequency=Node(HZ)))
    host = rig.grab._device.host
    monkeypatch.setattr("inspector.cameras._pylon_grab.time", host)
    start_ns = host.now_ns
    frames = [frame for frame in rig.run() if isinstance(frame, Frame)]
    assert [frame.sequence for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.after for frame in frames] == [None, None, None, Reason.RESET, None]
    assert [frame.piece for frame in frames] == [0, 0, 0, 1, 1]
    assert [frame.encoder_count for frame in frames] == [0, 2, 4, 204, 206], "100 frames passed in that second"
    assert [(frame.exposed_ns - start_ns) // 1_000_000 for frame in frames] == [10, 20, 30, 1030, 1040]


@needs_pylon
def test_the_encoder_comes_as_a_chunk() -> None:
    settings = Settings(encoder=Encoder(source="chunk", chunk_bits=16, first_count=100))
    frames = Rig([Result(k + 1, chunk=value) for k, value in enumerate((65_534, 0, 2, 2, 1))], settings).run()
    counts = [frame.encoder_count for frame in frames if isinstance(frame, Frame)]
    assert counts == [100 + value for value in (65_534, 65_536, 65_538, 65_538, 65_537)]


@needs_pylon
def test_packets_are_counted_over_all_openings() -> None:
    link = Link(packets_lost=7, packets_resent=1)
    statistics = Nodes(Statistic_Failed_Packet_Count=Node(40), Statistic_Resend_Packet_Count=Node(5))
    rig = Rig([Result(k) for k in range(1, 5)], statistics=statistics, link=link)
    rig.grab.read(Pool(1), 0.0)
    assert (link.packets_lost, link.packets_resent) == (7, 1), "what the driver counted before it was opened"
    statistics["Statistic_Failed_Packet_Count"].value = 43
    statistics["Statistic_Resend_Packet_Count"].value = 2
    rig.seconds += 1.0
    rig.grab.read(Pool(1), 0.0)
    assert (link.packets_lost, link.packets_resent) == (10, 3), "3 more; and a counter that fell began again"


def test_what_a_transport_layer_does_not_count_stays_0() -> None:
    link = Link()
    counters = Counters(Nodes(), link)
    counters.update()
    assert (counters.underruns(), link) == (0, Link())


class Dead(Node):
    def GetValue(self) -> float:  # noqa: N802
        from pypylon import genicam

        raise genicam.RuntimeException("the device does not respond : RuntimeException thrown (file 'x.cpp', line 1)")


@needs_pylon
def test_a_silent_camera_is_asked_whether_it_still_answers() -> None:
    from inspector.cameras.basler import BaslerCamera, Options

    rig = Rig([Result(1)], nodes=Nodes(Height=Dead()))
    camera = BaslerCamera("cam-1", Options(address="10.0.0.9"))
    camera._grab = rig.grab
    assert isinstance(camera.read(Pool(1), 0.0), Frame)
    rig.seconds += 1.0
    with pytest.raises(CameraError, match=r"cam-1: the device does not respond$"):
        camera.read(Pool(1), 0.0)
