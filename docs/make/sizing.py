"""The tables of docs/sizing.md: from a line's width, speed and pitch to frames a second, links and processor cores."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

from docs.make.markdown import Tables, table

FRAME_PX = 1600 * 256
"""A reference frame."""
GIGE_MB_S = 80.0
"""What a GigE Vision link surely carries, of the 80 to 115 MB/s that are seen in practice."""
GATE_MS, TYPES_MS, SEGMENTER_MS, DAEMON_MS = 6.4, 13.0, 16.0, 0.3
"""Of one CPU core and a frame; measured on two cores, see docs/performance.md, What limits it."""
LOAD = 0.6
"""Share of the machine to plan with. At 80 % one frame in a hundred was 0.8 s old, at 60 % 0.2 s."""
PASSED = (0.01, 0.1, 0.5)
"""Shares of frames that the gate lets through."""


@dataclass(frozen=True)
class Line:
    """One side of a strip: width in metres, speed in metres a second, pitch in millimetres."""

    width_m: float
    speed_m_s: float
    pitch_mm: float

    @property
    def pixels(self) -> int:
        """Across the strip."""
        return ceil(round(self.width_m * 1000 / self.pitch_mm, 6))

    @property
    def line_rate_hz(self) -> float:
        return self.speed_m_s * 1000 / self.pitch_mm

    @property
    def mb_s(self) -> float:
        """Megapixels a second, and so 10^6 bytes a second: a pixel is a byte."""
        return self.pixels * self.line_rate_hz / 1e6

    @property
    def frames_per_s(self) -> float:
        """Reference frames of 1600 x 256 px."""
        return self.mb_s * 1e6 / FRAME_PX

    @property
    def gige_links(self) -> int:
        return ceil(self.mb_s / GIGE_MB_S)

    def cores(self, passed: float, asked: float = 1.0) -> int:
        """Cores for the CPU runtime at `LOAD`.

        Args:
            passed: share of the frames that the gate lets through.
            asked: segmenters that are asked for each of them.
        """
        milliseconds = GATE_MS + DAEMON_MS + passed * (TYPES_MS + asked * SEGMENTER_MS)
        return ceil(self.frames_per_s * milliseconds / 1000 / LOAD)


LINES = (
    Line(1.0, 2, 0.5),
    Line(1.3, 5, 0.5),
    Line(1.6, 10, 0.5),
    Line(1.6, 10, 0.25),
    Line(2.0, 20, 0.5),
    Line(2.0, 20, 0.25),
)
"""The third and the last are those that the project is designed for."""


def rates() -> list[str]:
    """Lines -> pixels, line rate, data, frames, links."""
    headings = (
        "strip", "speed", "pitch", "px a line", "line rate", "longest exposure", "Mpx/s = MB/s", "reference frames/s",
        "GigE links",
    )  # fmt: skip
    return table(headings, [(*_named(line), *_figures(line)) for line in LINES])


def cores() -> list[str]:
    """Lines -> cores for the CPU runtime, by how much the gate lets through."""
    headings = ("strip", "speed", "pitch", "reference frames/s", *(f"cores, {share:.0%} pass" for share in PASSED))
    rows = [(*_named(line), _whole(line.frames_per_s), *(f"{line.cores(p):,}" for p in PASSED)) for line in LINES]
    return table(headings, rows)


def _named(line: Line) -> tuple[str, str, str]:
    return f"{line.width_m:g} m", f"{line.speed_m_s:g} m/s", f"{line.pitch_mm:g} mm"


def _figures(line: Line) -> tuple[str, ...]:
    rate = line.line_rate_hz
    figures = f"{line.pixels:,}", f"{rate / 1000:g} kHz", f"{1e6 / rate:g} µs", _whole(line.mb_s)
    return (*figures, _whole(line.frames_per_s), str(line.gige_links))


def _whole(figure: float) -> str:
    return f"{floor(figure + 0.5):,}"


TABLES: Tables = {"rates": rates, "cores": cores}
