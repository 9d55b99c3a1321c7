"""cameras/basler.py on pylon's own emulation: exact pixels, every fault that it can make, and what it leaves behind."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from inspector import adapters
from inspector.capture import BACK_OFF_S, Capture
from inspector.errors import CameraError, ConfigError
from inspector.events import Reason
from inspector.ledger import Ledger
from inspector.metrics import Metrics
from inspector.pool import Pool
from inspector.records import Frame, Loss
from tests.basler import device, emulated, emulation, needs_pylon, showing

pytestmark = needs_pylon
PATIENCE_S = 10.0


@pytest.fixture(autouse=True)
def _emulation() -> Iterator[None]:
    with emulation():
        yield


class Clock:
    """Seconds that pass only when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def options(**chosen: Any) -> Any:
    adapter = adapters.module("cameras", "basler", "cameras[0]")
    return adapters.options(adapter, emulated(**chosen), "cameras[0].options")


def make(clock: Clock | None = None, **chosen: Any) -> Any:
    from inspector.cameras.basler import BaslerCamera

    return BaslerCamera("cam-1", options(**chosen), clock or Clock())


def take(camera: Any, pool: Pool, count: int) -> list[Frame | Loss]:
    """So many frames and losses; the frames' slots are given back."""
    taken: list[Frame | Loss] = []
    for _ in range(count):
        item = camera.read(pool, PATIENCE_S)
        assert item is not None, "the emulation fell silent"
        if isinstance(item, Frame):
            item.release()
        taken.append(item)
    return taken


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize("width", [320, 321, 5000])
def test_pixels_are_exact_whatever_the_width(tmp_path: Path, width: int) -> None:
    pictures = [np.random.default_rng(k).integers(0, 256, (64, width), dtype=np.uint8) for k in range(3)]
    seen: list[NDArray[np.uint8]] = []
    pool = Pool(1)
    with make(width_px=width, features=showing(tmp_path / "pictures", pictures)) as camera:
        for _ in range(6):
            frame = camera.read(pool, PATIENCE_S)
            assert isinstance(frame, Frame)
            seen.append(frame.pixels.copy())
            frame.release()
    assert all(np.array_equal(a, b) for a, b in zip(seen, pictures * 2, strict=True))


def test_without_a_clock_nobody_says_how_well_the_time_is_known() -> None:
    with make() as camera:
        frames = take(camera, Pool(1), 3)
    for frame in frames:
        assert isinstance(frame, Frame)
        assert frame.camera_ns is None
        assert frame.uncertainty_ns is None
        assert frame.counts_per_line is None
        assert frame.after is None


def test_the_encoder_counts_lines() -> None:
    with make(encoder={"counts_per_line": 2.5, "first_count": 7}) as camera:
        frames = take(camera, Pool(1), 4)
    assert [frame.encoder_count for frame in frames if isinstance(frame, Frame)] == [7 + 160 * k for k in range(4)]


def test_other_threads_run_while_it_waits() -> None:
    turns, stop = [0], threading.Event()

    def spin() -> None:
        while not stop.is_set():
            turns[0] += 1

    thread = threading.Thread(target=spin)
    with make(trigger=[{"selector": "FrameStart", "source": "Software"}]) as camera:
        thread.start()
        try:
            before = turns[0]
            assert camera.read(Pool(1), 0.3) is None
            assert turns[0] - before > 1000
        finally:
            stop.set()
            thread.join()


# ---------------------------------------------------------------- losses


def test_bad_buffers_are_losses_in_their_place() -> None:
    with make(features={"ForceFailedBufferCount": 3, "ForceFailedBuffer": True}) as camera:
        items = take(camera, Pool(1), 6)
    lost, frames = items[:3], items[3:]
    for number, loss in enumerate(lost):
        assert isinstance(loss, Loss)
        assert (loss.sequence, loss.count, loss.reason) == (number, 1, Reason.FAILED)
        assert "incompletely grabbed" in loss.detail
        assert "0x00000000" in loss.detail
    assert [frame.sequence for frame in frames] == [3, 4, 5]
    assert [frame.encoder_count for frame in frames if isinstance(frame, Frame)] == [192, 256, 320]


def test_bad_buffers_in_between() -> None:
    pool = Pool(1)
    with make() as camera:
        items = take(camera, pool, 2)
        device(camera).ForceFailedBufferCount.Value = 2
        device(camera).ForceFailedBuffer.Execute()
        while sum(isinstance(item, Loss) for item in items) < 2:
            items += take(camera, pool, 1)
        items += take(camera, pool, 2)
    assert [item.sequence for item in items] == list(range(len(items)))


