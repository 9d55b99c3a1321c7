"""One contract over every camera in inspector/cameras; the words are in the Camera protocol there.

A new camera needs an entry in CASES, or `test_every_kind_has_a_case` fails.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from inspector import adapters
from inspector.cameras import Camera
from inspector.errors import CameraError
from inspector.events import Reason
from inspector.pool import Pool, Slot
from inspector.records import Frame, Loss
from tests import basler, gentl, rtsp
from tests.gige import FakeCamera, needs_aravis, needs_namespace, private_network

HEIGHT, WIDTH = 64, 320


def make(kind: str, **options: Any) -> Camera:
    """A camera made as the daemon makes it: options as they stand in the YAML."""
    adapter = adapters.module("cameras", kind, "cameras[0]")
    camera: Camera = adapter.open("cam-1", adapters.options(adapter, options, "cameras[0].options"))
    return camera


def pictures(count: int, height: int = HEIGHT) -> list[NDArray[np.uint8]]:
    return [np.random.default_rng(k).integers(0, 256, (height, WIDTH), dtype=np.uint8) for k in range(count)]


# ---------------------------------------------------------------- the cases


def synthetic_live(_: Path) -> Camera:
    return make("synthetic", width_px=WIDTH, height_px=HEIGHT, frames=8, pace="free", counts_per_line=3)


def synthetic_prepared(_: Path) -> Camera:
    return make("synthetic", width_px=WIDTH, height_px=HEIGHT, frames=8, pace="free", prepared_frames=3)


def synthetic_drilled(_: Path) -> Camera:
    """A strip that slows down, stands and goes on, and a camera that loses frames and counts anew."""
    motion = [{"at_frame": at, "kind": kind} for at, kind in ((2, "slow"), (4, "stand"), (6, "run"))]
    lost = [{"at_frame": 1}, {"at_frame": 5, "count": 2, "reason": "failed"}]
    drills = {"motion": motion, "lost": lost, "reset_at_frame": 8}
    return make("synthetic", width_px=WIDTH, height_px=HEIGHT, frames=10, pace="free", **drills)


def synthetic_dead(_: Path) -> Camera:
    return make("synthetic", width_px=WIDTH, height_px=HEIGHT, frames=8, pace="free", die_at_frame=2)


def replay_folder(tmp: Path) -> Camera:
    """Good pictures of all sorts, with a torn, an empty and a strange one among them."""
    tmp.mkdir(exist_ok=True)
    for number, (pixels, suffix) in enumerate(zip(pictures(6), (".png", ".bmp", ".tiff", ".jpg") * 2, strict=False)):
        cv2.imwrite(str(tmp / f"{number}{suffix}"), pixels)
    torn = (tmp / "0.png").read_bytes()
    (tmp / "2b.png").write_bytes(torn[: len(torn) // 2])
    (tmp / "2c.jpg").write_bytes(b"")
    (tmp / "9.jpg").write_text("no picture")
    return make("replay", sources=[str(tmp)])


def replay_contiguous(tmp: Path) -> Camera:
    replay_folder(tmp)
    return make("replay", sources=[str(tmp)], contiguous=True, counts_per_line=2.5, repeat=2)


def replay_cut(tmp: Path) -> Camera:
    tmp.mkdir(exist_ok=True)
    cv2.imwrite(str(tmp / "tall.png"), pictures(1, height=5 * HEIGHT - 3)[0])
    return make("replay", sources=[str(tmp)], frame_lines=HEIGHT)


def replay_video(tmp: Path) -> Camera:
    tmp.mkdir(exist_ok=True)
    path = str(tmp / "strip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"FFV1"), 25, (WIDTH, HEIGHT), isColor=False)
    for pixels in pictures(6):
        writer.write(pixels)
    writer.release()
    return make("replay", sources=[path])


def replay_recording(tmp: Path) -> Camera:
    recorder = adapters.module("cameras", "replay", "").Recorder
    if not tmp.exists():
        with recorder(tmp, "cam-1") as recording:
            for number, pixels in enumerate(pictures(6)):
                sequence = number + 4 * (number > 2)
                recording.frame(Frame("cam-1", sequence, 1000 + number, 0, 5000 + sequence * HEIGHT, pixels))
                if number == 2:
                    recording.loss(Loss("cam-1", 3, 4, Reason.OVERRUN, "the reader was late"))
    return make("replay", sources=[str(tmp)])


def replay_dead(tmp: Path) -> Camera:
    camera = replay_video(tmp)
    (tmp / "strip.avi").unlink()
    return camera


def basler_emulated(tmp: Path) -> Camera:
    return Live(make("basler", **basler.emulated(features=basler.showing(tmp, pictures(6)))), 6)


def basler_pulled(_: Path) -> Camera:
    return make("basler", **basler.emulated(features={"FirePnPCallbackValue": 1}))


GIGE: dict[str, Any] = {"width_px": WIDTH, "height_px": HEIGHT, "acquisition_frame_rate_hz": 100.0}


def gige_simulator(_: Path) -> Camera:
    return Live(make("gige", address="Fake_1", **GIGE), 6)


def gige_packets(_: Path) -> Camera:
    return Live(make("gige", address="127.0.0.1", **GIGE), 6)


def gige_absent(_: Path) -> Camera:
    return make("gige", address="127.0.0.99")


@contextmanager
def gige_camera() -> Iterator[None]:
    with private_network(), FakeCamera():
        yield


def video_file(tmp: Path) -> Camera:
    replay_video(tmp)
    return make("video", path=str(tmp / "strip.avi"), pace="free")


def video_gone(tmp: Path) -> Camera:
    camera = video_file(tmp)
    (tmp / "strip.avi").unlink()
    return camera


STREAM: list[str] = []
"""Address of the stream, while there is one."""


@contextmanager
def stream() -> Iterator[None]:
    with rtsp.serving(rtsp.Script(rate_hz=200.0)) as server:
        STREAM[:] = [server.url]
        yield


def video_stream(_: Path) -> Camera:
    return Live(make("video", url=STREAM[0]), 6)


def video_absent(_: Path) -> Camera:
    return make("video", url="rtsp://127.0.0.1:1/strip")


def gentl_simulated(_: Path) -> Camera:
    return Live(gentl.made(), 6)


def gentl_absent(_: Path) -> Camera:
    return gentl.made(device="4711")


@dataclass(frozen=True)
class Case:
    kind: str
    make: Callable[[Path], Camera]
    dead: Callable[[Path], Camera]
    """A camera that raises CameraError when it is entered or after a few frames."""
    frames: int
    lost: int = 0
    rewinds: bool = True
    """Every enter starts over; else the strip has gone on and only the numbers start over."""
    live: bool = False
    """It never ends by itself and shows what it likes: `make` gives the first `frames` frames of it, as `Live`."""
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """What must be there while a test runs: a camera's process, a network."""
    marks: tuple[pytest.MarkDecorator, ...] = ()
    """Why it is skipped where something is not installed."""


