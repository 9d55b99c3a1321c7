#!/usr/bin/env python3
"""Puts releases of the inspection daemon on this machine, changes between them, takes them away. Needs only Python.

    sudo deploy/install.py install                    # from this checkout; then mend /etc/inspector/line.yaml, start
    sudo deploy/install.py upgrade                    # another release beside it, checked, switched, waited for
    sudo deploy/install.py rollback                   # back to the release before
    sudo deploy/install.py status
    sudo deploy/install.py uninstall [--purge]

    /opt/inspector/releases/<version+time>/           one release, never changed: venv/ engines/ docs/ deploy/
    /opt/inspector/current, previous                  links to releases; everything else goes through `current`
    /etc/inspector/line.yaml                          yours; line.yaml.example beside it is ours
    /var/lib/inspector                                the journal, of the user `inspector`
    /etc/systemd/system/inspector.service             the release's unit; its drop-ins lie in inspector.service.d/

Each command may be repeated, also after one that was killed half-way: what is half done is done again or swept.
Exit codes: 0 done; 1 not done, and why; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import fcntl
import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
USER = "inspector"
SERVICE = "inspector.service"
PROGRAM = "venv/bin/inspector"
RECORD = "release.json"
"""Written last: a release without it was never finished."""
PROVEN = "proven"
"""Written when the service was ready with this release: a rollback may go there."""
KEEP = 3
LEAVE = shutil.ignore_patterns("__pycache__", ".*")
POLL_S = 0.2
ATTEMPTS = 3
"""A service that systemd had to start so often again will not become ready."""


class Refused(Exception):
    """What is wrong, and how to mend it."""


# ---------------------------------------------------------------- where things lie


@dataclass(frozen=True)
class Places:
    """Every path that is touched; below `root` when an image is made."""

    root: Path = Path("/")

    @property
    def opt(self) -> Path:
        return self.root / "opt/inspector"

    @property
    def releases(self) -> Path:
        return self.opt / "releases"

    @property
    def current(self) -> Path:
        return self.opt / "current"

    @property
    def previous(self) -> Path:
        return self.opt / "previous"

    @property
    def etc(self) -> Path:
        return self.root / "etc/inspector"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/inspector"

    @property
    def run(self) -> Path:
        return self.root / "run/inspector"

    @property
    def cache(self) -> Path:
        return self.root / "var/cache/inspector"

    @property
    def units(self) -> Path:
        return self.root / "etc/systemd/system"

    @property
    def command(self) -> Path:
        return self.root / "usr/local/bin/inspector"

    @property
    def live(self) -> bool:
        """It is this machine, with its users and its systemd."""
        return self.root == Path("/")


# ---------------------------------------------------------------- doing, and saying so


class Hands:
    """The only part that changes anything. `dry`: it says what it would do."""

    def __init__(self, dry: bool = False) -> None:
        self.dry = dry

    def do(self, words: str, act: Callable[[], object]) -> None:
        """Say it, do it."""
        print(("would " if self.dry else "") + words, flush=True)
        if not self.dry:
            act()

    def run(self, words: str, *command: str | Path, env: dict[str, str] | None = None, user: str | None = None) -> None:
        """A command that must succeed; what it said is shown only if it does not.

        Raises:
            Refused: it failed.
        """
        self.do(f"{words}: {' '.join(map(str, command))}", lambda: self._must(command, env, user))

    def _must(self, command: Sequence[str | Path], env: dict[str, str] | None, user: str | None) -> None:
        done = ask(*command, env=env, user=user)
        if done.returncode:
            raise Refused(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout.rstrip()}")


def ask(
    *command: str | Path, env: dict[str, str] | None = None, user: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `stdout` holds both of its streams.

    Raises:
        Refused: it is not there.
    """
    try:
        return subprocess.run(
            list(map(str, command)),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            umask=0o022,
            check=False,
            user=user,
            group=user,
            extra_groups=_groups(user) if user else None,
        )
    except FileNotFoundError as error:
        raise Refused(f"{error.filename}: not found. Install it, e.g. apt-get install python3-venv systemd") from None


def _groups(user: str) -> list[int]:
    return [entry.gr_gid for entry in grp.getgrall() if user in entry.gr_mem]


def link(path: Path, target: Path) -> None:
    """A symlink that is at no moment missing or half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.replace(fresh, path)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """A file that is at no moment half written, and is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


