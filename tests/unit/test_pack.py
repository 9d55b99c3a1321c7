"""pack.py: a pack is whole and means what it says, or it is refused with the file named and a way to mend it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from inspector.errors import ConfigError, PackError
from inspector.pack import FORMAT, MANIFEST, load
from tests.packs import make_pack

Manifest = dict[str, Any]
NETWORKS = ["gate", "types", "segment_1", "segment_2", "segment_3", "segment_4"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack") / "bands")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "bands"))


def change(folder: Path, alter: Callable[[Manifest], object]) -> None:
    path = folder / MANIFEST
    manifest = yaml.safe_load(path.read_text())
    alter(manifest)
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))


def refusal(folder: Path) -> str:
    with pytest.raises(PackError) as caught:
        load(folder)
    assert isinstance(caught.value, ConfigError), "the daemon ends with 78"
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- a good one


def test_a_pack_is_read_whole(made: Path) -> None:
    pack = load(made)
    assert pack.folder == made
    assert pack.class_names == {1: "class1", 2: "class2", 3: "class3", 4: "class4"}
    assert list(pack.networks()) == NETWORKS
    for name, (file, digest) in pack.networks().items():
        assert file == made / f"{name}.onnx"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    assert pack.manifest.segmenters[0].figures == {}
    assert pack.manifest.reference is None


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_nothing_knows_the_number_four(classes: int, tmp_path: Path) -> None:
    pack = load(make_pack(tmp_path / "few", classes=classes))
    assert list(pack.networks()) == ["gate", "types", *(f"segment_{n + 1}" for n in range(classes))]


def test_the_smallest_tile_is_one_pixel(folder: Path) -> None:
    change(folder, lambda m: m["tile"].update(height=1, width=1))
    assert (load(folder).manifest.tile.height, load(folder).manifest.tile.width) == (1, 1)


def test_figures_may_hold_anything(folder: Path) -> None:
    figures = {"recall": {"real": 0.97, "frames": 500}, "note": "not trained on"}
    change(folder, lambda m: m["gate"].update(figures=figures))
    assert load(folder).manifest.gate.figures == figures


# ---------------------------------------------------------------- its digest


@pytest.mark.parametrize(
    "alter",
    [
        lambda m: m["gate"].update(threshold=0.51),
        lambda m: m["types"]["floors"].update({3: 0.21}),
        lambda m: m["types"]["thresholds"].update({1: 0.52}),
        lambda m: m["segmenters"][2].update(threshold=0.49),
        lambda m: m["segmenters"][2].update(minimum_area_px=5),
        lambda m: m.update(veto_area_factor=2.5),
        lambda m: m.update(version="2"),
        lambda m: m["classes"][0].update(name="pits"),
    ],
)
def test_the_digest_changes_with_anything_that_changes_a_verdict(
    alter: Callable[[Manifest], object], folder: Path
) -> None:
    before = load(folder).digest
    change(folder, alter)
    assert load(folder).digest != before


def test_the_digest_changes_with_a_network_and_does_not_depend_on_the_place(folder: Path, made: Path) -> None:
    before = load(made).digest
    assert load(folder).digest == before
    assert before.startswith("sha256:")
    assert len(before) == len("sha256:") + 64
    file = folder / "gate.onnx"
    file.write_bytes(file.read_bytes() + b"\0")
    change(folder, lambda m: m["gate"].update(sha256=hashlib.sha256(file.read_bytes()).hexdigest()))
    assert load(folder).digest != before


# ---------------------------------------------------------------- missing or altered


def test_a_missing_folder_is_told_what_to_name(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert message.startswith(f"{tmp_path / 'nowhere' / MANIFEST}: no such file. Name a folder that holds a")


def test_a_folder_without_a_manifest_is_told_the_same(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    assert "no such file" in refusal(folder)
    (folder / MANIFEST).mkdir()
    assert "no such file" in refusal(folder)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_missing_network_is_named(network: str, folder: Path) -> None:
    (folder / f"{network}.onnx").unlink()
    message = refusal(folder)
    assert message.startswith(f"{folder / network}.onnx: cannot read network {network}: No such file")
    assert "Restore the pack's files" in message


@pytest.mark.parametrize("network", NETWORKS)
def test_one_altered_byte_is_found(network: str, folder: Path) -> None:
    file = folder / f"{network}.onnx"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    message = refusal(folder)
    assert message.startswith(f"{file}: network {network} was altered: its SHA-256 is ")
    assert "Restore the file, or export the pack again" in message


@pytest.mark.parametrize("left", [0, 10])
def test_a_network_cut_short_is_found(left: int, folder: Path) -> None:
    file = folder / "segment_3.onnx"
    file.write_bytes(file.read_bytes()[:left])
    assert "network segment_3 was altered" in refusal(folder)


def test_networks_that_changed_places_are_found(folder: Path) -> None:
    one, two = folder / "segment_1.onnx", folder / "segment_2.onnx"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert "network segment_1 was altered" in refusal(folder)


def test_a_digest_may_say_what_it_is(folder: Path) -> None:
    change(folder, lambda m: m["gate"].update(sha256="sha256:" + m["gate"]["sha256"]))
    assert load(folder).manifest.gate.sha256.startswith("sha256:")


# ---------------------------------------------------------------- a manifest that contradicts itself


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda m: m.update(format=FORMAT + 1), f"format {FORMAT + 1}, this version reads {FORMAT}"),
        (lambda m: m.update(format=0), f"format 0, this version reads {FORMAT}"),
        (lambda m: m.pop("gate"), "missing required field `gate`"),
        (lambda m: m["types"].pop("floors"), "missing required field `floors`"),
        (lambda m: m.update(treshold=1), "unknown field `treshold`"),
        (lambda m: m["gate"].update(treshold=1), "unknown field `treshold` - at `$.gate`"),
        (lambda m: m["segmenters"][1].update(area=1), "unknown field `area` - at `$.segmenters[1]`"),
        (lambda m: m["types"].update(floor=1), "unknown field `floor` - at `$.types`"),
        (lambda m: m["tile"].update(depth=1), "unknown field `depth` - at `$.tile`"),
        (lambda m: m["classes"][3].update(colour="red"), "unknown field `colour` - at `$.classes[3]`"),
        (lambda m: m["gate"].update(threshold="high"), "$.gate.threshold"),
        (lambda m: m["gate"].update(threshold=50), "$.gate.threshold"),
        (lambda m: m["gate"].update(threshold=-0.1), "$.gate.threshold"),
        (lambda m: m["gate"].update(threshold=float("nan")), "$.gate.threshold"),
        (lambda m: m["gate"].update(gpu_threshold=2), "$.gate.gpu_threshold"),
        (lambda m: m["gate"].update(gpu_threshold=0.4), "gate.gpu_threshold is for a gate in int8"),
        (lambda m: m["types"]["thresholds"].update({1: 1.5}), "$.types.thresholds"),
        (lambda m: m["segmenters"][0].update(threshold=2), "$.segmenters[0].threshold"),
        (lambda m: m["segmenters"][0].update(minimum_area_px=-1), "$.segmenters[0].minimum_area_px"),
        (lambda m: m.update(veto_area_factor=0.5), "$.veto_area_factor"),
        (lambda m: m["tile"].update(height=0), "tile must be at least 1 x 1 px"),
        (lambda m: m["tile"].update(width=-64), "tile must be at least 1 x 1 px"),
        (lambda m: m.update(classes=[]), "there must be one at least"),
        (lambda m: m["classes"].append({"number": 1, "name": "again"}), "named once each"),
        (lambda m: m["classes"][1].update(name="class1"), "two classes have one name"),
        (lambda m: m["classes"].pop(), "types.thresholds names classes [1, 2, 3, 4], classes names [1, 2, 3]"),
        (lambda m: m["classes"].append({"number": 5, "name": "five"}), "types.thresholds names classes [1, 2, 3, 4]"),
        (lambda m: m["types"]["thresholds"].pop(2), "types.thresholds names classes [1, 3, 4]"),
        (lambda m: m["types"]["floors"].pop(2), "types.floors names classes [1, 3, 4]"),
        (lambda m: m["types"]["floors"].update({9: 0.1}), "types.floors names classes [1, 2, 3, 4, 9]"),
        (lambda m: m["segmenters"].pop(0), "segmenters names classes [2, 3, 4]"),
        (lambda m: m["segmenters"].append(m["segmenters"][0]), "segmenters names classes [1, 1, 2, 3, 4]"),
        (lambda m: m["types"]["floors"].update({4: 0.6}), "class 4 has 0.6, above its threshold of 0.5"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_in_words(
    alter: Callable[[Manifest], object], words: str, folder: Path
) -> None:
    change(folder, alter)
    message = refusal(folder)
    assert message.startswith(f"{folder / MANIFEST}: ")
    assert words in message


@pytest.mark.parametrize("text", ["", "[]", "hello", "format: [", "a: 2024-13-45", "\t", "!!python/object:os.system x"])
def test_a_manifest_that_is_none_is_refused(text: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(text)
    message = refusal(folder)
    assert message.startswith(f"{folder / MANIFEST}: ")
    assert message.endswith("Export the pack again, or mend this key")


def test_a_manifest_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b"name: \xff\xfe\x00")
    assert refusal(folder).startswith(f"{folder / MANIFEST}: ")
