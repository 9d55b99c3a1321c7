"""The reader and the splits: what a data folder may hold, and what is said when it holds something else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="build_engines needs torch: pip install 'inspector[train]'")

from build_engines import datasets, splits, synthesize
from build_engines.feed import prepare_feed
from build_engines.settings import Settings
from inspector import rle
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


def test_reader_refuses_a_torn_picture_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pictures"):
        datasets.read(tmp_path)
    (tmp_path / "none.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"none.png: not a picture"):
        datasets.decode(tmp_path / "none.png")
    with pytest.raises(ConfigError, match=r"gone.png: No such file"):
        datasets.decode(tmp_path / "gone.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_torn_picture_is_refused_though_opencv_would_fill_it_up(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 256), dtype=np.uint8)
    whole = cv2.imencode(suffix, noise)[1].tobytes()
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "torn").write_bytes(whole[: len(whole) * 2 // 3])
    assert datasets.decode(tmp_path / "whole").shape == (128, 256)
    with pytest.raises(ConfigError, match="torn: the picture is torn"):
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
