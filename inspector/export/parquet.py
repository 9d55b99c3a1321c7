"""Parquet with typed columns, written a row group at a time, in the order in which the events happened.

The file's metadata names the coil, the line's `source` and the digests of the packs that its runs started with; each
row has that of the pack which found it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

from inspector import __version__
from inspector.errors import ConfigError
from inspector.events import Event
from inspector.export.columns import COLUMNS, MASK
from inspector.journal import Run

if TYPE_CHECKING:
    import pyarrow

ROWS = 5000
"""Rows of a row group: some 10 MB in memory with large masks."""


def check() -> None:
    """Raises ConfigError unless pyarrow is there."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--format parquet needs pyarrow ({error}). Install it: pip install 'inspector[parquet]', or take csv"
        ) from None


def write(events: Iterable[Event], out: BinaryIO, coil: str, runs: list[Run]) -> None:
    """One file of `events`; `runs` are those that saw the coil."""
    import pyarrow
    import pyarrow.parquet

    schema = _schema().with_metadata(_metadata(coil, runs))
    stream = iter(events)
    with pyarrow.parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        while page := list(islice(stream, ROWS)):
            arrays = [[column.of(event) for event in page] for column in COLUMNS + MASK]
            columns = [pyarrow.array(values, field.type) for values, field in zip(arrays, schema, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def _schema() -> pyarrow.Schema:
    import pyarrow

    types = {
        "name": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        "text": pyarrow.string(),
        "integer": pyarrow.int64(),
        "real": pyarrow.float64(),
        "truth": pyarrow.bool_(),
        "time": pyarrow.timestamp("ns", "UTC"),
    }
    return pyarrow.schema([(column.name, types[column.type]) for column in COLUMNS + MASK])


def _metadata(coil: str, runs: list[Run]) -> dict[str, str]:
    return {
        "inspector.version": __version__,
        "inspector.coil": coil,
        "inspector.line": " ".join(dict.fromkeys(run.line for run in runs)),
        "inspector.source": " ".join(dict.fromkeys(run.source for run in runs)),
        "inspector.pack_digest": " ".join(dict.fromkeys(run.digest for run in runs)),
    }
