"""Win-rates, their bounds, and paired differences of systems: per language, pooled (``all``) and ``macro``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa

from pipeline.core.columns import Floats, Ints
from pipeline.core.errors import InputError, nearest
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import Games
from pipeline.stats.grouped import Intervals, Sample, estimate
from pipeline.stats.intervals import Estimate, mean_intervals, simultaneous_intervals
from pipeline.stats.prompt_scores import PromptScores, prompt_scores
from pipeline.stats.signature import of_games, signature

_CELLS = 1 << 24  # cluster sums and draws held at a time: 128 MiB each

WINRATE_SCHEMA = pa.schema(
    [
        ("system", pa.string()),
        ("opponent", pa.string()),
        ("language", pa.string()),
        ("n_prompts", pa.int64()),
        ("n_games", pa.int64()),
        ("n_invalid", pa.int64()),
        ("win_rate", pa.float64()),
        ("se", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("signature", pa.string()),
    ]
)
DIFFERENCE_SCHEMA = pa.schema(
    [
        ("system_a", pa.string()),
        ("system_b", pa.string()),
        ("opponent", pa.string()),
        ("language", pa.string()),
        ("n_prompts", pa.int64()),
        ("difference", pa.float64()),
        ("se", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("minimum_detectable", pa.float64()),
        ("effective_clusters", pa.float64()),
        ("signature", pa.string()),
    ]
)


def winrates(games: Games, draws: int = 10_000, confidence: float = 0.95, seed: int = 1) -> pa.Table:
    """Win-rate of every system against every opponent, under every judge and template.

    Returns:
        ``WINRATE_SCHEMA``: one row per comparison and language, then ``all`` (pooled over prompts) and ``macro`` (mean
        of the comparison's languages; null when one of them has no valid prompt). ``n_prompts`` valid prompts,
        ``n_invalid`` prompts without a valid score, ``n_games`` games in the table, invalid ones included. Numbers
        that do not exist are null. The signature is the row's recipe; it names the interval when that is not the
        bootstrap.

    Raises:
        ConfigError: ``draws`` or ``confidence`` is out of range.

    Cost: O(G log G) for G games, then O(draws * clusters * groups).
    """
    bootstrap = Bootstrap(draws, confidence, seed)
    scores = prompt_scores(games)
    edges = np.searchsorted(scores.comparison, np.arange(len(games.comparisons) + 1))
    width = (len(games.languages) + 1) * max(games.n_clusters, draws)
    block = max(1, _CELLS // width)
    tables = []
    for start in range(0, len(games.comparisons), block):
        kinds = range(start, min(start + block, len(games.comparisons)))
        samples = [_sample(games, scores, edges[k], edges[k + 1]) for k in kinds]
        estimates = estimate(games, samples, bootstrap, 0.0, 1.0, mean_intervals)
        for k, found in zip(kinds, estimates, strict=True):
            tables.append(_winrate_rows(games, scores, k, slice(edges[k], edges[k + 1]), found, bootstrap))
    return pa.concat_tables(tables) if tables else WINRATE_SCHEMA.empty_table()


def winrate_limits(games: Games, bootstrap: Bootstrap, together: bool = False) -> list[dict[str, Limits]]:
    """What unreadable verdicts could hide, and how many clusters have a score at all.

    A prompt with one valid and one invalid order keeps the valid half.

    Args:
        together: only the pooled rates, with intervals that hold for all comparisons together.

    Returns:
        Per comparison: language (then ``all``, ``macro``) -> limits.
    """
    scores = prompt_scores(games)
    edges = np.searchsorted(scores.comparison, np.arange(len(games.comparisons) + 1))
    samples, lost, won = [], [], []
    for a, b in pairwise(edges):
        valid = _sample(games, scores, a, b)
        missing = np.flatnonzero(games.unjudged & np.isin(games.prompt_language, valid.languages))
        prompts = np.concatenate([scores.prompt[a:b], missing])
        samples.append(valid)
        lost.append(Sample(prompts, np.concatenate([scores.lost[a:b], np.zeros(len(missing))]), valid.languages))
        won.append(Sample(prompts, np.concatenate([scores.won[a:b], np.ones(len(missing))]), valid.languages))
    rule, only = (simultaneous_intervals, "all") if together else (mean_intervals, None)
    found = [estimate(games, samples, bootstrap, 0.0, 1.0, rule, only)]
    whole = not (np.isnan(scores.score).any() or games.unjudged.any())
    found += found * 2 if whole else [estimate(games, s, bootstrap, 0.0, 1.0, rule, only) for s in (lost, won)]
    return [
        {name: Limits(per[name], against[name], favour[name]) for name in per}
        for per, against, favour in zip(*found, strict=True)
    ]


@dataclass(frozen=True)
class Limits:
    """A win-rate over the readable verdicts, and if all unreadable ones were lost, or won."""

    readable: Estimate
    if_lost: Estimate
    if_won: Estimate


def paired_difference(
    games: Games,
    system_a: str,
    system_b: str,
    opponent: str | None = None,
    judge: str | None = None,
    draws: int = 10_000,
    confidence: float = 0.95,
    seed: int = 1,
) -> pa.Table:
    """Win-rate of ``system_a`` minus that of ``system_b`` against the same opponent's answers.

    Only prompts valid for both count, and clusters are resampled for both at once.

    Args:
        opponent, judge: needed when the two systems share several.

    Returns:
        ``DIFFERENCE_SCHEMA``, one row per language, then ``all`` and ``macro``. ``minimum_detectable``: a true
        difference of that size is told from 0 in 80% of samples, at the level of the interval;
        ``effective_clusters``: with valid prompts of both.

    Raises:
        InputError: an unknown system, or none or several opponents (judges, templates) that both played.
    """
    bootstrap = Bootstrap(draws, confidence, seed)
    return _differences(games, [(system_a, system_b)], opponent, judge, bootstrap, mean_intervals)


def simultaneous_differences(
    games: Games,
    systems: Sequence[str] | None = None,
    opponent: str | None = None,
    judge: str | None = None,
    language: str = "all",
    draws: int = 10_000,
    confidence: float = 0.95,
    seed: int = 1,
) -> pa.Table:
    """All pairs of several systems in one language, with intervals that hold together (bootstrap max-T).

    A system may be named the winner when all its differences lie above 0 here.

    Args:
        systems: default all that played the opponent.
        language: a language, ``all`` or ``macro``.

    Returns:
        ``DIFFERENCE_SCHEMA``; the signature says ``simultaneous:N`` for N pairs.

    Raises:
        InputError: as :func:`paired_difference`; fewer than two systems; an unknown language.
    """
    bootstrap = Bootstrap(draws, confidence, seed)
    names = sorted({c.system for c in games.comparisons if opponent in (None, c.opponent) and judge in (None, c.judge)})
    chosen = names if systems is None else list(dict.fromkeys(systems))
    if len(chosen) < 2:
        raise InputError(f"a comparison of several systems needs at least two; there is {', '.join(chosen) or 'none'}")
    _check_language(games, language)
    pairs = list(combinations(chosen, 2))
    return _differences(games, pairs, opponent, judge, bootstrap, simultaneous_intervals, language)


def still_ahead(
    games: Games, system: str, others: Sequence[str], opponent: str, judge: str, bootstrap: Bootstrap
) -> set[str]:
    """Those of some systems that ``system`` beats even if its unreadable verdicts were lost, and theirs won.

    Raises:
        InputError: as :func:`paired_difference`.
    """
    pairs = [(system, other) for other in others]
    table = _differences(games, pairs, opponent, judge, bootstrap, simultaneous_intervals, "all", worst=True)
    return {row["system_b"] for row in table.to_pylist() if row["ci_low"] is not None and row["ci_low"] > 0}


def simultaneous_winrates(
    games: Games, language: str = "all", draws: int = 10_000, confidence: float = 0.95, seed: int = 1
) -> pa.Table:
    """One language's rows of :func:`winrates`, with intervals that hold for all comparisons together (max-T).

    Raises:
        InputError: an unknown language.
    """
    _check_language(games, language)
    bootstrap = Bootstrap(draws, confidence, seed)
    scores = prompt_scores(games)
    edges = np.searchsorted(scores.comparison, np.arange(len(games.comparisons) + 1))
    samples = [_sample(games, scores, a, b) for a, b in pairwise(edges)]
    estimates = estimate(games, samples, bootstrap, 0.0, 1.0, simultaneous_intervals, language)
    together = f"simultaneous:{sum(bool(e) for e in estimates)}"
    tables = [
        _winrate_rows(games, scores, k, slice(edges[k], edges[k + 1]), found, bootstrap, together)
        for k, found in enumerate(estimates)
    ]
    return pa.concat_tables(tables) if tables else WINRATE_SCHEMA.empty_table()


def find_comparison(games: Games, systems: Sequence[str], opponent: str | None, judge: str | None) -> list[int]:
    """The comparison of each system against one opponent, by one judge and template that they share.

    Raises:
        InputError: an unknown system, opponent or judge; nothing shared, or more than one thing.
    """
    for name, given, known in (
        *(("system", s, {c.system for c in games.comparisons}) for s in systems),
        ("opponent", opponent, {c.opponent for c in games.comparisons}),
        ("judge", judge, {c.judge for c in games.comparisons}),
    ):
        if given is not None and given not in known:
            raise InputError(f"no games of {name} {given!r}{nearest(given, known)}")
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for code, kind in enumerate(games.comparisons):
        if kind.system in systems and opponent in (None, kind.opponent) and judge in (None, kind.judge):
            found.setdefault((kind.opponent, kind.judge, kind.template), {})[kind.system] = code
    shared = [per for per in found.values() if len(per) == len(set(systems))]
    named = ", ".join(repr(s) for s in dict.fromkeys(systems))
    if not shared:
        raise InputError(f"{named}: no opponent, judge and template that all of them have games with")
    if len(shared) > 1:
        keys = sorted(key for key, per in found.items() if len(per) == len(set(systems)))
        raise InputError(f"{named}: share several (opponent, judge, template), name the opponent or judge: {keys[:5]}")
    return [shared[0][system] for system in systems]


def _check_language(games: Games, language: str) -> None:
    names = (*games.languages, "all", "macro")
    if language not in names:
        raise InputError(f"no games in language {language!r}{nearest(language, names)}")


def _sample(games: Games, scores: PromptScores, start: int, stop: int) -> Sample:
    prompt, score = scores.prompt[start:stop], scores.score[start:stop]
    valid = ~np.isnan(score)
    return Sample(prompt[valid], score[valid], np.unique(games.prompt_language[prompt]))


def _winrate_rows(
    games: Games,
    scores: PromptScores,
    code: int,
    entries: slice,
    estimates: dict[str, Estimate],
    bootstrap: Bootstrap,
    extra: str = "",
) -> pa.Table:
    kind = games.comparisons[code]
    language = games.prompt_language[scores.prompt[entries]]
    width = len(games.languages)
    unjudged = np.bincount(games.prompt_language[games.unjudged], minlength=width)
    unjudged[np.bincount(language, minlength=width) == 0] = 0
    valid = ~np.isnan(scores.score[entries])
    n_valid = np.bincount(language[valid], minlength=width)
    n_invalid = np.bincount(language[~valid], minlength=width) + unjudged
    n_games = np.bincount(np.repeat(language, scores.n_games[entries]), minlength=width)

    def counted(counts: Ints) -> pa.Array:
        per = dict(zip(games.languages, counts, strict=True))
        return pa.array([int(per.get(name, counts.sum())) for name in estimates], pa.int64())

    orders, soft = int(scores.orders[code]), bool(scores.soft[code])
    found = list(estimates.values())
    choices = of_games(kind, orders, soft)
    recipes = [signature("winrate", choices, bootstrap, e.method, extra) for e in found]
    return pa.table(
        [
            pa.array([kind.system] * len(found), pa.string()),
            pa.array([kind.opponent] * len(found), pa.string()),
            pa.array(list(estimates), pa.string()),
            counted(n_valid),
            counted(n_games),
            counted(n_invalid),
            *_number_columns(found),
            pa.array(recipes, pa.string()),
        ],
        schema=WINRATE_SCHEMA,
    )


def _number_columns(estimates: Sequence[Estimate]) -> list[pa.Array]:
    return [pa.array([getattr(e, name) for e in estimates], pa.float64()) for name in ("value", "se", "low", "high")]


def _differences(
    games: Games,
    pairs: Sequence[tuple[str, str]],
    opponent: str | None,
    judge: str | None,
    bootstrap: Bootstrap,
    intervals: Intervals,
    only: str | None = None,
    worst: bool = False,
) -> pa.Table:
    systems = list(dict.fromkeys(name for pair in pairs for name in pair))
    codes = dict(zip(systems, find_comparison(games, systems, opponent, judge), strict=True))
    scores = prompt_scores(games)
    ends = (scores.lost, scores.won) if worst else (scores.score, scores.score)
    samples = [_paired_sample(games, scores, [codes[name] for name in pair], ends) for pair in pairs]
    estimates = estimate(games, samples, bootstrap, -1.0, 1.0, intervals, only)
    extra = "" if only is None else f"simultaneous:{len(pairs)}"
    rows = []
    for (a_name, b_name), sample, named in zip(pairs, samples, estimates, strict=True):
        kind = games.comparisons[codes[a_name]]
        both = [codes[a_name], codes[b_name]]
        choices = of_games(kind, int(scores.orders[both].max()), bool(scores.soft[both].any()))
        n = np.bincount(games.prompt_language[sample.prompt], minlength=len(games.languages))
        per = dict(zip(games.languages, n, strict=True))
        for name, e in named.items():
            text = signature("difference", choices, bootstrap, e.method, extra)
            rows.append((a_name, b_name, kind.opponent, name, int(per.get(name, n.sum())), e, text))
    found = [row[5] for row in rows]
    return pa.table(
        [
            *(pa.array([row[i] for row in rows], pa.string()) for i in range(4)),
            pa.array([row[4] for row in rows], pa.int64()),
            *_number_columns(found),
            pa.array([e.detectable for e in found], pa.float64()),
            pa.array([e.effective for e in found], pa.float64()),
            pa.array([row[6] for row in rows], pa.string()),
        ],
        schema=DIFFERENCE_SCHEMA,
    )


def _paired_sample(games: Games, scores: PromptScores, codes: Sequence[int], ends: tuple[Floats, Floats]) -> Sample:
    """Differences of two comparisons on the prompts that have both numbers."""
    mine = [np.flatnonzero(scores.comparison == code) for code in codes]
    languages = np.unique(games.prompt_language[np.concatenate([scores.prompt[m] for m in mine])])
    valid = [m[~np.isnan(end[m])] for m, end in zip(mine, ends, strict=True)]
    prompts, a, b = np.intersect1d(
        scores.prompt[valid[0]], scores.prompt[valid[1]], assume_unique=True, return_indices=True
    )
    return Sample(prompts, ends[0][valid[0][a]] - ends[1][valid[1][b]], languages)
