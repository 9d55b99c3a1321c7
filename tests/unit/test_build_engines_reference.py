"""build_engines/reference.py: a pack's reference counts what the daemon counts, and is covered by the pack's digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from build_engines.__main__ import main
from inspector import pack as packs
from inspector.baselines import Baselines
from inspector.census import Census
from inspector.config import Config, convert
from inspector.errors import PackError
from inspector.pipeline import build
from tests.line.lines import lossless, picture, played
from tests.packs import TILE, add_reference, make_pack

FRAMES = 160


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder; every second frame has a defect, and brightness goes up and down."""
    folder = tmp_path / "frames"
    (folder / "images").mkdir(parents=True)
    for number in range(FRAMES):
        pixels = picture(number)
        pixels[pixels < 200] = 60 + number % 80
        cv2.imwrite(str(folder / "images" / f"{number:03}.png"), pixels)
    (folder / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n")
    return folder


def reference(pack: Path, data: Path, *more: str) -> int:
    return main(["reference", "--pack", str(pack), "--data", str(data), *more])


def test_a_reference_counts_what_a_line_learns_from_the_same_frames(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_pack(tmp_path / "pack")
    before = packs.load(folder)
    assert reference(folder, data) == 0
    pack = packs.load(folder)
    made = pack.manifest.reference
    assert made is not None
    assert made.made_on == "frames, all frames"
    assert (made.census.frames, made.census.passed, made.census.alarmed) == (FRAMES, FRAMES // 2, FRAMES // 2)
    assert json.loads(capsys.readouterr().out)["census"]["frames"] == FRAMES

    camera = played(data / "images", repeat=1)
    raw: dict[str, Any] = {
        "line": lossless(),
        "pack": str(folder),
        "cameras": [camera],
        "journal": {"path": str(tmp_path / "j.db"), "synchronous": False},
        "monitor": None,
        "drift": {"window_frames": 80, "learn_windows": 2},
    }
    with build(convert(raw, Config)) as line:
        assert line.crew.join(60) == []
    learnt = Baselines(tmp_path / "j.drift.json", 80).of(pack.digest, "a")
    assert len(learnt) == 2
    assert learnt[0].gate_scores[-1] + learnt[1].gate_scores[-1] == made.census.gate_scores[-1]
    assert [a + b for a, b in zip(learnt[0].brightness, learnt[1].brightness, strict=True)] == made.census.brightness
    assert learnt[0].alarmed + learnt[1].alarmed == made.census.alarmed

    # ---- the digest is that of the manifest, and the networks are the same
    assert pack.digest != before.digest
    assert pack.digest == "sha256:" + hashlib.sha256((folder / packs.MANIFEST).read_bytes()).hexdigest()
    assert pack.networks() == before.networks()
    assert reference(folder, data) == 0
    assert packs.load(folder).digest == pack.digest, "the same frames give the same reference"


def test_a_reference_is_made_on_one_part(tmp_path: Path, data: Path) -> None:
    folder, split = make_pack(tmp_path / "pack"), tmp_path / "split.json"
    parts = {f"{number:03}.png": "validation" if number < 30 else "train" for number in range(FRAMES)}
    split.write_text(json.dumps(parts))
    assert reference(folder, data, "--split", str(split)) == 0
    made = packs.load(folder).manifest.reference
    assert made is not None
    assert (made.made_on, made.census.frames) == ("frames, validation part", 30)


def test_frames_without_strip_are_no_reference(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (data / "images").iterdir():
        cv2.imwrite(str(file), np.zeros(TILE, dtype=np.uint8))
    folder = make_pack(tmp_path / "pack")
    before = (folder / packs.MANIFEST).read_bytes()
    assert reference(folder, data) == 78
    assert "frames, all frames: no frame shows strip" in " ".join(capsys.readouterr().err.split())
    assert (folder / packs.MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"version": 2}, "reference: version 2 .* Make it again with `python -m build_engines reference`"),
        ({"census": {"frames": 3}}, "add up to frames"),
        ({"census": {}}, "version 1 of 0 frames"),
        ({"median": 3}, "median"),
    ],
)
def test_a_reference_that_cannot_be_is_refused(tmp_path: Path, spoilt: dict[str, Any], message: str) -> None:
    census = Census()
    census.add(0.5, 0.5, True, False)
    folder = add_reference(make_pack(tmp_path / "pack"), census)
    assert packs.load(folder).manifest.reference is not None
    file = folder / packs.MANIFEST
    manifest = yaml.safe_load(file.read_text())
    manifest["reference"] |= spoilt
    file.write_text(yaml.safe_dump(manifest))
    with pytest.raises(PackError, match=message) as caught:
        packs.load(folder)
    assert str(caught.value).startswith(f"{file}: ")
