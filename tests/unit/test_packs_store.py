"""packs/store.py and begin.py: staged whole or not at all, and which pack a line starts with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from inspector import pack
from inspector.config import Config, convert
from inspector.errors import PackError
from inspector.packs.begin import begin
from inspector.packs.store import STAGING, Memory, Store, folder_name
from tests.line.daemon import environment
from tests.packs import make_pack


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("old") / "bands")


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("new") / "bands", version="2 beta/7")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "packs", "hot")


def leftovers(store: Store) -> list[str]:
    return [path.name for path in store.folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]


# ---------------------------------------------------------------- staging


def test_a_staged_pack_is_a_whole_copy_under_a_name_of_its_own(store: Store, new: Path) -> None:
    (new / "MODEL_CARD.md").write_text("what it was trained on")
    staged = store.stage(new)
    digest = pack.load(new).digest.removeprefix("sha256:")[:12]
    assert staged == store.folder / f"bands-2_beta_7-{digest}"
    assert pack.load(staged).digest == pack.load(new).digest
    assert (staged / "MODEL_CARD.md").read_text() == "what it was trained on"
    assert store.packs() == [staged]
    assert store.stage(new) == staged, "nothing is copied twice"
    assert store.stage(staged) == staged, "from where it lies"
    assert leftovers(store) == []


def test_a_damaged_copy_is_replaced(store: Store, new: Path) -> None:
    staged = store.stage(new)
    (staged / "gate.onnx").write_bytes(b"torn")
    assert store.stage(new) == staged
    assert pack.load(staged).digest == pack.load(new).digest
    assert store.packs() == [staged]


def test_a_broken_pack_is_not_staged(store: Store, tmp_path: Path) -> None:
    broken = make_pack(tmp_path / "broken")
    (broken / "types.onnx").write_bytes(b"torn")
    with pytest.raises(PackError, match="network types was altered"):
        store.stage(broken)
    assert store.packs() == []


def test_a_manifest_that_names_a_file_elsewhere_is_not_staged(store: Store, tmp_path: Path) -> None:
    outside = make_pack(tmp_path / "outside")
    (outside / "gate.onnx").rename(tmp_path / "gate.onnx")
    manifest = outside / "manifest.yaml"
    manifest.write_text(manifest.read_text().replace("file: gate.onnx", "file: ../gate.onnx"))
    with pytest.raises(PackError, match=r"names \.\./gate.onnx, outside the pack"):
        store.stage(outside)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, new: Path) -> None:
    (tmp_path / "packs").write_text("a file stands in the way")
    with pytest.raises(PackError, match=r"cannot be copied there.*packs\.folder"):
        Store(tmp_path / "packs", "hot").stage(new)
    with pytest.raises(PackError, match=r"cannot be written.*packs\.folder"):
        Store(tmp_path / "packs", "hot").mark(new)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_stages_belongs_to_the_daemon(tmp_path: Path, new: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    before = os.umask(0o077)
    try:
        store = Store(tmp_path / "packs", "hot")
        store.mark(store.stage(new))
    finally:
        os.umask(before)
    there = [store.folder, *store.folder.rglob("*")]
    assert len(there) > 8
    assert {(path.stat().st_uid, path.stat().st_gid) for path in there} == {(12345, 12346)}


KILLED_IN_THE_MIDDLE = """
import shutil, sys
from pathlib import Path
from inspector.packs.store import Store
whole = shutil.copyfileobj
def half(read, write):
    if Path(read.name).name != "segment_2.onnx":
        return whole(read, write)
    write.write(read.read(100))
    write.flush()
    print("in the middle", flush=True)
    sys.stdin.read()
