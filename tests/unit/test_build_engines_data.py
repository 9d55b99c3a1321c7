"""The reader and the splits: what a data folder may hold, and what is said when it holds something else."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="build_engines needs torch: pip install 'inspector[train]'")

from build_engines import caching, datasets, splits, synthesize
from build_engines.feed import prepare_feed
from build_engines.settings import Settings
from inspector import rle
from inspector.cameras import _pictures
from inspector.errors import ConfigError
from tests.build_engines_toys import toy_frame, toy_frames


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    synthesize.write(toy_frames(64), folder)
    return folder


def test_reader_without_images_csv_takes_unnamed_pictures_for_clean(toys: Path) -> None:
    samples = datasets.read(toys)
    assert len(samples) == 64
    assert all(sample.labelled for sample in samples)
    assert samples[0].classes == ()
    assert samples[1].classes == (1,)
    assert datasets.class_numbers(samples) == [1, 2]
    _, frame, found = toy_frame(1)
    np.testing.assert_array_equal(datasets.picture(samples[1]), frame)
    np.testing.assert_array_equal(datasets.masks(samples[1], [1, 2]), np.stack([found[1], 0 * found[1]]))


def test_reader_with_images_csv_knows_what_is_unknown_and_opens_by_content(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        cv2.imencode(".png", np.full((32, 32), 50, np.uint8))[1].tofile(tmp_path / "images" / name)
    mask = np.zeros((32, 32), np.uint8)
    mask[3:9, 5] = 1
    rows = f"ImageId,ClassId,EncodedPixels\nb.jpg,3,{rle.encode(mask)}\n"
    (tmp_path / "train.csv").write_text(rows)
    (tmp_path / "images.csv").write_text("ImageId,Labelled,Classes\na.jpg,1,\nb.jpg,1,3\nc.jpg,0,\n")
    a, b, c = datasets.read(tmp_path)
    assert (a.classes, b.classes, c.truth) == ((), (3,), None)
    assert datasets.picture(b).shape == (32, 32)
    assert datasets.masks(b, [3]).sum() == 6


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("ImageId,EncodedPixels\nx.png,1 1\n", "train.csv:2: not in columns ImageId,ClassId,EncodedPixels"),
        ("ImageId,ClassId,EncodedPixels\ny.png,1,1 1\n", "train.csv:2: names y.png"),
        ("ImageId,ClassId,EncodedPixels\nx.png,1,1 1\nx.png,7,1 1\n", "train.csv:3: class 7 is unknown"),
        ("ImageId,ClassId,EncodedPixels\nx.png,1,1 1\nx.png,1,9 1\n", "train.csv:3: x.png has class 1 twice"),
        (None, "needs it"),
    ],
)
def test_reader_says_what_is_wrong(tmp_path: Path, table: str | None, message: str) -> None:
    (tmp_path / "images").mkdir()
    cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tofile(tmp_path / "images" / "x.png")
    if table is not None:
        (tmp_path / "train.csv").write_text(table)
    with pytest.raises(ConfigError, match=message):
        datasets.read(tmp_path, {1: "spot"})


@pytest.mark.parametrize(
    ("runs_text", "message"),
    [("1", "pairs"), ("60 9", "leaves the picture"), ("1 x", "whole number"), ("0 4", "leaves")],
)
def test_a_bad_mask_is_told_with_its_line_before_the_training_begins(
    tmp_path: Path, runs_text: str, message: str
) -> None:
    (tmp_path / "images").mkdir()
    for name in ("x.png", "y.png"):
        cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tofile(tmp_path / "images" / name)
    (tmp_path / "train.csv").write_text(f"ImageId,ClassId,EncodedPixels\nx.png,1,1 1\ny.png,1,{runs_text}\n")
    with pytest.raises(ConfigError, match=rf"train.csv:3: mask of y.png: .*{message}"):
        prepare_feed(Settings(tmp_path, tmp_path / "run"))


def test_the_competitions_own_folder_and_joined_columns_are_read(tmp_path: Path) -> None:
    (tmp_path / "train_images").mkdir()
    for name in ("x.jpg", "y_1.jpg"):
        cv2.imencode(".jpg", np.zeros((8, 8), np.uint8))[1].tofile(tmp_path / "train_images" / name)
    (tmp_path / "train.csv").write_text("ImageId_ClassId,EncodedPixels\nx.jpg_1,\nx.jpg_2,1 3\ny_1.jpg_4,2 2\n")
    assert [sample.classes for sample in datasets.read(tmp_path)] == [(2,), (4,)]
    assert datasets.read(tmp_path)[0].area_px(2) == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("Name\nx.png\n", "images.csv:1: needs the columns"),
        ("ImageId,Labelled\nx.png,yes\n", "images.csv:2: Labelled is 'yes'"),
        ("ImageId,Labelled\nz.png,1\n", "images.csv:2: z.png"),
        ("ImageId,Labelled,Classes\nx.png,1,3 4\n", "images.csv:2: Classes of x.png are '3 4'; train.csv has none"),
    ],
)
def test_reader_says_what_is_wrong_with_images_csv(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "images").mkdir()
    cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tofile(tmp_path / "images" / "x.png")
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n")
    (tmp_path / "images.csv").write_text(table)
    with pytest.raises(ConfigError, match=message):
        datasets.read(tmp_path)


def _half_labelled(folder: Path) -> list[datasets.Sample]:
    """Six pictures, of which three are labelled: one clean, two with classes 1 and 2."""
    (folder / "images").mkdir()
    for name in "abcdef":
        cv2.imencode(".png", np.full((32, 32), 50, np.uint8))[1].tofile(folder / "images" / f"{name}.png")
    (folder / "train.csv").write_text("ImageId,ClassId,EncodedPixels\nb.png,1,1 9\nc.png,2,1 9\n")
    listed = "".join(f"{name}.png,{int(name < 'd')},g{name}\n" for name in "abcdef")
    (folder / "images.csv").write_text("ImageId,Labelled,Group\n" + listed)
    return datasets.read(folder)


def _labels(folder: Path, masks: str, listed: str | None) -> Path:
    """A folder of labels: rows of its train.csv and of its images.csv, which is not there for None."""
    labels = folder / "labels"
    labels.mkdir()
    (labels / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n" + masks)
    if listed is not None:
        (labels / "images.csv").write_text("ImageId,Labelled\n" + listed)
    return labels


def test_labels_of_another_folder_are_for_what_is_unlabelled(tmp_path: Path) -> None:
    samples, labels = _half_labelled(tmp_path), _labels(tmp_path, "e.png,2,5 3\n", "d.png,1\ne.png,1\n")
    told = datasets.with_labels(samples, labels)
    assert [sample.truth for sample in told] == [{}, {1: "1 9"}, {2: "1 9"}, {}, {2: "5 3"}, None]
    assert [sample.group for sample in told] == [sample.group for sample in samples]
    assert [sample.path for sample in told] == [sample.path for sample in samples]


@pytest.mark.parametrize(
    ("masks", "listed", "message"),
    [
        ("e.png,2,5 3\n", None, "images.csv: not there"),
        ("b.png,2,5 3\n", "b.png,1\n", "train.csv:2: names b.png, which is no unlabelled picture of the data"),
        ("", "a.png,1\n", "images.csv:2: a.png is no unlabelled picture of the data"),
        ("e.png,4,5 3\n", "e.png,1\n", "class 4 is none of the data's"),
    ],
)
def test_labels_that_do_not_fit_the_data_are_refused(
    tmp_path: Path, masks: str, listed: str | None, message: str
) -> None:
    _half_labelled(tmp_path)
    settings = Settings(tmp_path, tmp_path / "run", labels=_labels(tmp_path, masks, listed), shares=(("train", 1.0),))
    with pytest.raises(ConfigError, match=message):
        prepare_feed(settings)


def test_a_training_learns_from_labels_but_never_where_their_like_is_kept_back(tmp_path: Path) -> None:
    _half_labelled(tmp_path)
    labels = _labels(tmp_path, "e.png,2,5 3\n", "d.png,1\ne.png,1\n")
    both = "".join(f"{name}.png,{number},{number} 1\n" for name in "abc" for number in (1, 2))
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n" + both)
    groups = {"a": "x", "b": "y", "c": "z", "d": "x", "e": "y", "f": "w"}
    rows = "".join(f"{name}.png,{int(name < 'd')},{group}\n" for name, group in groups.items())
    (tmp_path / "images.csv").write_text("ImageId,Labelled,Group\n" + rows)
    for fold in (1, 2, 3):
        settings = Settings(
            tmp_path, tmp_path / f"run{fold}", labels=labels, folds=3, fold=fold, shares=(("train", 1.0),)
        )
        feed, parts = prepare_feed(settings), splits.load(settings.out / "split.json")
        (kept,) = [name for name in ("a.png", "b.png", "c.png") if parts[name] == "test"]
        learnt = {sample.name for sample in feed.real}
        like = {"a.png": "d.png", "b.png": "e.png"}.get(kept)
        assert learnt == {"a.png", "b.png", "c.png", "d.png", "e.png"} - {kept, like}
        assert {sample.name for sample in feed.unlabelled} == {"f.png"}


def test_reader_refuses_a_torn_picture_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pictures"):
        datasets.read(tmp_path)
    (tmp_path / "none.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"none.png: cannot be decoded: not a picture"):
        datasets.decode(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ConfigError, match=r"empty.png: is empty; copy it again"):
        datasets.decode(tmp_path / "empty.png")
    with pytest.raises(ConfigError, match=r"gone.png: No such file"):
        datasets.decode(tmp_path / "gone.png")


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (".DS_Store", "._a.png", "a.png"):
        cv2.imwrite(str(tmp_path / "images" / "picture.png"), np.full((32, 32), 90, np.uint8))
        (tmp_path / "images" / "picture.png").rename(tmp_path / "images" / name)
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n")
    assert [sample.name for sample in datasets.read(tmp_path)] == ["a.png"]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_torn_picture_is_refused_though_opencv_would_fill_it_up(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 256), dtype=np.uint8)
    whole = cv2.imencode(suffix, noise)[1].tobytes()
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "torn").write_bytes(whole[: len(whole) * 2 // 3])
    assert datasets.decode(tmp_path / "whole").shape == (128, 256)
    with pytest.raises(ConfigError, match=r"torn: is a .* that is cut short"):
        datasets.decode(tmp_path / "torn")


def test_look_alikes_stay_together_and_every_part_gets_some(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def frames() -> Iterator[tuple[str, datasets.Picture, dict[int, datasets.Picture]]]:
        for roll in range(20):
            base = rng.integers(0, 60, (64, 64)).astype(np.float32) + 6 * roll + 30
            for index in range(2):
                mask = np.zeros((64, 64), np.uint8)
                mask[10:20, 10:20] = roll % 2
                frame = np.clip(base + rng.normal(0, 1, base.shape), 0, 255).astype(np.uint8)
                yield f"roll{roll:02d}_{index}.png", frame, {1: mask} if roll % 2 else {}

    synthesize.write(frames(), tmp_path)
    samples = datasets.read(tmp_path)
    grouped = splits.groups(samples)
    parts = splits.split(samples, grouped)
    assert set(parts.values()) == set(splits.PARTS)
    assert all(grouped[2 * roll] == grouped[2 * roll + 1] for roll in range(20))
    for group in set(grouped):
        assert len({parts[sample.name] for sample, own in zip(samples, grouped, strict=True) if own == group}) == 1
    splits.save(parts, tmp_path / "split.json")
    assert splits.load(tmp_path / "split.json") == parts


# ---------------------------------------------------------------- what a mill's own set may hold


def one_picture(folder: Path, pixels: datasets.Picture, table: str) -> Path:
    (folder / "images").mkdir()
    cv2.imencode(".png", pixels)[1].tofile(folder / "images" / "x.png")
    (folder / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n" + table)
    return folder


def test_an_images_csv_in_another_encoding_is_told(tmp_path: Path) -> None:
    folder = one_picture(tmp_path, np.zeros((8, 8), np.uint8), "")
    (folder / "images.csv").write_bytes("ImageId,Labelled,Group\nx.png,1,Mühle\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"images.csv: not a CSV table in UTF-8"):
        datasets.read(folder)


def test_a_ragged_mask_is_a_long_cell(tmp_path: Path) -> None:
    mask = (np.indices((256, 512)).sum(axis=0) % 2).astype(np.uint8)
    text = rle.encode(mask)
    assert len(text) > 131_072
    (sample,) = datasets.read(one_picture(tmp_path, 0 * mask, f"x.png,3,{text}\n"))
    np.testing.assert_array_equal(datasets.masks(sample, [3])[0], mask)


def test_a_named_class_without_a_mask_is_told_in_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = one_picture(tmp_path, np.zeros((8, 8), np.uint8), "x.png,1,1 1\n")
    with caplog.at_level(logging.WARNING):
        datasets.read(folder, {1: "spot"})
        assert not caplog.records
        datasets.read(folder, {1: "spot", 3: "pits", 2: "bar"})
    (record,) = caplog.records
    assert record.getMessage() == f"{folder}: no mask of the named 2 bar, 3 pits: the pack will not know of it"


def test_names_may_be_anything_and_are_told(tmp_path: Path) -> None:
    file = tmp_path / "names.yaml"
    for content in ("~: pits", "- pits", "one: pits", "1: [", "\xff"):
        file.write_text(content, encoding="latin-1")
        with pytest.raises(ConfigError, match=r"names.yaml: .*Write one line for each class"):
            datasets.read_names(file)


# ---------------------------------------------------------------- pictures


def turned(pixels: datasets.Picture) -> bytes:
    """A JPEG whose EXIF tag says that it is to be turned by a quarter."""
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    orientation = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0" + orientation
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + jpeg[2:]


def test_a_picture_is_what_the_line_replays(tmp_path: Path) -> None:
    pixels = np.repeat(np.arange(96, dtype=np.uint8)[None], 64, axis=0)
    raw = turned(pixels)
    assert cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (96, 64)
    (tmp_path / "x.jpg").write_bytes(raw)
    found = datasets.decode(tmp_path / "x.jpg")
    assert found.shape == (64, 96)
    np.testing.assert_array_equal(found, _pictures.decode(raw, _pictures.inspect(raw)))


def test_what_the_line_refuses_is_no_picture_to_learn_from(tmp_path: Path) -> None:
    deep, pages = tmp_path / "deep.png", tmp_path / "pages.tif"
    cv2.imwrite(str(deep), np.zeros((8, 8), np.uint16))
    cv2.imwritemulti(str(pages), [np.zeros((8, 8), np.uint8)] * 2)
    with pytest.raises(ConfigError, match=r"deep.png: is a 16-bit PNG"):
        datasets.decode(deep)
    with pytest.raises(ConfigError, match=r"pages.tif: has 2 pages"):
        datasets.decode(pages)


def test_what_is_kept_is_bounded_in_bytes_and_the_oldest_goes() -> None:
    made: list[int] = []

    def make(size: int) -> bytes:
        made.append(size)
        return bytes(size)

    kept = caching.Cached(make, len, 100)
    for size in (40, 50, 40):
        assert len(kept(size)) == size
    assert made == [40, 50]
    kept(30)  # 50 was unused for longest
    assert kept.kept_bytes == 70
    kept(40)
    assert made == [40, 50, 30]
    kept(50)
    assert made == [40, 50, 30, 50]
    assert len(kept(1000)) == 1000
    assert kept.kept_bytes == 0


def test_pictures_of_any_size_fill_no_more_memory_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cache in (datasets._pictures_kept, datasets._masks_kept):
        monkeypatch.setattr(cache, "_limit", 3 * 256 * 512)
    (tmp_path / "images").mkdir()
    rows = ["ImageId,ClassId,EncodedPixels"]
    for number in range(8):
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), np.full((256, 512), number, np.uint8))
        rows += [f"{number}.png,1,1 5", f"{number}.png,2,9 5"]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    for sample in datasets.read(tmp_path):
        assert datasets.masks(sample, [1, 2]).sum() == 10
        assert datasets._pictures_kept.kept_bytes <= 3 * 256 * 512
        assert datasets._masks_kept.kept_bytes <= 3 * 256 * 512
    assert datasets._pictures_kept.kept_bytes > 0
