"""The installer's promises, in a folder instead of the machine; also that a kill at any step is mended."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

PROGRAM = """#!/bin/sh
[ "$1" = check ] || exit 0
for file; do :; done
grep -q "^pack: ${REFUSE:-nothing}" "$file" && { echo "$file: wrong"; exit 78; }
exit 0
"""
"""In place of the program, which takes a minute to install: refuses packs whose path begins so."""


def _load() -> ModuleType:
    found = importlib.util.spec_from_file_location("inspector_install", DEPLOY / "install.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["inspector_install"] = module
    found.loader.exec_module(module)
    return module


installer = _load()


class Killed(BaseException):
    """The installer, at a step."""


class Toy(installer.Hands):  # type: ignore[misc, name-defined]
    """Makes a program that is a script; ends like a kill before step number `last`, or half-way through it."""

    def __init__(self, last: int | None = None, half: bool = False) -> None:
        super().__init__()
        self.steps: list[str] = []
        self._last = last
        self._half = half

    def do(self, words: str, act: Callable[[], object]) -> None:
        if len(self.steps) == self._last:
            if self._half and words.startswith(("copy", "delete")):
                self._spoil(words)
            raise Killed
        self.steps.append(words)
        act()

    def run(self, words: str, *command: str | Path, **options: object) -> None:
        if words == "make its environment":
            self.do(words, lambda: (Path(command[-1]) / "bin").mkdir(parents=True))
        elif words == "install the program":
            program = Path(command[0]).with_name("inspector")
            self.do(words, lambda: (program.write_text(PROGRAM), program.chmod(0o755)))
        else:
            super().run(words, *command)

    def _spoil(self, words: str) -> None:
        """A part of what the step does."""
        if words.startswith("copy"):
            (self.root / "opt/inspector/releases").mkdir(parents=True, exist_ok=True)
        else:
            for record in self.root.glob("opt/inspector/releases/*/release.json"):
                if str(record.parent) in words:
                    record.unlink()

    root = Path()


@pytest.fixture(autouse=True)
def source(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout without the networks; a release each second, without waiting for one."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copytree(DEPLOY, checkout / "deploy")
    for name in ("engines/severstal/manifest.yaml", "docs/service.md", "inspector/__init__.py"):
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).write_text('__version__ = "0.1.0"\n')
    for name in ("pyproject.toml", "README.md", "LICENSE", "build_engines/__init__.py"):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).touch()
    monkeypatch.setattr(installer, "SOURCE", checkout)
    monkeypatch.setattr(installer.os, "fsync", lambda file: None)  # no test here cuts the power
    seconds = iter(range(10_000))
    monkeypatch.setattr(installer.time, "gmtime", lambda: None)
    monkeypatch.setattr(installer.time, "strftime", lambda *_: f"20260101T{next(seconds):06}Z")


def act(root: Path, command: str, hands: object | None = None, **options: object) -> None:
    given = {"wheel": None, "offline": None, "extras": None, "python": "python3", "patience": 1.0, "purge": False}
    site = installer.Site(installer.Places(root), hands or Toy())
    with site.alone():
        installer.COMMANDS[command](site, argparse.Namespace(**{**given, **options}))


def current(root: Path) -> Path:
    return (root / "opt/inspector/current").resolve()


def releases(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "opt/inspector/releases").iterdir())


def sound(root: Path) -> None:
    """What holds after any command that ended."""
    here = current(root)
    assert here.parent == root / "opt/inspector/releases"
    for name in releases(root):
        assert (root / "opt/inspector/releases" / name / "release.json").is_file()
    assert (here / "engines/severstal/manifest.yaml").is_file()
    assert os.access(root / "usr/local/bin/inspector", os.F_OK) or not root.is_absolute()
    assert (root / "etc/systemd/system/inspector.service").read_text() == (
        here / "deploy/inspector.service"
    ).read_text()
    assert (root / "etc/inspector/line.yaml.example").read_text() == (DEPLOY / "line.yaml").read_text()
    assert not [path for path in root.rglob(".*") if path.name not in (".lock",)]


def test_a_release_lies_where_the_unit_looks(tmp_path: Path) -> None:
    act(tmp_path, "install")
    assert current(tmp_path).name == "0.1.0+20260101T000000Z"
    unit = (tmp_path / "etc/systemd/system/inspector.service").read_text()
    program = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).split("=")[1].split()[0]
    assert (tmp_path / program.lstrip("/")).is_file()
    assert os.readlink(tmp_path / "usr/local/bin/inspector") == str(tmp_path / program.lstrip("/"))
    assert (tmp_path / "etc/inspector/line.yaml").read_text() == (DEPLOY / "line.yaml").read_text()
    assert (tmp_path / "var/lib/inspector").is_dir()


def test_an_upgrade_keeps_what_is_the_sites_and_a_rollback_goes_back(tmp_path: Path) -> None:
    act(tmp_path, "install")
    own = tmp_path / "etc/inspector/line.yaml"
    own.write_text("mine\n")
    first = current(tmp_path)
    act(tmp_path, "upgrade")
    assert current(tmp_path) != first
    assert own.read_text() == "mine\n"
    act(tmp_path, "rollback")
    assert current(tmp_path) == first
    act(tmp_path, "rollback")
    assert current(tmp_path) != first
    sound(tmp_path)


def test_old_releases_go(tmp_path: Path) -> None:
    for _ in range(6):
        act(tmp_path, "upgrade")
    assert len(releases(tmp_path)) == installer.KEEP
    assert current(tmp_path).name == releases(tmp_path)[-1]


def test_a_release_that_refuses_the_configuration_is_not_switched_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act(tmp_path, "install")
    before = current(tmp_path)
    (tmp_path / "etc/inspector/line.yaml").write_text("pack: /nowhere\n")
    monkeypatch.setenv("REFUSE", "/nowhere")
    with pytest.raises(installer.Refused, match=r"does not take this configuration:\n.*etc/inspector/line.yaml: wrong"):
        act(tmp_path, "upgrade")
    assert current(tmp_path) == before
    assert releases(tmp_path) == [before.name]


def test_the_check_is_asked_about_the_packs_of_the_new_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act(tmp_path, "install")
    current_pack = f"{tmp_path}/opt/inspector/current/engines/severstal"
    (tmp_path / "etc/inspector/line.yaml").write_text(f"pack: {current_pack}\n")
    monkeypatch.setenv("REFUSE", current_pack)
    act(tmp_path, "upgrade")  # it has seen another path
    monkeypatch.setenv("REFUSE", f"{tmp_path}/opt/inspector/releases/0.1.0+20260101T000002Z/engines/")
    with pytest.raises(installer.Refused, match=r"etc/inspector/line\.yaml: wrong"):
        act(tmp_path, "upgrade")


def test_extras_bring_their_drop_ins_and_stay(tmp_path: Path) -> None:
    act(tmp_path, "install", extras=["gige", "mqtt"])
    place = tmp_path / "etc/systemd/system/inspector.service.d"
    (place / "site.conf").write_text("[Service]\n")
    act(tmp_path, "upgrade")
    assert sorted(path.name for path in place.iterdir()) == ["10-gige.conf", "site.conf"]
    act(tmp_path, "upgrade", extras=[])
    assert sorted(path.name for path in place.iterdir()) == ["site.conf"]


def test_a_dry_run_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    act(tmp_path, "install", installer.Hands(dry=True))
    assert list(tmp_path.iterdir()) == []
    assert all(line.startswith("would ") for line in capsys.readouterr().out.splitlines())


def test_two_installers_do_not_meet(tmp_path: Path) -> None:
    act(tmp_path, "install")
    site = installer.Site(installer.Places(tmp_path), Toy())
    with site.alone(), pytest.raises(installer.Refused, match="another installer is at work"):
        act(tmp_path, "upgrade")


def test_uninstall_leaves_what_is_the_sites_and_purge_leaves_nothing(tmp_path: Path) -> None:
    act(tmp_path, "install", extras=["gige"])
    act(tmp_path, "uninstall")
    assert (tmp_path / "etc/inspector/line.yaml").is_file()
    assert (tmp_path / "var/lib/inspector").is_dir()
    assert not (tmp_path / "opt/inspector").exists()
    act(tmp_path, "install")
    act(tmp_path, "uninstall", purge=True)
    act(tmp_path, "uninstall", purge=True)
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir() and path.name != ".lock"]


@pytest.mark.parametrize("half", [False, True])
def test_a_kill_at_any_step_is_mended_by_the_next_run(half: bool, tmp_path: Path) -> None:
    whole = Toy()
    act(tmp_path / "whole", "install", whole)
    act(tmp_path / "whole", "upgrade", whole)
    for last in range(len(whole.steps)):
        root = tmp_path / str(last)
        toy = Toy(last, half)
        toy.root = root
        with pytest.raises(Killed):
            _act_thrice(root, toy)
        act(root, "upgrade")
        sound(root)


def _act_thrice(root: Path, toy: Toy) -> None:
    for command in ("install", "upgrade", "upgrade"):
        act(root, command, toy)


def test_status_tells_of_each_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    act(tmp_path, "install")
    act(tmp_path, "upgrade")
    capsys.readouterr()
    installer.status(installer.Site(installer.Places(tmp_path), Toy()), argparse.Namespace())
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in said[:2]] == ["previous", "current"]
    assert said[-1].endswith("line.yaml: still the example")


# ---------------------------------------------------------------- with a service that runs


class Running(installer.Site):  # type: ignore[misc, name-defined]
    """A service that becomes ready with any release that is not among `broken`."""

    broken: frozenset[str] = frozenset()
    running = True

    def shown(self) -> dict[str, str]:
        return {"ActiveState": "active" if self.current and self.current.name not in self.broken else "failed"}

    def restart(self, release: object, patience_s: float) -> None:
        assert (self.places.units / "inspector.service").is_file()
        if self.current.name in self.broken:
            raise installer.Refused(f"the service is not ready with {self.current.name}: it died")
        installer.write(self.current.path / installer.PROVEN, "")


def test_a_release_that_does_not_become_ready_is_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act(tmp_path, "install")
    monkeypatch.setattr(installer, "Site", Running)
    first = current(tmp_path).name
    monkeypatch.setattr(Running, "broken", frozenset({"0.1.0+20260101T000001Z"}))
    with pytest.raises(installer.Refused, match=f"back to {re.escape(first)}, as .*000001Z did not become ready"):
        act(tmp_path, "upgrade")
    assert current(tmp_path).name == first
    assert not (tmp_path / "opt/inspector/releases/0.1.0+20260101T000001Z" / installer.PROVEN).exists()
    act(tmp_path, "upgrade")
    assert current(tmp_path).name == "0.1.0+20260101T000002Z"
    act(tmp_path, "rollback")
    assert current(tmp_path).name == first
    sound(tmp_path)


def test_an_upgrade_that_was_killed_before_it_was_ready_does_not_become_the_one_to_go_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act(tmp_path, "install")
    first = current(tmp_path).name
    monkeypatch.setattr(installer, "Site", Running)
    toy = Toy()
    site = Running(installer.Places(tmp_path), toy)
    given = {"wheel": None, "offline": None, "extras": None, "python": "python3"}
    site.prove()
    release = site.build(argparse.Namespace(**given), [])
    site.switch(release, running=True)  # and then a kill
    monkeypatch.setattr(Running, "broken", frozenset({release.name, "0.1.0+20260101T000002Z"}))
    with pytest.raises(installer.Refused, match="rolled back to"):
        act(tmp_path, "upgrade")
    assert current(tmp_path).name == first


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ([{"ActiveState": "failed", "Result": "exit-code", "StatusText": "no such pack"}], "no such pack"),
        ([{"ActiveState": "activating", "NRestarts": str(n), "StatusText": "dies"} for n in range(9)], "dies"),
        ([{"ActiveState": "activating", "StatusText": "camera top1: no frame yet"}] * 9, "no frame yet"),
        ([{"ActiveState": "active", "MainPID": "1"}] * 9, "is not ready with"),  # still the one before
    ],
)
def test_why_a_service_is_not_ready_is_said_in_its_words(
    states: list[dict[str, str]], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(installer.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(installer.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(installer.shutil, "which", lambda name: None)
    site = installer.Site(installer.Places(tmp_path), Toy())
    told = iter(states)
    monkeypatch.setattr(site, "shown", lambda: next(told))
    with pytest.raises(installer.Refused, match=why):
        site._ready(installer.Release(tmp_path / "r"), 5)


def test_a_service_that_runs_from_the_new_release_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = installer.Site(installer.Places(tmp_path), Toy())
    monkeypatch.setattr(site, "shown", lambda: {"ActiveState": "active", "MainPID": str(os.getpid())})
    python = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode()
    site._ready(installer.Release(Path(python).parents[1]), 5)
