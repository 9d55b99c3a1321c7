"""Frames of recordings as pictures to label: `python frames_to_pictures.py frames/kept/*/* --out own/images`.

Corrected by the flat-field, as the networks see them. With `--labels` what `inspector export --format rle` said of them
becomes own/train.csv, to begin the labelling with.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from inspector.flatfield import FlatField

parser = argparse.ArgumentParser()
parser.add_argument("recordings", type=Path, nargs="+", help="folders with a frames.raw in them")
parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
parser.add_argument("--every", type=int, default=1, help="only every so manieth frame")
parser.add_argument("--labels", type=Path, help="the export of the coil")
options = parser.parse_args()

options.out.mkdir(parents=True, exist_ok=True)
names = set()
for recording in options.recordings:
    correction = recording / "flat-field.npz"
    flat_field = FlatField.load(correction) if correction.exists() else None
    with open(recording / "frames.raw", "rb") as raw, open(recording / "frames.jsonl") as index:
        camera = json.loads(next(index))["camera"]
        frames = [entry for entry in map(json.loads, index) if entry["kind"] == "frame"]
        for frame in frames[:: options.every]:
            raw.seek(frame["offset"])
            shape = frame["height"], frame["width"]
            pixels = np.frombuffer(bytearray(raw.read(shape[0] * shape[1])), np.uint8).reshape(shape)
            if flat_field is not None:
                flat_field.correct(pixels)
            name = f"{camera}_{frame['sequence']}"
            names.add(name)
            cv2.imwrite(str(options.out / f"{name}.png"), pixels)

if options.labels:
    with open(options.labels) as rows, open(options.out.parent / "train.csv", "w") as kept:
        kept.write(next(rows))
        for row in rows:
            name, comma, rest = row.partition(",")
            if name in names:
                kept.write(f"{name}.png{comma}{rest}")
