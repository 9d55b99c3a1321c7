"""What stands at the head of every recording of a line, so that a replay gives the events that the line gave."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from inspector.cameras._index import VERSION, Header, Setup
from inspector.coils import Coil
from inspector.config import CameraConfig, Config
from inspector.errors import ConfigError

SECTIONS = ("edges", "grading", "view")
"""Sections of the YAML that change what is found in a frame, or what is said of it."""


class Heading:
    """The headers of one run of a line.

    Raises:
        ConfigError: a flat-field cannot be read.
    """

    def __init__(self, config: Config, cameras: Sequence[CameraConfig], pack: str, digest: str | None) -> None:
        self.run = uuid.uuid4().hex[:12]
        self.first: Coil | None = None
        self.coils: Sequence[Coil] = ()
        """What is known of the coils now."""
        self._setups = {camera.name: _setup(config, camera, pack, digest) for camera in cameras}
        self.flat_fields: Mapping[str, bytes | None] = {camera.name: _bytes(camera.flat_field) for camera in cameras}

    def judged_by(self, pack: str, digest: str) -> None:
        """Frames are judged by another pack; what is recorded from the next segment on says so. From any thread."""
        changed = {
            name: msgspec.structs.replace(setup, pack=pack, pack_digest=digest) for name, setup in self._setups.items()
        }
        self._setups = changed

    def header(self, camera: str, part: int) -> Header:
        return Header(
            version=VERSION,
            camera=camera,
            run=self.run,
            part=part,
            setup=self._setups[camera],
            first_coil=self.first,
            coils=list(self.coils),
        )


def _setup(config: Config, camera: CameraConfig, pack: str, digest: str | None) -> Setup:
    named = _plain(camera)
    named.pop("options", None)
    named.pop("flat_field", None)  # it lies beside the frames
    return Setup(
        line=config.line.name,
        mm_per_count=config.line.mm_per_count,
        coil=config.line.coil,
        camera=named,
        sections={name: _plain(getattr(config, name)) for name in SECTIONS if getattr(config, name, None) is not None},
        pack=pack,
        pack_digest=digest,
    )


def _plain(section: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(section, enc_hook=str)
    return plain


def _bytes(flat_field: Path | None) -> bytes | None:
    if flat_field is None:
        return None
    try:
        return flat_field.read_bytes()
    except OSError as error:
        raise ConfigError(f"{flat_field}: cannot be read: {error.strerror}. Calibrate, or mend `flat_field`") from None
