"""Win-rates, put together from the tables of results: who stands where against whom."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline.config.config import Config
from pipeline.report.model import Contest, Standing, WinRate
from pipeline.report.sides import MACRO, POOLED
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import Comparison, Games, PromptKey, leave_out
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM
from pipeline.stats.prompt_scores import judge_rates
from pipeline.stats.results import Results
from pipeline.stats.signature import with_choice
from pipeline.stats.winrate import simultaneous_winrates, still_ahead, winrate_limits, winrates


def contests(
    results: Results, config: Config, judge_selects: list[str], fell_back: dict[str, set[PromptKey]]
) -> list[Contest]:
    """The contests of a run, the config's opponent and judge first; none without games.

    Args:
        judge_selects: selectors that the judge also worked for.
        fell_back: system -> prompts on which its selector could not do its work.
    """
    games = results.games
    if games is None:
        return []
    settings = config.winrate
    options: dict[str, Any] = {"draws": settings.draws, "confidence": settings.confidence, "seed": settings.seed}
    joint = simultaneous_winrates(games, **options).to_pylist()
    bootstrap = Bootstrap(**options)
    per = _win_rates(games, results.tables["winrates"], results.tables["judge_rates"], bootstrap)
    limits = winrate_limits(games, bootstrap, together=True)
    readable = _readable(games, options, fell_back)
    groups: dict[tuple[str, str, str], list[Standing]] = defaultdict(list)
    for c, rows, together, limit in zip(games.comparisons, per, joint, limits, strict=True):
        rest = readable.get(c)
        groups[c.opponent, c.judge, c.template].append(
            Standing(
                system=c.system,
                pooled=rows[POOLED],
                macro=rows[MACRO],
                languages=[r for name, r in rows.items() if name not in (POOLED, MACRO)],
                joint_low=together["ci_low"],
                joint_high=together["ci_high"],
                joint_lost_low=limit[POOLED].if_lost.low,
                joint_won_high=limit[POOLED].if_won.high,
                joint_signature=together["signature"],
                self_judged="/" in c.system and c.system.split("/", 1)[-1] in judge_selects,
                role=role(c.system, config),
                # outside games need not hold the prompts on which it fell back
                readable=rest if rest and rest.n_games < rows[POOLED].n_games else None,
                always_fell_back=c.system in fell_back and rest is None,
            )
        )
    found = []
    for (opponent, judge, template), standings in groups.items():
        standings.sort(key=lambda s: (-1.0 if s.pooled.win_rate is None else -s.pooled.win_rate, s.system))
        standings.sort(key=lambda s: s.pooled.win_rate is None)
        contest = Contest(opponent, judge, template, standings, None)
        found.append(_with_behind(contest, games, results.tables.get("differences"), bootstrap))
    engine = config.engines.get(config.judge.engine or "")
    wanted = config.judge.opponent

    def priority(c: Contest) -> tuple[bool, bool, int]:
        mine = wanted in (c.opponent, c.opponent.split("/", 1)[-1])
        return not mine, engine is None or c.judge not in (engine.model, engine.kind), -len(c.standings)

    return sorted(found, key=priority)


def role(system: str, config: Config) -> str:
    """``oracle`` (an upper bound: it knows the reference), ``outside`` (answers that were brought along), or empty."""
    method = config.selectors.get(system.rpartition("/")[2]) if "/" in system else None
    if method is not None and method.kind == "oracle":
        return "oracle"
    return "outside" if system in config.answers else ""


def _win_rates(games: Games, table: pa.Table, judged: pa.Table, bootstrap: Bootstrap) -> list[dict[str, WinRate]]:
    """Per comparison: language (then ``all``, ``macro``) -> win-rate."""
    rates = {_key(r): r for r in judged.to_pylist()}
    limits = winrate_limits(games, bootstrap)
    # the table of win-rates names neither judge nor template: its rows follow the comparisons, each ending in macro
    per: list[dict[str, WinRate]] = [{} for _ in games.comparisons]
    k = 0
    for row in table.to_pylist():
        c = games.comparisons[k]
        assert (row["system"], row["opponent"]) == (c.system, c.opponent)
        key = (c.system, c.opponent, c.judge, c.template, row["language"])
        rate, limit = rates.get(key, {}), limits[k][row["language"]]
        per[k][row["language"]] = WinRate(
            language=row["language"],
            n_prompts=row["n_prompts"],
            n_games=row["n_games"],
            n_invalid=row["n_invalid"],
            win_rate=row["win_rate"],
            low=row["ci_low"],
            high=row["ci_high"],
            flip_rate=rate.get("flip_rate"),
            tie_rate=rate.get("tie_rate"),
            mean_mass=rate.get("mean_mass"),
            if_lost=limit.if_lost.value,
            if_won=limit.if_won.value,
            signature=row["signature"],
            n_clusters=limit.readable.n_clusters,
            effective=limit.readable.effective,
            lost_low=limit.if_lost.low,
            won_high=limit.if_won.high,
        )
        k += row["language"] == MACRO
    return per


def _readable(games: Games, options: dict[str, Any], fell_back: dict[str, set[PromptKey]]) -> dict[Comparison, WinRate]:
    """Pooled win-rates of the systems with fallbacks, without the prompts on which they fell back."""
    if not fell_back:
        return {}
    rest = leave_out(games, fell_back)
    rates = _win_rates(rest, winrates(rest, **options), judge_rates(rest), Bootstrap(**options))
    found = {c: row[POOLED] for c, row in zip(rest.comparisons, rates, strict=True)}
    return {c: replace(rate, signature=with_choice(rate.signature, "fallbacks:left_out")) for c, rate in found.items()}


def _with_behind(contest: Contest, games: Games, differences: pa.Table | None, bootstrap: Bootstrap) -> Contest:
    """Add which systems the best one beats when the two are compared on the same prompts.

    Where several templates were used the paired comparison cannot tell them apart: there is no table, and no claim.
    """
    best = contest.best
    if differences is None or best is None:
        return contest
    recipe = f"|judge:{contest.judge}|template:{contest.template}|"
    rows = [r for r in differences.to_pylist() if r["opponent"] == contest.opponent and recipe in r["signature"]]
    behind = set()
    for row in rows:
        if row["ci_low"] is None or row["effective_clusters"] < CLUSTERS_TO_CLAIM:
            continue
        if row["system_a"] == best.system and row["ci_low"] > 0:
            behind.add(row["system_b"])
        if row["system_b"] == best.system and row["ci_high"] < 0:
            behind.add(row["system_a"])
    if behind and any(s.pooled.n_invalid for s in contest.standings):
        others = [s.system for s in contest.standings if s is not best]
        behind &= still_ahead(games, best.system, others, contest.opponent, contest.judge, bootstrap)
    return replace(contest, behind=frozenset(behind) if rows else None)


def _key(row: dict[str, Any]) -> tuple[str, str, str, str, str]:
    return (row["system"], row["opponent"], row["judge"], row["template"], row["language"])