def test_a_late_reader_loses_nothing_that_the_driver_holds() -> None:
    pool = Pool(1)
    with make(buffers=4) as camera:
        held = camera.read(pool, PATIENCE_S)
        assert isinstance(held, Frame)
        for _ in range(50):
            assert camera.read(pool, 0.001) is None
        held.release()
        rest = take(camera, pool, 8)
    assert [item.sequence for item in rest] == list(range(1, 9))
    assert all(isinstance(item, Frame) for item in rest)


# ---------------------------------------------------------------- a camera that fails


def test_a_pulled_camera_says_so_and_comes_back() -> None:
    clock, pool = Clock(), Pool(1)
    camera = make(clock)
    with camera:
        before = take(camera, pool, 3)[-1]
        device(camera).FirePnPCallbackValue.Value = 1
        clock.now += 1.0
        with pytest.raises(CameraError, match=r"cam-1.*pulled"):
            camera.read(pool, PATIENCE_S)
    with camera:
        after = take(camera, pool, 2)
    assert [item.sequence for item in after] == [0, 1]
    assert isinstance(before, Frame)
    assert isinstance(after[0], Frame)
    ahead = after[0].encoder_count - before.encoder_count
    assert ahead >= 64
    assert ahead % 64 == 0, "a gap of whole frames"


def test_a_grab_that_breaks_off_is_an_error() -> None:
    camera = make()
    with camera:
        take(camera, Pool(1), 1)
        node = device(camera).GetStreamGrabberNodeMap().GetNode("ImposedError")
        node.SetValue("the cable burns")
        with pytest.raises(CameraError, match=r"cam-1: the cable burns$"):
            take(camera, Pool(1), 100)
    with camera:
        assert take(camera, Pool(1), 1)[0].sequence == 0


def test_settings_of_the_stream_reach_pylon() -> None:
    with make(stream={"ImposedError": "the switch burns"}) as camera, pytest.raises(CameraError, match="switch burns"):
        take(camera, Pool(1), 1)


def test_a_grab_that_was_stopped_is_an_error() -> None:
    with make() as camera:
        take(camera, Pool(1), 1)
        device(camera).StopGrabbing()
        with pytest.raises(CameraError, match="stopped grabbing"):
            take(camera, Pool(1), 100)


@pytest.mark.parametrize(("setting", "limit_s"), [({"frame_timeout_s": 0.3}, 0.3), ({}, 8.0)])
def test_a_silent_camera_is_dead_after_its_time(setting: dict[str, Any], limit_s: float) -> None:
    clock, pool = Clock(), Pool(1)
    with make(clock, acquisition_frame_rate_hz=1, **setting) as camera:
        take(camera, pool, 1)
        clock.now += limit_s
        assert camera.read(pool, 0.0) is None
        clock.now += 0.01
        with pytest.raises(CameraError, match=rf"cam-1: no frame for {limit_s:g} s \(frame_timeout_s\)"):
            camera.read(pool, 0.0)


def test_a_triggered_camera_may_be_silent() -> None:
    clock, pool = Clock(), Pool(1)
    trigger = [{"selector": "FrameStart", "source": "Software", "activation": "RisingEdge"}]
    with make(clock, trigger=trigger, frame_timeout_s=0.3) as camera:
        for _ in range(20):
            clock.now += 100.0
            assert camera.read(pool, 0.0) is None
        device(camera).TriggerSoftware.Execute()
        assert take(camera, pool, 1)[0].sequence == 0
        assert camera.read(pool, 0.01) is None


def test_a_reader_that_is_late_is_not_the_cameras_silence() -> None:
    clock, pool = Clock(), Pool(1)
    with make(clock, acquisition_frame_rate_hz=4, frame_timeout_s=0.3) as camera:
        held = camera.read(pool, PATIENCE_S)
        assert isinstance(held, Frame)
        while camera._grab._waiting is None:
            assert camera.read(pool, 0.001) is None
        clock.now += 100.0
        assert camera.read(pool, 0.0) is None
        held.release()
        take(camera, pool, 1)
        camera.read(pool, 0.0)  # nothing yet, and no error


def test_a_camera_whose_frames_are_all_bad_is_not_silent() -> None:
    clock, pool = Clock(), Pool(1)
    features = {"ForceFailedBufferCount": 100, "ForceFailedBuffer": True}
    with make(clock, acquisition_frame_rate_hz=4, frame_timeout_s=0.3, features=features) as camera:
        take(camera, pool, 1)
        clock.now += 100.0
        assert isinstance(take(camera, pool, 1)[0], Loss)
        camera.read(pool, 0.0)  # nothing yet, and no error


