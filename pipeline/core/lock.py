"""One process a run folder: a second one is refused, a dead one's lock is taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from pipeline.core.errors import InputError, RunBusy
from pipeline.core.folder import RunFolder
from pipeline.core.safety import redact

logger = logging.getLogger(__name__)

_FILE = ("work", "lock.json")
_BEAT = 20.0  # seconds between signs of life
_STALE = 120.0  # seconds without one after which a lock is nobody's


@contextmanager
def run_lock(run: RunFolder) -> Iterator[None]:
    """Hold the run's folder for the block.

    On a local or network file system the kernel's lock (``flock``) decides: it goes with the process that holds it.
    Elsewhere (object stores, file systems without ``flock``) a file with a sign of life every 20 s does, as well as it
    can: two processes that start within the same second may both get in.

    Raises:
        RunBusy: another process holds it; the message names its host, pid and start.
    """
    run.make("work")
    handle = _flock(run) if run.is_local else None
    try:
        if handle is None:
            _refuse_living(run)
        mine = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": redact(" ".join(sys.argv))[:200],
            "token": uuid.uuid4().hex,
        }
        _write(run, mine)
        if handle is None and (run.read_json(*_FILE) or {}).get("token") != mine["token"]:
            raise _busy(run, run.read_json(*_FILE) or {})
        halt = threading.Event()
        beat = threading.Thread(target=_beat, args=(run, mine, halt), daemon=True, name="lemonpress-lock")
        beat.start()
        try:
            yield
        finally:
            halt.set()
            beat.join(timeout=5)
            _write(run, {**mine, "released": True})
    finally:
        if handle is not None:
            handle.close()


def _flock(run: RunFolder) -> TextIO | None:
    """The locked file, or ``None`` where the file system knows no locks."""
    try:
        there = os.open(run.path("work", "lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(f"{run.path('work', 'lock')}: is a link, which no run makes: remove it") from error
    handle = open(there, "a")  # noqa: SIM115  # held as long as the lock is
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise _busy(run, run.read_json(*_FILE) or {}) from None
    except OSError as error:
        logger.info("%s: no flock here (%s)", run.root, error)
        handle.close()
        return None
    return handle


def _refuse_living(run: RunFolder) -> None:
    holder = run.read_json(*_FILE)
    if not holder or holder.get("released") or time.time() - holder["beat"] > _STALE:
        return
    if holder["host"] == socket.gethostname() and not _lives(holder["pid"]):
        return
    raise _busy(run, holder)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _busy(run: RunFolder, holder: dict[str, Any]) -> RunBusy:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}, since {holder.get('started', '?')}"
    return RunBusy(f"{run.root}: another process works on this run: {who} ({holder.get('command', 'unknown command')})")


def _write(run: RunFolder, mine: dict[str, Any]) -> None:
    try:
        run.write_text(json.dumps({**mine, "beat": time.time()}, indent=1) + "\n", *_FILE)
    except OSError as error:
        # A full disk must not hide what the job itself says about it; the kernel's lock needs no file content.
        logger.warning("%s: cannot write the lock's details: %s", run.root, error)


def _beat(run: RunFolder, mine: dict[str, Any], halt: threading.Event) -> None:
    while not halt.wait(_BEAT):
        _write(run, mine)
