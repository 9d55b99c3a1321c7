"""`python -m inspector.schema` prints the JSON Schema of the event stream."""

from __future__ import annotations

import sys

from inspector import schema

sys.stdout.write(schema.text())