class Live:
    """The first frames of a camera that never ends; waits for each as long as it takes, but not for a full pool."""

    PATIENCE_S = 10.0

    def __init__(self, camera: Camera, frames: int) -> None:
        self.ended = False
        self.link = camera.link
        self._camera = camera
        self._frames = self._left = frames

    def __enter__(self) -> Self:
        self._camera.__enter__()
        self.ended, self._left = False, self._frames
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._camera.__exit__(kind, error, trace)

    def read(self, pool: Pool, timeout_s: float) -> Frame | Loss | None:
        if self.ended:
            return None
        full = pool.in_use == pool.slots
        item = self._camera.read(pool, timeout_s if full else max(timeout_s, self.PATIENCE_S))
        assert full or item is not None, "a live camera fell silent"
        self._left -= isinstance(item, Frame)
        self.ended = self._left == 0
        return item


CASES = {
    "synthetic": Case("synthetic", synthetic_live, synthetic_dead, 8, rewinds=False),
    "synthetic prepared": Case("synthetic", synthetic_prepared, synthetic_dead, 8, rewinds=False),
    "synthetic drilled": Case("synthetic", synthetic_drilled, synthetic_dead, 7, lost=3, rewinds=False),
    "replay folder": Case("replay", replay_folder, replay_dead, 6, lost=3),
    "replay contiguous": Case("replay", replay_contiguous, replay_dead, 12, lost=6),
    "replay cut": Case("replay", replay_cut, replay_dead, 5),
    "replay video": Case("replay", replay_video, replay_dead, 6),
    "replay recording": Case("replay", replay_recording, replay_dead, 6, lost=4),
    "video file": Case("video", video_file, video_gone, 6, rewinds=False),
    "video stream": Case("video", video_stream, video_absent, 6, rewinds=False, live=True, around=stream),
    "gentl": Case("gentl", gentl_simulated, gentl_absent, 6, rewinds=False, marks=(gentl.needs_tlsimu,)),
    "basler emulated": Case(
        "basler", basler_emulated, basler_pulled, 6, rewinds=False, around=basler.emulation, marks=(basler.needs_pylon,)
    ),
    "gige simulator": Case("gige", gige_simulator, gige_absent, 6, rewinds=False, live=True, marks=(needs_aravis,)),
    "gige": Case(
        "gige",
        gige_packets,
        gige_absent,
        6,
        rewinds=False,
        live=True,
        around=gige_camera,
        marks=(needs_aravis, needs_namespace),
    ),
}


