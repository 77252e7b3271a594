"""Prompts to read: some by position, which nobody picked by hand, and a few by what happened to them, labelled so."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config.config import Config
from pipeline.core.columns import column, nested
from pipeline.core.folder import RunFolder
from pipeline.core.row import Game, Row, row_from_dict
from pipeline.judging.names import candidate_system, is_audit, is_candidate
from pipeline.report.model import CandidateView, Match, SamplePrompt
from pipeline.report.standings import role
from pipeline.stats.games import UNDETERMINED
from pipeline.tasks.measure import ANSWER, METRIC

DISAGREED = "the systems’ results differ most"
LOST = "the systems do worst against the base"
FAILED = "something failed"

_SHOWN = ("row_id", "prompt_id", "cluster_id", "language", "task", "messages", "reference")
_COLUMNS = (*_SHOWN, "candidates", "scores", "selections", "answers", "games", "errors")
_PICKED = 2  # prompts of each remarkable kind
_BATCH = 256  # rows: a batch of long candidate sets still fits into little memory


class Picker:
    """Decides, batch by batch, which rows to show.

    Args:
        config: ``report.samples`` rows are shown by position; what the base and the oracle are called.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._first: dict[str, list[int]] = defaultdict(list)
        self._best: dict[str, list[tuple[float, int]]] = defaultdict(list)

    def add(self, batch: pa.RecordBatch, main_metrics: dict[str, str]) -> None:
        """Look at a batch."""
        n = self._config.report.samples
        results = _results(batch, main_metrics)
        errors = nested(batch, "errors", "stage")
        plain = zip(column(batch, "row_id"), column(batch, "language"), strict=True)
        for (row_id, language), values, failed in zip(plain, results, errors, strict=True):
            _keep_smallest(self._first[language or UNDETERMINED], row_id, n)
            mine = {system: v for system, v in values.items() if not role(system, self._config)}
            spread = max(mine.values(), default=0.0) - min(mine.values(), default=0.0)
            self._offer(DISAGREED, spread, row_id)
            self._offer(LOST, -self._gain(mine), row_id)
            self._offer(FAILED, float(len(failed)), row_id)

    def _gain(self, values: dict[str, float]) -> float:
        """Mean over the systems of what they gain on one prompt: in games over a tie, else over their plan's base."""
        base = self._config.winrate.base
        gains = []
        for system, value in values.items():
            plan, _, method = system.rpartition("/")
            against = values.get(f"{plan}/{base}", 0.5)
            if method != base or f"{plan}/{base}" not in values:
                gains.append(value - against)
        return sum(gains) / len(gains) if gains else 0.0

    def _offer(self, why: str, amount: float, row_id: int) -> None:
        if amount > 0:
            best = self._best[why]
            best.append((-amount, row_id))
            best.sort()
            del best[_PICKED + self._config.report.samples :]  # some may be shown by position already

    def picked(self) -> list[tuple[int, str]]:
        """(row id, why): rows by position, with an empty reason, then remarkable ones that are not among them."""
        n = self._config.report.samples
        found = dict.fromkeys(_spread(self._first, n), "")
        if n:
            for why in (LOST, DISAGREED, FAILED):
                rest = [row_id for _, row_id in self._best[why] if row_id not in found]
                found |= dict.fromkeys(rest[:_PICKED], why)
        return list(found.items())


def _results(batch: pa.RecordBatch, main_metrics: dict[str, str]) -> list[dict[str, float]]:
    """Per row: system -> its result on that prompt, from games against the opponent or else by the main metric."""
    games = nested(batch, "games", "system", "score")
    scores = nested(batch, "scores", "scorer", "plan", "values")
    chosen = nested(batch, "selections", "plan", "method", "index")
    found = []
    for played, measured, selections, task in zip(games, scores, chosen, column(batch, "task"), strict=True):
        by_system: dict[str, list[float | None]] = defaultdict(list)
        for system, score in played:
            if not is_audit(system) and not is_candidate(system):
                by_system[system].append(score)
        if by_system:
            valid = {s: [v for v in values if v is not None] for s, values in by_system.items()}
            found.append({s: sum(v) / len(v) for s, v in valid.items() if len(v) == len(by_system[s])})
            continue
        metric = METRIC + main_metrics.get(task or "open", "")
        values_of = {plan: values for scorer, plan, values in measured if scorer == metric}
        values = {f"{p}/{m}": _item(values_of.get(p), index) for p, m, index in selections}
        found.append({system: value for system, value in values.items() if value is not None})
    return found


def read_samples(run: RunFolder, table: str, picked: list[tuple[int, str]]) -> list[SamplePrompt]:
    """The rows to show, whole, in the order of ``picked``."""
    if not picked:
        return []
    data = run.dataset(table)
    found = data.to_table(_COLUMNS, np.array([row_id for row_id, _ in picked], np.int64))
    rows: dict[int, dict[str, Any]] = {row["row_id"]: row for row in found.to_pylist()}
    return [_view(row_from_dict(rows[row_id]), why) for row_id, why in picked]


def _view(row: Row, why: str) -> SamplePrompt:
    games: dict[tuple[str, str, str, str], dict[str, Game]] = defaultdict(dict)
    for game in row.games:
        games[game.system, game.opponent, game.judge, game.template][game.order] = game
    matches = [
        Match(system, opponent, orders.get("ab"), orders.get("ba"), _mean([g.score for g in orders.values()]))
        for (system, opponent, _, _), orders in games.items()
    ]
    singles = {m.system: m for m in matches if is_candidate(m.system)}
    candidates = []
    counts: Counter[str] = Counter()
    for candidate in row.candidates:
        index, plan = counts[candidate.plan], candidate.plan
        counts[plan] += 1
        chosen = [s.system for s in row.selections if s.plan == plan and s.index == index]
        scores = [(s.scorer, s.values[index]) for s in row.scores if s.plan == plan and index < len(s.values or [])]
        match = singles.get(candidate_system(plan, index))
        if match is not None:
            scores.append(("win", match.score))
        candidates.append(CandidateView(index, candidate, chosen, scores))
    return SamplePrompt(
        why=why,
        row=row,
        candidates=candidates,
        new_texts=[s for s in row.selections if s.index == -1 and s.text is not None],
        text_scores={
            system: [(s.scorer, _item(s.values, 0)) for s in row.scores if s.plan == ANSWER + system]
            for system in [*(s.system for s in row.selections if s.index == -1), *(a.system for a in row.answers)]
        },
        without_choice=[s.system for s in row.selections if s.text is None],
        matches=sorted((m for m in matches if not is_candidate(m.system)), key=lambda m: is_audit(m.system)),
    )


def _mean(values: list[float | None]) -> float | None:
    valid = [v for v in values if v is not None]
    return sum(valid) / len(valid) if valid and len(valid) == len(values) else None


def _item(values: list[float | None] | None, place: int | None) -> float | None:
    return values[place] if values and place is not None and 0 <= place < len(values) else None


def _spread(first: dict[str, list[int]], n: int) -> list[int]:
    """``n`` row ids, taken from the languages in turn, each language's lowest first: nobody picked them by hand."""
    queues = [sorted(first[name]) for name in sorted(first)]
    ranked = [(rank, lane, row_id) for lane, queue in enumerate(queues) for rank, row_id in enumerate(queue)]
    return [row_id for _, _, row_id in sorted(ranked)[:n]]


def _keep_smallest(kept: list[int], value: int, n: int) -> None:
    if len(kept) < n:
        kept.append(value)
    elif n and value < max(kept):
        kept[kept.index(max(kept))] = value
