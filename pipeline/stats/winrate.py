"""Win-rates with all that stands beside them, and paired differences of systems.

Per language, pooled (``all``) and ``macro``. Every number here is computed once, stored by ``winrate``, and read by
whoever shows it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from pipeline.core.columns import Bools, Floats, Ints
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import INVALID, Games, PromptKey
from pipeline.stats.intervals import (
    NOTHING,
    POOLED,
    Estimate,
    Quantity,
    Rule,
    estimate,
    finite,
    mean_intervals,
    numbers,
    side,
    simultaneous_intervals,
)
from pipeline.stats.prompt_scores import PromptScores, prompt_scores
from pipeline.stats.signature import signature

MOST_SYSTEMS = 40
"""Systems against one opponent up to which all pairs are compared: 780 pairs at 40, and each keeps its draws."""

KEPT, LEFT_OUT = "kept", "left_out"
"""What became of the prompts on which a system's selector fell back."""

RATES = ("flip_rate", "tie_rate", "invalid_rate", "mean_mass")

_CELLS = 1 << 24  # cluster sums and draws held at a time: 128 MiB each
_MOST_CELLS = 1 << 26  # cluster sums of all comparisons up to which their intervals are made to hold together


@dataclass(frozen=True)
class WinRate:
    """A system against an opponent, by one judge and template, in one language (or ``all``, ``macro``).

    Numbers that do not exist are ``None``: those of an empty language, ``macro`` where one of the languages is empty,
    rates over games for ``macro``, the joint ones for all but ``all``.

    Attributes:
        fallbacks: ``left_out`` in the further row (pooled) of a system whose selector fell back on some prompts: the
            rate without these. Leaving them out ranks nothing: those that remain may be easier.
        n_prompts, n_invalid: prompts with a valid score, and without one.
        n_games: in the table, invalid ones included.
        ci_low, ci_high: the interval by itself.
        flip_rate: over prompts with two valid verdicts: the winner changes with the order (win + tie is no flip).
        tie_rate: over valid games; ``invalid_rate`` over all.
        mean_mass: probability on the judge's labels, over the games that have one.
        n_clusters, effective_clusters: with a valid score.
        if_lost, if_won: the rate if all unreadable verdicts were lost, or won; a prompt with one valid order keeps that
            half. ``lost_low``, ``won_high``: the lower and upper end of their intervals.
        joint_low, joint_high, joint_lost_low, joint_won_high: ends that hold for all comparisons together.
        signature: the recipe; it names the interval when that is not the bootstrap.
    """

    system: str
    opponent: str
    judge: str
    template: str
    language: str
    fallbacks: str
    n_prompts: int
    n_games: int
    n_invalid: int
    win_rate: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    flip_rate: float | None
    tie_rate: float | None
    invalid_rate: float | None
    mean_mass: float | None
    n_clusters: int
    effective_clusters: float
    if_lost: float | None
    if_won: float | None
    lost_low: float | None
    won_high: float | None
    joint_low: float | None
    joint_high: float | None
    joint_lost_low: float | None
    joint_won_high: float | None
    signature: str
    joint_signature: str | None

    @property
    def side(self) -> str:
        """Where the interval lies: ``above`` or ``below`` an even match, ``even`` around it, ``none`` without one.

        Above and below only if the unreadable verdicts cannot change it.
        """
        return side(self.ci_low, self.ci_high, self.effective_clusters, unreadable=(self.lost_low, self.won_high))

    @property
    def joint_side(self) -> str:
        """:attr:`side` of the interval that holds for all comparisons; of its own where there is none."""
        if self.joint_low is None:
            return self.side
        unreadable = (self.joint_lost_low, self.joint_won_high)
        return side(self.joint_low, self.joint_high, self.effective_clusters, unreadable=unreadable)


WINRATES = (
    *("system", "opponent", "language", "n_prompts", "n_games", "n_invalid"),
    *("win_rate", "se", "ci_low", "ci_high", "signature"),
)
"""The columns of the table ``winrates``; ``judge_rates`` has all of :class:`WinRate`'s."""

Limits = tuple[dict[str, Estimate], dict[str, Estimate], dict[str, Estimate]]
"""By language: over the readable verdicts, and if all unreadable ones were lost, or won."""

_NO_LIMITS: Limits = ({}, {}, {})


