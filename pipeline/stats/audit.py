"""The judge's audit: can it tell an answer from a damaged version of it, and does it mind the order?

Known-answer pairs (:mod:`pipeline.judging.audit`): the original should beat each altered version, and tie with itself.
*Sensitivity* is the original's prompt score, 1/2 for a judge that guesses. *First share* is the score of the answer
that was shown first; over both orders of a pair it is 1/2 for a judge that looks at content only, right or wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.columns import Floats, Ints
from pipeline.judging.names import AUDIT
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import Games
from pipeline.stats.grouped import Sample, estimate
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM, Estimate, mean_intervals
from pipeline.stats.prompt_scores import PromptScores, prompt_scores
from pipeline.stats.signature import of_games, signature

IDENTICAL = "identical"
ALTERED = "altered"
"""All altered versions together: the mean over a prompt's versions."""

ABLE, CHANCE, MISLED, UNKNOWN = "able", "chance", "misled", "unknown"

AUDIT_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("judge", "template", "version", "language")),
        *((name, pa.int64()) for name in ("n_prompts", "n_invalid", "n_clusters")),
        ("effective_clusters", pa.float64()),
        *((name, pa.float64()) for name in ("sensitivity", "se", "ci_low", "ci_high")),
        *((name, pa.float64()) for name in ("first_share", "first_se", "first_low", "first_high")),
        *((name, pa.string()) for name in ("grade", "signature")),
    ]
)


def audit_table(games: Games, bootstrap: Bootstrap | None = None) -> pa.Table:
    """Sensitivity and order bias of every judge, by altered version and language.

    Args:
        games: of the audit only: ``audit:original`` against ``audit:VERSION``.

    Returns:
        ``AUDIT_SCHEMA``: one row per version (and ``altered``: all but ``identical`` together) and language (and
        ``all``, ``macro``). ``first_share`` is the mean score of the answer shown first, with its interval. ``grade``:
        ``able`` (the whole interval of the sensitivity above 1/2), ``misled`` (below), ``chance`` (around), ``unknown``
        (fewer than 6 effective clusters). For ``identical`` the sensitivity is 1/2 by construction, so the grade is of
        the order: ``able`` when the interval of the first share holds 1/2, else ``misled``.
    """
    bootstrap = bootstrap or Bootstrap()
    scores = prompt_scores(games)
    judges = sorted({(c.judge, c.template) for c in games.comparisons})
    rows: list[dict[str, Any]] = []
    for judge, template in judges:
        codes = {
            c.opponent.removeprefix(AUDIT): k
            for k, c in enumerate(games.comparisons)
            if (c.judge, c.template) == (judge, template)
        }
        groups = {name: [k] for name, k in codes.items()}
        altered = [k for name, k in codes.items() if name != IDENTICAL]
        if altered:
            groups = {ALTERED: altered} | groups
        rows += _judge_rows(games, scores, groups, bootstrap)
    return pa.Table.from_pylist(rows, schema=AUDIT_SCHEMA)


def _judge_rows(
    games: Games, scores: PromptScores, groups: dict[str, list[int]], bootstrap: Bootstrap
) -> list[dict[str, Any]]:
    first = _first_scores(games, scores)
    chosen = {name: np.isin(scores.comparison, codes) for name, codes in groups.items()}
    won = [_by_prompt(games, scores.prompt[mine], scores.score[mine]) for mine in chosen.values()]
    led = [_by_prompt(games, scores.prompt[mine], first[mine]) for mine in chosen.values()]
    sensitivity = estimate(games, won, bootstrap, 0.0, 1.0, mean_intervals)
    order = estimate(games, led, bootstrap, 0.0, 1.0, mean_intervals)
    rows = []
    for (version, codes), mine, ability, bias in zip(groups.items(), chosen.values(), sensitivity, order, strict=True):
        kind = games.comparisons[codes[0]]
        choices = of_games(kind, 2, bool(scores.soft[codes].any()))
        language = games.prompt_language[scores.prompt[mine]]
        valid = ~np.isnan(scores.score[mine])
        prompts = scores.prompt[mine]
        for name, found in ability.items():
            here = language == games.languages.index(name) if name in games.languages else np.ones(len(language), bool)
            shown = bias[name]
            rows.append(
                {
                    "judge": kind.judge,
                    "template": kind.template,
                    "version": version,
                    "language": name,
                    "n_prompts": len(np.unique(prompts[here & valid])),
                    "n_invalid": int((here & ~valid).sum()),
                    "n_clusters": found.n_clusters,
                    "effective_clusters": found.effective,
                    **dict(zip(("sensitivity", "se", "ci_low", "ci_high"), _numbers(found), strict=True)),
                    **dict(zip(("first_share", "first_se", "first_low", "first_high"), _numbers(shown), strict=True)),
                    "grade": _grade(shown, even=ABLE) if version == IDENTICAL else _grade(found),
                    "signature": signature("audit", choices, bootstrap, found.method),
                }
            )
    return rows


def _first_scores(games: Games, scores: PromptScores) -> Floats:
    """Per (comparison, prompt), the mean score of the answer shown first; NaN unless both orders are valid."""
    n_prompts = len(games.prompt_language)
    shown = np.where(games.order == 0, games.score, 1 - games.score)
    entry = np.searchsorted(scores.comparison * n_prompts + scores.prompt, games.comparison * n_prompts + games.prompt)
    total = np.bincount(entry, weights=shown, minlength=len(scores.score))  # NaN where an order is invalid
    return np.where(scores.both_valid, total / np.maximum(scores.n_games, 1), np.nan)


def _by_prompt(games: Games, prompt: Ints, value: Floats) -> Sample:
    """Mean over a prompt's versions, of those that are valid."""
    valid = ~np.isnan(value)
    codes, at = np.unique(prompt[valid], return_inverse=True)
    means = np.bincount(at, weights=value[valid], minlength=len(codes)) / np.bincount(at, minlength=len(codes))
    return Sample(codes, means, np.unique(games.prompt_language[prompt]))


def _numbers(found: Estimate) -> tuple[float | None, float | None, float | None, float | None]:
    return found.value, found.se, found.low, found.high


def _grade(found: Estimate, even: str = CHANCE) -> str:
    if found.low is None or found.high is None or found.effective < CLUSTERS_TO_CLAIM:
        return UNKNOWN
    if even == ABLE:  # an order effect misleads, whichever side it favours
        return ABLE if found.low <= 0.5 <= found.high else MISLED
    return ABLE if found.low > 0.5 else MISLED if found.high < 0.5 else CHANCE
