"""config.py: every slip in the YAML is refused with the path of the key, what is wrong, and what is known there."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inspector import config
from inspector.config import Closed, Config, load
from inspector.errors import ConfigError
from inspector.records import WhenFull

FULL: dict[str, Any] = {
    "line": {"name": "hot", "coil": "4711", "mm_per_count": 0.25, "queue": 8, "when_full": "wait", "heartbeat_s": 2},
    "pack": "engines/severstal",
    "cameras": [
        {"name": "top1", "kind": "synthetic"},
        {
            "name": "top2",
            "kind": "replay",
            "pitch_mm": {"along": 0.5, "across": 0.25},
            "offset_mm": -12,
            "flat_field": "top2.npz",
            "options": {"sources": ["frames"]},
        },
    ],
    "runtime": {"kind": "onnx", "options": {"workers": 2}},
    "edges": {"detect": False, "dark_level": 20, "margin_px": 0},
    "view": {"dark_below": 0.1, "glare_above": None, "column_frames": 2048, "strip_below": 0.5},
    "drift": {"window_frames": 1000, "learn_windows": 5, "gate_score": 0.5, "alarmed": None},
    "batch": {"size": 8, "deadline_ms": 5},
    "grading": {
        "severity": [{"severity": "critical", "classes": [4], "min_area_mm2": 20, "within_mm_of_edge": 30}],
        "default_severity": "minor",
        "merge_px": 6,
        "join_frames": 4,
        "thumbnails": False,
    },
    "journal": {"path": "journal.db", "synchronous": False, "keep_gb": 5, "keep_days": 90},
    "sinks": [{"kind": "jsonl", "name": "file", "queue": 5, "options": {"path": "events.jsonl"}}, {"kind": "zeromq"}],
    "history": {"address": "tcp://127.0.0.1:*", "keys": "keys", "events_per_s": 5000},
    "control": {"address": "ipc:///tmp/control", "keys": "keys"},
    "monitor": {"host": "127.0.0.1", "port": 0},
    "recording": {"path": "rec", "window_gb": 2, "severities": ["critical", "major"], "losses": False, "before_s": 2},
    "overload": {"too_old_ms": 150, "young_ms": 50, "up_after_ms": 100, "down_after_s": 2, "wide_batch": 32},
    "packs": {"folder": "packs", "shadow_frames": 0, "watch_s": 3, "alarm_factor": 1.5, "sample_frames": 0},
}
"""A file in which every section stands."""

NEEDED: dict[str, Any] = {
    "line": {"name": "hot"},
    "pack": "p",
    "cameras": [{"name": "a", "kind": "synthetic"}],
    "journal": {"path": "j.db"},
}

Place = tuple[str | int, ...]


def write(folder: Path, raw: Any) -> Path:
    path = folder / "line.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False))
    return path


def refusal(folder: Path, raw: Any) -> str:
    """The message for a file that must be refused; it names the file first, on one line."""
    path = write(folder, raw)
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def spelled(place: Place) -> str:
    """A place as messages spell it: `cameras[1].pitch_mm`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")


def at(raw: Any, place: Place) -> Any:
    for part in place:
        raw = raw[part]
    return raw


def put(place: Place, value: Any) -> dict[str, Any]:
    """FULL with another value at a place."""
    raw = copy.deepcopy(FULL)
    at(raw, place[:-1])[place[-1]] = value
    return raw


def sections(info: Any, place: Place = ()) -> Iterator[tuple[Place, type[msgspec.Struct]]]:
    """Every struct of the file with each place in FULL where it stands."""
    if isinstance(info, msgspec.inspect.UnionType):
        for option in info.types:
            yield from sections(option, place)
    elif isinstance(info, msgspec.inspect.ListType):
        for index in range(len(at(FULL, place))):
            yield from sections(info.item_type, (*place, index))
    elif isinstance(info, msgspec.inspect.StructType):
        yield place, info.cls
        for field in info.fields:
            if field.encode_name in at(FULL, place):
                yield from sections(field.type, (*place, field.encode_name))


SECTIONS = list(sections(msgspec.inspect.type_info(Config)))
FIELDS = [(*place, field.encode_name) for place, section in SECTIONS for field in msgspec.structs.fields(section)]


def test_the_example_holds_every_section_there_is() -> None:
    there_are = {thing for thing in vars(config).values() if inspect.isclass(thing) and issubclass(thing, Closed)}
    assert {section for _, section in SECTIONS} == there_are - {Closed}


def test_the_example_is_valid_and_the_needed_is_enough(tmp_path: Path) -> None:
    assert load(write(tmp_path, FULL)).line.when_full is WhenFull.WAIT
    found = load(write(tmp_path, NEEDED))
    assert (found.line.coil, found.line.when_full, found.sinks) == ("unknown", WhenFull.DROP_OLDEST, [])


# ---------------------------------------------------------------- every key


