"""``verify``: is a run consistent, and do its prompts give the same answers again?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from pipeline import __version__
from pipeline.config.config import Config
from pipeline.core.errors import InputError, NotVerified
from pipeline.core.folder import RunFolder
from pipeline.core.lock import run_lock
from pipeline.core.safety import line, say
from pipeline.jobs import generate
from pipeline.jobs.job import console
from pipeline.jobs.retry import own_config
from pipeline.jobs.theirs import check_engines, load_theirs
from pipeline.jobs.verify.consistency import Problem, check_files, check_tables
from pipeline.jobs.verify.provenance import check_provenance
from pipeline.jobs.verify.results import check_results
from pipeline.jobs.verify.sampling import Comparison, Match, compare, sample_again, sampled_rows

_SHOWN = 20


def run(folder: str, words: Sequence[str] = ()) -> None:
    """Check a run's provenance and tables, sample some of its prompts again, and compare.

    Args:
        folder: the run.
        words: settings, as ``key=value``: ``verify.rows=50``, and what results do not depend on (pools, time limits).

    Raises:
        ConfigError: there is no such run, a setting is wrong, or the run's config would run code or send a key, and the
            words do not say that it may (:mod:`pipeline.jobs.theirs`).
        ResumeError: a setting would make other answers than the run's.
        NotVerified: something does not fit, or too few texts came out the same (``verify.min_match``).
    """
    run_folder = RunFolder(folder)
    load = partial(load_theirs, allowed=words)
    config = own_config(run_folder, words, "answers would differ from those of the run", load)
    check_engines(config, sorted({plan.engine for plan in config.all_plans().values()}), words)
    problems = list(check_files(run_folder))
    run_folder.checks = False  # what is wrong with the files is known now; the rest is looked at all the same
    problems += [*check_provenance(run_folder, config), *check_tables(run_folder), *check_results(run_folder, config)]
    target = RunFolder(config.verify.folder or run_folder.name, "verify.folder")
    try:
        compared = _again(run_folder, target, config)
    except InputError as error:  # a table that cannot be read is one of the problems
        compared = Comparison()
        problems.append(Problem("sampling", str(error)))
    for problem in problems[:_SHOWN]:
        place = [problem.table] if problem.table else []
        place += [line("prompt {}", problem.prompt_id)] if problem.prompt_id else []
        parts = (problem.check, " ".join(place), problem.message) if place else (problem.check, problem.message)
        say(line(": ".join("{}" for _ in parts), *parts))
    if len(problems) > _SHOWN:
        say(f"... and {len(problems) - _SHOWN} more, see verify.json")
    least = {(m.plan, m.model): _least(config, m) for m in compared.matches}
    target.make()
    target.write_json(_as_json(run_folder, config, problems, compared, least), "verify.json")
    _print(compared, least)
    say(f"{len(problems)} checks failed; details: {target.path('verify.json')}")
    low = [m for m in compared.matches if m.rate < least[m.plan, m.model]]
    if problems or low:
        reasons = [f"{len(problems)} things do not fit together"] if problems else []
        reasons += [f"{m.plan} by {m.model}: {m.rate:.1%} of the texts are the same" for m in low]
        raise NotVerified(f"{run_folder.name}: " + "; ".join(reasons))


def _again(run: RunFolder, target: RunFolder, config: Config) -> Comparison:
    """Nothing where nothing was sampled."""
    if not config.all_plans() or run.marker("candidates") is None:
        return Comparison()
    ids = sampled_rows(run, config.verify.rows, config.verify.seed)
    if not len(ids):
        return Comparison()
    work = target.inside("work", "verify")
    work.make()
    with run_lock(work):
        work.remove("input")
        work.remove("run")
        sample_again(run, config, work, ids, generate.run)
        compared = compare(run, work, ids)
    target.remove("work", "verify")
    return compared


def _least(config: Config, match: Match) -> float:
    """The smallest rate that passes; the dummy engine's answers are a function of the request."""
    if config.verify.min_match is not None:
        return config.verify.min_match
    plans = [p for name, p in config.all_plans().items() if (p.candidate_set or name) == match.plan]
    return float(bool(plans) and all(config.engines[p.engine].deterministic for p in plans))


def _as_json(
    run: RunFolder, config: Config, problems: list[Problem], found: Comparison, least: dict[tuple[str, str], float]
) -> dict[str, Any]:
    matches = [
        {**asdict(m), "prefix": m.prefix / m.n, "rate": m.rate, "min_match": least[m.plan, m.model]}
        for m in found.matches
    ]
    return {
        "lemonpress": __version__,
        "run": run.name,
        "rows": found.rows,
        "seed": config.verify.seed,
        "problems": [asdict(p) for p in problems],
        "matches": matches,
        "mismatches": [asdict(m) for m in found.mismatches],
    }


def _print(found: Comparison, least: dict[tuple[str, str], float]) -> None:
    from rich.table import Table

    if not found.matches:
        say("no candidates were sampled, so none were sampled again")
        return
    table = Table(title=f"sampled again: {found.rows:,} prompts", title_justify="left")
    table.add_column("candidate set")
    table.add_column("model", overflow="fold")
    for name in ("candidates", "same text", "common prefix", "least"):
        table.add_column(name, justify="right")
    for m in found.matches:
        shares = (f"{m.rate:.1%}", f"{m.prefix / m.n:.1%}", f"{least[m.plan, m.model]:.0%}")
        table.add_row(m.plan, m.model, f"{m.n:,}", *shares)
    console(table)
    for miss in found.mismatches[:_SHOWN]:
        form = "prompt {}, candidate {} of {} (seed {}): another text after {} of the stored one"
        say(line(form, miss.prompt_id, miss.index, miss.plan, miss.seed, f"{miss.prefix:.0%}"))
    if len(found.mismatches) > _SHOWN:
        say(f"... and {len(found.mismatches) - _SHOWN} more, see verify.json")
