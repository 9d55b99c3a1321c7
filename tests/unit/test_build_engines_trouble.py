"""build_engines in trouble: what a kill or a full disk leaves, and what is told of wrong files and settings."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="build_engines needs torch: pip install 'inspector[train]'")
pytest.importorskip("onnx", reason="build_engines needs onnx: pip install 'inspector[train]'")

from build_engines import (  # noqa: E402
    datasets,
    evaluate,
    export,
    files,
    packing,
    pictures,
    runs,
    splits,
)
from build_engines.__main__ import main  # noqa: E402
from inspector.errors import ConfigError  # noqa: E402
from tests.build_engines_toys import HEIGHT, write_toys  # noqa: E402
from tests.disks import room_for  # noqa: E402
from tests.packs import make_pack  # noqa: E402

ROOT = Path(__file__).parents[2]
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toys(tmp_path_factory.mktemp("toys"), 16)


@pytest.fixture(scope="module")
def run(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose networks learnt nothing."""
    folder = tmp_path_factory.mktemp("run")
    names = {1: "spot", 2: "bar"}
    runs.save_facts(runs.Facts(classes=[1, 2], names=names, scale=2, height=HEIGHT, width=64), folder)
    splits.save(splits.split(datasets.read(toys)), folder / "split.json")
    torch.manual_seed(1)
    for name in runs.network_names([1, 2]):
        torch.save({"average": runs.blank(name, 2).state_dict()}, folder / f"{name}.pt")
    return folder


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr: one line."""
    said = capsys.readouterr().err.strip()
    assert "\n" not in said, said
    return said


# ---------------------------------------------------------------- what a kill or a full disk leaves


def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the disk is full, which it says when it is to keep what was written."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


def test_a_file_that_could_not_be_written_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "split.json"
    file.write_text('{"a.png": "train"}')
    full(monkeypatch)
    with pytest.raises(OSError, match="No space left") as caught:
        splits.save({"a.png": "test", "b.png": "train"}, file)
    assert caught.value.filename == str(file)
    assert splits.load(file) == {"a.png": "train"}
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]


def test_a_log_that_could_not_be_written_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gate.csv"
    pictures.Log(file, 0).add([3.0, 2.0])
    before = file.read_bytes()
    full(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        pictures.Log(file, 2).add([1.0])
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b'{"a.png": "tra', b"", b'["a.png"]', b'{"a.png": 1}', b'{"\xff": "train"}'])
def test_a_split_that_is_not_whole_is_told_with_how_to_mend_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "split.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"split.json: not a whole split: .*Remove it and run the same `train`"):
        splits.load(file)


def test_a_log_torn_anywhere_does_not_keep_a_training_from_going_on(tmp_path: Path) -> None:
    with pictures.Log(tmp_path / "whole.csv", 0) as log:
        log.check(2, 0.75)
        log.add([3.0, 2.0, 1.0])
    whole, file = (tmp_path / "whole.csv").read_bytes(), tmp_path / "gate.csv"
    for end in range(len(whole)):
        file.write_bytes(whole[:end] + (b"\0" * 5 + b"\xff" if end % 2 else b""))
        log = pictures.Log(file, 3)
        log.add([0.5])
        log.draw(tmp_path / "gate.png", "gate")
        losses = np.genfromtxt(file, delimiter=",", skip_header=1, usecols=1)
        assert losses[-1] == 0.5
        assert all(np.isnan(loss) or loss == was for loss, was in zip(losses, [3.0, 2.0, 1.0, 0.5], strict=True))


def test_what_was_set_aside_comes_back_after_a_kill_between_two_renames(
    tmp_path: Path, run: Path, toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, built = tmp_path / "pack", tmp_path / "built"
    for folder in (pack, built):
        folder.mkdir()
        (folder / "manifest.yaml").write_text(folder.name)
    renames: list[Any] = []

    def rename(source: Path, target: Path) -> None:
        renames.append(source)
        if len(renames) == 2:
            raise KeyboardInterrupt
        source.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", rename)
        with pytest.raises(KeyboardInterrupt):
            files.put_in_place(built, pack)
    assert not pack.exists()
    order = packing.Order(run, toys, pack, "pack", "1", {})
    with pytest.raises(ZeroDivisionError), packing._made_in(order):
        raise ZeroDivisionError
    assert (pack / "manifest.yaml").read_text() == "pack"
    files.put_in_place(built, pack)
    assert (pack / "manifest.yaml").read_text() == "built"
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


# ---------------------------------------------------------------- one line that names the file and the remedy


def test_a_full_disk_is_told_by_synthesize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with room_for(4096):
        assert main(["synthesize", "--out", str(tmp_path / "strip"), "--count", "2", "--width", "320"]) == 1
    assert told(capsys).startswith(f"{tmp_path / 'strip'}: ")


def test_a_full_disk_is_told_by_train(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with room_for(64):
        assert main(["train", "--data", str(toys), "--out", str(tmp_path / "run")]) == 1
    said = told(capsys)
    assert said.startswith(f"{tmp_path / 'run' / 'split.json'}: ")
    assert "Make room" in said


def test_a_full_disk_is_told_by_evaluate(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack = make_pack(tmp_path / "pack")
    words = ["evaluate", "--pack", str(pack), "--data", str(toys), "--draws", "2", "--json", str(tmp_path / "f.json")]
    with room_for(64):
        assert main(words) == 1
    assert told(capsys).startswith(f"{tmp_path / 'f.json'}: ")


@pytest.mark.parametrize("option", ["--json", "--report", "--records"])
def test_evaluate_asks_for_its_files_before_it_judges(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    pack = make_pack(tmp_path / "pack")
    (tmp_path / "taken").mkdir()
    monkeypatch.setattr(evaluate, "judged", lambda *_: pytest.fail("it judged what it cannot write down"))
    words = ["evaluate", "--pack", str(pack), "--data", str(toys), option, str(tmp_path / "taken")]
    assert main(words) == 78
    assert told(capsys).startswith(f"{tmp_path / 'taken'}: Is a directory")
    (tmp_path / "file").touch()
    assert main([*words[:-1], str(tmp_path / "file" / "f.json")]) == 78
    assert told(capsys).startswith(f"{tmp_path / 'file' / 'f.json'}: Not a directory")
    assert main(["evaluate", "--pack", str(tmp_path), "--data", str(toys), option, str(tmp_path / "new" / "f")]) == 78
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_told_by_export_and_nothing_is_left(
    toys: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--run", str(run), "--data", str(toys), "--pack", str(tmp_path / "pack")]
    with room_for(1 << 20):
        assert main(words) == 1
    assert "gate.onnx: " in told(capsys)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_answers_otherwise_is_told_and_nothing_is_left(
    toys: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = export._answer
    monkeypatch.setattr(export, "_answer", lambda file, frames: answer(file, frames) + np.float32(np.nan))
    words = ["export", "--run", str(run), "--data", str(toys), "--pack", str(tmp_path / "pack")]
    assert main(words) == 1
    said = told(capsys)
    assert "gate.onnx: differs from its original by nan" in said
    assert "train it again" in said
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file_is_a_wrong_setting(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for words in (["train", "--data", str(toys)], ["synthesize", "--count", "1"]):
        assert main([*words, "--out", str(tmp_path / "file" / "out")]) == 78
        assert told(capsys).startswith(f"{tmp_path / 'file'}")


def test_what_may_not_be_written_is_told_with_its_remedy() -> None:
    said = files.refusal(PermissionError(errno.EACCES, "Permission denied", "run/gate.pt"))
    assert said == "run/gate.pt: Permission denied. Give this user the right to it, or name another"
    assert files.refusal(OSError("16 requested and 0 written")).startswith("a file: 16 requested and 0 written. Make")


SHAPES = b"ImageId,ClassId,EncodedPixels\n"


@pytest.mark.parametrize(
    "content",
    [None, b"a,b\n1,2\n", b"\xff\xfe", *(SHAPES + row for row in (b"x,1,1 2 3", b"x,one,1 2", b"x,1", b"x,9,1 2"))],
)
def test_shapes_that_are_none_are_told_before_anything_is_done(
    toys: Path, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "shapes.csv", tmp_path / "run"
    if content is not None:
        file.write_bytes(content)
    assert main(["train", "--data", str(toys), "--out", str(out), "--shapes", str(file)]) == 78
    assert told(capsys).startswith(f"{file}: ")
    assert not out.exists()


@pytest.mark.parametrize("command", ["evaluate", "reference", "quantize", "unfold"])
@pytest.mark.parametrize("content", [None, '{"toy_001.png": "te'])
def test_a_split_that_is_none_is_told(
    toys: Path, tmp_path: Path, command: str, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file, more = tmp_path / "split.json", ["--out", str(tmp_path / "run")] if command == "unfold" else []
    if content is not None:
        file.write_text(content)
    pack = make_pack(tmp_path / "pack")
    assert main([command, "--pack", str(pack), "--data", str(toys), "--split", str(file), *more]) == 78
    assert told(capsys).startswith(f"{file}: ")


def test_quantize_says_which_original_is_missing(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack = make_pack(tmp_path / "pack")
    (pack / "gate.onnx").rename(pack / "door.onnx")
    manifest = yaml.safe_load((pack / "manifest.yaml").read_text())
    manifest["gate"]["file"] = "door.onnx"
    (pack / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    assert main(["quantize", "--pack", str(pack), "--data", str(toys)]) == 78
    said = told(capsys)
    assert said.startswith(f"{pack / 'gate.onnx'}: no such file")
    assert "Export the pack again" in said


def test_quantize_says_that_there_is_nothing_to_calibrate_on(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack, split = make_pack(tmp_path / "pack"), tmp_path / "split.json"
    splits.save({sample.name: "test" for sample in datasets.read(toys)}, split)
    assert main(["quantize", "--pack", str(pack), "--data", str(toys), "--split", str(split)]) == 78
    assert told(capsys).startswith("no labelled frame of the training part to calibrate on")
