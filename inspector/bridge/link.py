"""What holds for a connection to any broker."""

from __future__ import annotations

from inspector.errors import InspectorError

ACK_S = 10.0
"""A message that is not acknowledged for so long: the connection or the broker is not well."""
RETRY_S = 1.0
"""Between one connection and the next."""


class Unwell(InspectorError):
    """The connection or the broker cannot go on; a new connection is made."""
