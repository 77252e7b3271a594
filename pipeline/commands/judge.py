"""``judge``: selections -> games."""

from __future__ import annotations

from typing import Any

from pipeline.commands.chain import Step, chain
from pipeline.commands.context import job, run_passes
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.extend import Made
from pipeline.judging.pairwise import JudgeStage
from pipeline.judging.templates import load_template


def systems(config: Config) -> tuple[tuple[str, ...], str]:
    """(systems, opponent) of the configured games, as full names.

    Raises:
        ConfigError: an unknown system, or nothing to compare.
    """
    opponent = config.system(config.judge.opponent, "judge.opponent")
    chosen = config.systems() if config.judge.systems is None else config.judge.systems
    named = tuple(dict.fromkeys(config.system(s, "judge.systems") for s in chosen if s != opponent))
    named = tuple(s for s in named if s != opponent)
    if not named:
        raise ConfigError("judge.systems: nothing to compare with the opponent; configure another selector")
    return named, opponent


def run(config: Config) -> None:
    """Judge every system against the opponent, in both orders.

    Raises:
        ConfigError: unknown system, engine or template.
        UnfinishedTableError: ``select`` has not finished.
    """
    judge = config.judge
    engine = config.engine(judge.engine, "judge.engine", frozenset({"label_probs"}))
    names, opponent = systems(config)
    template = load_template(judge.template, key="judge.template")
    if len(template.labels) != 3:
        raise ConfigError(f"judge.template: {template.name} must name three labels (first, second, tie)")
    with job("judge", config) as current:
        stage = JudgeStage(
            names, opponent, engine.model or engine.kind, judge.template, judge.scores == "soft", judge.max_chars
        )
        settings: dict[str, Any] = {
            "systems": list(names),
            "opponent": opponent,
            "template": template.hash,
            "scores": judge.scores,
        }
        settings["max_chars"] = judge.max_chars
        answers = Made.read(current.run, "selections")
        units = {f"{s} vs {opponent}": answers.ids(s, opponent) for s in names}
        fixed = {k: v for k, v in settings.items() if k not in ("systems", "opponent")}
        step = Step(judge.engine, stage, settings, 2 * len(names), settings=fixed, units=units)
        run_passes(current, chain("judge", config, [step], "selections", "games", {}))
