"""``judge``: selections -> outside answers, the judge's audit, games."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow.dataset as pads

from pipeline.config.load import Config, to_dict
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.core.row import row_from_dict
from pipeline.core.safety import say
from pipeline.execution.extend import Made
from pipeline.jobs.job import Job, job, run_passes
from pipeline.jobs.steps import Step, chain, measure_steps
from pipeline.judging.answers import AnswersStage, write_lookup
from pipeline.judging.audit import VERSIONS, AuditStage, choose_rows, find_donors
from pipeline.judging.games import JudgeStage
from pipeline.judging.names import AUDIT, CANDIDATE, ORIGINAL
from pipeline.judging.templates import check_pairwise, load_template
from pipeline.judging.verdicts import VERDICT, FirstVerdicts

if TYPE_CHECKING:
    from pipeline.execution.spec import PassSpec

logger = logging.getLogger(__name__)

_AUDIT_COLUMNS = ("row_id", "prompt_id", "cluster_id", "task", "language", "messages", "reference", "selections")


def systems(config: Config) -> tuple[tuple[str, ...], str]:
    """(systems, opponent) of the configured games, as full names.

    Raises:
        ConfigError: an unknown system, or nothing to compare.
    """
    opponent = config.system(config.judge.opponent, "judge.opponent")
    every = [*config.systems(), *config.answers]
    chosen = every if config.judge.systems is None else config.judge.systems
    named = tuple(dict.fromkeys(config.system(s, "judge.systems") for s in chosen if s != opponent))
    named = tuple(s for s in named if s != opponent)
    if not named and not config.judge.candidates:
        raise ConfigError("judge.systems: nothing to compare with the opponent; configure another selector")
    return named, opponent


def check(config: Config) -> None:
    """Raise ConfigError for anything that the job would trip over, before a model loads."""
    if not config.judges():
        raise ConfigError("judge.engine: no engine, and no outside systems under answers: there is nothing to do")
    for name, source in config.answers.items():
        source.ready(f"answers.{name}")
    if config.judge.engine is not None:
        config.engine(config.judge.engine, "judge.engine", _needs(config))
        check_pairwise(config.judge.template, "judge.template")
        systems(config)


def run(config: Config) -> None:
    """Bring in outside systems' answers, audit the judge, and judge every system in both orders.

    Without a judge (``judge.engine: null``) only the outside answers are brought in and measured.

    Raises:
        ConfigError: unknown system, engine or template.
        UnfinishedTableError: ``select`` has not finished.
    """
    check(config)
    for line in independence(config):
        logger.warning(line)
    with job("judge", config) as current:
        run_passes(current, passes(config, list(_answer_steps(config, current))))


def early_passes(config: Config) -> list[PassSpec]:
    """The passes as they can be planned before ``selections`` is finished; none where that table must be read first: to
    bring in outside answers, and to find the audit's answers in other languages.
    """
    return [] if config.answers or config.judge.audit else passes(config, [])


def passes(config: Config, steps: list[Step]) -> list[PassSpec]:
    """The job's passes: one an engine.

    Args:
        steps: bring in outside answers.
    """
    if config.judge.engine is not None:
        steps += _game_steps(config, RunFolder(config.out))
    if config.answers:
        steps += measure_steps(config, "judge", {"tasks": to_dict(config.tasks), "systems": list(config.answers)})
    return chain("judge", config, steps, "selections", "games", {})


def independence(config: Config) -> list[str]:
    """Why the win-rates of this judge are no independent verdict; nothing when they are one."""
    selectors, plans = config.judge_conflicts()
    model = config.engines[config.judge.engine].model if config.judge.engine else ""
    found = []
    if selectors:
        found.append(
            f"{', '.join(selectors)} selected with {model or config.judge.engine}, which is also the win-rate judge: "
            "their win-rates show agreement with the judge, not quality; set judge.engine to another model"
        )
    if plans:
        found.append(
            f"{model or config.judge.engine} wrote the answers ({', '.join(plans)}) and judges them: models favour "
            "their own answers; set judge.engine to another model"
        )
    return found


def _needs(config: Config) -> frozenset[str]:
    return frozenset({VERDICT, "generate"} if config.judge.reason_tokens else {VERDICT})


def _answer_steps(config: Config, current: Job) -> Iterator[Step]:
    schema = current.run.dataset("selections").schema
    for name, source in config.answers.items():
        key = f"answers.{name}"
        source.check_table(schema, key)
        settings: dict[str, Any] = {"source": to_dict(source), "tasks": to_dict(config.tasks), "seed": config.seed}
        pairs = source.pairs(key)
        if pairs is not None:
            count, settings["digest"] = write_lookup(current.run, name, pairs)
            say(f"{key}: {count:,} answers found")
        stage = AnswersStage(name, source, current.run.name, config.seed, config.tasks)
        yield Step(source.engine, stage, settings)


def _game_steps(config: Config, run: RunFolder) -> Iterator[Step]:
    judge = config.judge
    assert judge.engine is not None
    names, opponent = systems(config)
    engine = config.engines[judge.engine]
    rules: dict[str, Any] = {
        "judge": engine.model or engine.kind,
        "template": judge.template,
        "soft": judge.scores == "soft",
        "max_chars": judge.max_chars,
        "reason_tokens": judge.reason_tokens,
        "run_seed": config.seed,
        "tasks": config.tasks,
        "early": FirstVerdicts(judge.max_invalid, f"engines.{judge.engine}"),
    }
    fixed: dict[str, Any] = {
        "template": load_template(judge.template).hash,
        "scores": judge.scores,
        "max_chars": judge.max_chars,
        "tasks": to_dict(config.tasks),
    }
    fixed |= {"reason_tokens": judge.reason_tokens} if judge.reason_tokens else {}
    answers = Made.read(run, "selections")
    if judge.audit:
        donors = audit_donors(config, run, opponent)
        audited = AuditStage(**rules, opponent=opponent, seed=config.seed, donors=donors)
        inputs = {"audit": judge.audit, **answers.ids(opponent)}
        units: dict[str, Any] = {f"{ORIGINAL} vs {AUDIT}{version}": inputs for version in VERSIONS}
        own = {**fixed, "seed": config.seed}
        whole = {**own, "opponent": opponent, "audit": judge.audit}
        yield Step(judge.engine, audited, whole, 2 * len(VERSIONS), settings=own, units=units)
    sets = tuple(config.sets()) if judge.candidates else ()
    stage = JudgeStage(**rules, systems=names, opponent=opponent, candidate_sets=sets)
    units = {f"{s} vs {opponent}": answers.ids(s, opponent) for s in names}
    units |= {f"{name}{CANDIDATE} vs {opponent}": answers.ids(name, opponent) for name in sets}
    whole = {"systems": list(names), "opponent": opponent, **fixed} | ({"candidates": list(sets)} if sets else {})
    yield Step(judge.engine, stage, whole, 2 * (len(names) + len(sets)), settings=fixed, units=units)


def audit_donors(config: Config, run: RunFolder, opponent: str) -> dict[int, str | None]:
    """The rows to audit the judge on, each with an answer in another language.

    Goes over three columns of the table; the texts of the chosen rows only (``judge.audit`` a language) are read.
    """
    every = run.iter_rows("selections", ("row_id", "prompt_id", "cluster_id", "language"))
    found = ((r["row_id"], r["cluster_id"] or r["prompt_id"], r["language"]) for r in every)
    chosen = choose_rows(found, config.judge.audit, config.seed)
    data = run.dataset("selections")
    columns = [c for c in (*_AUDIT_COLUMNS, "answers") if c in data.schema.names]
    table = data.to_table(columns=columns, filter=pads.field("row_id").isin(chosen))
    return find_donors([row_from_dict(row) for row in table.to_pylist()], opponent, config.tasks)
