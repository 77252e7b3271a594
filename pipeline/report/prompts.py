"""Prompts to read: the rows that were picked, whole, with what every selector and judge thought of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from pipeline.core.folder import RunFolder
from pipeline.core.row import Game, Row, row_from_dict
from pipeline.judging.names import candidate_system, is_audit, is_candidate
from pipeline.report.model import CandidateView, Match, PromptView
from pipeline.stats.picks import Pick
from pipeline.tasks.measure import ANSWER

_SHOWN = ("row_id", "prompt_id", "cluster_id", "language", "task", "messages", "reference")
_COLUMNS = (*_SHOWN, "candidates", "scores", "selections", "answers", "games", "errors")


def read_prompts(run: RunFolder, table: str, picks: list[Pick]) -> list[PromptView]:
    """The rows to show, whole, in the order of ``picks``."""
    if not picks:
        return []
    data = run.dataset(table)
    found = data.to_table(_COLUMNS, np.array([row_id for row_id, _ in picks], np.int64))
    rows: dict[int, dict[str, Any]] = {row["row_id"]: row for row in found.to_pylist()}
    return [_view(row_from_dict(rows[row_id]), why) for row_id, why in picks]


def _view(row: Row, why: str) -> PromptView:
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
    return PromptView(
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
