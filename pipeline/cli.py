"""The command line: ``lemonpress JOB [CONFIG.yaml or preset ...] [key=value ...]``, merged left to right."""

from __future__ import annotations

from pipeline.core.imports import is_program, leave_folder_out

if is_program():
    leave_folder_out()  # before anything else is imported

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from pipeline import __version__
from pipeline.core.errors import STORAGE_ERRORS, ConfigError, LemonpressError, nearest
from pipeline.core.safety import indented, redact, say_error

_FOLDERS = ("export", "label", "replay", "verify")
"""Jobs that are folders: what one job alone uses lives with it."""

JOBS = {
    "run": "generate, select, judge, winrate and report, from prompts to report; resumes where it was interrupted",
    "generate": "prompts -> candidates",
    "select": "candidates -> scores and selections",
    "label": "given answers -> scores, selections, and labels beside the input's own columns",
    "judge": "selections -> games (pairwise, both orders)",
    "winrate": "games -> win-rates with intervals (also games=TABLE out=DIR for judgments made elsewhere)",
    "report": "one self-contained HTML page",
    "export": "selections -> training data: SFT, DPO, reward-model or KTO files that datasets and TRL load",
    "sweep": "generate and select over a grid of temperatures and min-p -> curves, and a recommended policy",
    "show": "RUN PROMPT_ID: everything known about one prompt, also while the run is going on",
    "table": "RUN TABLE OUT: a finished table as one Parquet, JSON Lines or CSV file (columns=a,b: some columns)",
    "errors": "RUN: what went wrong in a run, by cause (--json: as JSON)",
    "retry": "RUN [key=value ...]: the failed rows of a run again, and only those",
    "verify": "RUN [key=value ...]: is a run consistent, and do its prompts give the same answers again?",
    "replay": "RUN|TABLE.parquet [key=value ...]: selectors on a finished run's candidates, without Ray or a model",
    "estimate": "what a run will cost in tokens, time and money, from a few of its prompts; runs nothing else",
    "doctor": "what this machine can run, and what is missing",
    "submit": "send a job (--job, default run) to the Ray cluster at --address, and follow its log",
    "status": "state of a submitted job (its id, or out=FOLDER; without either: of all)",
    "logs": "log of a submitted job, until it ends",
    "stop": "stop a submitted job",
}
REMOTE = ("submit", "status", "logs", "stop")
SUBMITTED = ("run", "generate", "select", "label", "judge", "winrate", "report", "export", "sweep")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job.

    Args:
        argv: words after the program's name; ``None`` takes the process's own.

    Returns:
        Exit code: see :mod:`pipeline.core.errors`.
    """
    if argv is None:
        leave_folder_out()
    args = _parser().parse_intermixed_args(sys.argv[1:] if argv is None else list(argv))
    logging.basicConfig(handlers=[_stderr()])
    try:
        return _run(args)
    except LemonpressError as error:
        code, what = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, what = 130, "interrupted; the same command resumes"
    except Exception as error:
        line = (str(error).strip().splitlines() or ["no more is known"])[0][:300]
        if _is_damage(error):
            code, what = (
                2,
                f"a file is damaged: {line}; lemonpress verify RUN says which of a run's",
            )
        elif isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
            code, what = 1, f"storage: {error}; the same command resumes"
        elif argv is not None or os.environ.get("LEMONPRESS_TRACEBACK"):
            raise  # Python code gets the error itself
        else:  # one line instead of a traceback, which may show what is nobody's business
            hint = "LEMONPRESS_TRACEBACK=1 in the environment shows where it happened"
            code, what = 1, f"{type(error).__name__}: {line}; this was not foreseen: {hint}"
    say_error(redact(f"lemonpress {args.job}: {what}"))
    return code


def _run(args: argparse.Namespace) -> int:
    job, words = args.job, args.words
    if job not in JOBS:
        raise ConfigError(f"no job is called {job!r}{nearest(job, JOBS)}")
    if job in REMOTE:
        return _remote(args)
    if args.json and job != "errors":
        raise ConfigError("--json: only errors prints JSON")
    if args.list and job != "select":
        raise ConfigError("--list: only select has a list")
    if job == "doctor":
        return int(_command(job).run())
    if job == "show":
        if len(words) != 2:
            raise ConfigError("show takes a run's folder and a prompt's id: lemonpress show RUN PROMPT_ID")
        _command(job).run(*words)
    elif job == "table":
        if len(words) < 3 or any("=" in word for word in words[:3]):
            raise ConfigError("table takes a run's folder, a table and a file: lemonpress table RUN selections out.csv")
        _command(job).run(*words[:3], words[3:])
    elif job == "errors":
        if len(words) != 1:
            raise ConfigError("errors takes a run's folder: lemonpress errors RUN")
        _command(job).run(words[0], args.json)
    elif job in ("retry", "verify", "replay"):
        if not words or "=" in words[0]:
            raise ConfigError(f"{job} takes a run's folder: lemonpress {job} RUN [key=value ...]")
        _command(job).run(words[0], words[1:])
    elif args.list:
        _command(job).show()
    else:
        config = _config(job, words)  # before the job's own, slower imports: a typo is answered at once
        _command(job).run(config)
    return 0


def _is_damage(error: Exception) -> bool:
    """Whether Arrow says that a file's bytes are not what they should be (where Arrow has been in use at all)."""
    tables = sys.modules.get("pipeline.core.tables")
    return tables is not None and bool(tables.is_damage(error))


