"""The video camera, against a real RTSP server (tests/rtsp.py) and real files."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspector import adapters, checking
from inspector.cameras import Camera, _ffmpeg, video
from inspector.cameras._odometer import Encoder
from inspector.cameras._stamps import STALE_NS, Stamps, Times
from inspector.cameras.video import Crop, Options, VideoCamera
from inspector.config import Config, convert
from inspector.errors import CameraError, ConfigError
from inspector.events import Reason
from inspector.pool import Pool
from inspector.records import Frame, Loss
from tests import rtsp
from tests.line import lines
from tests.rtsp import HEIGHT, WIDTH, Script, serving
from tests.workers import free_port

PATIENCE_S = 10.0
Pixels = NDArray[np.uint8]


def sent(number: int) -> Pixels:
    return np.frombuffer(rtsp.picture(number), dtype=np.uint8).reshape(HEIGHT, WIDTH)


def read(camera: VideoCamera, pool: Pool) -> Frame | Loss:
    """The next frame or loss of a live camera, however long it takes."""
    item = camera.read(pool, PATIENCE_S)
    assert item is not None
    return item


def take(camera: VideoCamera, count: int) -> list[tuple[Frame | Loss, Pixels]]:
    """The next `count` frames and losses, with the frames' pixels."""
    pool, found = Pool(1), list[tuple[Frame | Loss, Pixels]]()
    for _ in range(count):
        item = read(camera, pool)
        pixels = item.pixels.copy() if isinstance(item, Frame) else np.empty((0, 0), dtype=np.uint8)
        found.append((item, pixels))
        if isinstance(item, Frame):
            item.release()
    return found


def drain(camera: Camera) -> list[tuple[Frame | Loss, Pixels]]:
    """A file to its end."""
    pool, found = Pool(1), list[tuple[Frame | Loss, Pixels]]()
    while not camera.ended:
        item = camera.read(pool, 0.0)
        if isinstance(item, Frame):
            found.append((item, item.pixels.copy()))
            item.release()
        elif item is not None:
            found.append((item, np.empty((0, 0), dtype=np.uint8)))
    return found


def until_dead(camera: VideoCamera) -> str:
    with pytest.raises(CameraError) as caught, camera:
        take(camera, 10_000)
    return str(caught.value)


@contextmanager
def opened(script: Script | None = None, **options: object) -> Iterator[VideoCamera]:
    with serving(script) as server, video.open("cam-1", Options(url=server.url, **options)) as camera:  # type: ignore[arg-type]
        yield camera


# ---------------------------------------------------------------- streams


def test_every_picture_of_a_stream_comes_bit_for_bit_and_in_order() -> None:
    with opened() as camera:
        found = take(camera, 50)
    for number, (frame, pixels) in enumerate(found):
        assert isinstance(frame, Frame)
        assert (frame.sequence, frame.encoder_count, frame.piece) == (number, number * HEIGHT, 0)
        assert frame.camera_ns == pytest.approx(number * 10_000_000, abs=20_000)  # ticks of 1/90,000 s
        assert frame.uncertainty_ns is None
        assert np.array_equal(pixels, sent(number))


def test_udp_is_for_whom_it_is_asked() -> None:
    with serving(Script(tcp=False)) as server:
        with video.open("cam-1", Options(url=server.url, transport="udp")) as camera:
            sequences = [item.sequence for item, _ in take(camera, 10)]
        assert "look at `transport`" in until_dead(video.open("cam-1", Options(url=server.url)))
    assert sequences == sorted(sequences)  # no more can be said: packets may be lost


def test_frames_that_were_never_sent_are_missing() -> None:
    with opened(Script(skip={3: 2, 30: 7})) as camera:
        found = take(camera, 34)
    losses = [item for item, _ in found if isinstance(item, Loss)]
    assert [(loss.sequence, loss.count, loss.reason) for loss in losses] == [
        (3, 2, Reason.MISSING),
        (30, 7, Reason.MISSING),
    ]
    for frame, pixels in found:
        if isinstance(frame, Frame):
            assert frame.encoder_count == frame.sequence * HEIGHT
            assert np.array_equal(pixels, sent(frame.sequence))


