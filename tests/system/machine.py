"""A small machine with a real systemd as its process 1: systemd-nspawn on an overlay of this one's files.

It has a mount namespace, control groups, a network and processes of its own, and goes when the one who made it does.
The nested systemd must not be started in the root control group: there it would take all processes for its own.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE_S = 120.0
"""A wait that takes so long has failed, on the busiest machine."""
TURN_S = 0.02
ROOT = Path(__file__).resolve().parents[2]
MEMORY_KB = 4 * 2**20
GROUP = "inspector-test-"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

BOOT = r"""
set -eu
folder=$1
groups=$2
shift 2
for group in $groups; do mkdir -p "$group"; echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs -o size=3g tmpfs "$folder/layer"
mkdir "$folder/layer/upper" "$folder/layer/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/layer/upper,workdir=$folder/layer/work" "$folder/root"
exec systemd-nspawn --quiet --boot --directory="$folder/root" --machine=inspector-test-$$ \
    --register=no --keep-unit --notify-ready=yes --private-network --link-journal=no --console=pipe \
    --resolv-conf=off --timezone=off "$@" -- systemd.unit=basic.target systemd.show_status=no
"""


def why_not() -> str | None:
    """Why there can be no such machine here; None: there can."""
    if os.geteuid() != 0:
        return "only root can start systemd-nspawn"
    for program in ("systemd-nspawn", "nsenter", "unshare", "setpriv"):
        if shutil.which(program, path=PATH) is None:
            return f"{program} is not installed (apt-get install systemd-container util-linux)"
    found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
    if found is None or int(found[1]) < MEMORY_KB:
        return f"less than {MEMORY_KB // 2**20} GiB of memory are free"
    if not _hierarchies():
        return "no control groups that a nested systemd could use are mounted"
    return None


def _hierarchies() -> list[Path]:
    """Where systemd keeps its groups: cgroup v2, or of the mixed layout the named hierarchy and v2 beside it."""
    top = Path("/sys/fs/cgroup")
    mixed = [top / "systemd", top / "unified"]
    if all(os.access(place / "cgroup.procs", os.W_OK) for place in mixed):
        return mixed
    return [top] if os.access(top / "cgroup.procs", os.W_OK) else []


class CannotBoot(Exception):
    """Why."""


class Machine:
    """Booted on enter, gone on exit.

    What it writes is in memory: about a gigabyte for two releases. The checkout and the tests' Python lie in the
    machine where they lie here, and can be read there; `shared` can be written too, here and there.
    """

    def __init__(self, folder: Path) -> None:
        self.shared = folder / "shared"
        """The same folder here and there."""
        self.shared.mkdir(exist_ok=True)
        self._folder = folder
        self._groups: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        _sweep()
        for name in ("layer", "root"):
            (self._folder / name).mkdir()
        self._groups = [place / f"{GROUP}{os.getpid()}" for place in _hierarchies()]
        name = str(self._folder / "notify")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ears:
                ears.bind(name)
                self._boot(name)
                self._leader = self._booted(ears)
        except BaseException:
            self._end()
            raise
        return self

    def _boot(self, notify: str) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]
        seen = dict.fromkeys((ROOT, Path(sys.prefix)))  # wherever they lie: /tmp is its own
        binds = [f"--bind={self.shared}", *(f"--bind-ro={path}" for path in seen)]
        arguments = [str(self._folder), " ".join(map(str, self._groups)), *binds]
        with (self._folder / "boot.log").open("wb") as said:
            self._process = subprocess.Popen(
                [*command, "bash", "-c", BOOT, "boot", *arguments],
                env={"PATH": PATH, "NOTIFY_SOCKET": notify},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )

    def _booted(self, ears: socket.socket) -> int:
        """Process 1 of the machine, seen from here, once it says that it is up.

        Raises:
            CannotBoot: it does not come up; what it said.
        """
        assert self._process is not None
        life = os.pidfd_open(self._process.pid)
        leader, ready = 0, False
        try:
            while not (leader and ready):
                heard, _, _ = select.select([ears, life], [], [], PATIENCE_S)
                if ears not in heard:
                    raise CannotBoot(f"the machine does not boot: {(self._folder / 'boot.log').read_text()}")
                for line in ears.recv(65536).decode().splitlines():
                    name, _, value = line.partition("=")
                    leader = int(value) if name == "X_NSPAWN_LEADER_PID" else leader
                    ready = ready or line == "READY=1"
        finally:
            os.close(life)
        return leader

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        """With its process 1 everything in it ends, and with nspawn its mounts."""
        if self._leader:
            with suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _sweep()
        shutil.rmtree(self.shared)

    # ------------------------------------------------------------ in it

    def path(self, inside: str | Path) -> Path:
        """A file of the machine, seen from here."""
        return Path(f"/proc/{self._leader}/root") / str(inside).lstrip("/")

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[str]:
        """A process in the machine; `options` are Popen's."""
        enter = ["nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/"]
        environment = {"PATH": PATH, "LANG": "C.UTF-8", **options.pop("env", {})}
        given = {"stdin": subprocess.DEVNULL, "text": True, "env": environment, **options}
        return subprocess.Popen([*enter, "--", *map(str, command)], **given)

    def run(self, *command: str | Path, code: int | None = 0, **options: Any) -> str:
        """Run a command in the machine to its end; returns what it said, both streams.

        Raises:
            AssertionError: it ended with another exit code than `code` (None: any).
        """
        with self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options) as process:
            try:
                said, _ = process.communicate(timeout=PATIENCE_S)
            except BaseException:
                process.kill()
                raise
        assert code is None or process.returncode == code, f"{command} ended with {process.returncode}:\n{said}"
        return said

    def python(self, script: Path, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """A script of the tests in the machine, with the tests' own Python."""
        return self.start(sys.executable, script, *arguments, env={"PYTHONPATH": str(ROOT)}, **options)

    def journal(self, inside: str, copies: Path) -> Path:
        """A copy of a journal that nobody writes now: SQLite does not find its way through /proc."""
        source, folder = self.path(inside), copies / inside.strip("/").replace("/", "-")
        folder.mkdir(exist_ok=True)
        for file in source.parent.glob(f"{source.name}*"):
            shutil.copy(file, folder)
        return folder / source.name

    # ------------------------------------------------------------ its services

    def shown(self, unit: str = "inspector") -> dict[str, str]:
        """What systemd knows of a unit."""
        said = self.run("systemctl", "show", unit)
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)

    def log(self, unit: str = "inspector", *options: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}", *options)

    def until(self, condition: Callable[[], Any], what: str, unit: str = "inspector") -> Any:
        """What `condition` says once it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            if time.monotonic() > deadline:
                state = self.run("systemctl", "status", "--no-pager", unit, code=None)
                raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what}.\n{state}\n{self.log(unit)}")
            time.sleep(TURN_S)
        return found


def _sweep() -> None:
    """Control groups of this process, and of those that were killed before they could."""
    for group in _left():
        owner = group.name.removeprefix(GROUP)
        if owner.isdigit() and int(owner) != os.getpid() and Path(f"/proc/{owner}").exists():
            continue
        for folder, _, _ in os.walk(group, topdown=False):
            with suppress(OSError):  # something in it still dies; the next sweep takes it
                os.rmdir(folder)


def _left() -> Iterator[Path]:
    for place in _hierarchies():
        yield from place.glob(f"{GROUP}*")
