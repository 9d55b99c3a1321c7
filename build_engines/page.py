"""The report of an evaluation as one HTML file: figures, and the worst escapes and false alarms as pictures.

The file holds everything it shows and asks no one for anything.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from numpy.typing import NDArray

from build_engines.bootstrap import flat
from build_engines.datasets import Sample, masks, picture
from build_engines.events import TruthEvent
from build_engines.files import write_whole
from build_engines.judging import Record
from build_engines.pictures import Canvas, outline
from inspector import rle
from inspector.pack import Manifest, Pack

MOST = 24
"""Pictures of each kind."""

LEAST_PX = (128, 320)
"""A picture shows at least so many rows and columns around its defect."""

SHOWN_WIDTH = 480
TRUTH, FOUND = (80, 220, 80), (60, 60, 255)
"""Blue, green, red: what is there, and what the cascade reports."""

SKIPPED = ("note", "intervals", "size_limits_px")

TEMPLATE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --strong: light-dark(#16324f, #b9d6f2); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1240px; padding: 1.5rem; }
h1, h2 { color: var(--strong); line-height: 1.2; } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
tr + tr { border-top: 1px solid var(--soft); } td.n { font-variant-numeric: tabular-nums; text-align: right; }
.columns { columns: 2 26rem; } .columns section { break-inside: avoid; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem; align-items: start; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
figure img { width: 100%; display: block; background: #000; } figcaption { padding: .5rem .7rem; font-size: .85rem; }
.key span { display: inline-block; width: 1.2em; height: .6em; border: 2px solid; margin: 0 .3em 0 1em; }
small { opacity: .75; } code { overflow-wrap: anywhere; }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ facts }}<br><small>{{ note }}<br>Pack <code>{{ digest }}</code></small></p>
<h2>Figures</h2>
<div class="columns">
{% for heading, rows in tables %}<section><h3>{{ heading }}</h3><table>
{% for name, value, low_high in rows %}<tr><td>{{ name }}</td><td class="n">{{ value }}</td>
<td class="n"><small>{{ low_high }}</small></td></tr>
{% endfor %}</table></section>
{% endfor %}</div>
{% for heading, about, cards in galleries %}<h2>{{ heading }}</h2>
<p class="key">{{ about }} <span style="color:#50dc50"></span>what is there
<span style="color:#ff3c3c"></span>what was reported</p>
{% if cards %}<div class="gallery">{% for card in cards %}
<figure><img alt="{{ card.title }}" src="data:image/jpeg;base64,{{ card.image }}">
<figcaption><b>{{ card.title }}</b><br>{{ card.text }}<br><small><code>{{ card.source }}</code></small></figcaption>
</figure>
{% endfor %}</div>{% else %}<p>None.</p>{% endif %}
{% endfor %}</body></html>
"""


@dataclass(frozen=True)
class Card:
    """One picture."""

    title: str
    text: str
    source: str
    image: str


def write(
    file: Path, pack: Pack, found: Mapping[str, Any], records: Sequence[Record], samples: Iterable[Sample]
) -> None:
    """Write the report of a pack's records; `found` is what evaluate.report made of them."""
    known = {sample.name: sample for sample in samples}
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    text = page.render(
        title=f"Pack {pack.manifest.name} {pack.manifest.version} on labelled frames",
        facts=_facts(found),
        note=found["note"],
        digest=pack.digest,
        tables=_tables(pack.manifest, found),
        galleries=[
            ("Worst escapes", "Real defects that nothing detected, the largest first.", _escapes(pack, records, known)),
            (
                "Worst false alarms",
                "Reports with no defect below them, the surest first.",
                _alarms(pack, records, known),
            ),
        ],
    )
    write_whole(file, text.encode())


def _facts(found: Mapping[str, Any]) -> str:
    return (
        f"{found['frames']} frames in {found['groups']} look-alike groups, {found['defective']} of them defective, "
        f"with {found['truth_events']} defects; {found['found_events']} reported."
    )


