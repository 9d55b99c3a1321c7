"""flatfield.py: an uneven lamp and a pattern of the sensor are taken out of every frame; a file is never half one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inspector.errors import ConfigError
from inspector.flatfield import FlatField, Origin, local_level, unevenness

# ---------------------------------------------------------------- at work


@settings(deadline=None)
@given(st.integers(1, 150), st.integers(1, 200), st.floats(0.1, 8.0), st.floats(0.1, 8.0), st.integers(0, 255))
def test_a_flat_field_is_the_formula_within_one_grey(
    height: int, width: int, low: float, high: float, top: int
) -> None:
    rng = np.random.default_rng(width)
    offset, gain = rng.integers(0, top + 1, width), np.linspace(low, high, width)
    pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
    expected = np.clip(np.rint((pixels.astype(float) - offset) * gain.astype(np.float32)), 0, 255)
    FlatField(offset, gain).correct(pixels)
    assert np.abs(pixels - expected).max() <= 1


def test_a_saved_flat_field_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "cam0.npz"
    saved = FlatField(np.arange(50), np.linspace(0.5, 2, 50))
    saved.save(path)
    found = FlatField.load(path)
    assert found.width == 50
    assert (found.offset == saved.offset).all()
    assert (found.gain == saved.gain).all()


def write(path: Path, **arrays: NDArray[np.float64]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"gain": np.ones(4)}, "offset"),
        ({"offset": np.zeros(4), "gain": np.ones(5)}, r"\[4\] and \[5\]"),
        ({"offset": np.zeros((1, 4)), "gain": np.ones((1, 4))}, r"\[width\]"),
        ({"offset": np.zeros(0), "gain": np.ones(0)}, r"\[width\]"),
        ({"offset": np.zeros(4), "gain": np.zeros(4)}, "above 0"),
        ({"offset": np.zeros(4), "gain": np.full(4, np.nan)}, "finite"),
        ({"offset": np.full(4, 256.0), "gain": np.ones(4)}, r"0\.\.255"),
        ({"offset": np.array(["a"] * 4), "gain": np.ones(4)}, "numbers"),
    ],
)
def test_a_flat_field_without_sense_is_named(tmp_path: Path, arrays: dict[str, NDArray[np.float64]], says: str) -> None:
    path = tmp_path / "flat.npz"
    write(path, **arrays)
    with pytest.raises(ConfigError, match=says) as caught:
        FlatField.load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_flat_field_is_named(tmp_path: Path) -> None:
    missing, text, array, torn = (tmp_path / name for name in ("missing.npz", "text.npz", "array.npz", "torn.npz"))
    text.write_text("gain: 1")
    with array.open("wb") as file:
        np.save(file, np.ones(4))
    FlatField.identity(400).save(torn)
    torn.write_bytes(torn.read_bytes()[:-200])
    for path in (missing, text, array, torn, tmp_path):
        with pytest.raises(ConfigError, match=r"Name a \.npz file") as caught:
            FlatField.load(path)
        assert str(path) in str(caught.value)


# ---------------------------------------------------------------- the file


def test_what_a_flat_field_was_made_from_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "cam0.npz"
    reference = np.linspace(60, 90, 50, dtype=np.float32)
    origin = Origin(made_ns=5, camera="top1", frames=256, target=80.5, reference=reference, dark_ns=3, dark_frames=64)
    FlatField(np.arange(50), np.linspace(0.5, 2, 50), origin=origin).save(path)
    found = FlatField.load(path).origin
    assert found.reference is not None
    assert (found.reference == reference).all()
    assert (found.made_ns, found.camera, found.frames, found.target) == (5, "top1", 256, 80.5)
    assert (found.dark_ns, found.dark_frames) == (3, 64)


def test_a_file_of_two_rows_alone_is_as_old_as_it_looks(tmp_path: Path) -> None:
    path = tmp_path / "old.npz"
    write(path, offset=np.zeros(4), gain=np.ones(4))
    os.utime(path, ns=(7_000_000_000, 9_000_000_000))
    found = FlatField.load(path).origin
    assert (found.made_ns, found.frames, found.dark_ns) == (9_000_000_000, 0, None)


def test_the_former_file_is_kept_and_no_other_is_left(tmp_path: Path) -> None:
    path = tmp_path / "cam0.npz"
    for gain in (1.0, 2.0, 3.0):
        FlatField(np.zeros(8), np.full(8, gain)).save(path)
    assert FlatField.load(path).gain[0] == 3.0
    assert FlatField.load(tmp_path / "cam0.npz.bak").gain[0] == 2.0
    assert {each.name for each in tmp_path.iterdir()} == {"cam0.npz", "cam0.npz.bak"}


def test_a_file_that_cannot_be_written_leaves_the_former_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cam0.npz"
    FlatField.identity(8).save(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        FlatField(np.zeros(8), np.full(8, 2.0)).save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["cam0.npz"]


# ---------------------------------------------------------------- profiles


@settings(deadline=None)
@given(st.integers(800, 3000), st.integers(0, 2**32 - 1), st.integers(1, 48), st.floats(0.0, 2.0))
def test_dirt_on_a_few_columns_moves_the_level_around_them_little(
    width: int, seed: int, dirty: int, factor: float
) -> None:
    rng = np.random.default_rng(seed)
    columns = np.linspace(-1, 1, width)
    level = 100 * (1 - rng.uniform(0, 0.15) * (columns - rng.uniform(-0.5, 0.5)) ** 2)
    first = int(rng.integers(0, width - dirty))
    level_and_dirt = level.copy()
    level_and_dirt[first : first + dirty] *= factor
    assert np.abs(local_level(level_and_dirt) / level - 1).max() < 0.15


@given(st.integers(64, 4000), st.floats(5, 250))
def test_even_columns_are_not_uneven(width: int, grey: float) -> None:
    assert unevenness(np.full(width, grey)) == pytest.approx(0, abs=1e-9)


def test_unevenness_is_the_spread_of_what_is_broad() -> None:
    rng = np.random.default_rng(1)
    lamp = 100 * (
        1 + 0.1 * np.sin(np.arange(100)).repeat(16)
    )  # 0.071 is half of a sine's way between its middle and top
    found = unevenness(lamp + rng.normal(0, 1, 1600))
    assert found is not None
    assert found == pytest.approx(1.4826 * 0.0707, abs=0.004)
    lamp[400:420] = 0
    lamp[:16] = np.nan
    again = unevenness(lamp)
    assert again == pytest.approx(found, abs=0.02)


def test_too_little_strip_has_no_unevenness() -> None:
    assert unevenness(np.full(63, 90.0)) is None
    assert unevenness(np.full(1600, np.nan)) is None
    assert unevenness(np.zeros(1600)) is None
