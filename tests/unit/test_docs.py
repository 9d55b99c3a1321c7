"""docs/make: the pages that are made from the code are what the code gives, and nothing in them is without words."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
import yaml

from docs.make import FOLDER, MADE, configuration, metrics, sizing, types
from docs.make.markdown import filled
from docs.make.sizing import Line
from inspector.config import Closed, Config, Positive, convert
from inspector.metrics import Metrics
from tests.unit.test_adapters import KINDS, NEEDED, adapter


@pytest.mark.parametrize("name", MADE)
def test_a_page_made_from_the_code_is_what_the_code_gives(name: str) -> None:
    there = (FOLDER / name).read_text(encoding="utf-8")
    assert there == MADE[name](), "run `python -m docs.make` and commit what it writes"


# ---------------------------------------------------------------- configuration.md


class Colour(StrEnum):
    RED = "red"
    """As blood."""


class Inner(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A section that explains itself."""

    wait_ms: Positive = 2.5
    """How long."""


class Outer(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    inner: Inner = Inner()
    many: list[Inner] = msgspec.field(default_factory=list)
    """Several."""
    colour: Colour | None = Colour.RED
    """Which."""
    size_px: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    """How large, or
    how small."""


class Heir(Outer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    more: bool = True
    """More."""


class Bare(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    explained: int = 1
    """It is."""
    bare: int = 2


class Deep(Closed, frozen=True, kw_only=True, forbid_unknown_fields=True):
    within: list[Bare] = msgspec.field(default_factory=list)
    """The bare one lies in here."""


def test_a_key_is_told_with_type_default_unit_and_what_stands_beneath_it() -> None:
    assert [(key.path, key.kind, key.default, types.unit(key.path), key.note) for key in configuration.keys(Outer)] == [
        ("inner", "section", "", "", "A section that explains itself."),
        ("inner.wait_ms", "number (above 0)", "`2.5`", "ms", "How long."),
        ("many[]", "list of sections", "`[]`", "", "Several."),
        ("many[].wait_ms", "number (above 0)", "`2.5`", "ms", "How long."),
        ("colour", "`red` or null", "`red`", "", "Which."),
        ("size_px", "whole number (1 to 4,096)", "**needed**", "px", "How large, or\nhow small."),
    ]


def test_a_section_that_builds_on_another_has_its_keys_too() -> None:
    assert [key.path for key in configuration.keys(Heir, deep=False)] == [
        "inner",
        "many[]",
        "colour",
        "size_px",
        "more",
    ]


@pytest.mark.parametrize("struct", [Bare, Deep])
def test_a_key_without_documentation_is_an_error_that_names_it(struct: type) -> None:
    with pytest.raises(LookupError, match=r"test_docs\.Bare\.bare: no documentation beneath it"):
        configuration.keys(struct)


def test_a_type_without_words_is_an_error() -> None:
    with pytest.raises(TypeError, match="no words for the type"):
        types.words(msgspec.inspect.type_info(bytes))


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("cameras[].pitch_mm.along", "mm"),
        ("line.mm_per_count", "mm/count"),
        ("events_per_s", "events/s"),
        ("rates_per_m", "/m"),
        ("grading.severity[].min_area_mm2", "mm²"),
        ("journal.keep_gb", "GB"),
        ("line.name", ""),
    ],
)
def test_units_come_from_the_names(path: str, unit: str) -> None:
    assert types.unit(path) == unit


def sections(struct: type) -> dict[type, None]:
    """A section and all that lie in it."""
    found = {struct: None}
    for field in configuration.fields_of(struct):
        within = configuration.struct_of(field.type)
        found |= sections(within.cls) if within else {}
    return found


EVERY_SECTION = [
    *sections(Config),
    *(struct for seam, kind in KINDS for struct in sections(adapter(seam, kind).Options)),
]


@pytest.mark.parametrize(
    "struct", dict.fromkeys(EVERY_SECTION), ids=lambda struct: f"{struct.__module__}.{struct.__name__}"
)
def test_what_is_said_of_a_key_that_is_left_out_is_what_the_code_takes(struct: type) -> None:
    for field in configuration.fields_of(struct):
        text = types.default(field)
        if text.startswith("`"):
            value = convert_field(struct, field.encode_name, yaml.safe_load(text.strip("`")))
            assert value == types.left_out(field), field.name


def convert_field(struct: type, key: str, value: Any) -> Any:
    """What the code makes of one key."""
    annotation = msgspec.structs.fields(struct)
    (found,) = [field for field in annotation if field.encode_name == key]
    return convert(value, found.type)


def test_every_key_of_every_adapter_is_on_the_page() -> None:
    page = configuration.page()
    assert set(NEEDED) <= set(KINDS)
    for seam, kind in KINDS:
        heading = f"### `{configuration.SEAMS[seam]}.options` of `{kind}`"
        assert heading in page.splitlines()
        for field in configuration.fields_of(adapter(seam, kind).Options):
            assert re.search(rf"^\| `{field.encode_name}(\[\])?` \|", page, re.MULTILINE), (kind, field.name)


# ---------------------------------------------------------------- metrics.md


class Shade(StrEnum):
    DARK = "dark"
    """Little light."""
    BARE = "bare"


def test_a_value_of_a_label_without_documentation_is_an_error_that_names_it() -> None:
    with pytest.raises(LookupError, match=r"test_docs\.Shade\.BARE: no documentation beneath it"):
        metrics.choices(Shade)


def test_every_metric_stands_under_the_heading_of_its_group() -> None:
    found = dict(metrics.groups())
    assert sum(map(len, found.values())) == len(Metrics(process=False).table)
    assert "Metrics" not in found, "a metric stands above the first `# ---- heading` of Metrics.__init__"
    assert [row.name for row in found["the daemon"]] == ["inspector_ready", "inspector_build_info"]
    assert "inspector_journal_bytes" in [row.name for row in found["journal"]]


# ---------------------------------------------------------------- sizing.md


@pytest.mark.parametrize(
    ("line", "pixels", "line_rate_khz", "mpx_s", "frames_per_s"),
    [(Line(1.6, 10, 0.5), 3200, 20, 64, 156), (Line(2.0, 20, 0.25), 8000, 80, 640, 1563)],
)
def test_the_lines_that_the_project_is_designed_for(
    line: Line, pixels: int, line_rate_khz: int, mpx_s: int, frames_per_s: int
) -> None:
    assert line in sizing.LINES
    assert line.pixels == pixels
    assert line.line_rate_hz == pytest.approx(line_rate_khz * 1000)
    assert line.mb_s == pytest.approx(mpx_s)
    assert line.frames_per_s == pytest.approx(frames_per_s, abs=0.5)
    assert f" {frames_per_s:,} |" in "\n".join(sizing.rates())


def test_cores_and_links_are_enough_and_not_one_more() -> None:
    line = Line(1.6, 10, 0.5)  # 156.25 frames/s
    assert line.gige_links == 1
    assert Line(2.0, 20, 0.25).gige_links == 8  # 640 MB/s
    assert line.cores(passed=0.0) == 2  # 0.94 of a core, at 60 % load 1.56
    assert line.cores(passed=1.0, asked=1.0) == 10  # 5.47 cores, at 60 % load 9.1


@pytest.mark.parametrize("text", ["# Sizing\n", "<!-- a: made -->\n<!-- end -->\n<!-- a: made -->\n<!-- end -->\n"])
def test_a_table_without_one_place_for_it_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(LookupError, match=r"page\.md: `<!-- a: "):
        filled(tmp_path / "page.md", {"a": lambda: ["| row |"]})


def test_a_table_is_made_anew_and_the_rest_stays(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("before\n\n<!-- a: made by x -->\nold\n<!-- end -->\n\nbehind\n")
    found = filled(tmp_path / "page.md", {"a": lambda: ["| \\1 |", "| two |"]})
    assert found == "before\n\n<!-- a: made by x -->\n\n| \\1 |\n| two |\n\n<!-- end -->\n\nbehind\n"