def _command(job: str) -> ModuleType:
    return importlib.import_module(f"pipeline.jobs.{job}" + (".job" if job in _FOLDERS else ""))


def _remote(args: argparse.Namespace) -> int:
    from pipeline.jobs.submit import main as remote

    if args.what not in SUBMITTED:
        raise ConfigError(f"--job: {args.what!r} cannot be submitted{nearest(args.what, SUBMITTED)}")
    return remote(args.job, args.words, args.address, args.what, args.detach)


class _ForPeople(logging.Formatter):
    """Log lines on a terminal: no secrets, and no control characters of models' or endpoints' texts."""

    def format(self, record: logging.LogRecord) -> str:
        return indented(redact(super().format(record)))


def _stderr() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)  # the run's log has more
    handler.setFormatter(_ForPeople("%(levelname)s %(name)s: %(message)s"))
    return handler


def _config(job: str, words: Sequence[str]):  # type: ignore[no-untyped-def]  # Config is heavy to import for --help
    """The config from the words; without a config file, that of the run folder named by ``out=``."""
    from pipeline.config.load import load_config
    from pipeline.core.remote import is_uri

    words = [f"winrate.{w}" if job == "winrate" and w.startswith("games=") else w for w in words]
    out = next((w.removeprefix("out=") for w in reversed(words) if w.startswith("out=")), None)
    if out and all("=" in w and not is_uri(w) for w in words):
        from pipeline.core.folder import RunFolder

        run = RunFolder(out)
        if run.exists("config.yaml"):
            return load_config([run.uri("config.yaml"), *words])
    if job == "label" and all(("=" in w and not is_uri(w)) or w.startswith("models/") for w in words):
        words = ["label", *words]  # the preset; what is to be labelled, and with which model, is all that must be said
    return load_config(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lemonpress",
        description="Sample many answers in any language, select one, and prove with win-rates that it paid off.",
        epilog="jobs:\n" + "\n".join(f"  {name:<9} {text}" for name, text in JOBS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lemonpress {__version__}")
    parser.add_argument("job", metavar="JOB", help="one of the jobs below")
    parser.add_argument("--list", action="store_true", help="with select: show every selector, its cost and source")
    parser.add_argument("--json", action="store_true", help="with errors: print JSON instead of a table")
    parser.add_argument("--address", help="with submit, status, logs, stop: the cluster, http://HEAD:8265")
    parser.add_argument("--job", dest="what", default="run", metavar="JOB", help="with submit: which job (run)")
    parser.add_argument("--detach", action="store_true", help="with submit: do not wait for the job's end")
    parser.add_argument("words", nargs="*", metavar="CONFIG | key=value", help="presets, files and settings")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
