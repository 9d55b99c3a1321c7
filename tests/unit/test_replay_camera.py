"""The replay camera: what it takes, what it refuses and how it says so, and that it never loses a frame in silence."""

from __future__ import annotations

import os
import stat
import struct
import threading
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspector import adapters
from inspector.cameras import replay
from inspector.cameras._sources import natural
from inspector.errors import CameraError, ConfigError, SinkError
from inspector.events import Reason, as_json
from inspector.pool import Pool
from inspector.records import Frame, Loss
from tests.disks import room_for

Pixels = NDArray[np.uint8]
EOI = b"\xff\xd9"


def noise(height: int = 32, width: int = 48, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def encoded(suffix: str, pixels: Any, *parameters: int) -> bytes:
    _, data = cv2.imencode(suffix, pixels, list(parameters))
    return data.tobytes()


def options(*sources: Path, **others: Any) -> replay.Options:
    return replay.Options(sources=list(sources), **others)


def play(*sources: Path, pool: Pool | None = None, **others: Any) -> list[tuple[Frame, Pixels] | Loss]:
    """All that the camera gives, with a copy of each frame's pixels."""
    pool, found = pool or Pool(2), list[tuple[Frame, Pixels] | Loss]()
    with replay.open("cam-1", options(*sources, **others)) as camera:
        while not camera.ended:
            item = camera.read(pool, 0.0)
            if isinstance(item, Frame):
                found.append((item, item.pixels.copy()))
                item.release()
            elif item is not None:
                found.append(item)
    assert pool.in_use == 0
    assert camera.total_frames == sum(item.count if isinstance(item, Loss) else 1 for item in found)
    return found


def frames(*sources: Path, **others: Any) -> list[Frame]:
    """The frames; there must be no loss among them."""
    found = play(*sources, **others)
    assert not [item for item in found if isinstance(item, Loss)]
    return [item[0] for item in found if not isinstance(item, Loss)]


def pixels_of(path: Path) -> Pixels:
    ((_, pixels),) = [item for item in play(path) if not isinstance(item, Loss)]
    return pixels


def loss_of(path: Path) -> Loss:
    """The one loss that a source gives."""
    (loss,) = play(path)
    assert isinstance(loss, Loss)
    assert (loss.sequence, loss.count, loss.reason) == (0, 1, Reason.UNREADABLE)
    return loss


def written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------- pictures it takes


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".pgm"])
def test_lossless_grey_is_exact(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"a{suffix}", encoded(suffix, noise()))
    assert np.array_equal(pixels_of(path), noise())


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_three_equal_channels_give_that_channel(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"a{suffix}", encoded(suffix, cv2.merge([noise()] * 3)))
    assert np.array_equal(pixels_of(path), noise())


def test_colour_becomes_luma(tmp_path: Path) -> None:
    colour = np.dstack([noise(seed=1), noise(seed=2), noise(seed=3)])
    path = written(tmp_path / "a.png", encoded(".png", colour))
    luma = colour @ np.array([0.114, 0.587, 0.299])
    assert np.abs(pixels_of(path) - luma).max() < 2


def test_a_file_is_opened_by_content_not_by_suffix(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jpg", encoded(".png", noise()))
    assert np.array_equal(pixels_of(path), noise())
    assert np.array_equal(pixels_of(written(tmp_path / "capture.dat", encoded(".png", noise()))), noise())


def test_jpeg_is_what_the_decoder_says_with_and_without_bytes_behind_it(tmp_path: Path) -> None:
    data = encoded(".jpg", noise())
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert expected is not None
    for number, tail in enumerate((b"", b"\0" * 100, b"trailer\xff\xd8", EOI)):
        assert np.array_equal(pixels_of(written(tmp_path / f"{number}.jpg", data + tail)), expected)


@pytest.mark.parametrize("grey", [0, 127, 128, 255])
def test_a_flat_jpeg_is_a_picture(tmp_path: Path, grey: int) -> None:
    """Grey 128 is also what the decoder puts where data is missing."""
    flat = np.full((40, 50), grey, dtype=np.uint8)
    assert np.array_equal(pixels_of(written(tmp_path / "a.jpg", encoded(".jpg", flat))), flat)


def test_rows_are_as_stored_whatever_the_exif_orientation(tmp_path: Path) -> None:
    tags = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + b"\0\0\0\0"
    data = encoded(".jpg", noise())
    turned = written(tmp_path / "a.jpg", data[:2] + app1(b"Exif\0\0" + tags) + data[2:])
    assert pixels_of(turned).shape == (32, 48)


def app1(payload: bytes) -> bytes:
    return b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 13), (300, 1001)])
