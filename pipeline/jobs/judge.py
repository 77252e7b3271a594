"""``judge``: selections -> outside answers, the judge's audit, games."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.config.config import Config, to_dict
from pipeline.core.columns import Ints
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.core.reading import Table
from pipeline.core.row import row_from_dict
from pipeline.core.safety import say
from pipeline.core.units import CANDIDATE, Made
from pipeline.execution.schedule import Step
from pipeline.jobs.job import job
from pipeline.jobs.steps import made_so_far, measure_steps, run_steps
from pipeline.judging.answers import AnswersStage, write_lookup
from pipeline.judging.audit import VERSIONS, AuditStage, choose_rows, find_donors
from pipeline.judging.games import JudgeStage
from pipeline.judging.names import AUDIT, ORIGINAL
from pipeline.judging.templates import check_pairwise, load_template
from pipeline.judging.verdicts import VERDICT, FirstVerdicts

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
        made = made_so_far(current.run, "selections")
        run_steps(current, steps(config, current.run, made), "selections")


def steps(config: Config, run: RunFolder, made: Made) -> list[Step]:
    """The job's steps: outside answers, the judge's audit, games, and what measures the answers.

    Args:
        made: the candidate sets and selections that there will be; the answers are added.
    """
    chosen = frozenset(stage for stage in made.units if stage.startswith(("generate:", "select:")))
    found = list(_answer_steps(config, run))
    for step in found:
        made.add(step.made())
    after = chosen | {step.stage.name for step in found}
    if config.judge.engine is not None:
        found += _game_steps(config, made, after)
    if config.answers:
        outside = Made([{stage: units for stage, units in made.units.items() if stage.startswith("answers:")}])
        common = {"tasks": to_dict(config.tasks)}
        found += measure_steps(config, "judge", "games", outside, after, common)
    return found


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


def _answer_steps(config: Config, run: RunFolder) -> Iterator[Step]:
    schema = run.dataset("prompts").schema
    for name, source in config.answers.items():
        key = f"answers.{name}"
        source.check_table(schema, key)
        settings: dict[str, Any] = {"source": to_dict(source), "tasks": to_dict(config.tasks), "seed": config.seed}
        settings["engine"] = config.engines[source.engine].identity() if source.engine else None
        pairs = source.pairs(key)
        if pairs is not None:
            count, settings["digest"] = write_lookup(run, name, pairs)
            say(f"{key}: {count:,} answers found")
        stage = AnswersStage(name, source, run.name, config.seed, config.tasks)
        yield Step("judge", "games", source.engine, stage, settings)


def _game_steps(config: Config, made: Made, after: frozenset[str]) -> Iterator[Step]:
    judge = config.judge
    assert judge.engine is not None
    names, opponent = systems(config)
    engine = config.engines[judge.engine]
    rules: dict[str, Any] = {
        "judge": engine.model or engine.kind,
        "template": judge.template,
        "soft": judge.scores == "soft",
        "reason_tokens": judge.reason_tokens,
        "run_seed": config.seed,
        "tasks": config.tasks,
        "early": FirstVerdicts(judge.max_invalid, f"engines.{judge.engine}"),
    }
    fixed: dict[str, Any] = {
        "template": load_template(judge.template).hash,
        "scores": judge.scores,
        "tasks": to_dict(config.tasks),
    }
    fixed |= {"reason_tokens": judge.reason_tokens} if judge.reason_tokens else {}
    fixed["engine"] = engine.identity()
    if judge.audit:

        def audit(rows: Table, layer: str, ids: Ints) -> AuditStage:
            donors = audit_donors(config, rows, opponent)
            return AuditStage(**rules, opponent=opponent, seed=config.seed, donors=donors)

        inputs = {"audit": judge.audit, **made.ids(opponent)}
        units: dict[str, Any] = {f"{ORIGINAL} vs {AUDIT}{version}": inputs for version in VERSIONS}
        waiting = AuditStage(**rules, opponent=opponent, seed=config.seed, donors={})
        own = {**fixed, "seed": config.seed}
        name, _, method = opponent.partition("/")
        needs = frozenset({f"select:{method}", "select:policy"} if method else {f"answers:{name}"})
        more: dict[str, Any] = {"after": needs & after, "decide": audit, "phase": 1}
        yield Step("judge", "games", judge.engine, waiting, own, units, 2 * len(VERSIONS), **more)
    sets = tuple(config.sets()) if judge.candidates else ()
    stage = JudgeStage(**rules, systems=names, opponent=opponent, candidate_sets=sets)
    units = {f"{s} vs {opponent}": made.ids(s, opponent) for s in names}
    units |= {f"{name}{CANDIDATE} vs {opponent}": made.ids(name, opponent) for name in sets}
    yield Step("judge", "games", judge.engine, stage, fixed, units, 2 * (len(names) + len(sets)), after)


def audit_donors(config: Config, rows: Table, opponent: str) -> dict[int, str | None]:
    """The rows to audit the judge on, each with an answer in another language.

    Goes over three columns of the table; the texts of the chosen rows only (``judge.audit`` a language) are read.
    """
    every = rows.rows(("row_id", "prompt_id", "cluster_id", "language"))
    found = ((r["row_id"], r["cluster_id"] or r["prompt_id"], r["language"]) for r in every)
    chosen = choose_rows(found, config.judge.audit, config.seed)
    table = rows.to_table((*_AUDIT_COLUMNS, "answers"), np.array(chosen, np.int64))
    return find_donors([row_from_dict(row) for row in table.to_pylist()], opponent, config.tasks)