@pytest.mark.parametrize("jump_s", [-1.0, 3600.0])
def test_time_stamps_that_jump_are_a_reset(jump_s: float) -> None:
    with opened(Script(restamp={40: jump_s})) as camera:
        frames = [item for item, _ in take(camera, 45)]
    assert all(isinstance(frame, Frame) for frame in frames)
    after = [frame.after for frame in frames if isinstance(frame, Frame)]
    assert after == [None] * 40 + [Reason.RESET] + [None] * 4
    assert [frame.sequence for frame in frames] == list(range(45))
    assert [frame.piece for frame in frames if isinstance(frame, Frame)] == [0] * 40 + [1] * 5


def test_strip_that_passed_while_the_camera_restarted_is_left_out() -> None:
    """Twenty frames are never sent, and then the time stamps begin anew: only the time that passed tells of them."""
    with opened(Script(skip={70: 20}, restamp={90: -0.9})) as camera:
        before, after = (item for item, _ in take(camera, 72)[69:71])
    assert isinstance(before, Frame)
    assert isinstance(after, Frame)
    assert (before.sequence, after.sequence, after.after) == (69, 70, Reason.RESET)
    frames, rest = divmod(after.encoder_count - before.encoder_count, HEIGHT)
    assert rest == 0
    assert frames > 10


def test_a_camera_that_comes_back_counts_from_0_and_the_strip_has_gone_on() -> None:
    with serving(port=free_port()) as server:
        camera = video.open("cam-1", Options(url=server.url, encoder=Encoder(counts_per_line=2, first_count=1000)))
        with camera:
            before = [item for item, _ in take(camera, 20)][-1]
            server.kill()
            with pytest.raises(CameraError, match="cam-1"):
                take(camera, 100)
        with pytest.raises(CameraError, match="nothing listens there"):
            camera.__enter__()
        with serving(port=server.port), camera:
            again = [item for item, _ in take(camera, 3)]
    assert isinstance(before, Frame)
    assert before.encoder_count == 1000 + 19 * 2 * HEIGHT
    assert all(isinstance(frame, Frame) for frame in again)
    assert [frame.sequence for frame in again] == [0, 1, 2]
    counts = [frame.encoder_count - before.encoder_count for frame in again if isinstance(frame, Frame)]
    assert counts[0] > 2 * HEIGHT
    assert counts[0] % (2 * HEIGHT) == 0  # whole frames
    assert np.diff(counts).tolist() == [2 * HEIGHT] * 2


def test_a_stream_that_falls_silent_is_dead() -> None:
    with serving(Script(freeze_at=30)) as server:
        died = until_dead(video.open("cam-1", Options(url=server.url, read_timeout_s=0.3)))
    assert "cam-1" in died
    assert "no frame for 0.3 s (read_timeout_s)" in died


def test_a_stream_that_never_begins_is_dead() -> None:
    with serving(Script(freeze_at=0)) as server:
        died = until_dead(video.open("cam-1", Options(url=server.url, open_timeout_s=0.3, read_timeout_s=0.3)))
    assert "cam-1" in died


def test_a_camera_that_hangs_can_be_let_go() -> None:
    with serving() as server, video.open("cam-1", Options(url=server.url, read_timeout_s=1.0)) as camera:
        take(camera, 5)
        os.kill(server.process.pid, signal.SIGSTOP)
        with pytest.raises(CameraError, match="no frame for"):
            take(camera, 1000)


def test_a_camera_that_hangs_up_is_dead() -> None:
    with serving(Script(close_at=30)) as server:
        assert "the stream ended" in until_dead(video.open("cam-1", Options(url=server.url)))


