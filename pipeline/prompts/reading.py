"""What reads prompts: opens a source through ``datasets`` and writes the ``prompts/`` table, in batches.

The memory-mapped rows are gone over twice: the scan decides which are kept and finds repeats, with a few numbers a
row; the second time writes them.
"""

from pipeline.prompts.files import file_state, local_files, open_source
from pipeline.prompts.from_run import Upstream
from pipeline.prompts.given import given_files
from pipeline.prompts.grown import new_row_ids, new_rows
from pipeline.prompts.write import write_shards, write_table

__all__ = [
    "Upstream",
    "file_state",
    "given_files",
    "local_files",
    "new_row_ids",
    "new_rows",
    "open_source",
    "write_shards",
    "write_table",
]
