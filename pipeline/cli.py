"""The command line: ``lemonpress JOB [CONFIG.yaml or preset ...] [key=value ...]``, merged left to right."""

from __future__ import annotations

from pipeline.core.imports import is_program, leave_folder_out

if is_program():
    leave_folder_out()  # before anything else is imported

import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import click
from click.shell_completion import CompletionItem

from pipeline import __version__
from pipeline.core.errors import STORAGE_ERRORS, ConfigError, LemonpressError, nearest
from pipeline.core.safety import indented, redact, say_error
from pipeline.jobs.commands import JOBS, SUBMITTED, Command

_FOLDERS = ("export", "label", "replay", "verify")
"""Jobs that are folders: what one job alone uses lives with it."""

_CONFIG = (
    "CONFIG is a preset (demo, dummy, models/qwen3-8b ...), a YAML file, or a run's folder, which brings the config "
    "that it was made with. Presets, files and settings are merged left to right."
)
Call = Callable[[], int | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job.

    Args:
        argv: words after the program's name; ``None`` takes the process's own.

    Returns:
        Exit code: see :mod:`pipeline.core.errors`.
    """
    if argv is None:
        leave_folder_out()
    logging.basicConfig(handlers=[_stderr()])
    words = sys.argv[1:] if argv is None else list(argv)
    job = next((word for word in words if word in JOBS), "")
    try:
        call = program.main(words, prog_name="lemonpress", standalone_mode=False)
        return (call() if callable(call) else call) or 0
    except click.ClickException as error:
        code, what = 2, f"{error.format_message()} (lemonpress {job} --help)".replace("  ", " ")
    except LemonpressError as error:
        code, what = error.exit_code, str(error)
    except (KeyboardInterrupt, click.Abort):
        code, what = 130, "interrupted; the same command resumes"
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python says it once more as it ends
        return 128 + 13
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
    say_error(redact(f"lemonpress {job}: {what}".replace(" :", ":")))
    return code


class _Program(click.Group):
    """The jobs under their headings, and a word about a job that there is not."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in dict.fromkeys(job.group for job in JOBS.values()):
            with formatter.section(group):
                formatter.write_dl([(name, job.summary) for name, job in JOBS.items() if job.group == group])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in JOBS:
            raise ConfigError(f"no job is called {args[0]!r}{nearest(args[0], JOBS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Program,
    subcommand_metavar="JOB [WORD ...]",
    invoke_without_command=True,
    help="Sample many answers in any language, select one, and prove with win-rates that it paid off.",
    epilog="lemonpress JOB --help tells a job's words, keys and examples.",
)
@click.version_option(__version__, prog_name="lemonpress", message="%(prog)s %(version)s")
@click.pass_context
def program(ctx: click.Context) -> None:
    """Without a job: the list of jobs."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class _Job(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        job = JOBS[str(ctx.info_name)]
        if job.takes == "config":
            formatter.write_paragraph()
            formatter.write_text(_CONFIG)
        if job.keys:
            formatter.write_paragraph()
            formatter.write_text(f"Keys that matter most: {', '.join(job.keys)}. All: docs/reference/config.md")
        with formatter.section("Examples"):
            for example in job.examples:
                formatter.write(f"  {example}\n")


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets, files and folders."""
    from pipeline.config.presets import presets

    named = [name for name in presets() if name.startswith(incomplete)] if incomplete else list(presets())
    return [*map(CompletionItem, named), CompletionItem(incomplete, type="file")]


def _add(name: str, job: Command) -> None:
    options: list[click.Parameter] = [
        click.Argument(["words"], nargs=-1, metavar=job.words, type=click.UNPROCESSED, shell_complete=_complete)
    ]
    if name == "select":
        options.append(
            click.Option(["--list", "listed"], is_flag=True, help="Show every selector, its cost and source.")
        )
    if name == "errors":
        options.append(click.Option(["--json", "as_json"], is_flag=True, help="JSON instead of a table."))
    if job.takes == "cluster":
        options.append(click.Option(["--address"], help="The cluster, http://HEAD:8265."))
    if name == "submit":
        text = f"Which job: {', '.join(SUBMITTED)} (run)."
        kinds = click.Choice(SUBMITTED)
        options.append(click.Option(["--job", "what"], type=kinds, default="run", metavar="JOB", help=text))
        options.append(click.Option(["--detach"], is_flag=True, help="Do not wait for the job's end."))

    def call(words: tuple[str, ...], **given: Any) -> Call:
        return lambda: _run(name, list(words), given)

    program.add_command(_Job(name, callback=call, params=options, help=job.summary, short_help=job.summary))


for _name, _job in JOBS.items():
    _add(_name, _job)


def _run(job: str, words: list[str], given: Mapping[str, Any]) -> int | None:
    command = JOBS[job]
    if command.takes == "cluster":
        from pipeline.jobs.submit import main as remote

        words = words if job == "submit" else [_as_out(word) for word in words]
        return remote(job, words, given["address"], given.get("what", "run"), given.get("detach", False))
    if command.takes == "nothing":
        return int(_command(job).run())
    if given.get("listed"):
        _command(job).show()
    elif command.takes == "config":
        config = _config(job, words)  # before the job's own, slower imports: a typo is answered at once
        _command(job).run(config)
    else:
        words[:1] = [word.removeprefix("out=") for word in words[:1]]
        head, rest = words[: command.required], words[command.required :]
        if len(head) < command.required or (rest and command.is_exact) or any("=" in word for word in head):
            raise ConfigError(f"{job} takes {command.words}, as in: {command.examples[0]}")
        _command(job).run(*head, *([] if command.is_exact else [rest]), **given)
    return 0


def _as_out(word: str) -> str:
    """A run's folder as ``out=FOLDER``; a job's id stays as it is."""
    return f"out={word}" if "=" not in word and ("/" in word or os.path.isdir(word)) else word


def _is_damage(error: Exception) -> bool:
    """Whether Arrow says that a file's bytes are not what they should be (where Arrow has been in use at all)."""
    tables = sys.modules.get("pipeline.core.tables")
    return tables is not None and bool(tables.is_damage(error))


def _command(job: str) -> ModuleType:
    return importlib.import_module(f"pipeline.jobs.{job}" + (".job" if job in _FOLDERS else ""))


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
    """The config from the words. A run's folder, or ``out=`` of one where no other config is named, brings its own.

    Raises:
        ConfigError: a folder holds no run, or the words name two.
    """
    from pipeline.config.load import load_config
    from pipeline.config.presets import presets
    from pipeline.core.folder import RunFolder
    from pipeline.core.remote import is_uri

    if not words and job != "label":
        raise ConfigError(f"which config? {JOBS[job].words}, as in: {JOBS[job].examples[0]}")
    words = [f"winrate.{w}" if job == "winrate" and w.startswith("games=") else w for w in words]
    files = [w for w in words if "=" not in w or is_uri(w)]
    runs = [w for w in files if os.path.isdir(w) or (is_uri(w) and not _names_yaml(w))]
    runs = [w for w in runs if w not in presets() or RunFolder(w).exists("config.yaml")]
    outs = [w.removeprefix("out=") for w in words if w.startswith("out=")]
    if runs and set(map(_plain, [*runs, *outs])) != {_plain(runs[0])}:
        raise ConfigError(f"one run at a time: {' and '.join(dict.fromkeys([*runs, *outs]))} are two")
    if runs and not RunFolder(runs[0]).exists("config.yaml"):
        raise ConfigError(f"{runs[0]} is a folder without a run (it has no config.yaml)")
    if runs:
        words = [RunFolder(w).uri("config.yaml") if w in runs else w for w in words]
        return load_config([*words, f"out={runs[0]}"])
    if outs and not files and RunFolder(outs[-1]).exists("config.yaml"):
        return load_config([RunFolder(outs[-1]).uri("config.yaml"), *words])
    if job == "label" and all(w.startswith("models/") for w in files):
        words = ["label", *words]  # the preset; what is to be labelled, and with which model, is all that must be said
    return load_config(words)


def _names_yaml(uri: str) -> bool:
    return uri.partition("?")[0].endswith((".yaml", ".yml"))


def _plain(folder: str) -> str:
    return folder if "://" in folder else os.path.abspath(folder)


if __name__ == "__main__":
    raise SystemExit(main())