@pytest.mark.parametrize(
    ("script", "url", "words"),
    [
        (Script(user="ann:right"), "rtsp://HOST/strip", "wants a user and a password"),
        (Script(user="ann:right"), "rtsp://ann:wr0ng@HOST/strip", "refuses the user or the password"),
        (Script(), "rtsp://HOST/other", "no stream at this path"),
        (Script(http=True), "http://HOST/other", "no stream at this path"),
        (Script(http=True), "rtsp://HOST/strip", "does not speak RTSP"),
        (Script(), "http://HOST/strip", "does not speak HTTP"),
        (Script(mute=True), "rtsp://HOST/strip", "no answer within 0.3 s"),
        (Script(mute=True), "http://HOST/strip", "no answer within 0.3 s"),
        (Script(), "rtsp://127.0.0.1:1/strip", "nothing listens there"),
        (Script(), "http://127.0.0.1:1/strip", "nothing listens there"),
        (Script(), "rtsps://HOST/strip", "gives no video"),
        (Script(tcp=False), "rtsp://HOST/strip", "gives no video"),
    ],
)
def test_a_stream_that_cannot_be_had_says_why(
    script: Script, url: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(script) as server:
        url = url.replace("HOST", f"127.0.0.1:{server.port}")
        died = until_dead(
            video.open("cam-1", Options(url=url, open_timeout_s=0.3 if script.mute or url[4] == "s" else 3.0))
        )
    assert "cam-1" in died
    assert words in died
    assert "wr0ng" not in died
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def test_a_password_with_every_sign_is_proved_to_the_camera() -> None:
    with opened(Script(user="ann@home:p@ss:w/rd?#")) as camera:
        take(camera, 2)


def test_pictures_without_time_stamps_of_their_own_come_too() -> None:
    with opened(Script(http=True, skip={10: 5})) as camera:
        found = take(camera, 30)
    assert [item.sequence for item, _ in found] == list(range(30))
    for frame, pixels in found:
        assert isinstance(frame, Frame)
        assert np.unique(pixels).tolist() == [128]


def test_the_frame_rate_that_is_wanted_counts_every_frame_that_is_less() -> None:
    with opened(Script(rate_hz=50.0), frame_rate_hz=100.0) as camera:
        found = [item for item, _ in take(camera, 21)]
    assert [item.count for item in found if isinstance(item, Loss)] == [1] * 10
    assert [item.sequence for item in found] == list(range(21))


def test_h264_from_an_encoder(tmp_path: Path) -> None:
    """As network cameras send it: the frames come in another order than they are shown."""
    path = encoded(tmp_path, "-c:v", "libx264", "-qp", "0", "-bf", "2", "-g", "10", suffix=".ts")
    with video.open("cam-1", Options(path=path, pace="free")) as camera:
        found = drain(camera)
    assert [item.sequence for item, _ in found] == list(range(30))
    assert [int(np.median(pixels)) for _, pixels in found] == sorted(int(np.median(pixels)) for _, pixels in found)


def test_a_file_without_time_stamps_has_the_pace_that_it_states(tmp_path: Path) -> None:
    path = encoded(tmp_path, "-c:v", "libx264", "-bf", "0", suffix=".h264")
    with video.open("cam-1", Options(path=path)) as camera:
        frames = [item for item, _ in take(camera, 5)]
    assert [frame.camera_ns for frame in frames if isinstance(frame, Frame)] == [0, None, None, None, None]
    times = [frame.monotonic_ns for frame in frames if isinstance(frame, Frame)]
    assert np.diff(times).tolist() == [40_000_000] * 4


# ---------------------------------------------------------------- files


def written(path: Path, pictures: list[Pixels], codec: str = "FFV1", rate_hz: float = 25.0) -> Path:
    height, width = pictures[0].shape[:2]
    grey = pictures[0].ndim == 2
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate_hz, (width, height), isColor=not grey)
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


def encoded(folder: Path, *how: str, suffix: str) -> Path:
    """30 pictures of 64 x 320 px that grow brighter, by the ffmpeg command."""
    path = folder / f"clip{suffix}"
    grey = "nullsrc=size=320x64:rate=25,format=gray,geq=lum=20+N*7,format=yuv420p"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", grey, "-frames:v", "30", *how, str(path)]
    try:
        subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        pytest.skip("needs ffmpeg")
    except subprocess.CalledProcessError:
        pytest.skip("this ffmpeg has no libx264")
    return path


