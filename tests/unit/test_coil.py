"""`inspector coil show`: which of the coils is on the line."""

from __future__ import annotations

import pytest

from inspector.client.control import Coils, CoilSpan
from inspector.coil import shown

UNNAMED = [
    CoilSpan(coil="unknown", head_count=-50, end_count=200),
    CoilSpan(coil="4711", head_count=200, end_count=900),
    CoilSpan(coil="unknown", head_count=900),
]


@pytest.mark.parametrize(
    ("graded", "name", "row"), [(-50, "unknown", 0), (199, "unknown", 0), (200, "4711", 1), (950, "unknown", 2)]
)
def test_one_piece_of_strip_is_on_the_line_though_others_have_its_name(graded: int, name: str, row: int) -> None:
    heading, *lines, last = shown(Coils(coil=name, encoder_count=graded, coils=UNNAMED))
    assert heading.split() == ["coil", "head", "count", "tail", "count"]
    assert [line.endswith("<- on the line") for line in lines] == [each == row for each in range(3)]
    assert lines[row].split()[0] == name
    assert last == f"inspected up to count {graded}"


def test_nothing_is_on_the_line_before_the_first_frame() -> None:
    ahead = Coils(coil="unknown", encoder_count=None, coils=[CoilSpan(coil="4711", head_count=500)])
    assert not any("on the line" in line for line in shown(ahead))