def test_capture_brings_it_back_and_the_books_balance() -> None:
    clock, states, ledger = Clock(), list[tuple[str, str, str]](), Ledger(["top"])
    camera = make(clock)
    metrics = Metrics(process=False)
    stop = threading.Event()

    def noted(*state: str) -> None:
        states.append((state[0], state[1], state[2]))

    numbers: list[int] = []
    with Capture("top", camera, Pool(1), ledger, stop, metrics.camera("top"), noted, clock) as capture:
        for _ in range(200):
            for frame in capture.work():
                numbers.append(frame.sequence)
                frame.release()
                if len(numbers) == 3:
                    device(camera).ForceFailedBufferCount.Value = 1
                    device(camera).ForceFailedBuffer.Execute()
                if len(numbers) == 8:
                    device(camera).FirePnPCallbackValue.Value = 1
                    clock.now += BACK_OFF_S
            if len(numbers) == 12:
                break
            if states and states[-1][1] == "down":
                clock.now += BACK_OFF_S
    assert [state[1] for state in states] == ["up", "down", "up"]
    assert "pulled" in states[1][2]
    books = ledger.totals()["top"]
    assert books.lost == {Reason.FAILED: 1}
    assert books.issued == 13 == numbers[-1] + 1


# ---------------------------------------------------------------- what is left behind


def resources() -> tuple[int, int]:
    """Threads, pylon's too, and open files of this process."""
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("needs /proc to count threads and files")
    gc.collect()
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def assert_no_more_than(before: tuple[int, int]) -> None:
    """A thread that was joined is still listed for a moment."""
    for _ in range(1000):
        now = resources()
        if now[0] <= before[0] and now[1] <= before[1]:
            return
        os.sched_yield()
    raise AssertionError(f"threads and files were {before} and are {now}")


def reopen(times: int) -> None:
    pool = Pool(1)
    camera = make(clock := Clock())
    for number in range(times):
        with camera:
            take(camera, pool, 2)
            if number % 3 == 1:
                device(camera).FirePnPCallbackValue.Value = 1
                clock.now += 1.0
                with pytest.raises(CameraError):
                    camera.read(pool, PATIENCE_S)
            if number % 3 == 2:
                camera.read(pool, PATIENCE_S)  # held, and the next stays the driver's
                assert camera.read(pool, 0.05) is None
                pool = Pool(1)


@pytest.mark.parametrize("times", [30, pytest.param(1000, marks=pytest.mark.soak)])
def test_opening_again_and_again_leaves_nothing_behind(times: int) -> None:
    reopen(3)  # what pylon opens once and for all
    before = resources()
    reopen(times)
    assert_no_more_than(before)


def test_a_camera_that_refuses_leaves_nothing_behind() -> None:
    reopen(1)
    before = resources()
    for wrong in ({"features": {"Nope": 1}}, {"serial": "0815-0099"}, {"features": {"PixelFormat": "Mono12"}}):
        for _ in range(5):
            with pytest.raises(CameraError), make(**wrong):
                pass
    assert_no_more_than(before)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"features": {"Nope": 1}}, r"features\.Nope: the camera has no feature Nope\. Take features\.Nope out"),
        ({"width_px": 60_000}, "width_px: the camera refuses Width = 60000: .*; it takes 1 to 32768$"),
        ({"features": {"Width": 7.5}}, r"features\.Width: the camera refuses Width = 7\.5: .*whole number"),
        ({"features": {"Width": "wide"}}, r"features\.Width: the camera refuses Width = wide: .*whole number"),
        ({"features": {"ExposureTime": "long"}}, r"ExposureTime = long: not a number; it takes 1 to 1e\+07 us"),
        ({"exposure_time_us": 1e9}, r"exposure_time_us: .*ExposureTimeAbs = 1000000000\.0: .*; it takes 100 to 3e\+06"),
        ({"features": {"ReverseX": 3}}, r"features\.ReverseX: .*; it takes true or false"),
        ({"features": {"SensorWidth": 4}}, r"features\.SensorWidth: .* SensorWidth = 4: it cannot be set now"),
        ({"features": {"PixelFormat": "Mono7"}}, r"features\.PixelFormat: .*; it takes Mono8, Mono10"),
        ({"features": {"PixelFormat": "Mono12"}}, "PixelFormat is Mono12, but the line takes Mono8.*features"),
        (
            {"acquisition_line_rate_hz": 1000},
            "acquisition_line_rate_hz: .* no feature AcquisitionLineRate or AcquisitionLineRateAbs.* under features$",
        ),
        ({"encoder_divider": 4}, "cam-1: encoder_divider: the camera has no feature EncoderDivider"),
        ({"trigger": [{"source": "Line1"}]}, r"trigger\[0\]\.selector: .*TriggerSelector = LineStart: .*FrameStart"),
        ({"encoder": {"source": "chunk"}}, r"encoder\.chunk: the camera has no feature ChunkSelector"),
        ({"stream": {"Nope": 1}}, r"cam-1: stream\.Nope: pylon's stream grabber has no feature Nope"),
        ({"packet_size": 9000, "features": {"GevSCPSPacketSize": 8}}, r"features\.GevSCPSPacketSize: .* refuses"),
        ({"serial": "0815-0099"}, r"cam-1: cannot be opened.*PYLON_CAMEMU of them in the environment \(now 4\)"),
        ({"device_class": "Nothing"}, "cam-1: cannot be opened.*Nothing.*inspector cameras"),
    ],
)
def test_a_wrong_setting_is_named_with_what_the_camera_takes(chosen: dict[str, Any], message: str) -> None:
    camera = make(**chosen)
    with pytest.raises(CameraError, match=message), camera:
        pass
    with pytest.raises(CameraError, match="enter it first"):
        camera.read(Pool(1), 0.0)