def test_a_file_comes_bit_for_bit_and_ends(tmp_path: Path) -> None:
    pictures = [sent(k) for k in range(12)]
    path = written(tmp_path / "strip.avi", pictures)
    with video.open("cam-1", Options(path=path, pace="free")) as camera:
        found = drain(camera)
        assert camera.read(Pool(1), 0.0) is None
    assert [item.sequence for item, _ in found] == list(range(12))
    assert all(np.array_equal(pixels, picture) for (_, pixels), picture in zip(found, pictures, strict=True))


def test_a_file_has_the_pace_of_its_stamps(tmp_path: Path) -> None:
    path = written(tmp_path / "strip.avi", [sent(k) for k in range(5)], rate_hz=50.0)
    with video.open("cam-1", Options(path=path)) as camera:
        frames = [item for item, _ in take(camera, 5)]
        assert camera.read(Pool(1), PATIENCE_S) is None
        assert camera.ended
    times = np.array([frame.monotonic_ns for frame in frames if isinstance(frame, Frame)])
    assert np.diff(times).tolist() == [20_000_000] * 4
    exposed = np.array([frame.exposed_ns for frame in frames if isinstance(frame, Frame)])
    assert np.all(np.diff(exposed) > 0)


def test_a_file_is_not_hurried(tmp_path: Path) -> None:
    path = written(tmp_path / "strip.avi", [sent(k) for k in range(3)], rate_hz=0.01)
    pool = Pool(2)
    with video.open("cam-1", Options(path=path)) as camera:
        assert isinstance(camera.read(pool, 0.0), Frame)
        assert [camera.read(pool, 0.0) for _ in range(5)] == [None] * 5
        assert not camera.ended


def test_what_the_decoder_refuses_has_failed(tmp_path: Path) -> None:
    path = written(tmp_path / "strip.avi", [sent(k) for k in range(8)], codec="MPNG")
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data.startswith(b"\x89PNG\r\n", at)]
    assert len(starts) == 8
    data[starts[3] : starts[3] + 8] = bytes(8)
    path.write_bytes(data)
    with video.open("cam-1", Options(path=path, pace="free")) as camera:
        found = drain(camera)
    (loss,) = [item for item, _ in found if isinstance(item, Loss)]
    assert (loss.sequence, loss.reason) == (3, Reason.FAILED)
    frames = [(item.sequence, pixels) for item, pixels in found if isinstance(item, Frame)]
    assert [number for number, _ in frames] == [0, 1, 2, *range(3 + loss.count, 8)]
    assert all(np.array_equal(pixels, sent(number)) for number, pixels in frames)


def test_colour_becomes_luma_as_in_replay(tmp_path: Path) -> None:
    colours = [np.random.default_rng(k).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for k in range(2)]
    path = written(tmp_path / "strip.avi", colours)
    with video.open("cam-1", Options(path=path, pace="free")) as camera:
        found = drain(camera)
    adapter = adapters.module("cameras", "replay", "")
    with adapter.open("cam-1", adapter.Options(sources=[path])) as replay:
        replayed = drain(replay)
    assert len(found) == 2
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, replayed, strict=True))


def test_the_crop_is_what_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "strip.avi", [sent(k) for k in range(3)])
    crop = Crop(left=10, top=5, width_px=100, height_px=20)
    with video.open("cam-1", Options(path=path, pace="free", crop=crop)) as camera:
        found = drain(camera)
    for number, (frame, pixels) in enumerate(found):
        assert isinstance(frame, Frame)
        assert frame.encoder_count == number * 20
        assert np.array_equal(pixels, sent(number)[5:25, 10:110])


@pytest.mark.parametrize("crop", [Crop(top=HEIGHT), Crop(left=300, width_px=21), Crop(top=60, height_px=5)])
def test_a_crop_beyond_the_picture_is_told(tmp_path: Path, crop: Crop) -> None:
    path = written(tmp_path / "strip.avi", [sent(0)] * 3)
    died = until_dead(video.open("cam-1", Options(path=path, pace="free", crop=crop)))
    assert "crop: reaches beyond the picture, which has 320 x 64 px" in died


def test_a_file_that_is_no_video_is_told(tmp_path: Path) -> None:
    path = tmp_path / "strip.avi"
    path.write_bytes(b"no video" * 100)
    assert "cannot be opened as a video" in until_dead(video.open("cam-1", Options(path=path)))


