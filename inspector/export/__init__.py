"""`inspector export`: a coil's events out of the journal, for people and programs that have no journal.

    coils.py      which coils a journal holds, whether one is whole, and its events one after the other
    columns.py    an event as a flat row: the one table of columns of csv and Parquet
    lines.py      jsonl: the envelopes as they were published, byte for byte
    sheet.py      csv for a spreadsheet
    parquet.py    Parquet, with the extra `inspector[parquet]`
    runlengths.py rle: run lengths by picture and class, as the public Severstal competition has them
    cutting.py    a mask that spans frames, back into its frames
    spool.py      sorts more than fits in memory
    output.py     a file that is there whole or not at all

Every format reads the journal as a stream: a coil of any length takes the same memory but for some bytes an event.
"""

from inspector.export.command import arguments, run

__all__ = ["arguments", "run"]