def _tables(manifest: Manifest, found: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """A table for each branch of the figures; single figures share one."""
    names = {entry.number: f"{entry.number} {entry.name}" for entry in manifest.classes}
    limits = flat(found["intervals"])
    tables: dict[str, list[tuple[str, str, str]]] = {"overall": []}
    for path, value in flat({key: own for key, own in found.items() if key not in SKIPPED}).items():
        heading = str(path[0]) if len(path) > 1 else "overall"
        words = [str(names.get(part, part)).replace("_", " ") for part in (path[1:] or path)]
        tables.setdefault(heading, []).append((", ".join(words), _number(value), _between(limits.get(path))))
    return [(heading.replace("_", " "), rows) for heading, rows in tables.items()]


def _number(value: float) -> str:
    if value != value:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _between(limits: Any) -> str:
    return f"{limits[0]:.3f} to {limits[1]:.3f}" if limits else ""


def _escapes(pack: Pack, records: Sequence[Record], known: Mapping[str, Sample]) -> list[Card]:
    missed = [(record, event) for record in records for event in record.truths if not event.detected]
    missed.sort(key=lambda pair: (-pair[1].area_px, pair[0].name))
    return [
        Card(
            f"{_named(pack, event.class_number)}, {event.area_px:,} px",
            why_missed(pack.manifest, record, event),
            record.name,
            _image(pack.manifest, record, known[record.name], event.box),
        )
        for record, event in missed[:MOST]
    ]


def why_missed(manifest: Manifest, record: Record, event: TruthEvent) -> str:
    """Which stage let a defect go, in words."""
    position = [entry.number for entry in manifest.classes].index(event.class_number)
    score, floor = record.type_scores[position], manifest.types.floors[event.class_number]
    if record.gate_score < manifest.gate.threshold:
        return f"The gate let it go: {record.gate_score:.2f}, threshold {manifest.gate.threshold}."
    if event.lost_to_area:
        return f"Found, and deleted by the minimum area (types {score:.2f}, gate {record.gate_score:.2f})."
    if score < floor:
        return f"Types did not name its class: {score:.2f}, floor {floor} (gate {record.gate_score:.2f})."
    return f"Its segmenter was nowhere sure there (types {score:.2f}, gate {record.gate_score:.2f})."


def _alarms(pack: Pack, records: Sequence[Record], known: Mapping[str, Sample]) -> list[Card]:
    false = [(record, event) for record in records for event in record.found if not event.true]
    false.sort(key=lambda pair: (-pair[1].score, pair[0].name))
    return [
        Card(
            f"{_named(pack, event.class_number)}, score {event.score:.2f}, {event.area_px:,} px",
            "On a clean frame." if not record.truths else "On a frame with other defects.",
            record.name,
            _image(pack.manifest, record, known[record.name], event.box),
        )
        for record, event in false[:MOST]
    ]


def _named(pack: Pack, number: int) -> str:
    return f"{number} {pack.class_names[number]}"


def _image(manifest: Manifest, record: Record, sample: Sample, box: tuple[int, int, int, int]) -> str:
    """The surroundings of a box with everything outlined, a JPEG in base64."""
    grey = picture(sample)
    canvas: Canvas = np.repeat(grey[:, :, None], 3, axis=2)
    shown = _surroundings(box, grey.shape)
    factor = max(1.0, SHOWN_WIDTH / (shown[1].stop - shown[1].start))
    size = (round((shown[1].stop - shown[1].start) * factor), round((shown[0].stop - shown[0].start) * factor))
    large: Canvas = np.asarray(cv2.resize(canvas[shown], size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    truth: NDArray[np.bool_] = np.max(masks(sample, [entry.number for entry in manifest.classes]), axis=0) > 0
    found = np.zeros(grey.shape, np.bool_)
    for event in record.found:
        found |= rle.decode(event.mask, *grey.shape)
    for mask, colour in ((truth, TRUTH), (found, FOUND)):
        part = cv2.resize(mask[shown].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outline(large, np.asarray(part, dtype=np.uint8) > 0, colour, 2)
    return base64.b64encode(cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()).decode()


def _surroundings(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns around a box, inside the picture."""
    x, y, width, height = box
    spans = []
    for start, length, least, extent in ((y, height, LEAST_PX[0], shape[0]), (x, width, LEAST_PX[1], shape[1])):
        wanted = min(extent, max(least, round(length * 1.3)))
        first = min(max(0, start + length // 2 - wanted // 2), extent - wanted)
        spans.append(slice(first, first + wanted))
    return spans[0], spans[1]