@pytest.mark.parametrize(
    ("place", "section"), SECTIONS, ids=lambda value: spelled(value) if type(value) is tuple else ""
)
def test_an_unknown_key_is_refused_wherever_it_stands(
    place: Place, section: type[msgspec.Struct], tmp_path: Path
) -> None:
    message = refusal(tmp_path, put((*place, "zzz_unknown"), 1))
    where = spelled(place) or "top level"
    assert message.startswith(f"{where}: unknown key `zzz_unknown`.")
    known = sorted(field.encode_name for field in msgspec.structs.fields(section))
    assert message.endswith(f"Known keys here: {', '.join(known)}")


@pytest.mark.parametrize("place", FIELDS, ids=spelled)
def test_a_typing_slip_is_told_the_key_that_was_meant(place: Place, tmp_path: Path) -> None:
    key = str(place[-1])
    slip = key[:-1] + "_" + key[-1]
    assert f"unknown key `{slip}`. Did you mean `{key}`?" in refusal(tmp_path, put((*place[:-1], slip), 1))


@pytest.mark.parametrize("place", FIELDS, ids=spelled)
def test_a_value_of_the_wrong_type_is_refused_with_its_path(place: Place, tmp_path: Path) -> None:
    wrong = [[[]]] if place[-1] == "options" else {"no": "such thing"}
    raw = put(place, wrong)
    message = refusal(tmp_path, raw)
    assert message.startswith((f"{spelled(place)}: ", f"{spelled(place)}[0]: ")), message


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("line", "mm_per_count"), 0, "> 0"),
        (("line", "mm_per_count"), float("nan"), "> 0"),
        (("line", "mm_per_count"), float("inf"), "<= 1"),
        (("line", "heartbeat_s"), -1, "> 0"),
        (("line", "queue"), 0, ">= 1"),
        (("line", "queue"), 10**11, "<= 1000000"),
        (("batch", "size"), 10**9, "<= 10000"),
        (("line", "queue"), 2.5, "Expected `int`"),
        (("line", "queue"), True, "Expected `int`"),
        (("line", "when_full"), "drop_newest", "drop_newest"),
        (("line", "name"), "a/b", "matching"),
        (("line", "name"), "a b", "matching"),
        (("line", "name"), "", "matching"),
        (("line", "name"), "a\n", "matching"),
        (("line", "name"), "-a", "matching"),
        (("line", "name"), "x" * 65, "matching"),
        (("line", "coil"), 4711, "Put it in quotes"),
        (("cameras", 0, "name"), "top/1", "matching"),
        (("cameras", 1, "pitch_mm", "along"), -0.5, "> 0"),
        (("cameras", 1, "offset_mm"), float("nan"), "Expected `float`"),
        (("cameras", 1, "offset_mm"), float("inf"), "Expected `float`"),
        (("cameras", 1, "flat_field"), 3, "path"),
        (("cameras",), [], "length >= 1"),
        (("edges", "dark_level"), 256, "<= 255"),
        (("edges", "margin_px"), -1, ">= 0"),
        (("batch", "size"), 0, ">= 1"),
        (("grading", "merge_px"), 65, "<= 64"),
        (("grading", "join_frames"), 0, ">= 1"),
        (("grading", "severity", 0, "min_score"), 1.5, "<= 1"),
        (("grading", "severity", 0, "classes"), ["four"], "int"),
        (("journal", "path"), None, "path"),
        (("monitor", "port"), 65536, "<= 65535"),
        (("pack",), 3, "path"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_path(place: Place, value: Any, words: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, put(place, value))
    assert message.startswith(spelled(place)), message
    assert words in message


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("line", "mm_per_count"), 0.001),
        (("line", "queue"), 1),
        (("line", "name"), "x" * 64),
        (("line", "name"), "7"),
        (("cameras", 1, "offset_mm"), -1e9),
        (("cameras", 1, "offset_mm"), 1e9),
        (("edges", "dark_level"), 0),
        (("edges", "dark_level"), 255),
        (("edges", "margin_px"), 0),
        (("batch", "size"), 1),
        (("grading", "merge_px"), 0),
        (("grading", "merge_px"), 64),
        (("grading", "join_frames"), 1),
        (("grading", "severity"), []),
        (("grading", "severity", 0, "min_score"), 0),
        (("grading", "severity", 0, "min_score"), 1),
        (("monitor", "port"), 0),
        (("monitor", "port"), 65535),
    ],
)
def test_the_limits_themselves_are_allowed(place: Place, value: Any, tmp_path: Path) -> None:
    found: Any = load(write(tmp_path, put(place, value)))
    for part in place:
        found = found[part] if isinstance(part, int) else getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    "section", sorted({section for _, section in SECTIONS}, key=str), ids=lambda section: section.__name__
)
def test_a_configuration_cannot_be_changed_behind_the_lines_back(section: type[msgspec.Struct]) -> None:
    assert section.__struct_config__.frozen
    assert section.__struct_config__.forbid_unknown_fields