def test_settings_reach_the_camera() -> None:
    chosen = {"gain": 0.0, "packet_size": 1440, "offset_x_px": 16}
    with make(features={"ReverseX": True, "DeviceUserID": "above"}, **chosen) as camera:
        held = device(camera)
        assert (held.Gain.Value, held.GevSCPSPacketSize.Value, held.OffsetX.Value) == (0.0, 1440, 16)
        assert (held.ReverseX.Value, held.DeviceUserID.Value) == (True, "above")
        assert held.MaxNumBuffer.Value == 8


def test_a_height_that_changed_is_refused() -> None:
    """The camera came back with other settings, for instance another one in its place."""
    camera = make(height_px=None, features={"Height": 64})
    with camera:
        take(camera, Pool(1), 1)
    camera._o = options(height_px=None, features={"Height": 128})
    with pytest.raises(CameraError, match="Height was 64 lines and is 128 now; set height_px"), camera:
        pass


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({}, "which camera"),
        ({"serial": "1"}, "device_class"),
        ({"user_defined_name": "top"}, "device_class"),
        ({"address": "top.local"}, "no IP address"),
        ({"address": "10.0.0.9", "device_class": "BaslerUsb"}, "take out device_class"),
        ({"address": "10.0.0.9", "serial": "1"}, "take out serial"),
        ({"address": "10.0.0.9", "user_defined_name": "top"}, "take out user_defined_name"),
        ({"address": "10.0.0.9", "features": {"PixelFormat": "Mono12"}}, "PixelFormat: Mono12 .*only Mono8 can"),
    ],
)
def test_options_that_name_no_camera_are_refused(named: dict[str, Any], message: str) -> None:
    adapter = adapters.module("cameras", "basler", "cameras[0]")
    chosen = adapters.options(adapter, named, "cameras[0].options")
    with pytest.raises(ConfigError, match=message):
        adapter.check(chosen)
    with pytest.raises(ConfigError, match=message):
        adapter.open("cam-1", chosen)


# ---------------------------------------------------------------- on a network of its own


def alone(script: str, *arguments: str) -> Any:
    """What a script prints as JSON, run where there is no network but a loopback and a card that leads nowhere."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs unshare and ip (util-linux, iproute2)")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        pytest.skip("may not make a network of its own; run as root")
    run = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


DISCOVER = """
import json
from inspector.cameras import basler
print(json.dumps([[f.kind, f.address, f.vendor, f.serial, dict(f.options)] for f in basler.discover(10.0)]))
"""


def test_discovery_names_what_opens_a_camera() -> None:
    found = alone(DISCOVER)
    assert [entry[:4] for entry in found] == [["basler", f"0815-{k:04}", "Basler", f"0815-{k:04}"] for k in range(4)]
    with make(**found[2][4]) as camera:
        assert device(camera).GetDeviceInfo().GetSerialNumber() == "0815-0002"


BY_ADDRESS = """
import json, socket, subprocess, sys
address = "10.77.0.2"
for command in (
    "ip link set lo up",
    "ip link add cam0 type veth peer name far0",
    "ip addr add 10.77.0.1/24 broadcast 10.77.0.255 dev cam0",
    "ip link set far0 up",
    "ip link set cam0 up",
    f"ip neigh add {address} lladdr 02:00:00:00:00:02 dev cam0",
):
    subprocess.run(command.split(), check=True)
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
card.bind(("cam0", 0))
card.settimeout(0.2)
from inspector.cameras import basler
from inspector.errors import CameraError
try:
    basler.open("cam-1", basler.Options(address=address)).__enter__()
except CameraError as error:
    said = str(error)
sent = set()
try:
    while True:
        packet = card.recv(2048)
        if packet[12:14] == b"\\x08\\x00" and packet[23] == 17 and packet[36:38] == (3956).to_bytes(2, "big"):
            sent.add(socket.inet_ntoa(packet[30:34]))
except TimeoutError:
    print(json.dumps([said, sorted(sent)]))
"""


def test_a_camera_is_opened_by_its_address_without_a_broadcast() -> None:
    said, sent = alone(BY_ADDRESS)
    assert sent == ["10.77.0.2"]
    assert "cam-1: cannot be opened" in said
    assert "powered" in said