@pytest.fixture(params=[pytest.param(name, marks=case.marks) for name, case in CASES.items()])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    case = CASES[request.param]
    with case.around():
        yield case


@pytest.fixture
def camera(case: Case, tmp_path: Path) -> Camera:
    return case.make(tmp_path / "source")


@dataclass
class Seen:
    """A frame as it was, after its slot has been given back."""

    frame: Frame
    pixels: NDArray[np.uint8]


def drain(camera: Camera, pool: Pool, limit: int = 1000) -> list[Seen | Loss]:
    """Everything until the end, each frame released at once."""
    seen: list[Seen | Loss] = []
    for _ in range(limit):
        item = camera.read(pool, 0.0)
        if isinstance(item, Frame):
            seen.append(Seen(item, item.pixels.copy()))
            item.release()
        elif item is not None:
            seen.append(item)
        elif camera.ended:
            return seen
    raise AssertionError("the camera never ended")


def frames_of(seen: list[Seen | Loss]) -> list[Seen]:
    return [item for item in seen if isinstance(item, Seen)]


def open_files() -> list[str]:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc to see which files are open")
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:  # the one that listed the folder
            continue
    return sorted(found)


# ---------------------------------------------------------------- the contract


def test_every_kind_has_a_case() -> None:
    assert {case.kind for case in CASES.values()} == set(adapters.kinds("cameras"))


def test_sequences_have_no_hole_but_losses(case: Case, camera: Camera) -> None:
    with camera:
        seen = drain(camera, Pool(2))
    expected = 0
    for item in seen:
        assert (item.sequence if isinstance(item, Loss) else item.frame.sequence) == expected
        expected += item.count if isinstance(item, Loss) else 1
    delivered, lost = len(frames_of(seen)), sum(item.count for item in seen if isinstance(item, Loss))
    assert (delivered, lost) == (case.frames, case.lost)
    assert expected == delivered + lost  # issued


def test_frames_and_losses_say_whose_they_are(camera: Camera) -> None:
    with camera:
        seen = drain(camera, Pool(2))
    assert {item.camera if isinstance(item, Loss) else item.frame.camera for item in seen} == {"cam-1"}
    for item in seen:
        if isinstance(item, Loss):
            assert item.count >= 1
            assert item.detail


def test_places_and_times_run_on(camera: Camera) -> None:
    with camera:
        frames = [seen.frame for seen in frames_of(drain(camera, Pool(2)))]
    for before, after in itertools.pairwise(frames):
        assert after.encoder_count >= before.encoder_count
        assert after.monotonic_ns >= before.monotonic_ns
        assert after.piece - before.piece in (0, 1)
    assert frames[0].piece == 0
    assert all(isinstance(frame.encoder_count, int) and frame.exposed_ns >= 0 for frame in frames)


