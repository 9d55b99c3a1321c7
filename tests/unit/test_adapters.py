"""adapters.py: a kind is a module of its seam, and the options of every kind there is are closed."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from inspector import adapters
from inspector.errors import ConfigError

SEAMS = ["cameras", "runtimes", "sinks"]
KINDS = [(seam, kind) for seam in SEAMS for kind in adapters.kinds(seam)]
NEEDED: dict[tuple[str, str], dict[str, Any]] = {
    ("cameras", "replay"): {"sources": ["frames"]},
    ("cameras", "gige"): {"address": "192.168.1.20"},
    ("sinks", "jsonl"): {"path": "events.jsonl"},
}
"""What a kind cannot do without."""

every_kind = pytest.mark.parametrize(("seam", "kind"), KINDS, ids=[f"{seam}-{kind}" for seam, kind in KINDS])


def adapter(seam: str, kind: str) -> ModuleType:
    return adapters.module(seam, kind, f"{seam}[0]")


def refusal(seam: str, kind: str, raw: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        adapters.options(adapter(seam, kind), raw, f"{seam}[0].options")
    return str(caught.value)


# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize("seam", SEAMS)
def test_the_kinds_are_the_modules_of_the_folder(seam: str) -> None:
    package = importlib.import_module(f"inspector.{seam}")
    assert package.__file__ is not None
    modules = {file.stem for file in Path(package.__file__).parent.glob("*.py")}
    assert set(adapters.kinds(seam)) == {name for name in modules if not name.startswith("_")}
    assert adapters.kinds(seam) == sorted(adapters.kinds(seam))


def test_what_ships_is_there() -> None:
    assert {("cameras", "synthetic"), ("cameras", "replay"), ("runtimes", "onnx")} <= set(KINDS)
    assert {("sinks", "zeromq"), ("sinks", "jsonl")} <= set(KINDS)


@every_kind
def test_a_kind_has_closed_options_and_one_opener(seam: str, kind: str) -> None:
    found = adapter(seam, kind)
    assert found.__name__ == f"inspector.{seam}.{kind}"
    assert callable(found.open)
    settings = found.Options.__struct_config__
    assert settings.forbid_unknown_fields
    assert settings.frozen


@pytest.mark.parametrize("kind", ["", "synthetik", "_play", "__init__", "../sinks/jsonl", "synthetic.py", "os"])
def test_a_kind_that_does_not_exist_is_refused_with_those_that_do(kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        adapters.module("cameras", kind, "cameras[2]")
    assert str(caught.value).startswith(f"cameras[2].kind: there is no '{kind}'; known: ")
    assert str(caught.value).endswith(", ".join(adapters.kinds("cameras")))


def test_a_package_that_is_missing_is_named_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vendors' packages are imported by the adapter, so only when it is configured."""
    package = importlib.import_module("inspector.cameras")
    (tmp_path / "vendor.py").write_text("import a_vendors_package_that_nobody_has\n")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert "vendor" in adapters.kinds("cameras")
    with pytest.raises(ConfigError) as caught:
        adapters.module("cameras", "vendor", "cameras[0]")
    message = str(caught.value)
    assert message.startswith("cameras[0].kind: 'vendor' needs a package that is missing")
    assert "a_vendors_package_that_nobody_has" in message
    assert "pip install 'inspector[vendor]'" in message


# ---------------------------------------------------------------- options


@every_kind
def test_an_unknown_option_is_refused_with_those_that_are_known(seam: str, kind: str) -> None:
    message = refusal(seam, kind, NEEDED.get((seam, kind), {}) | {"zzz_unknown": 1})
    assert message.startswith(f"{seam}[0].options: unknown key `zzz_unknown`.")
    fields = msgspec.structs.fields(adapter(seam, kind).Options)
    assert message.endswith(f"Known keys here: {', '.join(sorted(field.encode_name for field in fields))}")


@every_kind
def test_a_typing_slip_is_told_the_option_that_was_meant(seam: str, kind: str) -> None:
    for field in msgspec.structs.fields(adapter(seam, kind).Options):
        slip = field.encode_name[:-1] + "_" + field.encode_name[-1]
        message = refusal(seam, kind, NEEDED.get((seam, kind), {}) | {slip: 1})
        assert f"unknown key `{slip}`. Did you mean `{field.encode_name}`?" in message


@every_kind
def test_an_option_of_the_wrong_type_is_refused_with_its_path(seam: str, kind: str) -> None:
    for field in msgspec.structs.fields(adapter(seam, kind).Options):
        for wrong in ({"no": ["such thing"]}, [[["neither"]]]):
            message = refusal(seam, kind, NEEDED.get((seam, kind), {}) | {field.encode_name: wrong})
            assert message.startswith(f"{seam}[0].options.{field.encode_name}"), message


@every_kind
def test_options_are_a_mapping(seam: str, kind: str) -> None:
    assert refusal(seam, kind, ["a"]).startswith(f"{seam}[0].options: Expected `object`")


@every_kind
def test_what_is_needed_is_enough(seam: str, kind: str) -> None:
    needed = NEEDED.get((seam, kind), {})
    assert isinstance(adapters.options(adapter(seam, kind), needed, "x"), msgspec.Struct)
    for key in needed:
        rest = {name: value for name, value in needed.items() if name != key}
        assert f"missing required field `{key}`" in refusal(seam, kind, rest)


def test_a_place_inside_the_options_is_named() -> None:
    assert refusal("cameras", "synthetic", {"skip_frames": [1, "two"]}).startswith(
        "cameras[0].options.skip_frames[1]: "
    )
    assert refusal("cameras", "synthetic", {"rates_per_m": {"one": 1}}).startswith("cameras[0].options.rates_per_m: ")
    assert refusal("cameras", "replay", {"sources": ["a", 3]}).startswith("cameras[0].options.sources[1]: ")


def test_paths_are_paths() -> None:
    found = adapters.options(adapter("sinks", "jsonl"), {"path": "a/b.jsonl"}, "x")
    assert found.path == Path("a/b.jsonl")
