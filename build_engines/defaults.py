"""What holds where nothing else is said; needs no package, so that the command line can show it."""

from __future__ import annotations

PARTS = {"train": 0.62, "validation": 0.13, "test": 0.25}
"""Part -> share of the labelled frames."""

CROP_WIDTH = 640
"""Teacher and segmenters learn from crops of this width, px: a defect needs its surroundings, not the whole strip."""

SCALE = 2
"""The networks look at the picture at 1 / SCALE of the camera's resolution."""