class WatchedPool(Pool):
    """A pool that remembers the slots it lent."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.lent: list[Slot] = []

    def take(self, height: int, width: int, timeout_s: float) -> Slot | None:
        slot = super().take(height, width, timeout_s)
        if slot is not None:
            self.lent.append(slot)
        return slot


def test_pixels_are_grey_bytes_in_a_slot_of_the_pool(camera: Camera) -> None:
    pool = WatchedPool(1)
    with camera:
        while not camera.ended:
            item = camera.read(pool, 0.0)
            if isinstance(item, Frame):
                assert item.pixels.dtype == np.uint8
                assert item.pixels.ndim == 2
                assert item.pixels.flags.c_contiguous
                assert item.pixels.flags.writeable
                assert np.shares_memory(item.pixels, pool.lent[-1].pixels)
                item.release()
                item.release()
            assert pool.in_use == 0


def test_an_exhausted_pool_loses_nothing(case: Case, camera: Camera, tmp_path: Path) -> None:
    with case.make(tmp_path / "source") as unhurried:
        expected = drain(unhurried, Pool(2))
    pool, seen = Pool(1), list[Seen | Loss]()
    with camera:
        while not camera.ended:
            item = camera.read(pool, 0.0)
            if isinstance(item, Loss):
                seen.append(item)
            if not isinstance(item, Frame):
                continue
            seen.append(Seen(item, item.pixels.copy()))
            losses = [item for item in (camera.read(pool, 0.0) for _ in range(10)) if item is not None]
            assert all(isinstance(loss, Loss) for loss in losses)
            seen += [loss for loss in losses if isinstance(loss, Loss)]
            item.release()
    assert_alike(seen, expected, live=case.live)


def assert_alike(seen: list[Seen | Loss], expected: list[Seen | Loss], live: bool = False) -> None:
    assert len(seen) == len(expected)
    for a, b in zip(seen, expected, strict=True):
        if isinstance(a, Loss) or isinstance(b, Loss):
            assert a == b
            continue
        assert (a.frame.sequence, a.frame.source) == (b.frame.sequence, b.frame.source)
        assert (a.frame.encoder_count, a.frame.piece) == (b.frame.encoder_count, b.frame.piece)
        assert a.pixels.shape == b.pixels.shape
        assert live or np.array_equal(a.pixels, b.pixels)


def test_frames_outlive_the_camera(case: Case, camera: Camera) -> None:
    pool, held = Pool(case.frames), list[Frame]()
    with camera:
        while not camera.ended:
            item = camera.read(pool, 0.0)
            held += [item] if isinstance(item, Frame) else []
    sums = [int(frame.pixels.sum()) for frame in held]
    assert len(sums) == case.frames
    assert pool.in_use == case.frames
    for frame in held:
        frame.release()
    assert pool.in_use == 0


def test_the_end_lasts(camera: Camera) -> None:
    pool = Pool(1)
    with camera:
        assert not camera.ended
        drain(camera, pool)
        assert camera.ended
        assert [camera.read(pool, 0.0) for _ in range(3)] == [None] * 3
        assert camera.ended


def test_entered_again_it_counts_from_0(case: Case, camera: Camera) -> None:
    with camera:
        while not isinstance(item := camera.read(Pool(1), 0.0), Frame):
            pass
        first = Seen(item, item.pixels.copy())
    with camera:
        again = drain(camera, Pool(1))
    start = again[0]
    assert (start.sequence if isinstance(start, Loss) else start.frame.sequence) == 0
    if case.rewinds:
        assert_alike([frames_of(again)[0]], [first])
        assert len(frames_of(again)) == case.frames


def test_the_same_options_give_the_same_frames(case: Case, tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        with case.make(tmp_path / "source") as camera:
            runs.append(drain(camera, Pool(2)))
    assert_alike(*runs, live=case.live)


def test_exit_releases_everything(case: Case, tmp_path: Path) -> None:
    with case.make(tmp_path / "source") as camera:  # what libraries open once and for all
        drain(camera, Pool(1))
    files, threads = open_files(), threading.active_count()
    for reads in range(6):
        camera = case.make(tmp_path / "source")
        pool = Pool(1)
        with camera:
            for _ in range(reads):
                item = camera.read(pool, 0.0)
                if isinstance(item, Frame):
                    item.release()
        assert pool.in_use == 0
        assert open_files() == files
        assert threading.active_count() == threads


def test_reading_a_closed_camera_is_an_error(camera: Camera) -> None:
    with pytest.raises(CameraError):
        camera.read(Pool(1), 0.0)
    with camera:
        pass
    with pytest.raises(CameraError):
        camera.read(Pool(1), 0.0)


def test_a_dead_camera_says_so(case: Case, tmp_path: Path) -> None:
    camera = case.dead(tmp_path / "source")
    files = open_files()
    with pytest.raises(CameraError, match="cam-1"), camera:
        drain(camera, Pool(1))
    assert open_files() == files