def test_any_size_is_taken(tmp_path: Path, size: tuple[int, int]) -> None:
    path = written(tmp_path / "a.png", encoded(".png", noise(*size)))
    assert np.array_equal(pixels_of(path), noise(*size))


# ---------------------------------------------------------------- pictures it refuses


def torn_jpeg_with_thumbnail() -> bytes:
    data = encoded(".jpg", noise(64, 64))
    return data[:2] + app1(b"Exif\0\0" + encoded(".jpg", noise(8, 8))) + data[2 : len(data) // 2]


def patched_jpeg(offset: int, value: int) -> bytes:
    """A JPEG with one byte of its frame header changed."""
    data = bytearray(encoded(".jpg", noise()))
    data[data.index(b"\xff\xc0") + offset] = value
    return bytes(data)


JPEG, PNG, BMP = (encoded(suffix, noise(64, 64)) for suffix in (".jpg", ".png", ".bmp"))
BAD = {
    "empty": (b"", "empty"),
    "text": (b"this is no picture at all, but text", "not a picture"),
    "zeros": (bytes(5000), "not a picture"),
    "jpeg cut in its header": (JPEG[:100], "JPEG that is cut short"),
    "jpeg cut in the middle": (JPEG[: len(JPEG) // 2], "JPEG that is cut short"),
    "jpeg without its last byte": (JPEG[:-1], "JPEG that is cut short"),
    "jpeg cut, with a thumbnail": (torn_jpeg_with_thumbnail(), "JPEG that is cut short"),
    "jpeg cut, filled with zeros": (JPEG[: len(JPEG) // 2] + bytes(len(JPEG)), "JPEG that is cut short"),
    "jpeg cut, with an end": (JPEG[: len(JPEG) // 2] + EOI, "ends before its last row"),
    "jpeg overwritten": (JPEG[: len(JPEG) // 2] + b"\xff\x40" + JPEG[len(JPEG) // 2 :], "damaged at byte"),
    "jpeg without a picture": (b"\xff\xd8" + app1(b"x") + EOI, "without a picture"),
    "jpeg of no height": (patched_jpeg(5, 0)[:400], "JPEG"),
    "jpeg of 12 bits": (patched_jpeg(4, 12), "12-bit"),
    "jpeg in CMYK": (patched_jpeg(9, 4), "CMYK"),
    "png cut in its header": (PNG[:20], "PNG that is cut short"),
    "png cut in the middle": (PNG[: len(PNG) // 2], "PNG that is cut short"),
    "png without its last byte": (PNG[:-1], "PNG that is cut short"),
    "png with a wrong sum": (PNG[:500] + b"####" + PNG[504:], "damaged inside"),
    "png of 16 bits": (encoded(".png", noise().astype(np.uint16) * 16), "16-bit PNG"),
    "png too large": (PNG[:16] + struct.pack(">II", 65535, 65535) + PNG[24:], "65535 x 65535"),
    "png of no width": (PNG[:16] + bytes(4) + PNG[20:], "no pixels"),
    "bmp cut": (BMP[:-1], "BMP that is cut short"),
    "bmp cut in its header": (BMP[:20], "BMP that is cut short"),
    "tiff cut": (encoded(".tiff", noise())[:-5], "TIFF that is cut short"),
    "tiff of 16 bits": (encoded(".tiff", noise().astype(np.uint16) * 16), "16-bit TIFF"),
    "tiff of floats": (encoded(".tiff", noise().astype(np.float32)), "32-bit TIFF"),
    "pgm of 16 bits": (encoded(".pgm", noise().astype(np.uint16) * 16), "uint16"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_picture_is_lost_with_a_word_on_what_is_wrong(tmp_path: Path, what: str) -> None:
    data, said = BAD[what]
    loss = loss_of(written(tmp_path / "bad.jpg", data))
    assert said in loss.detail
    assert ";" in loss.detail or "." in loss.detail  # what is wrong; how to mend it
    assert loss.source == "bad.jpg"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
def test_no_cut_of_a_file_passes_for_a_picture(tmp_path: Path, suffix: str) -> None:
    data = encoded(suffix, noise())
    for length in range(len(data) - 1, 0, -max(1, len(data) // 40)):
        written(tmp_path / "cuts" / f"{length}{suffix}", data[:length])
    assert all(isinstance(item, Loss) for item in play(tmp_path / "cuts"))


def test_no_cut_of_a_jpeg_passes_even_with_an_end_put_on(tmp_path: Path) -> None:
    data = encoded(".jpg", noise())
    scan = data.index(b"\xff\xda") + 14
    for length in range(scan, len(data) - 60, 29):
        written(tmp_path / "cuts" / f"{length}.jpg", data[:length].rstrip(b"\xff") + EOI)
    assert all(isinstance(item, Loss) for item in play(tmp_path / "cuts"))


def test_what_is_no_file_is_lost_and_holds_up_nothing(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").mkdir()
    os.mkfifo(tmp_path / "2.png")  # opening it would wait for a writer
    (tmp_path / "3.bmp").symlink_to(tmp_path / "nowhere.bmp")
    (tmp_path / "4.avi").mkdir()
    written(tmp_path / "5.avi", b"no video")
    os.mkfifo(tmp_path / "6.mkv")
    written(tmp_path / "7.png", encoded(".png", noise()))
    *losses, good = play(tmp_path)
    assert [loss.source for loss in losses if isinstance(loss, Loss)] == [
        "1.jpg", "2.png", "3.bmp", "4.avi", "5.avi", "6.mkv",
    ]  # fmt: skip
    assert not isinstance(good, Loss)
    assert good[0].sequence == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_that_may_not_be_read_is_lost(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", encoded(".png", noise()))
    path.chmod(0)
    assert "Permission denied" in loss_of(path).detail


def test_a_picture_that_goes_away_is_lost(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / f"{name}.png", encoded(".png", noise()))
    pool = Pool(1)
    with replay.open("cam-1", options(tmp_path)) as camera:
        first = camera.read(pool, 0.0)
        (tmp_path / "b.png").unlink()
        second = camera.read(pool, 0.0)
    assert isinstance(first, Frame)
    assert isinstance(second, Loss)
    assert "No such file" in second.detail


# ---------------------------------------------------------------- TIFF, page by page


def tiff(order: str, pages: list[tuple[Pixels, int]], big: bool = False) -> bytes:
    """An uncompressed grey TIFF, directories first; a page is (pixels, its SUBFILE tag)."""
    value, count, entry = ("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")
    head = b"II" if order == "<" else b"MM"
    head += struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, 16) if big else (42, 8)))
    tags = 9
    size = struct.calcsize(order + count) + tags * struct.calcsize(order + entry) + struct.calcsize(order + value)
    data, strips = head, b""
    for number, (pixels, subfile) in enumerate(pages):
        height, width = pixels.shape
        at = len(head) + size * len(pages) + len(strips)
        fields = {254: subfile, 256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: at, 278: height, 279: pixels.size}
        data += struct.pack(order + count, tags)
        for tag, what in fields.items():
            data += struct.pack(order + entry, tag, 16 if big else 4, 1, what)
        last = number == len(pages) - 1
        data += struct.pack(order + value, 0 if last else len(head) + size * (number + 1))
        strips += pixels.tobytes()
    return data + strips


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_page_of_a_tiff_is_a_frame_but_thumbnails(tmp_path: Path, order: str, big: bool) -> None:
    pages = [(noise(seed=1), 0), (noise(4, 6), 1), (noise(20, 48, seed=2), 2)]
    found = play(written(tmp_path / "a.tif", tiff(order, pages, big)))
    (first, one), (second, two) = [item for item in found if not isinstance(item, Loss)]
    assert np.array_equal(one, pages[0][0])
    assert np.array_equal(two, pages[2][0])
    assert (first.source, second.source) == ("a.tif#page1", "a.tif#page3")
    assert (first.piece, second.piece) == (0, 0)
    assert second.encoder_count == 32


def test_a_tiff_cut_in_its_pixels_is_lost(tmp_path: Path) -> None:
    data = tiff("<", [(noise(), 0)])
    assert "decoded" in loss_of(written(tmp_path / "a.tif", data[:-100])).detail


def test_a_tiff_whose_directories_run_in_a_circle_ends(tmp_path: Path) -> None:
    data = bytearray(tiff("<", [(noise(), 0)]))
    data[8 + 2 + 9 * 12 : 8 + 2 + 9 * 12 + 4] = struct.pack("<I", 8)
    assert len(play(written(tmp_path / "a.tif", bytes(data)))) == 1


# ---------------------------------------------------------------- folders


def test_natural_order() -> None:
    names = ["img10.png", "img9.png", "img09.png", "a.png", "img9b.png", "2.png", "10.png"]
    assert sorted(names, key=natural) == [
        "2.png", "10.png", "a.png", "img09.png", "img9.png", "img9b.png", "img10.png",
    ]  # fmt: skip


def test_other_files_are_passed_over_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.png", "a.PNG", ".hidden.png", "._a.png", ".raw", "sub/c.png"):
        written(tmp_path / name, encoded(".png", noise()))
    for name in ("notes.txt", "truth.csv", ".DS_Store"):
        written(tmp_path / name, b"roll 4711, which was looked at twice")
    os.mkfifo(tmp_path / "pipe")  # opened it would wait for its writer
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with caplog.at_level("INFO"):
        camera = replay.open("cam-1", options(tmp_path))
    assert [frame.source for frame in frames(tmp_path)] == ["a.PNG", "b.png"]
    assert camera.passed_over == ["gone", "notes.txt", "pipe", "sub/", "truth.csv"]
    words = "passed over: gone, notes.txt, pipe, sub/, truth.csv (5 entries are no picture, video or recording)"
    assert [record.message for record in caplog.records] == [f"camera cam-1: {words}"]


def test_a_folder_of_nothing_else_is_no_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "a.png", encoded(".png", noise()))
    written(tmp_path / ".DS_Store", b"hidden")
    with caplog.at_level("INFO"):
        replay.open("cam-1", options(tmp_path))
    assert not caplog.records


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff"])
def test_a_picture_in_a_folder_is_known_by_its_content_where_its_name_says_nothing(tmp_path: Path, suffix: str) -> None:
    data = encoded(suffix, noise())
    for name in ("7", "8.raw", "9.png.bak"):
        written(tmp_path / name, data)
    found = play(tmp_path)
    assert [item[0].source for item in found if not isinstance(item, Loss)] == ["7"]
    written(tmp_path / "10", data[: len(data) // 2])
    torn = play(tmp_path)[-1]
    assert isinstance(torn, Loss)
    assert (torn.source, torn.reason) == ("10", Reason.UNREADABLE)


@pytest.mark.parametrize("start", [b"", b"BM", b"BMW and other makes of car", b"II", b"\xff\xd8", b"\x89PNG"])
def test_what_only_seems_to_begin_like_a_picture_is_passed_over(tmp_path: Path, start: bytes) -> None:
    written(tmp_path / "a.png", encoded(".png", noise()))
    written(tmp_path / "list", start)
    assert replay.open("cam-1", options(tmp_path)).passed_over == ["list"]


def test_of_what_is_passed_over_the_first_names_are_told_and_how_many_there_are() -> None:
    assert replay.told(["a.csv"]) == "passed over: a.csv (1 entry is no picture, video or recording)"
    many = [f"{number}.txt" for number in range(1234)]
    assert replay.told(many) == (
        "passed over: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ... (1,234 entries are no picture, video or recording)"
    )


def test_a_name_that_is_no_text_still_makes_an_event(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"strip\xff.png")
    try:
        with open(path, "wb") as file:
            file.write(encoded(".png", noise()))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (frame,) = frames(tmp_path)
    assert frame.source == "strip\\xff.png"
    assert msgspec.json.decode(as_json(frame.source)) == frame.source


@pytest.mark.parametrize("what", ["missing", "empty", "only text", "text"])
def test_a_source_with_nothing_to_play_is_a_configuration_error(tmp_path: Path, what: str) -> None:
    source = tmp_path / what
    if what != "missing":
        source.mkdir()
    if "text" in what:
        written(source / "notes.txt", b"text")
    if what == "text":
        source = source / "notes.txt"
    with pytest.raises(ConfigError, match=str(source)):
        replay.check(options(source))
    with pytest.raises(ConfigError, match=str(source)):
        replay.open("cam-1", options(source))


def test_options_are_closed() -> None:
    wrongs: list[dict[str, Any]] = [{}, {"sources": []}, {"sources": ["x"], "contigous": True}, {"sources": "x"}]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            adapters.options(replay, wrong, "cameras[0].options")
    assert adapters.options(replay, {"sources": ["x"]}, "").sources == [Path("x")]


def test_a_source_that_has_gone_is_a_camera_error(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", encoded(".png", noise()))
    camera = replay.open("cam-1", options(path))
    path.unlink()
    with pytest.raises(CameraError, match=r"a\.png"), camera:
        pass
    written(path, encoded(".png", noise()))
    with camera:
        assert isinstance(camera.read(Pool(1), 0.0), Frame)


# ---------------------------------------------------------------- pieces, counts, times


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Heights 10, 20, a torn one of 30, an empty one, 40."""
    for name, height in (("1", 10), ("2", 20), ("5", 40)):
        written(tmp_path / f"{name}.png", encoded(".png", noise(height)))
    written(tmp_path / "3.png", encoded(".png", noise(30))[:-20])
    written(tmp_path / "4.png", b"")
    return tmp_path


def delivered(found: list[tuple[Frame, Pixels] | Loss]) -> list[Frame]:
    return [item[0] for item in found if not isinstance(item, Loss)]


def test_counts_run_on_over_what_is_lost(folder: Path) -> None:
    """A torn picture still tells its height; an empty one counts as high as the next good one."""
    found = delivered(play(folder, counts_per_line=2.5, first_encoder_count=100))
    assert [frame.sequence for frame in found] == [0, 1, 4]
    assert [frame.encoder_count for frame in found] == [100, 100 + 25, 100 + 250]


def test_pictures_are_pieces_unless_contiguous(folder: Path) -> None:
    assert [frame.piece for frame in delivered(play(folder))] == [0, 1, 2]
    assert [frame.piece for frame in delivered(play(folder, contiguous=True))] == [0, 0, 0]


def test_repeat_goes_on(folder: Path) -> None:
    found = delivered(play(folder, repeat=2))
    assert [frame.sequence for frame in found] == [0, 1, 4, 5, 6, 9]
    assert [frame.piece for frame in found] == [0, 1, 2, 3, 4, 5]
    assert found[3].encoder_count == found[2].encoder_count + 40


def test_repeat_for_ever(folder: Path) -> None:
    pool = Pool(1)
    with replay.open("cam-1", options(folder, repeat=0)) as camera:
        assert camera.total_frames is None
        items = [camera.read(pool, 0.0) for _ in range(1)]
        for _ in range(50):
            for item in items:
                if isinstance(item, Frame):
                    item.release()
            items = [camera.read(pool, 0.0)]
            assert items[0] is not None
        assert not camera.ended


def test_time_is_the_files_or_the_one_given(folder: Path) -> None:
    os.utime(folder / "2.png", ns=(0, 1_700_000_000_123_456_789))
    assert delivered(play(folder))[1].exposed_ns == 1_700_000_000_123_456_789
    found = delivered(play(folder, start_ns=1000, line_rate_hz=1e6))
    assert [frame.exposed_ns for frame in found] == [1000, 1000 + 10 * 1000, 1000 + 100 * 1000]


def test_high_pictures_are_cut_on_demand(tmp_path: Path) -> None:
    path = written(tmp_path / "a.png", encoded(".png", noise(100)))
    found = [item for item in play(path, frame_lines=40) if not isinstance(item, Loss)]
    assert np.array_equal(np.vstack([pixels for _, pixels in found]), noise(100))
    assert [frame.source for frame, _ in found] == ["a.png#0", "a.png#40", "a.png#80"]
    assert [(frame.encoder_count, frame.piece) for frame, _ in found] == [(0, 0), (40, 0), (80, 0)]
    assert [frame.source for frame in frames(path, frame_lines=100)] == ["a.png"]


# ---------------------------------------------------------------- videos


def video(path: Path, count: int, codec: str = "FFV1", colour: bool = False) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, (320, 64), isColor=colour)
    for number in range(count):
        grey = noise(64, 320, seed=number)
        writer.write(cv2.merge([grey] * 3) if colour else grey)
    writer.release()
    return path


@pytest.mark.parametrize(("suffix", "colour"), [(".avi", False), (".avi", True), (".mkv", False)])
def test_lossless_video_is_exact(tmp_path: Path, suffix: str, colour: bool) -> None:
    found = play(video(tmp_path / f"a{suffix}", 5, colour=colour))
    assert len(found) == 5
    for number, item in enumerate(found):
        assert not isinstance(item, Loss)
        frame, pixels = item
        assert np.array_equal(pixels, noise(64, 320, seed=number))
        assert (frame.source, frame.piece, frame.encoder_count) == (f"a{suffix}#{number}", 0, number * 64)


def test_a_video_that_is_cut_loses_the_rest(tmp_path: Path) -> None:
    data = video(tmp_path / "a.avi", 10).read_bytes()
    found = play(written(tmp_path / "b.avi", data[: len(data) // 2]))
    *whole, loss = found
    assert isinstance(loss, Loss)
    assert loss.sequence == len(whole)
    assert loss.sequence + loss.count == 10
    assert 3 <= len(whole) <= 5
    for number, item in enumerate(whole):
        assert not isinstance(item, Loss)
        assert np.array_equal(item[1], noise(64, 320, seed=number))


def test_numbered_pictures_are_not_taken_for_a_video(tmp_path: Path) -> None:
    for number in range(3):
        written(tmp_path / f"img{number}.avi", encoded(".png", noise()))
    assert len(play(tmp_path / "img0.avi")) == 1


# ---------------------------------------------------------------- raw recordings


def recorded(folder: Path, count: int = 4, first: int = 0, **others: Any) -> Path:
    with replay.Recorder(folder, "cam-9") as recorder:
        for number in range(first, first + count):
            pixels = noise(16, 24, seed=number)
            recorder.frame(Frame("cam-9", number, 10**18 + number, 5, 7000 + 80 * number, pixels, **others))
    return folder


def test_a_recording_gives_back_what_was_recorded(tmp_path: Path) -> None:
    found = play(recorded(tmp_path / "r"), counts_per_line=3, start_ns=5, first_encoder_count=9)
    assert len(found) == 4
    for number, item in enumerate(found):
        assert not isinstance(item, Loss)
        frame, pixels = item
        assert np.array_equal(pixels, noise(16, 24, seed=number))
        assert (frame.camera, frame.sequence, frame.source, frame.piece) == ("cam-1", number, None, 0)
        assert (frame.exposed_ns, frame.encoder_count) == (10**18 + number, 7000 + 80 * number)


def test_replayed_and_recorded_again_it_is_the_same_file(folder: Path, tmp_path: Path) -> None:
    """Pictures, losses among them, become a recording; that one replayed becomes the same recording."""
    again = tmp_path / "again"
    record(folder, again / "1")
    record(again / "1", again / "2")
    ours = [(again / "1" / name).read_bytes() for name in ("frames.raw", "frames.jsonl")]
    theirs = [(again / "2" / name).read_bytes() for name in ("frames.raw", "frames.jsonl")]
    assert ours[0] == theirs[0]
    strip = [[without_clock(line) for line in index.splitlines()] for index in (ours[1], theirs[1])]
    assert strip[0] == strip[1]


def record(source: Path, target: Path) -> None:
    with replay.Recorder(target, "cam-1") as recorder:
        for item in play(source):
            if isinstance(item, Loss):
                recorder.loss(item)
            else:
                item[0].pixels = item[1]
                recorder.frame(item[0])


def without_clock(line: bytes) -> dict[str, Any]:
    return {key: value for key, value in msgspec.json.decode(line).items() if key != "monotonic_ns"}


def test_the_camera_was_late_or_opened_again(tmp_path: Path) -> None:
    """Recorded losses keep their reason, a hole is MISSING, numbers that start over go on."""
    with replay.Recorder(tmp_path / "r", "cam-9") as recorder:
        for sequence, piece in ((50, 0), (51, 0), (60, 0), (0, 3), (1, 3)):
            recorder.frame(Frame("cam-9", sequence, 0, 0, 0, noise(), piece=piece))
            if sequence == 51:
                recorder.loss(Loss("cam-9", 52, 3, Reason.OVERRUN, "late", None))
    found = play(tmp_path / "r")
    assert [item.sequence if isinstance(item, Loss) else item[0].sequence for item in found] == [0, 1, 2, 5, 10, 11, 12]
    assert [(loss.count, loss.reason) for loss in found if isinstance(loss, Loss)] == [
        (3, Reason.OVERRUN),
        (5, Reason.MISSING),
    ]
    assert [frame.piece for frame in delivered(found)] == [0, 0, 0, 1, 1]


def test_several_recordings_follow_one_another(tmp_path: Path) -> None:
    for name in ("b", "a"):
        recorded(tmp_path / name)
    found = frames(tmp_path)
    assert [frame.sequence for frame in found] == list(range(8))
    assert [frame.encoder_count for frame in found][3:6] == [7240, 7240 + 16, 7240 + 16 + 80]
    assert [frame.piece for frame in found] == [0] * 4 + [1] * 4
    assert {frame.piece for frame in frames(tmp_path, contiguous=True)} == {0}
    assert [f.encoder_count for f in frames(tmp_path / "b" / "frames.jsonl")] == [7000, 7080, 7160, 7240]


def edited(folder: Path, name: str, change: Any) -> Path:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "lost"),
    [
        ("frames.raw", lambda data: data[:400] + bytes([data[400] ^ 1]) + data[401:], [1]),
        ("frames.raw", lambda data: data[:-1], [3]),
        ("frames.raw", lambda data: b"", [0, 1, 2, 3]),
        ("frames.jsonl", lambda data: data[:-9], [3]),
        ("frames.jsonl", lambda data: data.replace(b'"sequence":1', b'"sequence":x'), [1]),
        ("frames.jsonl", lambda data: data.replace(b'"sequence":0', b'"sequence":x'), [0]),
        ("frames.jsonl", lambda data: data.replace(b'"height":16', b'"height":99999999'), [0, 1, 2, 3]),
    ],
)
def test_damage_to_a_recording_is_lost_and_the_rest_is_played(
    tmp_path: Path, name: str, change: Any, lost: list[int]
) -> None:
    found = play(edited(recorded(tmp_path / "r"), name, change))
    assert [item.sequence for item in found if isinstance(item, Loss)] == lost
    assert all(item.reason is Reason.UNREADABLE for item in found if isinstance(item, Loss))
    assert [frame.sequence for frame in delivered(found)] == [number for number in range(4) if number not in lost]


@pytest.mark.parametrize(
    "change",
    [lambda data: b"", lambda data: b"?" + data, lambda data: data.replace(b'"version":2', b'"version":3')],
)
def test_a_recording_of_another_kind_is_a_configuration_error(tmp_path: Path, change: Any) -> None:
    folder = edited(recorded(tmp_path / "r"), "frames.jsonl", change)
    with pytest.raises(ConfigError, match=str(folder)):
        replay.check(options(folder))


def test_a_recording_without_pixels_is_a_configuration_error(tmp_path: Path) -> None:
    (recorded(tmp_path / "r") / "frames.raw").unlink()
    with pytest.raises(ConfigError, match=r"frames\.raw"):
        replay.check(options(tmp_path / "r"))


def test_an_empty_recording_ends_even_when_repeated_for_ever(tmp_path: Path) -> None:
    recorded(tmp_path / "r", count=0)
    with replay.open("cam-1", options(tmp_path / "r", repeat=0)) as camera:
        assert camera.read(Pool(1), 0.0) is None
        assert camera.ended


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    recorded(tmp_path / "r")
    with pytest.raises(ConfigError, match="already"):
        replay.Recorder(tmp_path / "r", "cam-1")
    with pytest.raises(ConfigError, match="writable"):
        replay.Recorder(written(tmp_path / "file", b"") / "r", "cam-1")


def test_a_full_disk_leaves_whole_frames_and_one_may_go_on(tmp_path: Path) -> None:
    size = 1 << 20
    pixels = [np.full((1024, 1024), number, dtype=np.uint8) for number in range(3)]
    with replay.Recorder(tmp_path / "r", "cam-1") as recorder:
        recorder.frame(Frame("cam-1", 0, 0, 0, 0, pixels[0]))
        with room_for(size + size // 2), pytest.raises(SinkError, match=r"frames\.raw.*Make room"):
            recorder.frame(Frame("cam-1", 1, 0, 0, 1024, pixels[1]))
        assert (tmp_path / "r" / "frames.raw").stat().st_size == size
        recorder.frame(Frame("cam-1", 2, 0, 0, 2048, pixels[2]))
    first, loss, last = play(tmp_path / "r")
    assert not isinstance(first, Loss)
    assert not isinstance(last, Loss)
    assert (first[1] == 0).all()
    assert (last[1] == 2).all()
    assert isinstance(loss, Loss)
    assert (loss.sequence, loss.reason) == (1, Reason.MISSING)


# ---------------------------------------------------------------- any set of files

GOOD = [".png", ".bmp", ".tiff", ".pgm"]
ENTRY = st.tuples(st.sampled_from([*GOOD, *BAD, "text file"]), st.integers(1, 40), st.integers(1, 40))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(entries=st.lists(ENTRY, min_size=1, max_size=12), slots=st.integers(1, 3), contiguous=st.booleans())
def test_any_set_of_files_is_delivered_or_lost(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[tuple[str, int, int]],
    slots: int,
    contiguous: bool,
) -> None:
    folder = tmp_path_factory.mktemp("set")
    expected: list[Pixels | None] = []
    written(folder / "0000.pgm", encoded(".pgm", noise()))
    for number, (what, height, width) in enumerate(entries, 1):
        if what == "text file":
            written(folder / f"{number:04}.txt", b"text")
        elif what in BAD:
            written(folder / f"{number:04}.png", BAD[what][0])
            expected.append(None)
        else:
            pixels = noise(height, width, seed=number)
            written(folder / f"{number:04}{what}", encoded(what, pixels))
            expected.append(pixels)
    items = hesitating(replay.open("cam-1", options(folder, contiguous=contiguous)), slots)
    expected.insert(0, noise())
    assert len(items) == len(expected)
    before = -1
    for sequence, (item, should) in enumerate(zip(items, expected, strict=True)):
        assert isinstance(item, Loss) == (should is None)
        if isinstance(item, Loss):
            assert (item.sequence, item.count) == (sequence, 1)
            continue
        frame, seen = item
        assert frame.sequence == sequence
        assert should is not None
        assert np.array_equal(seen, should)
        assert frame.encoder_count > before
        before = frame.encoder_count
    pieces = [item[0].piece for item in items if not isinstance(item, Loss)]
    assert pieces == ([0] * len(pieces) if contiguous else list(range(len(pieces))))


WHOLE = [encoded(suffix, noise()) for suffix in (".jpg", ".png", ".bmp", ".tiff")]
WHOLE += [tiff(order, [(noise(), 0), (noise(5, 6), 0)], big) for order in "<>" for big in (False, True)]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_damage_anywhere_never_stops_the_run(tmp_path: Path, data: st.DataObject) -> None:
    picture = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 400) | st.integers(0, len(picture) - 1)) % len(picture)
        picture[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    cut = data.draw(st.integers(1, len(picture)) | st.just(len(picture)))
    assert play(written(tmp_path / "a.jpg", bytes(picture[:cut])))


def hesitating(camera: replay.ReplayCamera, slots: int) -> list[tuple[Frame, Pixels] | Loss]:
    """Read with all slots held, so that the camera must often hold its frame back."""
    pool, items, held = Pool(slots), list[tuple[Frame, Pixels] | Loss](), list[Frame]()
    with camera:
        while not camera.ended:
            item = camera.read(pool, 0.0)
            if isinstance(item, Loss):
                items.append(item)
            elif item is not None:
                items.append((item, item.pixels.copy()))
                held.append(item)
            elif held:
                held.pop(0).release()
    return items


def test_it_may_be_made_in_one_thread_and_used_in_another(folder: Path) -> None:
    camera, found = replay.open("cam-1", options(folder)), list[int]()
    thread = threading.Thread(target=lambda: found.append(len(hesitating(camera, 1))))
    thread.start()
    thread.join()
    assert found == [5]


# ---------------------------------------------------------------- real strip, where there is some


def real_pictures() -> Path:
    data = os.environ.get("INSPECTOR_DATA")
    root = Path(data) if data else Path(__file__).parents[3] / "shared" / "data"
    folder = root / "severstal" / "images"
    if not folder.is_dir():
        pytest.skip("no real pictures: set INSPECTOR_DATA to a folder that holds severstal/images")
    return folder


def test_real_pictures_are_their_three_equal_channels() -> None:
    folder = real_pictures()
    names = sorted(name for name in os.listdir(folder) if stat.S_ISREG((folder / name).stat().st_mode))[:40]
    for name in names:
        colour = cv2.imread(str(folder / name), cv2.IMREAD_COLOR)
        assert colour is not None
        grey = pixels_of(folder / name)
        assert all(np.array_equal(colour[..., channel], grey) for channel in range(3))