# ---------------------------------------------------------------- releases


@dataclass(frozen=True)
class Release:
    """A folder below releases/."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def whole(self) -> bool:
        return (self.path / RECORD).is_file()

    @property
    def proven(self) -> bool:
        return (self.path / PROVEN).is_file()

    @property
    def extras(self) -> list[str]:
        """What it was installed with."""
        return list(json.loads((self.path / RECORD).read_text())["extras"])


def remove(release: Release) -> None:
    """Away with it; one that is half away is no release."""
    (release.path / RECORD).unlink(missing_ok=True)
    shutil.rmtree(release.path)


class Site:
    """The installation on this machine."""

    def __init__(self, places: Places, hands: Hands) -> None:
        self.places = places
        self.hands = hands

    # ------------------------------------------------------------ what is there

    def releases(self) -> list[Release]:
        """All, the oldest first."""
        folder = self.places.releases
        found = [Release(path) for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        return sorted(found, key=lambda release: release.name.rpartition("+")[2])

    def at(self, place: Path) -> Release | None:
        """The whole release that a link leads to."""
        if not place.is_symlink():
            return None
        release = Release(self.places.releases / os.readlink(place).rpartition("/")[2])
        return release if release.whole else None

    @property
    def current(self) -> Release | None:
        return self.at(self.places.current)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No second installer meanwhile; the lock goes with the process, however that ends."""
        if self.hands.dry:
            yield
            return
        self.places.opt.mkdir(parents=True, exist_ok=True)
        with (self.places.opt / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(f"{file.name}: another installer is at work. Wait for it") from None
            yield

    # ------------------------------------------------------------ making one

    def sweep(self, keep: int = KEEP) -> None:
        """Away with what was never finished, and with old releases."""
        held = {release.name for place in (self.places.current, self.places.previous) if (release := self.at(place))}
        whole = [release for release in self.releases() if release.whole]
        old = {release.name for release in whole[: max(0, len(whole) - keep)]} - held
        for release in self.releases():
            if not release.whole or release.name in old:
                why = "an old release" if release.whole else "left half-way"
                self.hands.do(f"delete {release.path} ({why})", partial(remove, release))
        for copy in self.places.etc.glob(".*+*.yaml"):  # of a check that was killed
            self.hands.do(f"delete {copy}", copy.unlink)

    def own(self) -> None:
        """The user, the folders, the example."""
        places, hands = self.places, self.hands
        if places.live and not _exists(USER):
            useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin") or "useradd"
            home = ["--home-dir", str(places.state), "--no-create-home", "--shell", "/usr/sbin/nologin"]
            hands.run(f"make the user {USER}", useradd, "--system", "--user-group", *home, USER)
        wanted = [places.etc, places.state]
        if places.live:
            wanted.append(places.run)  # systemd makes it, but `check` comes before
        for folder in wanted:
            if not folder.is_dir():
                hands.do(f"make {folder}", partial(self._give, folder))

    def _give(self, folder: Path) -> None:
        """A folder of the user's, in one step: a kill leaves all of it or nothing."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        fresh.chmod(0o750)
        if self.places.live:
            shutil.chown(fresh, USER, USER)
        fresh.rename(folder)

    def build(self, options: argparse.Namespace, extras: Sequence[str]) -> Release:
        """A whole release, beside the others.

        Raises:
            Refused: it cannot be made; what was made of it is swept next time.
        """
        hands = self.hands
        version = _version(SOURCE, options.wheel)
        release = Release(self.places.releases / f"{version}+{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        path = release.path
        hands.do(f"make {path}", lambda: path.mkdir(parents=True, mode=0o755))
        hands.run("make its environment", options.python, "-m", "venv", path / "venv")
        with _program(options.wheel, hands.dry) as program:
            wanted = f"{program}[{','.join(extras)}]" if extras else str(program)
            source = ["--no-index", "-f", str(options.offline)] if options.offline else []
            pip: list[str | Path] = [
                path / "venv/bin/pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-cache-dir",
            ]
            hands.run("install the program", *pip, *source, wanted)
        for name in ("engines", "docs", "deploy"):
            hands.do(f"copy {name}/", partial(shutil.copytree, SOURCE / name, path / name, ignore=LEAVE))
        hands.run("try it", path / PROGRAM, "--version")
        record = {"version": version, "extras": list(extras), "python": str(options.python), "from": str(SOURCE)}
        hands.do(f"sign it: {path / RECORD}", lambda: write(path / RECORD, json.dumps(record, indent=1) + "\n"))
        return release

    def example(self, release: Release) -> None:
        """The example beside the site's own file, which is never touched once it is there."""
        text = (SOURCE if self.hands.dry else release.path) / "deploy/line.yaml"
        beside, own = self.places.etc / "line.yaml.example", self.places.etc / "line.yaml"
        if _differs(beside, text):
            self.hands.do(f"write {beside}", lambda: write(beside, text.read_text()))
        if not own.exists():
            self.hands.do(f"write {own}: the example; make it yours", lambda: self._first(own, text))

    def _first(self, own: Path, text: Path) -> None:
        write(own, text.read_text())
        if self.places.live:
            shutil.chown(own, "root", USER)

    # ------------------------------------------------------------ checking one

    def check(self, release: Release, running: bool) -> None:
        """Does the release take the site's YAML? Asked as the user that will run it.

        Raises:
            Refused: it does not; why.
        """
        own = self.places.etc / "line.yaml"
        words = f"check {own} with {release.name}"
        self.hands.do(words, lambda: self._check(release, own, running))

    def _check(self, release: Release, own: Path, running: bool) -> None:
        """In a copy, `current` is the new release already: the packs that ship are those it comes with."""
        text = own.read_text().replace(f"{self.places.current}/", f"{release.path}/")
        beside = own.with_name(f".{release.name}.yaml")  # relative paths are taken from the folder
        try:
            write(beside, text)
            user = USER if self.places.live else None
            arguments = ["--running"] if running else []
            done = ask(release.path / PROGRAM, "check", *arguments, beside, user=user)
        finally:
            beside.unlink(missing_ok=True)
        if done.returncode:
            said = done.stdout.replace(str(beside), str(own)).replace(f"{release.path}/", f"{self.places.current}/")
            raise Refused(f"release {release.name} does not take this configuration:\n{said.rstrip()}")

    # ------------------------------------------------------------ switching

    def switch(self, release: Release, running: bool) -> None:
        """From now on `current` is this one: its unit, its program, its packs. The service is not touched.

        A rollback goes to the one before, unless it runs and was never ready.
        """
        places, hands, before = self.places, self.hands, self.current
        if before is not None and before.name != release.name and (before.proven or not running):
            hands.do(f"keep {before.name} for a rollback", lambda: link(places.previous, before.path))
        if before is None or before.name != release.name:
            hands.do(f"switch to {release.name}", lambda: link(places.current, release.path))
        if not places.command.is_symlink():
            hands.do(f"write {places.command}", lambda: link(places.command, places.current / PROGRAM))
        self._units(release)

    def _units(self, release: Release) -> None:
        deploy = (SOURCE if self.hands.dry and not release.whole else release.path) / "deploy"
        extras = [] if self.hands.dry and not release.whole else release.extras
        wanted = {self.places.units / SERVICE: deploy / SERVICE}
        for dropin in sorted((deploy / f"{SERVICE}.d").glob("*.conf")):
            place = self.places.units / f"{SERVICE}.d" / f"10-{dropin.name}"
            if dropin.stem in extras:
                wanted[place] = dropin
            elif place.exists():
                self.hands.do(f"delete {place}", place.unlink)
        for place, text in wanted.items():
            if _differs(place, text):
                self.hands.do(f"write {place}", partial(_copy, text, place))
        if self.places.live:
            self.hands.run("tell systemd", "systemctl", "daemon-reload")

    # ------------------------------------------------------------ the service

    def shown(self) -> dict[str, str]:
        """What systemd says of the service; empty where it does not know it or is not there."""
        if not self.places.live or shutil.which("systemctl") is None:
            return {}
        names = "ActiveState,SubState,StatusText,Result,ExecMainStatus,MainPID,NRestarts"
        done = ask("systemctl", "show", "--property", names, SERVICE)
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    @property
    def running(self) -> bool:
        return self.shown().get("ActiveState") in ("active", "activating", "reloading")

    def prove(self) -> None:
        """The service is ready with the current release, whoever started it."""
        release = self.current
        if release is not None and not release.proven and self.shown().get("ActiveState") == "active":
            self.hands.do(f"write that {release.name} is ready", partial(write, release.path / PROVEN, ""))

    def restart(self, release: Release, patience_s: float) -> None:
        """Start the service on `current` and wait until it is ready.

        Raises:
            Refused: it is not; why, in the service's words.
        """
        if not self.places.live:
            return
        self.hands.run("forget earlier failures", "systemctl", "reset-failed", SERVICE)
        self.hands.run("restart the service", "systemctl", "--no-block", "restart", SERVICE)
        self.hands.do(f"wait until it is ready, at most {patience_s:.0f} s", lambda: self._ready(release, patience_s))
        self.hands.do("write that it was ready", lambda: write(release.path / PROVEN, ""))

    def _ready(self, release: Release, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            shown = self.shown()
            if shown.get("ActiveState") == "active" and _runs(shown, release):
                return
            failed = shown.get("ActiveState") == "failed" or int(shown.get("NRestarts") or 0) >= ATTEMPTS
            if failed or time.monotonic() > deadline:
                raise Refused(f"the service is not ready with {release.name}: {_why(shown)}")
            time.sleep(POLL_S)


def _why(shown: dict[str, str]) -> str:
    """What systemd knows, and the last lines of the log."""
    words = f"{shown.get('ActiveState')} ({shown.get('SubState')}), result {shown.get('Result')}"
    words += f", exit code {shown.get('ExecMainStatus')}; it says: {shown.get('StatusText') or 'nothing'}"
    if shutil.which("journalctl"):
        log = ask("journalctl", "--unit", SERVICE, "--lines", "12", "--output", "cat", "--no-pager").stdout
        words += f"\n{log.rstrip()}"
    return words


def _runs(shown: dict[str, str], release: Release) -> bool:
    """The service's process was started from this release, not from the one before that is being stopped."""
    try:
        python = Path(f"/proc/{shown['MainPID']}/cmdline").read_bytes().split(b"\0")[0].decode()
    except OSError:
        return False
    return python.startswith(f"{release.path}/")


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _differs(place: Path, text: Path) -> bool:
    return not place.is_file() or place.read_bytes() != text.read_bytes()


def _copy(text: Path, place: Path) -> None:
    write(place, text.read_text())


def _version(source: Path, wheel: Path | None) -> str:
    if wheel is not None:
        return wheel.name.split("-")[1]
    for line in (source / "inspector/__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise Refused(f"{source}: no checkout of inspector. Name a wheel: --wheel FILE.whl")


@contextmanager
def _program(wheel: Path | None, dry: bool) -> Iterator[Path]:
    """What pip installs: the wheel, or a copy of the source, which pip would write into."""
    if wheel is not None or dry:
        yield wheel or SOURCE
        return
    with tempfile.TemporaryDirectory(prefix="inspector-") as folder:
        copy = Path(folder) / "inspector"
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(SOURCE / name, copy / name)
        for name in ("inspector", "build_engines"):
            shutil.copytree(SOURCE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        yield copy


# ---------------------------------------------------------------- commands


def install(site: Site, options: argparse.Namespace) -> None:
    """A first release, or the same as `upgrade`."""
    upgrade(site, options)
    service = site.shown().get("ActiveState")
    if site.places.live and service not in ("active", "activating"):
        print(
            f"\nNext: mend {site.places.etc / 'line.yaml'}, then\n"
            f"  inspector check {site.places.etc / 'line.yaml'}\n  systemctl enable --now inspector"
        )


def upgrade(site: Site, options: argparse.Namespace) -> None:
    """A release beside, checked, switched to, waited for; the one before again if it does not become ready."""
    site.prove()
    before = site.current
    extras = options.extras if options.extras is not None else before.extras if before else []
    site.sweep()
    site.own()
    release = site.build(options, extras)
    site.example(release)
    running = site.running
    try:
        site.check(release, running)
    except Refused:
        site.hands.do(f"delete {release.path}: nothing was changed", partial(remove, release))
        raise
    good = before if before is None or before.proven else site.at(site.places.previous)
    site.switch(release, running)
    if running:
        _restarted(site, release, good, options.patience)
    site.sweep()
    print(f"{'would be' if site.hands.dry else 'is'} current: {release.name}", flush=True)


def _restarted(site: Site, release: Release, good: Release | None, patience_s: float) -> None:
    """Restart with `release`; if it does not become ready, with the one that was, `good`."""
    try:
        site.restart(release, patience_s)
    except Refused as error:
        if good is None:
            raise
        print(f"{error}\nback to {good.name}", flush=True)
        site.switch(good, running=True)
        site.restart(good, patience_s)
        raise Refused(f"rolled back to {good.name}, as {release.name} did not become ready: see above") from None


def rollback(site: Site, options: argparse.Namespace) -> None:
    """To the release that was ready before the current one."""
    target, here = site.at(site.places.previous), site.current
    if target is None or here is None or target.name == here.name:
        raise Refused(f"{site.places.previous}: there is no earlier release that was ready. See `status`")
    running = site.running
    site.check(target, running)
    site.switch(target, running)
    if running:
        site.restart(target, options.patience)
    print(f"{'would be' if site.hands.dry else 'is'} current: {target.name}", flush=True)


def uninstall(site: Site, options: argparse.Namespace) -> None:
    """The program and its unit; with --purge also the configuration, the journal and the user."""
    places, hands = site.places, site.hands
    if places.live and (places.units / SERVICE).exists():
        hands.run("stop the service", "systemctl", "disable", "--now", SERVICE)
    ours = [places.units / SERVICE, *sorted((places.units / f"{SERVICE}.d").glob("10-*.conf")), places.command]
    for path in ours:
        if path.exists() or path.is_symlink():
            hands.do(f"delete {path}", path.unlink)
    if places.live:
        hands.run("tell systemd", "systemctl", "daemon-reload")
        ask("systemctl", "reset-failed", SERVICE)
    folders = [places.opt, places.run, places.cache, *([places.etc, places.state] if options.purge else [])]
    for folder in folders:
        if folder.is_dir():
            hands.do(f"delete {folder}", partial(shutil.rmtree, folder))
    if options.purge and places.live and _exists(USER):
        userdel = shutil.which("userdel", path="/usr/sbin:/sbin:/usr/bin:/bin") or "userdel"
        hands.run(f"delete the user {USER}", userdel, USER)
    elif not options.purge:
        print(f"kept: {places.etc}, {places.state}, the user {USER}; --purge deletes these too")


def status(site: Site, options: argparse.Namespace) -> None:
    """The releases, and how the service is."""
    marks = {release.name: mark for mark in ("previous", "current") if (release := site.at(site.places.opt / mark))}
    for release in site.releases():
        state = "proven" if release.proven else "whole" if release.whole else "left half-way"
        print(f"{release.name:32} {state:14} {marks.get(release.name, '')}".rstrip())
    if not site.releases():
        print(f"{site.places.releases}: no release")
    shown = site.shown()
    if shown:
        print(f"service: {shown.get('ActiveState')} ({shown.get('SubState')}); {shown.get('StatusText') or 'silent'}")
    own, beside = site.places.etc / "line.yaml", site.places.etc / "line.yaml.example"
    if own.exists() and beside.exists() and not _differs(own, beside):
        print(f"{own}: still the example")


COMMANDS = {"install": install, "upgrade": upgrade, "rollback": rollback, "uninstall": uninstall, "status": status}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="install.py", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for name, command in COMMANDS.items():
        made = commands.add_parser(name, help=(command.__doc__ or "").partition("\n")[0])
        made.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
        made.add_argument("--root", type=Path, default=Path("/"), help="everything below this folder, for an image")
        made.add_argument("--patience", type=float, default=120.0, metavar="SECONDS", help="until ready (default: 120)")
        if name in ("install", "upgrade"):
            made.add_argument("--wheel", type=Path, help="the program from this wheel, not from this checkout")
            made.add_argument("--offline", type=Path, metavar="FOLDER", help="wheels; nothing is fetched then")
            made.add_argument("--extras", type=_names, help="such as gige,basler (default: as before)")
            made.add_argument("--python", default="/usr/bin/python3", help="of the environment (default: %(default)s)")
        if name == "uninstall":
            made.add_argument("--purge", action="store_true", help="also configuration, journal and user")
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    for name in ("wheel", "offline"):
        if getattr(options, name, None) is not None:
            setattr(options, name, getattr(options, name).resolve())
    site = Site(Places(options.root.resolve()), Hands(options.dry_run))
    os.umask(0o022)
    try:
        if options.command != "status" and site.places.live and os.geteuid() != 0 and not options.dry_run:
            raise Refused("only root may do that: sudo")
        if options.command == "status":
            status(site, options)
        else:
            with site.alone():
                COMMANDS[options.command](site, options)
    except Refused as error:
        print(f"install.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