shutil.copyfileobj = half
Store(Path(sys.argv[1]), "hot").stage(Path(sys.argv[2]))
"""


def test_a_kill_in_the_middle_leaves_no_part_of_a_pack(store: Store, new: Path) -> None:
    command = [sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(store.folder), str(new)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        assert store.packs() == []
        process.kill()
    assert store.packs() == []
    assert [name for name in leftovers(store) if name.startswith(STAGING)] != []
    with pytest.raises(PackError, match="not the name of a staged pack"):
        store.named(leftovers(store)[0])
    assert pack.load(store.stage(new)).digest == pack.load(new).digest
    assert leftovers(store) == []


# ---------------------------------------------------------------- what waits


def test_a_mark_waits_until_it_is_taken(store: Store, new: Path) -> None:
    assert store.marked() is None
    staged = store.stage(new)
    store.mark(staged)
    assert store.marked() == staged
    assert Store(store.folder, "cold").marked() is None, "each line has its own"
    store.unmark()
    store.unmark()
    assert store.marked() is None
    assert leftovers(store) == []


@pytest.mark.parametrize("name", ["../outside", "/etc", ".staging-1", "", "a b", "nowhere"])
def test_only_what_lies_here_has_a_name(store: Store, new: Path, name: str) -> None:
    store.stage(new)
    with pytest.raises(PackError, match="inspector packs list"):
        store.named(name)


def test_odd_names_make_plain_folders(new: Path) -> None:
    found = pack.load(new)
    odd = msgspec.structs.replace(found.manifest, name="../ä", version="")
    assert folder_name(msgspec.structs.replace(found, manifest=odd)).startswith("_-")


# ---------------------------------------------------------------- which pack a line starts with


def config(folder: Path, base: Path) -> Config:
    return convert(
        {
            "line": {"name": "hot"},
            "pack": str(base),
            "cameras": [{"name": "a", "kind": "synthetic"}],
            "journal": {"path": str(folder / "j.db")},
        },
        Config,
    )


def memory(base: Path, **changed: str | None) -> Memory:
    return Memory(base=os.path.abspath(base), base_digest=pack.load(base).digest, **changed)


def test_without_a_memory_it_is_that_of_the_yaml(store: Store, tmp_path: Path, old: Path) -> None:
    begun = begin(config(tmp_path, old), store)
    assert (begun.pack.folder, begun.said, begun.memory) == (old, [], memory(old))
    assert not store.folder.exists(), "nothing is written before there is something to remember"


def test_one_that_was_kept_is_remembered(store: Store, tmp_path: Path, old: Path, new: Path) -> None:
    staged = store.stage(new)
    kept = memory(old, on_duty=str(staged), previous=str(old))
    store.remember(kept)
    begun = begin(config(tmp_path, old), store)
    assert (begun.pack.folder, begun.said, begun.memory) == (staged, [], kept)


def test_what_was_tried_at_the_end_is_said(store: Store, tmp_path: Path, old: Path) -> None:
    store.remember(memory(old, changing="bands 2 was in its shadow"))
    begun = begin(config(tmp_path, old), store)
    assert begun.pack.folder == old
    assert begun.said == [
        ("cut short", "bands 2 was in its shadow when the daemon ended: stage it again to try it again")
    ]
    assert begun.memory.changing is None


def test_another_pack_in_the_yaml_counts(store: Store, tmp_path: Path, old: Path, new: Path) -> None:
    staged = store.stage(new)
    store.remember(memory(old, on_duty=str(staged)))
    other = make_pack(tmp_path / "other", version="3")
    begun = begin(config(tmp_path, other), store)
    assert begun.pack.folder == other
    assert [state for state, _ in begun.said] == ["forgotten"]
    assert begun.memory == memory(other)


def test_an_upgrade_that_brings_another_pack_under_the_same_path_replaces_nothing(
    store: Store, tmp_path: Path, new: Path
) -> None:
    base, staged = make_pack(tmp_path / "base"), store.stage(new)
    store.remember(memory(base, on_duty=str(staged)))
    make_pack(base, version="3")
    begun = begin(config(tmp_path, base), store)
    assert begun.pack.folder == staged
    assert [state for state, _ in begun.said] == ["stays"]
    assert begun.memory == memory(base, on_duty=str(staged))
    store.remember(memory(base))
    make_pack(base, version="4")
    begun = begin(config(tmp_path, base), store)
    assert (begun.pack.manifest.version, begun.said, begun.memory) == ("4", [], memory(base)), "it was on duty itself"


def test_one_that_is_gone_is_passed_over_with_a_word(store: Store, tmp_path: Path, old: Path) -> None:
    store.remember(memory(old, on_duty=str(tmp_path / "gone")))
    begun = begin(config(tmp_path, old), store)
    assert (begun.pack.folder, begun.memory) == (old, memory(old))
    ((state, detail),) = begun.said
    assert (state, "no such file" in detail) == ("missing", True)


def test_a_memory_that_cannot_be_read_is_none(store: Store, tmp_path: Path, old: Path) -> None:
    store.folder.mkdir()
    (store.folder / "hot.json").write_bytes(b'{"base": "')
    begun = begin(config(tmp_path, old), store)
    ((state, detail),) = begun.said
    assert (begun.pack.folder, state) == (old, "missing")
    assert "hot.json: what was on duty cannot be read" in detail
