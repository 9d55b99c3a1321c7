"""What a training rests on: its feed, its variation, its folds, its teachers, its hard negatives, and being killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="build_engines needs torch: pip install 'inspector[train]'")
pytest.importorskip("onnx", reason="build_engines needs onnx: pip install 'inspector[train]'")

from build_engines import (  # noqa: E402
    datasets,
    feed,
    folds,
    losses,
    mining,
    networks,
    pictures,
    runs,
    splits,
    thresholds,
    train,
    variation,
)
from build_engines.__main__ import main  # noqa: E402
from build_engines.augment import Recipe, Varier, label  # noqa: E402
from build_engines.ensemble import SOFT, Ensemble  # noqa: E402
from build_engines.settings import Settings, stint  # noqa: E402
from inspector import pack as packs  # noqa: E402
from inspector.errors import ConfigError  # noqa: E402
from tests.build_engines_toys import HEIGHT, WIDTH, write_toys  # noqa: E402
from tests.packs import make_pack  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toys(tmp_path_factory.mktemp("toys"))


def small(data: Path, out: Path, **more: object) -> Settings:
    own = Settings(data, out, steps=4, batch=2, height=HEIGHT, width=64, tile=(HEIGHT, 64), threads=1)
    return dataclasses.replace(own, **more)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the feed


def test_processes_make_the_same_batches_as_a_thread(toys: Path, tmp_path: Path) -> None:
    own = feed.prepare_feed(small(toys, tmp_path))
    others = dataclasses.replace(own, settings=dataclasses.replace(own.settings, workers=2))
    pairs = list(zip(own.stream(1, 4), others.stream(1, 4), strict=True))
    assert len(pairs) == 3
    for one, other in pairs:
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.pixels, other.pixels)


def test_threads_make_them_too_where_shared_memory_is_small(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = feed.prepare_feed(small(toys, tmp_path))
    others = dataclasses.replace(own, settings=dataclasses.replace(own.settings, workers=3))
    monkeypatch.setattr(feed.Feed, "_shared_bytes", lambda self: 1 << 60)
    for one, other in zip(own.stream(0, 5), others.stream(0, 5), strict=True):
        assert torch.equal(one.frames, other.frames)


def test_a_segmenter_sees_its_class_and_what_was_let_through_wrongly(toys: Path, tmp_path: Path) -> None:
    own = feed.prepare_feed(small(toys, tmp_path))
    hard = [sample for sample in own.real if sample.classes == (2,)][:1]
    own = dataclasses.replace(own, favourite=1, hard={1: hard})
    assert feed.FAVOURITE_SHARE + feed.HARD_SHARE < 1
    seen: list[str] = []

    class Listening(Varier):
        def example(  # type: ignore[override]
            self, sample: datasets.Sample, rng: np.random.Generator, enrich: bool = True, painted: float = 1.0
        ) -> object:
            seen.append("hard" if sample is hard[0] and not enrich else str(sample.classes))
            return None

    own.varier = Listening(own.classes, HEIGHT, 64)
    rng = np.random.default_rng(0)
    for _ in range(600):
        own._example(own.varier, rng, 1.0)
    assert seen.count("hard") / 600 == pytest.approx(feed.HARD_SHARE, abs=0.06)
    assert seen.count("(1,)") / 600 == pytest.approx(feed.FAVOURITE_SHARE, abs=0.06)
    clean = own.settings.clean * (1 - feed.HARD_SHARE)
    assert seen.count("()") / 600 == pytest.approx(clean, abs=0.06)


def test_painted_steel_fades_towards_the_end(toys: Path, tmp_path: Path) -> None:
    own = feed.prepare_feed(small(toys, tmp_path, steps=100))
    seen = []

    class Listening(Varier):
        def example(self, *words: object) -> losses.Example:
            seen.append(words[3])
            return label(np.zeros((64, 64), np.uint8), np.zeros((2, 64, 64), np.uint8), 4)

    own.variers = dict.fromkeys(own.variers, Listening(own.classes, HEIGHT, 64))
    for step in (0, 69, 85, 99):
        own.raw(step)
    first, still, less, last = (value for value in seen[:: own.settings.batch])
    assert first == still == 1.0
    assert 1.0 > less > last > feed.FADED_TO


@pytest.mark.parametrize(("batch", "tiles"), [(2, 2), (6, 4), (8, 4), (32, 16)])
def test_a_training_may_end_on_whole_tiles(toys: Path, tmp_path: Path, batch: int, tiles: int) -> None:
    own = feed.prepare_feed(small(toys, tmp_path, steps=8, batch=batch, whole=0.25, tile=(HEIGHT, 128)))
    shapes = [tuple(raw.frames.shape) for raw in own.stream(4, 8)]
    assert shapes == [(batch, 1, HEIGHT, 64)] * 2 + [(tiles, 1, HEIGHT, 128)] * 2


def test_the_command_line_asks_for_whole_tiles(toys: Path, tmp_path: Path) -> None:
    words = ["train", "--data", str(toys), "--height", "64", "--width", "128", "--crop-width", "64", "--batch", "4"]
    words += ["--network", "teacher", "--steps", "1", "--threads", "1"]
    widths = []
    for whole in ("0", "1"):
        assert main([*words, "--whole", whole, "--out", str(tmp_path / whole)]) == 0
        widths.append(cv2.imread(str(tmp_path / whole / "teacher_examples.png")).shape[1])
    assert widths[1] > widths[0]


@pytest.mark.parametrize("whole", [0.0, 1.0])
def test_a_share_of_the_examples_is_plain(toys: Path, tmp_path: Path, whole: float) -> None:
    """They are nothing but what the pictures show, mirrored, and the network sees them so."""
    own = feed.prepare_feed(small(toys, tmp_path, steps=50, whole=whole, plain=0.5, tile=(HEIGHT, WIDTH), width=WIDTH))
    own.extra, own.buckets[False] = own.real, own.buckets[True]
    known = {content for sample in own.real for content in _mirrored(datasets.picture(sample))}
    found = [
        (bool(plain), frame.numpy().tobytes() in known)
        for raw in own.stream(0, 50)
        for plain, frame in zip(raw.plain, raw.frames[:, 0], strict=True)
    ]
    plain = [as_it_is for said, as_it_is in found if said]
    assert all(plain)
    assert not all(as_it_is for said, as_it_is in found if not said)
    assert len(plain) / len(found) == pytest.approx(0.5, abs=0.2)
    kept = {name: share for name, share in dataclasses.asdict(own.settings.recipe.plain).items() if share}
    assert kept == {"aimed": own.settings.recipe.aimed}


def test_plain_examples_are_not_varied(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def listening(frames: torch.Tensor, scale: int) -> torch.Tensor:
        seen.append(frames)
        return networks.prepare(frames, scale)

    monkeypatch.setattr(train, "prepare", listening)
    own = feed.prepare_feed(small(toys, tmp_path, plain=0.5, batch=8))
    raw = own.raw(0)._replace(plain=torch.tensor([True, False] * 4))
    network = train.start("teacher", own.classes, tmp_path)
    training = train.Training("teacher", train.Run.begin(network, own.settings), own, tmp_path / "teacher.pt")
    training.step(raw)
    same = [bool(torch.equal(shown, frame.float())) for shown, frame in zip(torch.cat(seen), raw.frames, strict=True)]
    assert all(same[::2])
    assert not all(same[1::2])


def test_hard_frames_of_plain_examples_are_real(toys: Path, tmp_path: Path) -> None:
    own = feed.prepare_feed(small(toys, tmp_path, steps=80, plain=0.5))
    painted = dataclasses.replace(own.real[0])  # equal, but of an --extra folder
    own = dataclasses.replace(own, extra=[painted], favourite=1, hard={1: [own.real[1], painted]})
    seen: set[tuple[bool, bool]] = set()

    class Listening(Varier):
        def example(self, *words: object, **_: object) -> losses.Example:
            seen.add((self.recipe.painted == 0, words[0] is painted))
            return label(np.zeros((64, 64), np.uint8), np.zeros((2, 64, 64), np.uint8), 4)

    own.variers = {key: Listening(own.classes, HEIGHT, 64, recipe=varier.recipe) for key, varier in own.variers.items()}
    for step in range(80):
        own.raw(step)
    assert seen == {(False, False), (False, True), (True, False)}


def _mirrored(frame: NDArray[np.uint8]) -> list[bytes]:
    return [np.ascontiguousarray(frame[::rows, ::columns]).tobytes() for rows in (1, -1) for columns in (1, -1)]


def test_the_command_line_asks_for_plain_frames(toys: Path, tmp_path: Path) -> None:
    words = ["train", "--data", str(toys), "--height", "64", "--width", "128", "--batch", "4", "--network", "teacher"]
    words += ["--steps", "1", "--threads", "1"]
    for share in ("0", "1"):
        assert main([*words, "--plain", share, "--out", str(tmp_path / share)]) == 0
    ends = [runs.weights("teacher", tmp_path / share) for share in ("0", "1")]
    assert any(not torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize(("share", "kept"), [("0", False), ("0.5", False), ("1", True)])
def test_norms_keep_the_statistics_of_the_parent(toys: Path, tmp_path: Path, share: str, kept: bool) -> None:
    words = ["train", "--data", str(toys), "--height", "64", "--width", "64", "--batch", "4", "--network", "teacher"]
    words += ["--steps", "2", "--threads", "1"]
    assert main([*words, "--out", str(tmp_path / "parent")]) == 0
    child = [*words, "--out", str(tmp_path / "child"), "--parent", str(tmp_path / "parent")]
    assert main([*child, "--keep-norms", share]) == 0
    before, after = (runs.weights("teacher", tmp_path / name) for name in ("parent", "child"))
    statistics = [key for key in before if key.endswith(("running_mean", "running_var"))]
    assert all(torch.equal(before[key], after[key]) for key in statistics) == kept
    assert not torch.equal(before["encoder.stem.0.weight"], after["encoder.stem.0.weight"])


def test_an_enlarged_whole_tile_shows_every_edge_of_the_picture(toys: Path) -> None:
    varier = Varier([1, 2], HEIGHT, WIDTH, recipe=Recipe(resized=1.0))
    (sample,) = [one for one in datasets.read(toys) if one.classes][:1]
    frame, truth = datasets.picture(sample), datasets.masks(sample, [1, 2])
    rng = np.random.default_rng(0)
    lefts, rights = set(), set()
    for _ in range(200):
        origin = varier._crop(frame, truth, rng)[2]
        if origin.wide > 1.1:
            lefts.add(origin.left == 0)
            rights.add(origin.left + round(WIDTH / origin.wide) >= WIDTH - 1)
    assert lefts == rights == {False, True}


def test_what_gate_and_types_let_through_is_kept_for_each_class(toys: Path) -> None:
    samples = datasets.read(toys)[:8]  # clean, 1, clean, 2, twice

    def score(gate: float, *types: float) -> mining.Scores:
        return mining.Scores(gate, np.array(types, np.float32))

    quiet = score(0.05, 0.05, 0.05)
    scores = [quiet, score(0.9, 0.8, 0.05), score(0.15, 0.12, 0.05), score(0.9, 0.05, 0.8)]
    scores += [score(0.95, 0.05, 0.11), score(0.9, 0.8, 0.9), score(0.05, 0.9, 0.9), score(0.9, 0.05, 0.8)]
    assert [sample.name for sample in mining._passing(samples, scores, 0, 1)] == ["toy_002.png"]
    assert [sample.name for sample in mining._passing(samples, scores, 1, 2)] == ["toy_004.png", "toy_005.png"]
    seconds = [own for own, sample in zip(scores, samples, strict=True) if sample.classes != (1,)]
    others = [sample for sample in samples if sample.classes != (1,)]
    assert [one.name for one in mining._passing(others, seconds, 1, 2)] == ["toy_004.png"], "class 1 is not there"


def test_hard_negatives_are_judged_once_and_kept(toys: Path, tmp_path: Path) -> None:
    own = feed.prepare_feed(small(toys, tmp_path))
    for name in ("gate", "types"):
        torch.save({"average": runs.blank(name, 2).state_dict()}, tmp_path / f"{name}.pt")
    facts, device = runs.facts_of(tmp_path), torch.device("cpu")
    first = mining.hard_negatives(tmp_path, own.real, facts, device)
    assert all(number not in sample.classes for number, found in first.items() for sample in found)
    kept = tmp_path / mining.FILE
    before = kept.stat().st_ino
    assert mining.hard_negatives(tmp_path, own.real, facts, device) == first
    assert kept.stat().st_ino == before
    os.utime(tmp_path / "gate.pt", ns=(kept.stat().st_mtime_ns + 1,) * 2)
    mining.hard_negatives(tmp_path, own.real, facts, device)
    assert kept.stat().st_ino != before, "another gate lets other frames through"


# ---------------------------------------------------------------- examples


def test_a_crop_of_a_small_picture_keeps_all_of_it_and_is_black_beyond(toys: Path) -> None:
    sample = datasets.read(toys)[1]
    varier = Varier([1, 2], 128, 512, recipe=Recipe(resized=0, erased=0, pseudo=0, lattice=0))
    for seed in range(6):
        example = varier.example(sample, np.random.default_rng(seed), enrich=False)
        assert example.frame.shape == (128, 512)
        assert np.count_nonzero(example.frame) == np.count_nonzero(datasets.picture(sample))
        assert example.pixels[0].sum() / 255 * 16 == pytest.approx(sample.area_px(1), rel=0.02)


def test_crops_reach_beyond_a_picture_where_the_tile_does(toys: Path) -> None:
    sample = datasets.read(toys)[1]
    recipe = Recipe(resized=0, erased=0, pseudo=0, lattice=0)
    for tile, black in (((HEIGHT, WIDTH), False), ((HEIGHT + 64, WIDTH), True)):
        varier = Varier([1, 2], 32, 64, tile=tile, recipe=recipe)
        rng = np.random.default_rng(5)
        rows = [(varier.example(sample, rng, enrich=False).frame == 0).all(axis=1) for _ in range(60)]
        assert any(row.any() for row in rows) == black
        assert sum(row.any() for row in rows) < 30


def test_teacher_and_segmenters_learn_from_crops_and_the_rest_from_tiles(toys: Path, tmp_path: Path) -> None:
    own = Settings(toys, tmp_path, tile=(256, 800), crop=(128, 0))
    assert [(s.height, s.width) for name in ("teacher", "gate", "types") for s in [stint(name, own, 10)]] == [
        (128, 640),
        (256, 800),
        (256, 800),
    ]
    assert stint("segment_1", dataclasses.replace(own, crop=(0, 1600)), 10).width == 800
    assert stint("gate", dataclasses.replace(own, pace=0.5), 10).rate == stint("gate", own, 10).rate / 2
    with pytest.raises(ConfigError, match="--crop-width 144: not a multiple of 32 px"):
        feed.prepare_feed(dataclasses.replace(own, crop=(0, 144)))


def test_a_defect_is_replaced_by_steel_of_its_own_frame(toys: Path) -> None:
    sample = datasets.read(toys)[1]  # a bright spot on grey
    varier = Varier([1, 2], HEIGHT, WIDTH, recipe=Recipe(erased=1, pseudo=0, resized=0))
    examples = [varier.example(sample, np.random.default_rng(seed), enrich=False) for seed in range(20)]
    black = [bool((example.frame == 0).any()) for example in examples]
    assert 1 <= sum(black) <= 12
    for example, dark in zip(examples, black, strict=True):
        assert not example.pixels.any()
        assert example.frame.max() < 200
        assert dark or example.frame.min() > 40


def test_truth_is_the_share_of_each_pixel_of_the_grid() -> None:
    truth = np.zeros((2, 16, 16), np.uint8)
    truth[1, :2, :4] = 255
    pixels = label(np.zeros((16, 16), np.uint8), truth, 4).pixels
    assert pixels.shape == (2, 4, 4)
    assert pixels[1, 0, 0] == pytest.approx(128, abs=1)
    assert np.count_nonzero(pixels) == 1


def test_variation_is_a_function_of_its_seed_and_keeps_the_margin_black() -> None:
    frames = torch.randint(60, 200, (4, 1, 64, 96), dtype=torch.uint8)
    frames[..., 80:] = 0
    recipe = Recipe(toned=1, banded=1, blurred=0, noisy=0)
    once, again, other = (variation.vary(frames, recipe, seed) for seed in (5, 5, 6))
    assert torch.equal(once, again)
    assert not torch.allclose(once, other)
    assert float(once[..., 80:].abs().max()) == 0
    noisy = variation.vary(frames, Recipe(toned=1, banded=1, blurred=1, noisy=1), 7)
    assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 255
    assert noisy.shape == frames.shape


def test_nothing_is_varied_where_the_recipe_says_so() -> None:
    frames = torch.randint(0, 255, (2, 1, 32, 32), dtype=torch.uint8)
    still = variation.vary(frames, Recipe(toned=0, banded=0, blurred=0, noisy=0), 1)
    assert torch.equal(still, frames.float())


def test_a_blur_keeps_the_mean_of_an_even_frame() -> None:
    frames = torch.full((3, 1, 32, 48), 90, dtype=torch.uint8)
    blurred = variation.vary(frames, Recipe(toned=0, banded=0, blurred=1, noisy=0), 2)
    torch.testing.assert_close(blurred, frames.float(), rtol=0, atol=1e-3)


# ---------------------------------------------------------------- splits


def test_folds_test_every_frame_once_and_divide_no_group(toys: Path) -> None:
    samples = datasets.read(toys)
    tested = []
    for own in (1, 2, 3):
        parts = splits.fold(samples, 3, own)
        tested += [name for name, part in parts.items() if part == "test"]
        assert set(parts.values()) == {"train", "validation", "test"}
        for group in {sample.group for sample in samples}:
            assert len({parts[sample.name] for sample in samples if sample.group == group}) == 1
    assert sorted(tested) == [sample.name for sample in samples]
    with pytest.raises(ConfigError, match="--fold 4 of --folds 3"):
        splits.fold(samples, 3, 4)


def test_a_split_is_extended_to_frames_that_it_does_not_know(toys: Path) -> None:
    samples = datasets.read(toys)  # groups of four
    known = {sample.name: "test" if index < 2 else "train" for index, sample in enumerate(samples[:32])}
    parts = splits.extended(samples, known)
    assert list(parts) == [sample.name for sample in samples]
    assert {name: parts[name] for name in known} == known
    assert set(list(parts.values())[32:]) == {"train", "validation", "test"}
    known.pop(samples[5].name)
    assert splits.extended(samples, known)[samples[5].name] == "train"
    assert splits.extended(samples[:4], known) == {name: known[name] for name in list(known)[:4]}


def test_frames_that_nobody_labelled_are_in_the_training_of_every_fold(toys: Path) -> None:
    samples = [
        dataclasses.replace(sample, truth=None) if index % 8 < 4 else sample
        for index, sample in enumerate(datasets.read(toys))
    ]
    for own in (1, 2):
        parts = splits.fold(samples, 2, own)
        assert {parts[sample.name] for sample in samples if not sample.labelled} == {"train"}


def test_turned_copies_of_a_picture_are_one_group(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(1)
    for number in range(12):
        texture = cv2.GaussianBlur(rng.normal(90 + 6 * number, 40, (96, 96)), (0, 0), float(rng.uniform(0.6, 4)))
        for turn in range(3):
            turned = np.rot90(np.clip(texture, 0, 255).astype(np.uint8), turn)
            file = tmp_path / "images" / f"p{number:02d}_{turn}.jpg"
            cv2.imencode(".jpg", np.ascontiguousarray(turned))[1].tofile(file)
    (tmp_path / "train.csv").write_text("ImageId,ClassId,EncodedPixels\n")
    grouped = splits.groups(datasets.read(tmp_path))
    assert all(len(set(grouped[at : at + 3])) == 1 for at in range(0, 36, 3))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--whole", "1.5", "1.5: no share. Give a number from 0 to 1"),
        ("--whole", "much", "much: no share"),
        ("--plain", "-1", "-1: no share"),
        ("--shares", "0.8,0.3,0", "that add up to 1"),
        ("--height", "40", "40: not a multiple of 16 px"),
    ],
)
def test_a_wrong_option_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "run"), option, value])
    assert message in capsys.readouterr().err


def test_shares_decide_which_parts_there_are(toys: Path) -> None:
    parts = splits.split(datasets.read(toys), shares={"train": 0.8, "validation": 0.2, "test": 0.0})
    assert set(parts.values()) == {"train", "validation"}


# ---------------------------------------------------------------- teachers


def test_teachers_label_the_unlabelled_and_soften_the_rest() -> None:
    class Sure(networks.Teacher):
        def forward(self, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            count = grey.shape[0]
            return torch.full((count, 1, 8, 8), 9.0), torch.full((count, 1, 1, 1), -9.0), torch.zeros(count, 1)

    truth = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    truth[:, :, :4] = 255
    raw = losses.Raw(
        torch.zeros(2, 1, 32, 32, dtype=torch.uint8),
        truth,
        torch.tensor([True, False]),
        torch.zeros(2, dtype=torch.bool),
    )
    batch = losses.batch_of(raw, networks.prepare(raw.frames), 1)
    taught = Ensemble([(Sure(1), 2)]).teach(raw, batch)
    assert taught.pixels[0, 0, 7, 7] == pytest.approx(SOFT, abs=1e-3)
    assert taught.pixels[0, 0, 0, 0] == pytest.approx(1, abs=1e-3)
    assert taught.pixels[1, 0].min() == pytest.approx(1, abs=1e-3)
    assert taught.present[1, 0] == 1
    assert taught.present[0, 0] == pytest.approx(1 - SOFT / 2)


def test_a_student_learns_from_finished_runs(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--data", str(toys), "--height", "64", "--width", "64", "--steps", "2", "--threads", "1"]
    assert main([*words, "--out", str(tmp_path / "one"), "--network", "teacher", "--scale", "1"]) == 0
    student = ["--out", str(tmp_path / "two"), "--network", "gate", "--distill", str(tmp_path / "one")]
    assert main([*words, *student]) == 0
    assert (tmp_path / "two" / "gate.pt").is_file()
    leaking = [*words, "--out", str(tmp_path / "leak"), "--network", "gate", "--shares", "0.3,0.2,0.5"]
    assert main([*leaking, "--distill", str(tmp_path / "one")]) == 78
    assert "that this run keeps back" in capsys.readouterr().err
    other = write_toys(tmp_path / "other", 16)
    text = (other / "train.csv").read_text().replace(".png,2,", ".png,3,")
    (other / "train.csv").write_text(text)
    words[2] = str(other)
    assert main([*words, "--out", str(tmp_path / "three"), "--distill", str(tmp_path / "one")]) == 78


# ---------------------------------------------------------------- runs


KILLED = """
import os, signal, sys
from build_engines import feed
from build_engines.__main__ import main
whole = feed.Feed.raw
def raw(self, step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, step)
feed.Feed.raw = raw
main(sys.argv[1:])
"""


def test_a_training_survives_kill_9(toys: Path, tmp_path: Path) -> None:
    words = ["train", "--data", str(toys), "--network", "teacher", "--steps", "7", "--batch", "2", "--threads", "1"]
    words += ["--height", "64", "--width", "64", "--checkpoint", "2"]
    killed = [*words, "--out", str(tmp_path / "killed")]
    process = subprocess.run([sys.executable, "-c", KILLED, *killed], capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL
    assert int(torch.load(tmp_path / "killed" / "teacher.pt", weights_only=True)["step"]) == 4
    assert main(killed) == 0
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    ends = [runs.weights("teacher", tmp_path / name) for name in ("killed", "whole")]
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-4, atol=1e-5)
    logs = [(tmp_path / name / "teacher.csv").read_text().splitlines() for name in ("killed", "whole")]
    assert [line.split(",")[0] for line in logs[0]] == [line.split(",")[0] for line in logs[1]]
    for picture in ("teacher.png", "teacher_examples.png"):
        assert cv2.imread(str(tmp_path / "killed" / picture)) is not None


def test_a_parent_that_learnt_from_what_a_fold_keeps_back_is_refused(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--data", str(toys), "--height", "64", "--width", "64", "--threads", "1", "--steps", "1"]
    words += ["--network", "teacher"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    fold = ["--folds", "2", "--fold", "1", "--parent", str(tmp_path / "one")]
    assert main([*words, "--out", str(tmp_path / "two"), *fold]) == 78
    assert "that this run keeps back" in capsys.readouterr().err


def test_extra_frames_of_a_class_that_the_data_lack_are_refused(toys: Path, tmp_path: Path) -> None:
    other = write_toys(tmp_path / "other", 8)
    (other / "train.csv").write_text((other / "train.csv").read_text().replace(".png,2,", ".png,3,"))
    with pytest.raises(ConfigError, match="other: class 3 is none of the data's"):
        feed.prepare_feed(small(toys, tmp_path / "run", extra=(other,)))


def test_dice_is_of_what_is_there() -> None:
    logits, target = torch.full((2, 2, 16, 16), -4.0), torch.zeros(2, 2, 16, 16)
    assert losses.dice_loss(logits, target) == 0
    target[0, 0, :4] = 1
    alone = losses.dice_loss(logits[:1, :1], target[:1, :1])
    assert losses.dice_loss(logits, target) == pytest.approx(float(alone))
    target[1, 1, 0, :9] = 1  # a small one counts as much as a large one
    logits[1, 1, 0, :9] = 9.0
    assert losses.dice_loss(logits, target) == pytest.approx(float(alone) / 2, abs=0.02)


def test_a_run_is_of_one_kind(toys: Path, tmp_path: Path) -> None:
    feed.prepare_feed(small(toys, tmp_path))
    with pytest.raises(ConfigError, match="scale is 2, not 1"):
        feed.prepare_feed(small(toys, tmp_path, scale=1))
    with pytest.raises(ConfigError, match="multiples of 32 px at this --scale"):
        feed.prepare_feed(small(toys, tmp_path / "other", tile=(48, 64)))
    with pytest.raises(ConfigError, match=r"run.yaml: No such file"):
        runs.facts_of(tmp_path / "nothing")
    (tmp_path / "gate.pt").write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"gate.pt: not a checkpoint"):
        runs.weights("gate", tmp_path)


def test_losses_logged_behind_the_last_checkpoint_are_dropped(tmp_path: Path) -> None:
    with pictures.Log(tmp_path / "gate.csv", 0) as log:
        log.check(2, 0.75)
        log.add([3.0, 2.0, 1.0])
    resumed = pictures.Log(tmp_path / "gate.csv", 2)
    resumed.add([1.5])
    assert (tmp_path / "gate.csv").read_text().split() == [
        "step,loss,validation_loss",
        "1,3.00000,",
        "2,2.00000,0.75000",
        "3,1.50000,",
    ]
    assert pictures.Log(tmp_path / "none.csv", 3).taken == 3


def test_areas_decide_what_counts_as_visible(toys: Path) -> None:
    assert feed.visible_px(datasets.read(toys)) == feed.VISIBLE_PX
    tiny = [datasets.Sample("x", Path("x"), {1: "1 20"})]
    assert feed.visible_px(tiny) == 10


def test_cross_validation_judges_every_frame_by_a_pack_that_never_saw_it(
    toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["crossvalidate", "--data", str(toys), "--out", str(tmp_path / "cv"), "--folds", "2", "--steps", "2"]
    words += ["--height", "64", "--width", "256", "--threads", "1", "--json", str(tmp_path / "cv.json")]
    assert main(words) == 0
    found = (tmp_path / "cv.json").read_text()
    assert '"frames": 64' in found
    parts = [splits.load(tmp_path / "cv" / f"fold_{fold}" / "split.json") for fold in (1, 2)]
    assert all(sorted((one[name], other[name])) == ["test", "train"] for one, other in [parts] for name in one)
    (tmp_path / "cv" / "fold_1" / "teacher.pt").unlink()
    assert main(words) == 0  # what is done is not done again
    assert (tmp_path / "cv.json").read_text() == found
    assert not (tmp_path / "cv" / "fold_1" / "teacher.pt").exists()
    capsys.readouterr()
    export = ["export", "--run", str(tmp_path / "cv" / "fold_2"), "--data", str(toys), "--without-twins"]
    export += ["--pack", str(tmp_path / "pack")]
    assert main([*export, "--folds", str(tmp_path / "cv")]) == 0
    assert json.loads(capsys.readouterr().out)["real frames, 2 folds"] == json.loads(found)
    assert "Folds of a\ncross-validation" in (tmp_path / "pack" / "MODEL_CARD.md").read_text()
    (tmp_path / "cv" / "fold_1").rename(tmp_path / "fold_1")
    assert main([*export, "--folds", str(tmp_path / "cv")]) == 78
    assert "holds no folds" in capsys.readouterr().err


def test_thresholds_of_a_fold_are_the_choice_of_the_others(toys: Path) -> None:
    def seen(gate: float, truth_px: int) -> thresholds.Seen:
        own = thresholds.Seen(0, gate, np.array([0.9], np.float32), np.array([truth_px]))
        for threshold in thresholds.PIXEL_THRESHOLDS:
            own.pieces[0, threshold] = np.array([(900, truth_px, 255, truth_px > 0)])
            own.reach[0, threshold] = [own.pieces[0, threshold]] if truth_px else []
        return own

    pack = packs.load(make_pack(toys.parent / "pack", classes=1))
    strict, lax = ([seen(gate, 900), seen(0.01, 0)] for gate in (0.4, 0.1))
    made = folds.Folds([folds.Fold(pack, [])] * 2, [strict, lax], [])
    assert made.manifest(0).gate.threshold == pytest.approx(0.098)
    assert made.manifest(1).gate.threshold == pytest.approx(0.392)
    assert thresholds.chosen(pack.manifest, made.all_seen).gate.threshold == pytest.approx(0.098)


def test_a_parent_of_other_classes_gives_what_knows_steel(toys: Path, tmp_path: Path) -> None:
    words = ["train", "--height", "64", "--width", "64", "--threads", "1", "--network", "teacher", "--steps", "1"]
    assert main([*words, "--data", str(toys), "--out", str(tmp_path / "one")]) == 0
    begun = train.start("teacher", [1, 2, 3], tmp_path / "none", tmp_path / "one")
    given, own = runs.weights("teacher", tmp_path / "one"), begun.state_dict()
    for key, value in given.items():
        assert torch.equal(own[key], value) == key.startswith(("encoder.", "decoder.")), key
    assert own["pixels.weight"].shape[0] == own["head.cells.weight"].shape[0] == 3


def test_a_gpu_that_is_not_there_is_told(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["train", "--data", str(toys), "--out", str(tmp_path), "--device", "cuda"]) == 78
    assert "no GPU" in capsys.readouterr().err


def test_rates_rise_and_fall() -> None:
    rates = [train.rate_at(step / 100, 1.0) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.01)


def test_the_machine_is_measured(toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "measure",
        "--data",
        str(toys),
        "--out",
        str(tmp_path),
        "--height",
        "64",
        "--width",
        "64",
        "--threads",
        "1",
    ]
    assert main([*words, "--steps", "2", "--batch", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["feed_frames_a_second"] > 0
    assert told["network_frames_a_second"] > 0
    assert not (tmp_path / "teacher.pt").exists()


@pytest.mark.training
def test_a_real_training_finds_defects_on_strip_that_it_never_saw(tmp_path: Path) -> None:
    for name, count, seed in (("strip", 120, 1), ("other", 60, 2)):
        words = ["synthesize", "--out", str(tmp_path / name), "--count", str(count), "--seed", str(seed)]
        assert main([*words, "--width", "320"]) == 0
    words = ["--data", str(tmp_path / "strip"), "--out", str(tmp_path / "run"), "--width", "320", "--steps", "300"]
    assert main(["train", *words, "--shares", "0.8,0.2,0"]) == 0
    pack = ["--pack", str(tmp_path / "pack")]
    assert main(["export", "--run", str(tmp_path / "run"), "--data", str(tmp_path / "strip"), *pack]) == 0
    assert main(["evaluate", *pack, "--data", str(tmp_path / "other"), "--json", str(tmp_path / "figures.json")]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["gate"]["auroc"] > 0.75
    assert found["mean_dice_positive"] > 0.2
    assert found["events"]["recall"] > 0.3
