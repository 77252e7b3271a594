"""Reading prompts: opens a source through ``datasets`` and writes the ``prompts/`` table, in batches.

The memory-mapped rows are gone over twice: the scan decides which are kept and finds repeats, with a few numbers a
row; the second time writes them.
"""

from pipeline.reading.given import given_files
from pipeline.reading.grown import new_row_ids, write_grown
from pipeline.reading.opening import file_state, local_files, open_source
from pipeline.reading.upstream import Upstream
from pipeline.reading.write import write_table

__all__ = [
    "Upstream",
    "file_state",
    "given_files",
    "local_files",
    "new_row_ids",
    "open_source",
    "write_grown",
    "write_table",
]