# ---------------------------------------------------------------- settings and secrets


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(), "one of url"),
        (Options(url="rtsp://h/s", path=Path("a.avi")), "one of url"),
        (Options(path=Path("/nowhere/a.avi")), "no file"),
        (Options(url="rtsp://h/s", pace="free"), "pace"),
        (Options(url="rtsp://h/s", encoder=Encoder(source="chunk")), "encoder.source"),
        (Options(url="ftp://ann:geheim@h/s"), "rtsp://USER:PASSWORD@HOST"),
        (Options(url="/etc/geheim"), "rtsp://USER:PASSWORD@HOST"),
        (Options(url="rtsp://ann:ge/heim@h/s"), "rtsp://USER:PASSWORD@HOST"),
        (Options(url="rtsp://ann:1/geheim@h/s"), "rtsp://USER:PASSWORD@HOST"),
        (Options(url="rtsp://ann:ge heim@h/s"), "rtsp://USER:PASSWORD@HOST"),
        (Options(url="rtsp://h:99999/s"), "rtsp://USER:PASSWORD@HOST"),
        (Options(url="rtsp:///s"), "rtsp://USER:PASSWORD@HOST"),
    ],
)
def test_wrong_settings_are_told_without_the_password(options: Options, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        video.check(options)
    assert words in str(caught.value)
    assert "heim" not in str(caught.value)


SECRET = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6)


@given(SECRET)
@example("p@ss/word")
@example("a?b#c=d")
def test_a_password_is_never_shown(secret: str) -> None:
    for written_as in (secret, quote(secret, safe="")):
        shown = adapters.shown({"url": f"rtsp://ann:{written_as}@camera/path", "pace": "live"})
        assert written_as not in shown.replace("://***@camera/path", "").replace("pace=live", "").replace(
            "url=rtsp", ""
        )
        assert shown == "url=rtsp://***@camera/path, pace=live"


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("rtsp://h/user=admin&password=geheim&channel=1", "rtsp://h/user=admin&password=***&channel=1"),
        ("http://h/cam?pwd=geheim", "http://h/cam?pwd=***"),
        ("http://h/cam?access_token=geheim", "http://h/cam?access_token=***"),
        ("/etc/inspector/key=1", "/etc/inspector/key=1"),
        ("tcp://127.0.0.1:5570", "tcp://127.0.0.1:5570"),
    ],
)
def test_what_is_secret_in_an_address_is_masked(option: str, shown: str) -> None:
    assert adapters.shown({"address": option}) == f"address={shown}"


def test_the_table_of_the_check_shows_no_password(tmp_path: Path, pack: Path) -> None:
    camera = {"name": "a", "kind": "video", "options": {"url": "rtsp://ann:geheim@127.0.0.1:1/strip"}}
    rows = checking.check(convert(lines.config(pack, tmp_path / "journal.db", camera), Config))
    (row,) = [row for row in rows if row[0] == "camera a"]
    assert "rtsp://***@127.0.0.1:1/strip" in row[2]
    assert "geheim" not in str(rows)


def test_the_check_says_which_camera_has_the_wrong_option(tmp_path: Path, pack: Path) -> None:
    paths = {"a": __file__, "b": "/no"}
    cameras = [{"name": name, "kind": "video", "options": {"path": path}} for name, path in paths.items()]
    raw = lines.config(pack, tmp_path / "journal.db", *cameras)
    with pytest.raises(ConfigError, match=r"^cameras\[1\]\.options: path: /no is no file"):
        checking.check(convert(raw, Config))


def test_cameras_that_are_opened_do_not_hold_up_another_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = video.open("cam-1", Options(path=written(tmp_path / "strip.avi", [sent(0)])))
    monkeypatch.setattr(video, "QUEUE_S", 0.01)
    with _ffmpeg._opening, pytest.raises(CameraError, match=r"cam-1.*other cameras are being opened"):
        camera.__enter__()
    with camera:
        assert len(take(camera, 1)) == 1