def win_rates(
    games: Games, bootstrap: Bootstrap, fell_back: Mapping[str, Collection[PromptKey]] | None = None
) -> Iterator[WinRate]:
    """Win-rate of every system against every opponent, under every judge and template.

    Args:
        fell_back: system -> prompts on which its selector could not do its work.

    Yields:
        One row per comparison and language, then ``all`` (pooled over prompts) and ``macro`` (mean of the comparison's
        languages); with ``fell_back`` one more, without those prompts.

    Cost: O(G log G) for G games, then O(draws * clusters * groups).
    """
    scores = prompt_scores(games)
    rates = _judge_rates(games, scores)
    edges = np.searchsorted(scores.comparison, np.arange(len(games.comparisons) + 1))
    joint = [_NO_LIMITS] * len(games.comparisons)
    if len(joint) * games.n_clusters <= _MOST_CELLS:
        joint = _limits(games, scores, edges, bootstrap, simultaneous_intervals, POOLED)
    width = (len(games.languages) + 1) * max(games.n_clusters, bootstrap.draws)
    block = max(1, _CELLS // width)
    for start in range(0, len(joint), block):
        found = _limits(games, scores, edges[start : start + block + 1], bootstrap, mean_intervals)
        for code, limits in enumerate(found, start):
            entries = np.arange(edges[code], edges[code + 1])
            mine = _Comparison(games, scores, bootstrap, code, entries)
            for name in limits[0]:
                yield mine.row(name, limits, joint[code], rates.get((code, name), {}))
            prompts = (fell_back or {}).get(games.comparisons[code].system)
            if prompts:
                rest = entries[~games.prompts(prompts)[scores.prompt[entries]]]
                mine = _Comparison(games, scores, bootstrap, code, rest)
                readable = estimate(games, [mine.valid], bootstrap, 0.0, 1.0, mean_intervals, POOLED)[0]
                yield mine.row(POOLED, (readable, {}, {}), _NO_LIMITS, {}, LEFT_OUT)


class _Comparison:
    """One comparison, or some of its entries: its valid scores, its counts, its rows."""

    def __init__(self, games: Games, scores: PromptScores, bootstrap: Bootstrap, code: int, entries: Ints) -> None:
        self._games, self._scores, self._bootstrap, self._code = games, scores, bootstrap, code
        prompt, score = scores.prompt[entries], scores.score[entries]
        language = games.prompt_language[prompt]
        is_valid = ~np.isnan(score)
        self.valid = Quantity(prompt[is_valid], score[is_valid], np.unique(language))
        width = len(games.languages)
        unjudged = np.bincount(games.prompt_language[games.unjudged], minlength=width)
        unjudged[np.bincount(language, minlength=width) == 0] = 0
        self._counts = {
            "n_prompts": np.bincount(language[is_valid], minlength=width),
            "n_games": np.bincount(np.repeat(language, scores.n_games[entries]), minlength=width),
            "n_invalid": np.bincount(language[~is_valid], minlength=width) + unjudged,
        }

    def row(
        self, language: str, limits: Limits, joint: Limits, rates: Mapping[str, Any], fallbacks: str = KEPT
    ) -> WinRate:
        kind = self._games.comparisons[self._code]
        names = self._games.languages
        here = [names.index(language)] if language in names else slice(None)
        readable, lost, won = (found.get(language, NOTHING) for found in limits)
        together, joint_lost, joint_won = (found.get(language, NOTHING) for found in joint)
        choices = self._scores.choices(kind, self._code)
        sign = partial(signature, "winrate", choices, self._bootstrap)
        number = f"simultaneous:{len(self._games.comparisons)}"
        of_judge: dict[str, Any] = {name: rates.get(name) for name in RATES}
        return WinRate(
            system=kind.system,
            opponent=kind.opponent,
            judge=kind.judge,
            template=kind.template,
            language=language,
            fallbacks=fallbacks,
            **{name: int(counts[here].sum()) for name, counts in self._counts.items()},
            **numbers(readable, "win_rate", "se", "ci_low", "ci_high"),
            **of_judge,
            n_clusters=readable.n_clusters,
            effective_clusters=readable.effective,
            if_lost=lost.value,
            if_won=won.value,
            lost_low=lost.low,
            won_high=won.high,
            joint_low=together.low,
            joint_high=together.high,
            joint_lost_low=joint_lost.low,
            joint_won_high=joint_won.high,
            signature=sign(readable.method, f"fallbacks:{fallbacks}" if fallbacks != KEPT else ""),
            joint_signature=sign(together.method, number) if language in joint[0] else None,
        )


def _limits(
    games: Games, scores: PromptScores, edges: Ints, bootstrap: Bootstrap, rule: Rule, only: str | None = None
) -> list[Limits]:
    """Per comparison (whose entries lie between two ``edges``) its rates, and what unreadable verdicts could hide."""
    valid, lost, won = [], [], []
    for a, b in pairwise(edges):
        prompt, score = scores.prompt[a:b], scores.score[a:b]
        is_valid, languages = ~np.isnan(score), np.unique(games.prompt_language[prompt])
        missing = np.flatnonzero(games.unjudged & np.isin(games.prompt_language, languages))
        valid.append(Quantity(prompt[is_valid], score[is_valid], languages))
        every = np.concatenate([prompt, missing])
        lost.append(Quantity(every, np.concatenate([scores.lost[a:b], np.zeros(len(missing))]), languages))
        won.append(Quantity(every, np.concatenate([scores.won[a:b], np.ones(len(missing))]), languages))
    whole = not (np.isnan(scores.score[edges[0] : edges[-1]]).any() or games.unjudged.any())
    found = [
        estimate(games, kind, bootstrap, 0.0, 1.0, rule, only) for kind in ([valid] if whole else [valid, lost, won])
    ]
    return list(zip(*(found * 3 if whole else found), strict=True))


def _judge_rates(games: Games, scores: PromptScores) -> dict[tuple[int, str], dict[str, float | None]]:
    """(comparison, language or ``all``) -> the judge's rates; ``None`` over nothing."""
    width = len(games.languages)
    kinds = len(games.comparisons)

    def count(comparison: Ints, prompt: Ints, weights: Floats | Bools) -> Floats:
        cell = comparison * width + games.prompt_language[prompt]
        grid = np.bincount(cell, weights=weights.astype(np.float64), minlength=kinds * width).reshape(kinds, width)
        return np.hstack([grid, grid.sum(axis=1, keepdims=True)])

    def of_games(weights: Floats | Bools) -> Floats:
        return count(games.comparison, games.prompt, weights)

    def of_prompts(weights: Bools) -> Floats:
        return count(scores.comparison, scores.prompt, weights)

    has_mass = ~np.isnan(games.mass)
    n_games = of_games(np.ones(len(games.score)))
    with np.errstate(invalid="ignore", divide="ignore"):
        grids = (
            of_prompts(scores.flipped) / of_prompts(scores.both_valid),
            of_games(games.outcome == 0) / of_games(games.outcome != INVALID),
            of_games(games.outcome == INVALID) / n_games,
            of_games(np.where(has_mass, games.mass, 0.0)) / of_games(has_mass),
        )
    names = [*games.languages, POOLED]
    return {
        (int(code), names[i]): {name: finite(grid[code, i]) for name, grid in zip(RATES, grids, strict=True)}
        for code, i in np.argwhere(n_games > 0)
    }


@dataclass(frozen=True)
class Difference:
    """Win-rate of one system minus that of another against the same opponent's answers, by one judge and template.

    Attributes:
        n_prompts: valid for both; clusters are resampled for both at once.
        ci_low, ci_high: hold for all pairs of systems in the contest together (bootstrap max-T).
        minimum_detectable: a true difference of that size is told from 0 in 80% of samples, at the interval's level.
        effective_clusters: with valid prompts of both.
        lost_low: lower end if ``system_a``'s unreadable verdicts were lost and ``system_b``'s won; ``won_high`` the
            upper end the other way round.
    """

    system_a: str
    system_b: str
    opponent: str
    judge: str
    template: str
    language: str
    n_prompts: int
    difference: float | None
    se: float | None
    ci_low: float | None
    ci_high: float | None
    minimum_detectable: float | None
    effective_clusters: float
    lost_low: float | None
    won_high: float | None
    signature: str


def differences(games: Games, bootstrap: Bootstrap) -> Iterator[Difference]:
    """All pairs of the systems in a contest (one opponent, judge and template), over all languages.

    Contests of more than ``MOST_SYSTEMS`` systems are left out.
    """
    scores = prompt_scores(games)
    for contest in contests(games):
        if len(contest) > MOST_SYSTEMS:
            continue
        pairs = list(combinations(contest, 2))
        ends = [(scores.score, scores.score), (scores.lost, scores.won), (scores.won, scores.lost)]
        mine = np.isin(scores.comparison, contest)
        kinds = ends[:1] if not np.isnan(scores.score[mine]).any() else ends
        samples = [[_paired(games, scores, pair, each) for pair in pairs] for each in kinds]
        found = [estimate(games, s, bootstrap, -1.0, 1.0, simultaneous_intervals, POOLED) for s in samples]
        for i, (a, b) in enumerate(pairs):
            one, two = games.comparisons[a], games.comparisons[b]
            gap, lost, won = (each[i][POOLED] for each in (found * 3 if len(found) == 1 else found))
            together = f"simultaneous:{len(pairs)}"
            yield Difference(
                *(one.system, two.system, one.opponent, one.judge, one.template, POOLED),
                n_prompts=len(samples[0][i].prompt),
                **numbers(gap, "difference", "se", "ci_low", "ci_high"),
                minimum_detectable=gap.detectable,
                effective_clusters=gap.effective,
                lost_low=lost.low,
                won_high=won.high,
                signature=signature("difference", scores.choices(one, a, b), bootstrap, gap.method, together),
            )


def contests(games: Games) -> list[list[int]]:
    """The comparisons of each contest: one opponent, judge and template."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for code, kind in enumerate(games.comparisons):
        groups[kind.opponent, kind.judge, kind.template].append(code)
    return list(groups.values())


def _paired(games: Games, scores: PromptScores, codes: Sequence[int], ends: tuple[Floats, Floats]) -> Quantity:
    """Differences of two comparisons on the prompts that have both numbers."""
    mine = [np.flatnonzero(scores.comparison == code) for code in codes]
    languages = np.unique(games.prompt_language[np.concatenate([scores.prompt[m] for m in mine])])
    valid = [m[~np.isnan(end[m])] for m, end in zip(mine, ends, strict=True)]
    prompts, a, b = np.intersect1d(
        scores.prompt[valid[0]], scores.prompt[valid[1]], assume_unique=True, return_indices=True
    )
    return Quantity(prompts, ends[0][valid[0][a]] - ends[1][valid[1][b]], languages)
