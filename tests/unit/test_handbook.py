"""What people wrote in docs/ names only what there is, and the handbook has a row for all that there is."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from build_engines.arguments import parser as trainer_parser
from inspector import adapters, drift, grading, overload, view
from inspector.__main__ import _parser as main_parser
from inspector.config import CameraConfig, Config, convert
from inspector.errors import ConfigError
from inspector.events import Reason
from inspector.metrics import Metrics, PackOutcome
from tests.unit.test_adapters import KINDS, adapter

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])


# ---------------------------------------------------------------- handbook.md

HANDBOOK = ROOT / "docs" / "handbook.md"


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables under a heading, up to the next heading."""
    _, found, rest = HANDBOOK.read_text(encoding="utf-8").partition(f"\n### {heading}\n")
    assert found, f"the handbook has no heading {heading!r}"
    table = [line for line in rest.split("\n#")[0].splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def named(heading: str) -> set[str]:
    """What the rows under a heading are about; each says what it means and what to do."""
    for row in rows(heading):
        assert len(row) >= 3, row
        assert all(row), row
    assert len({tuple(row[:2]) for row in rows(heading)}) == len(rows(heading)), "a row stands there twice"
    return {row[0].strip("`") for row in rows(heading)}


def test_every_alert_has_a_row_in_the_handbook() -> None:
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "deploy" / "prometheus").glob("*.rules.yaml")]
    alerts = {rule["alert"] for file in files for group in file["groups"] for rule in group["rules"]}
    assert len(alerts) > 10
    assert alerts - named("Alerts") == set()


def test_every_reason_of_a_loss_has_a_row_in_the_handbook() -> None:
    assert named("Reasons of gaps and lost frames") == set(Reason)


SPEAKERS = {"say", "_say", "_on_state"}
"""Methods that make a state event of (part, state, detail)."""
COMPUTED: dict[tuple[str, str], set[str]] = {
    ("grading.py", "state"): {
        *view.STATES,
        view.SEES_STRIP,
        view.SEES_WELL,
        *drift.OFF.values(),
        drift.AS_USUAL,
    },
    ("grading.py", "DEPTH_WORDS[verdict.depth]"): set(grading.DEPTH_WORDS.values()),
    ("pipeline.py", "state"): {
        *{outcome.replace("_", " ") for outcome in PackOutcome},
        *{"shadow", "swapped", "cut short", "forgotten", "stays", "missing"},
    },
    ("reloading.py", "state"): {"reloaded", "refused"},
    ("overload.py", "change.after.words"): {step.words for step in overload.Step},
}
"""(file, what stands there for the state) -> the states that it may be."""


def words(file: str, state: ast.expr) -> set[str]:
    """The states that an expression in the code may be."""
    match state:
        case ast.Constant(value=str(word)):
            return {word}
        case ast.IfExp(body=one, orelse=other):
            return words(file, one) | words(file, other)
    return COMPUTED.get((file, ast.unparse(state)), set())


def states() -> Iterator[tuple[str, set[str]]]:
    """(place, states that are told there) of all code of the daemon."""
    for path in sorted((ROOT / "inspector").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr=name), args=[_, state, _, *_]) if name in SPEAKERS:
                    yield f"{path.name}:{node.lineno}: {ast.unparse(state)}", words(path.name, state)
                case ast.Call(func=ast.Name(id="State"), keywords=[ast.keyword(arg="part"), *_] as given):
                    state = next(keyword.value for keyword in given if keyword.arg == "state")
                    if not isinstance(state, ast.Name):  # else it was handed in, to one of the speakers
                        yield f"{path.name}:{node.lineno}: {ast.unparse(state)}", words(path.name, state)


def test_every_state_has_a_row_in_the_handbook() -> None:
    told = dict(states())
    assert len(told) > 12
    assert [place for place, found in told.items() if not found] == [], "say in COMPUTED which states these may be"
    assert set().union(*told.values()) - named("States") == set()


# ---------------------------------------------------------------- every page


@pytest.mark.parametrize("path", [*PAGES, *ROOT.glob("deploy/**/*.yaml"), *ROOT.glob("deploy/**/*.json")], ids=str)
def test_every_metric_that_is_named_exists(path: Path) -> None:
    known = {row.name for row in Metrics(process=False).table}
    named = set(re.findall(r"\binspector_[a-z][a-z0-9_]*[a-z0-9]\b(?!\.)", path.read_text(encoding="utf-8")))
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} - known <= set()


def anchors(path: Path) -> set[str]:
    """Of the headings of a page, as they are made for links."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


COMMAND = re.compile(r"(?:^|`|[;&|] )\$? *(inspector|python -m build_engines) ([a-z]+)\b([^`\n#]*)", re.MULTILINE)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Every `--option` of a command and of the commands below it."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found |= options_of(below)
    return found


def commands_of(program: str, name: str) -> dict[str, argparse.ArgumentParser]:
    """The commands of a program; `name` is the one whose options are looked for."""
    parser = main_parser([name]) if program == "inspector" else trainer_parser("")
    (below,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(below.choices)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_that_is_named_can_be_given(page: Path) -> None:
    for program, name, rest in COMMAND.findall(page.read_text(encoding="utf-8").replace("\\\n", " ")):
        known = commands_of(program, name)
        assert name in known, f"{page.name}: {program} {name}"
        unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest)) - options_of(known[name])
        assert not unknown, f"{page.name}: {program} {name}{rest}: {unknown}"


SECTIONS = {field.encode_name: field for field in msgspec.structs.fields(Config)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_piece_of_yaml_is_taken(page: Path) -> None:
    for piece in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for key, value in yaml.safe_load(piece).items():
            if key == "options":  # shown alone: of some kind
                assert any(takes(seam, kind, value) for seam, kind in KINDS), f"{page.name}: {piece}"
            elif key == "cameras":
                for camera in value:
                    found = convert({"name": "any", "kind": "synthetic"} | camera, CameraConfig)
                    adapters.options(adapter("cameras", found.kind), found.options, f"{page.name}: {found.name}")
            else:
                with incomplete():
                    convert(value, SECTIONS[key].type)


@contextmanager
def incomplete() -> Iterator[None]:
    """A piece may leave out what a whole section needs."""
    try:
        yield
    except msgspec.ValidationError as error:
        if "missing required field" not in str(error):
            raise


def takes(seam: str, kind: str, options: dict[str, Any]) -> bool:
    try:
        adapters.options(adapter(seam, kind), options, kind)
    except ConfigError:
        return False
    return True
