"""Reads a large source in a process of its own, which gives all of its memory back.

The libraries that open files, and what they leave behind, would stay with the driver for as long as the run lasts.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from pipeline.core import imports
from pipeline.core.errors import InputError
from pipeline.core.folder import RunFolder
from pipeline.prompts.report import ReadReport
from pipeline.prompts.sources import SourceConfig, read_prompts


def read_apart(source: SourceConfig, run: RunFolder, base: Path) -> ReadReport:
    """As :func:`~pipeline.prompts.sources.read_prompts`. The process ends with this one, however it ends.

    Raises:
        InputError: the process was killed, most likely for want of memory. Otherwise what it raised.
    """
    # Where this package is comes last, not first: a checkout may be the folder that one stands in.
    start = f"import sys; sys.path += {imports.search_path()!r}; from {__name__} import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", start],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is this process's to deal with
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        with suppress(BrokenPipeError):  # it has died already: its exit code says how
            pickle.dump(imports.allowed(), process.stdin)  # before what may need one of these modules
            pickle.dump((source, run.name, base), process.stdin)
            process.stdin.flush()
        answer = process.stdout.read()
        code = process.wait()
    finally:
        process.kill()
        process.wait()
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
    if code:
        why = f"was killed by signal {-code}: is there enough memory?" if code < 0 else f"ended with exit code {code}"
        raise InputError(f"the process that reads the prompts {why}")
    found = pickle.loads(answer)
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, ReadReport)
    return found


def main() -> None:
    """The process: a request from standard input, the report or an error to standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answer
    for module, folder in pickle.load(sys.stdin.buffer).items():
        imports.allow([module], folder)
    source, run, base = pickle.load(sys.stdin.buffer)
    threading.Thread(target=end_with_parent, daemon=True).start()
    found: ReadReport | Exception
    try:
        found = read_prompts(source, RunFolder(run), base, apart=False)
    except Exception as error:  # whatever it is, it is the caller's
        found = error
    with answers:
        pickle.dump(found, answers)


def end_with_parent() -> None:
    """Wait until nobody can write to standard input any more, and end this process."""
    while os.read(0, 1):  # not through sys.stdin, whose lock would be held when the process ends in order
        pass
    os._exit(1)
