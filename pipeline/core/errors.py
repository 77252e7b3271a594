"""Errors a person can act on, each with the exit code the command line ends with.

Exit codes: 0 done; 1 the job failed (an error that nobody foresaw is one line; ``LEMONPRESS_TRACEBACK=1`` in the
environment shows where it happened); 2 the config or the input is wrong (nothing heavy was started); 3 the job ended,
but too many rows carry an error, or a run could not be verified; 4 a limit on tokens, money or time stopped it;
5 another process works on the run; 130 and 143 stopped by Ctrl-C or SIGTERM; 141 who read the output went away. After
1, 130, 143 and a limit on time the same command resumes, after a limit on tokens or money with a higher one.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.core.safety import redact

if TYPE_CHECKING:
    from pipeline.core.row import Tokens

_LONGEST = 10_000  # characters of a request's error; an endpoint may answer with a page


class LemonpressError(Exception):
    """Base class: the message says what is wrong and what to do about it."""

    exit_code = 1


class ConfigError(LemonpressError):
    """A config key, value or combination is wrong. Raised before any model loads."""

    exit_code = 2


class InputError(LemonpressError):
    """An input file or table cannot be used; the message names the file and the row or column."""

    exit_code = 2


class NothingToCompare(InputError):
    """A run holds neither games nor metrics, so that no result can be computed."""


class ResumeError(ConfigError):
    """The run folder holds work made with another config, which this one would mix with."""


class UnfinishedTableError(InputError):
    """A table was asked for whose pass has not finished."""


class TooManyFailedRows(LemonpressError):
    """All rows are accounted for, but more of them failed than the config allows."""

    exit_code = 3


class NotVerified(LemonpressError):
    """A run does not fit together, or its prompts gave other answers when they were sampled again."""

    exit_code = 3


STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""``OSError.errno`` of a storage that is full or cannot be written."""


class StorageError(LemonpressError):
    """The output storage is full or cannot be written."""


class WorkerLost(LemonpressError):
    """Workers died for good: replacing them once more would lead nowhere."""


class LimitReached(LemonpressError):
    """A limit on tokens, money or time stopped the job; what is done is stored."""

    exit_code = 4


class UnreadableJudge(LemonpressError):
    """Most of a judge's first verdicts cannot be read; what is done is stored."""


class RunBusy(LemonpressError):
    """Another process works on the same run folder."""

    exit_code = 5


class Interrupted(LemonpressError):
    """A signal stopped the job; what is done is stored.

    Args:
        signal: its number; the exit code is 128 plus it, as shells have it.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, at most 300 characters of it; its type where it says nothing."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:300]


class EngineDead(Exception):
    """The engine cannot serve any further request; its worker process must be replaced."""


class EngineRequestError(Exception):
    """One request failed for good; other requests on the same engine are not affected.

    Stages store the message in candidates, games, details and errors, so it holds no secret from the start: an
    endpoint's error body may well echo the request's headers.

    Attributes:
        cost: what was paid for it all the same (:class:`pipeline.core.row.Tokens`), where the engine knows.
    """

    def __init__(self, message: str, cost: Tokens | None = None) -> None:
        super().__init__(redact(message, _LONGEST))
        self.cost = cost


class PromptTooLong(EngineRequestError):
    """The request does not fit into the model's context; ``truncate_prompt`` would have cut it."""


class PoisonRow(EngineRequestError):
    """A row was alone in flight each time its engine died, and gets no further try."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest valid name, or a list of what is valid.

    Args:
        name: what the user wrote.
        valid: the names that would have been accepted.
    """
    names = sorted(set(valid))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.65)  # at 0.6 "rouge" would be "judge"
    close += [n for n in names if min(len(n), len(name)) > 2 and (n.startswith(name) or name.startswith(n))]
    if close:
        return f"; did you mean {close[0]!r}?"
    if not names:
        return ""
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return f"; valid: {shown}"


def require_known(name: str, valid: Iterable[str], key: str, words: str) -> None:
    """Raise ConfigError unless ``name`` is among ``valid``: ``KEY: no engine is called 'x'; did you mean 'y'?``

    Args:
        words: what stands before the name.
    """
    names = list(valid)
    if name not in names:
        raise ConfigError(f"{key}: {words} {name!r}{nearest(name, names)}")
