"""`inspector cameras`: what is found is shown as it would stand in the YAML; what cannot be asked is said."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inspector import discovery
from inspector.__main__ import main
from inspector.cameras import Found
from inspector.config import CameraConfig, convert
from inspector.discovery import Searched

LINE = Found("gige", "192.168.7.20", "Maker", "Line 8k", "0815", "in use", {"address": "192.168.7.20"})


@given(st.builds(Found, kind=st.just("gige"), address=st.text(), serial=st.text(), options=st.just({"address": "x"})))
def test_a_snippet_is_a_valid_camera_whatever_it_calls_itself(found: Found) -> None:
    (entry,) = yaml.safe_load(discovery.snippet(found))
    assert convert(entry, CameraConfig).options == {"address": "x"}


def test_a_person_sees_cameras_and_troubles(capsys: pytest.CaptureFixture[str]) -> None:
    discovery._as_table([Searched("gige", [LINE]), Searched("gentl", []), Searched("basler", [], "install pypylon")])
    shown = capsys.readouterr().out
    assert "Line 8k" in shown
    assert "address: 192.168.7.20" in shown
    assert "gentl: none found" in shown
    assert "basler: install pypylon" in shown


def test_a_program_reads_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    discovery._as_json([Searched("gige", [LINE]), Searched("basler", [], "install pypylon")])
    found, trouble = map(json.loads, capsys.readouterr().out.splitlines())
    assert found["options"] == {"address": "192.168.7.20"}
    assert trouble == {"kind": "basler", "trouble": "install pypylon"}


def test_nothing_found_is_exit_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cameras", "--kind", "synthetic"]) == 1
    assert "named in the YAML" in capsys.readouterr().out


def test_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cameras", "--kind", "gigabit"])
    assert "invalid choice" in capsys.readouterr().err
