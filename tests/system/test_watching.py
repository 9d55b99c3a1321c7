"""What watches a line: alert rules that promtool fires, and a dashboard whose every query a live daemon answers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from inspector.census import Census
from inspector.metrics import Metrics
from tests.conftest import Start
from tests.line.daemon import PATIENCE_S
from tests.line.lines import config, filmed
from tests.packs import add_reference, make_pack
from tests.workers import free_port

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "inspector.rules.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "inspector.json"
FIRED = Path(__file__).with_name("alerts.test.yaml")

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus is not installed: apt-get install prometheus",
)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries() -> list[tuple[str, str]]:
    """(panel, query) of the whole dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]


def named(text: str) -> set[str]:
    """The metrics of ours that a query names."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\binspector_[a-z_]+", text)}


def test_rules_and_dashboard_name_metrics_that_exist() -> None:
    known = {row.name for row in Metrics(process=False).table}
    asked = set[str]().union(*(named(rule["expr"]) for rule in rules()), *(named(query) for _, query in queries()))
    assert asked
    assert asked <= known


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]


def test_every_alert_is_fired_in_the_test() -> None:
    fired = FIRED.read_text()
    assert [rule["alert"] for rule in rules() if f'alertname="{rule["alert"]}"' not in fired] == []


@needs_prometheus
@pytest.mark.parametrize("words", [("check", "rules", RULES), ("test", "rules", FIRED)], ids=["check", "fire"])
def test_promtool_is_content(words: tuple[str | Path, ...]) -> None:
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus with our rules that scrapes `target` five times a second; its address."""
    settings = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "inspector", "static_configs": [{"targets": [target]}]}],
    }
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    words = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *words], stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def ask(address: str, query: str) -> list[dict[str, Any]]:
    """The answer to an instant query; empty while Prometheus is not up yet."""
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found
    except urllib.error.HTTPError as error:
        if error.code == 503:  # it reads its store still
            return []
        raise AssertionError(f"{query}: {error.read().decode()}") from None
    except OSError:
        return []


@needs_prometheus
def test_a_live_line_answers_every_query_of_the_dashboard(start: Start, tmp_path: Path, ipc: str) -> None:
    sections = {
        "sinks": [{"kind": "zeromq", "options": {"address": ipc}}],
        "drift": {"window_frames": 80, "learn_windows": 2},
    }
    usual = Census()
    usual.add(0.9, 0.4, True, True)
    pack = add_reference(make_pack(tmp_path / "pack"), usual)
    daemon = start(config(pack, tmp_path / "j.db", filmed(frames_hz=200), **sections)).ready()
    filled = {"$instance": ".*", "$__rate_interval": "10s"}
    waiting = {(panel, re.sub("|".join(map(re.escape, filled)), lambda m: filled[m[0]], q)) for panel, q in queries()}

    def answered(address: str) -> bool:
        nonlocal waiting
        waiting = {each for each in waiting if not ask(address, each[1])}
        return not waiting

    with prometheus(tmp_path, daemon.monitor().removeprefix("http://")) as address:
        try:
            daemon.until(lambda: answered(address), "an answer to every query")
        finally:
            assert not waiting