def test_who_wants_to_hear_ffmpeg_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_LOGLEVEL", "24")
    _ffmpeg.quiet()
    assert os.environ["OPENCV_FFMPEG_LOGLEVEL"] == "24"
    monkeypatch.delenv("OPENCV_FFMPEG_LOGLEVEL")
    monkeypatch.setenv("OPENCV_FFMPEG_DEBUG", "1")
    _ffmpeg.quiet()
    assert "OPENCV_FFMPEG_LOGLEVEL" not in os.environ


def test_options_for_ffmpeg_in_the_environment_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_ffmpeg.CAPTURE, "rtsp_transport;tcp|stimeout;1000000")
    with opened(transport="udp") as camera:  # the camera may use TCP, and does
        take(camera, 1)
    assert os.environ[_ffmpeg.CAPTURE] == "rtsp_transport;tcp|stimeout;1000000"


# ---------------------------------------------------------------- time stamps

MS = 1_000_000


@given(
    st.lists(st.booleans(), min_size=2, max_size=200),
    st.sampled_from([1.0, 12.5, 25.0, 29.97, 60.0, 240.0]),
    st.floats(-0.2, 0.2),
)
def test_at_a_known_rate_every_frame_is_told_once(comes: list[bool], rate_hz: float, jitter: float) -> None:
    comes = [True, *comes, True]
    stamps = Stamps(rate_hz, 0.0)
    period = 1e9 / rate_hz
    told = 0
    for number, sent_now in enumerate(comes):
        if sent_now:
            missing = stamps.missing(round((number + jitter * (number % 2)) * period))
            assert missing is not None
            told += 1 + missing
    assert told == len(comes)


@given(st.integers(2, 8), st.integers(1, 8))
def test_a_stream_that_slows_down_for_good_is_believed(slower: int, rate: int) -> None:
    stamps = Stamps(None, 10.0 * rate)
    period = 100 * MS // rate
    assert [stamps.missing(number * period) for number in range(20)] == [0] * 20
    at = 19 * period
    told = [stamps.missing(at + number * slower * period) for number in range(1, 20)]
    assert told == [slower - 1] * 5 + [0] * 14


def test_a_rate_that_the_stream_makes_up_is_not_believed() -> None:
    stamps = Stamps(None, 90_000.0)
    assert [stamps.missing(number * 500 * MS) for number in range(5)] == [0] * 5


def test_stamps_that_stand_tell_nothing() -> None:
    stamps = Stamps(None, 25.0)
    assert [stamps.missing(0, number * 40 * MS) for number in range(5)] == [0] * 5


def test_the_exposure_is_freed_of_the_jitter_and_of_the_pile() -> None:
    """30 frames pile up while the stream is opened; every third of the others comes 20 ms late."""
    times = Times()
    exposed = []
    for number in range(100):
        arrived = max(1200, 40 * number + 20 * (number % 3 == 0)) * MS
        exposed.append(times.of(number * 40 * MS, arrived, fresh=number > 30)[0])
    assert exposed[31:] == [number * 40 * MS for number in range(31, 100)]


def test_a_gap_is_as_long_as_the_time_between_the_exposures() -> None:
    """The stream is opened again after a day of drift; its first frame comes late by what it was before."""
    times = Times()
    pile, drift = 800 * MS, 1.0001
    for number in range(2000):
        exposed = round(number * 40 * MS * drift)
        last = times.of(number * 40 * MS, max(exposed, pile), fresh=True)[1]
    times.opened()
    again = 2100 * 40 * MS
    first = times.of(0, again + pile, fresh=True)[1]
    assert (first - last) / (40 * MS) == pytest.approx(101, abs=0.6)


def test_a_reset_takes_no_time() -> None:
    times = Times()
    for number in range(100):
        last = times.of(number * 40 * MS, max(number * 40, 800) * MS, fresh=True)[1]
    times.began_anew()
    assert times.of(7 * MS, 100 * 40 * MS, fresh=True)[1] - last == 40 * MS


def test_stamps_slower_than_time_do_not_age_the_frames() -> None:
    """FFmpeg stamps 25 frames a second where it knows no better; the camera sends 10."""
    times = Times()
    for number in range(1000):
        arrived = number * 100 * MS
        exposed, _ = times.of(number * 40 * MS, arrived, fresh=True)
        assert 0 <= arrived - exposed <= STALE_NS
