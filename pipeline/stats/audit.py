"""The judge's audit: can it tell an answer from a damaged version of it, and does it mind the order?

Known-answer pairs (:mod:`pipeline.judging.audit`): the original should beat each altered version, and tie with itself.
*Sensitivity* is the original's prompt score, 1/2 for a judge that guesses. *First share* is the score of the answer
that was shown first; over both orders of a pair it is 1/2 for a judge that looks at content only, right or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.columns import Floats, Ints
from pipeline.judging.names import AUDIT
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import Games
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM, Estimate, Quantity, estimate, mean_intervals, numbers
from pipeline.stats.prompt_scores import PromptScores, prompt_scores
from pipeline.stats.signature import signature

IDENTICAL = "identical"
ALTERED = "altered"
"""All altered versions together: the mean over a prompt's versions."""

ABLE, CHANCE, MISLED, UNKNOWN = "able", "chance", "misled", "unknown"


@dataclass(frozen=True)
class Audit:
    """What a judge makes of one altered version (or all of them: ``altered``) in a language (or ``all``, ``macro``).

    Attributes:
        sensitivity: with ``se`` and interval (``ci_``).
        first_share: mean score of the answer shown first, with ``first_se`` and interval.
        grade: ``able`` (the whole interval of the sensitivity above 1/2), ``misled`` (below), ``chance`` (around),
            ``unknown`` (fewer than 6 effective clusters). For ``identical`` the sensitivity is 1/2 by construction, so
            the grade is of the order: ``able`` when the interval of the first share holds 1/2, else ``misled``.
    """

    judge: str
    template: str
    version: str
    language: str
    n_prompts: int
    n_invalid: int
    n_clusters: int
    effective_clusters: float
    sensitivity: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    first_share: float | None
    first_se: float | None
    first_low: float | None
    first_high: float | None
    grade: str
    signature: str


def audit_rows(games: Games, bootstrap: Bootstrap) -> Iterator[Audit]:
    """Sensitivity and order bias of every judge, by altered version and language.

    Args:
        games: of the audit only: ``audit:original`` against ``audit:VERSION``.
    """
    scores = prompt_scores(games)
    for judge, template in sorted({(c.judge, c.template) for c in games.comparisons}):
        codes = {
            c.opponent.removeprefix(AUDIT): k
            for k, c in enumerate(games.comparisons)
            if (c.judge, c.template) == (judge, template)
        }
        groups = {name: [k] for name, k in codes.items()}
        altered = [k for name, k in codes.items() if name != IDENTICAL]
        if altered:
            groups = {ALTERED: altered} | groups
        yield from _judge_rows(games, scores, groups, bootstrap)


def _judge_rows(
    games: Games, scores: PromptScores, groups: dict[str, list[int]], bootstrap: Bootstrap
) -> Iterator[Audit]:
    first = _first_scores(games, scores)
    chosen = {name: np.isin(scores.comparison, codes) for name, codes in groups.items()}
    won = [_by_prompt(games, scores.prompt[mine], scores.score[mine]) for mine in chosen.values()]
    led = [_by_prompt(games, scores.prompt[mine], first[mine]) for mine in chosen.values()]
    sensitivity = estimate(games, won, bootstrap, 0.0, 1.0, mean_intervals)
    order = estimate(games, led, bootstrap, 0.0, 1.0, mean_intervals)
    for (version, codes), mine, ability, bias in zip(groups.items(), chosen.values(), sensitivity, order, strict=True):
        kind = games.comparisons[codes[0]]
        choices = scores.choices(kind, *codes) | {"orders": 2}
        valid = ~np.isnan(scores.score[mine])
        prompts = scores.prompt[mine]
        for name, found in ability.items():
            here = games.of_language(name)[prompts]
            shown = bias[name]
            yield Audit(
                judge=kind.judge,
                template=kind.template,
                version=version,
                language=name,
                n_prompts=len(np.unique(prompts[here & valid])),
                n_invalid=int((here & ~valid).sum()),
                n_clusters=found.n_clusters,
                effective_clusters=found.effective,
                **numbers(found, "sensitivity", "se", "ci_low", "ci_high"),
                **numbers(shown, "first_share", "first_se", "first_low", "first_high"),
                grade=_grade(shown, even=ABLE) if version == IDENTICAL else _grade(found),
                signature=signature("audit", choices, bootstrap, found.method),
            )


def _first_scores(games: Games, scores: PromptScores) -> Floats:
    """Per (comparison, prompt), the mean score of the answer shown first; NaN unless both orders are valid."""
    n_prompts = len(games.prompt_language)
    shown = np.where(games.order == 0, games.score, 1 - games.score)
    entry = np.searchsorted(scores.comparison * n_prompts + scores.prompt, games.comparison * n_prompts + games.prompt)
    total = np.bincount(entry, weights=shown, minlength=len(scores.score))  # NaN where an order is invalid
    return np.where(scores.both_valid, total / np.maximum(scores.n_games, 1), np.nan)


def _by_prompt(games: Games, prompt: Ints, value: Floats) -> Quantity:
    """Mean over a prompt's versions, of those that are valid."""
    valid = ~np.isnan(value)
    codes, at = np.unique(prompt[valid], return_inverse=True)
    means = np.bincount(at, weights=value[valid], minlength=len(codes)) / np.bincount(at, minlength=len(codes))
    return Quantity(codes, means, np.unique(games.prompt_language[prompt]))


def _grade(found: Estimate, even: str = CHANCE) -> str:
    if found.low is None or found.high is None or found.effective < CLUSTERS_TO_CLAIM:
        return UNKNOWN
    if even == ABLE:  # an order effect misleads, whichever side it favours
        return ABLE if found.low <= 0.5 <= found.high else MISLED
    return ABLE if found.low > 0.5 else MISLED if found.high < 0.5 else CHANCE