@pytest.mark.parametrize("place", [("line",), ("pack",), ("cameras",), ("journal",)], ids=spelled)
def test_what_is_needed_and_missing_is_named(place: Place, tmp_path: Path) -> None:
    raw = {key: value for key, value in NEEDED.items() if key != place[0]}
    assert f"missing required field `{place[0]}`" in refusal(tmp_path, raw)


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, put(("on",), 1) | {True: 2}).startswith("top level: ")
    assert refusal(tmp_path, put(("cameras", 1, "options"), {7: "x"})).startswith("cameras[1].options: a key")


# ---------------------------------------------------------------- names, paths, defaults


def test_names_are_given_once(tmp_path: Path) -> None:
    twice = [{"name": "a", "kind": "synthetic"}] * 2
    assert "cameras: the name 'a' is used twice" in refusal(tmp_path, NEEDED | {"cameras": twice})
    sinks = [{"kind": "jsonl"}, {"kind": "jsonl"}]
    assert "sinks: the name 'jsonl' is used twice" in refusal(tmp_path, NEEDED | {"sinks": sinks})
    named = [{"kind": "jsonl"}, {"kind": "zeromq", "name": "jsonl"}]
    assert "give each its own `name`" in refusal(tmp_path, NEEDED | {"sinks": named})
    apart = [{"kind": "jsonl"}, {"kind": "jsonl", "name": "second"}]
    assert [sink.label for sink in load(write(tmp_path, NEEDED | {"sinks": apart})).sinks] == ["jsonl", "second"]


def test_relative_paths_begin_at_the_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    found = load(write(tmp_path, FULL))
    assert found.pack == tmp_path / "engines/severstal"
    assert found.journal.path == tmp_path / "journal.db"
    assert found.cameras[0].flat_field is None
    assert found.cameras[1].flat_field == tmp_path / "top2.npz"


def test_absolute_paths_stay(tmp_path: Path) -> None:
    raw = put(("pack",), "/opt/engines") | {"journal": {"path": "/var/lib/j.db"}}
    raw["cameras"][1]["flat_field"] = "/etc/flat.npz"
    found = load(write(tmp_path, raw))
    assert (str(found.pack), str(found.journal.path)) == ("/opt/engines", "/var/lib/j.db")
    assert str(found.cameras[1].flat_field) == "/etc/flat.npz"


def test_the_monitor_is_on_unless_it_is_taken_out(tmp_path: Path) -> None:
    monitor = load(write(tmp_path, NEEDED)).monitor
    assert monitor is not None
    assert monitor.host == "127.0.0.1"
    assert load(write(tmp_path, NEEDED | {"monitor": None})).monitor is None


# ---------------------------------------------------------------- files that are none


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("# only a remark\n", "the file is empty"),
        ("---\n...\n", "the file is empty"),
        ("- a\n- b\n", "holds a list"),
        ("hello", "holds a str"),
        ("line: [", "not valid YAML: "),
        ("line: {name: a\n  b: c", "line 2"),
        ("\tline: 1", "not valid YAML"),
        ("line: 2024-13-45", "not valid YAML: month must be in 1..12"),
        ("line: !!python/object:os.system x", "could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("? [a]\n: b\n", "unhashable key"),
        ("line: *nobody", "undefined alias"),
        ("[" * 600, "not valid YAML"),
        ("line: {name: a}\npack: p\nline: {name: b}\n", "the key `line` stands twice"),
        ("line:\n  name: a\n  name: b\n", "line 3"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_words(text: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(tmp_path, text)


def test_merged_keys_are_not_taken_for_doubles(tmp_path: Path) -> None:
    text = yaml.safe_dump(NEEDED).replace("- kind: synthetic\n", "- &first\n  kind: synthetic\n")
    text = text.replace("journal:", "- <<: *first\n  name: b\n- <<: *first\n  name: c\njournal:")
    assert [camera.name for camera in load(write(tmp_path, text)).cameras] == ["a", "b", "c"]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "line.yaml"
    path.write_bytes(b"line: {name: \xff\xfe}")
    with pytest.raises(ConfigError, match=r"cannot be read: 'utf-8'.* Name a readable YAML file"):
        load(path)


@pytest.mark.parametrize("name", ["nowhere.yaml", ".", "line.yaml/deeper"])
def test_a_file_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, NEEDED)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / name)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.dates(),
    st.sampled_from(["wait", "a", "synthetic", "name"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(place=st.sampled_from(FIELDS), value=values)
def test_any_value_anywhere_is_taken_or_refused_in_words(place: Place, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, put(place, value))
    try:
        found = load(path)
    except ConfigError as error:
        message = str(error)
    else:
        assert isinstance(found, Config)
        return
    assert message.startswith(f"{path}: ")


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(text=st.one_of(st.text(max_size=40), st.text("{}[]:,&*#!?-|>'\"% \n\tab1", max_size=40)))
def test_any_text_is_refused_in_words(text: str, tmp_path: Path) -> None:
    path = tmp_path / "line.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
