"""Frames of recordings as pictures to label: `python frames_to_pictures.py frames/kept/*/* --out own/images`.

Corrected by the flat-field, as the networks see them, and called CAMERA_RUN_SEQUENCE: every run of the daemon counts
its frames from 0. With `--labels` what `inspector export --format rle` said of those that are new is added to
own/train.csv, to begin the labelling with.
"""

import argparse
import json
import sys
from collections import defaultdict
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
frames = {}  # a picture that is not there yet -> its recording, and its line in the index
pictures = defaultdict(set)  # what the export calls a frame -> the pictures that it may be
for recording in options.recordings:
    with open(recording / "frames.jsonl") as index:
        header = json.loads(next(index))
        for frame in [entry for entry in map(json.loads, index) if entry["kind"] == "frame"][:: options.every]:
            words = header["camera"], header.get("run", ""), f"{frame['sequence']}.png"
            picture = options.out / "_".join(filter(None, words))
            if not picture.exists():
                frames[picture] = recording, frame
                pictures[f"{header['camera']}_{frame['sequence']}"].add(picture.name)

heading, *rows = options.labels.read_text().splitlines(keepends=True) if options.labels else [""]
labels = [row.partition(",") for row in rows]
for name, _, _ in labels:
    if len(pictures[name]) > 1:
        sys.exit(f"{name} of {options.labels} may be of several runs: give it the recordings of one run at a time")

for picture, (recording, frame) in frames.items():
    correction = recording / "flat-field.npz"
    shape = frame["height"], frame["width"]
    with open(recording / "frames.raw", "rb") as raw:
        raw.seek(frame["offset"])
        pixels = np.frombuffer(bytearray(raw.read(shape[0] * shape[1])), np.uint8).reshape(shape)
    if correction.exists():
        FlatField.load(correction).correct(pixels)
    cv2.imwrite(str(picture), pixels)

if options.labels:
    with open(options.out.parent / "train.csv", "a") as table:
        if not table.tell():
            table.write(heading)
        table.writelines(f"{picture}{comma}{rest}" for name, comma, rest in labels for picture in pictures[name])
