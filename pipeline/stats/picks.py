"""Prompts to read: some by position, which nobody picked by hand, and a few by what happened to them, labelled so."""

from __future__ import annotations

from collections import defaultdict

from pipeline.core.row import Row
from pipeline.judging.names import is_audit, is_candidate
from pipeline.stats.facts import Facts
from pipeline.tasks.measure import METRIC

DISAGREED = "the systems’ results differ most"
LOST = "the systems do worst against the base"
FAILED = "something failed"

_PICKED = 2  # prompts of each remarkable kind

Pick = tuple[int, str]
"""(row id, why): by position, with an empty reason, or remarkable."""


class Picker:
    """Decides, row by row, which to show.

    Args:
        n: rows to show by position.
        base: the selector that others are compared with.
        facts: which systems are bounds.
    """

    def __init__(self, n: int, base: str, facts: Facts) -> None:
        self._n, self._base, self._facts = n, base, facts
        self._first: dict[str, list[int]] = defaultdict(list)
        self._best: dict[str, list[tuple[float, int]]] = defaultdict(list)

    def add(self, row: Row, main_metric: str) -> None:
        """Look at a row."""
        first = self._first[str(row.language)]
        first.append(row.row_id)
        first.sort()
        del first[self._n :]
        mine = {s: v for s, v in _results(row, main_metric).items() if not self._facts.role(s)}
        spread = max(mine.values(), default=0.0) - min(mine.values(), default=0.0)
        for why, amount in ((DISAGREED, spread), (LOST, -self._gain(mine)), (FAILED, float(len(row.errors)))):
            if amount > 0:
                best = self._best[why]
                best.append((-amount, row.row_id))
                best.sort()
                del best[_PICKED + self._n :]  # some may be shown by position already

    def _gain(self, values: dict[str, float]) -> float:
        """Mean over the systems of what they gain on one prompt: in games over a tie, else over their set's base."""
        gains = []
        for system, value in values.items():
            base = f"{system.rpartition('/')[0]}/{self._base}"
            if system != base:
                gains.append(value - values.get(base, 0.5))
        return sum(gains) / len(gains) if gains else 0.0

    def finish(self) -> list[Pick]:
        """Rows by position, taken from the languages in turn, each language's lowest first; then remarkable ones."""
        ranked = [
            (rank, lane, row_id)
            for lane, name in enumerate(sorted(self._first))
            for rank, row_id in enumerate(self._first[name])
        ]
        found = dict.fromkeys((row_id for _, _, row_id in sorted(ranked)[: self._n]), "")
        for why in (LOST, DISAGREED, FAILED) if self._n else ():
            rest = [row_id for _, row_id in self._best[why] if row_id not in found]
            found |= dict.fromkeys(rest[:_PICKED], why)
        return list(found.items())


def _results(row: Row, main_metric: str) -> dict[str, float]:
    """System -> its result on the prompt, from games against the opponent or else by the main metric."""
    played: dict[str, list[float | None]] = defaultdict(list)
    for game in row.games:
        if not is_audit(game.system) and not is_candidate(game.system):
            played[game.system].append(game.score)
    if played:
        valid = {s: [v for v in values if v is not None] for s, values in played.items()}
        return {s: sum(v) / len(v) for s, v in valid.items() if len(v) == len(played[s])}
    values_of = {s.plan: s.values for s in row.scores if s.scorer == METRIC + main_metric}
    found = {}
    for chosen in row.selections:
        values, index = values_of.get(chosen.plan), chosen.index
        if values and index is not None and 0 <= index < len(values) and (value := values[index]) is not None:
            found[chosen.system] = value
    return found
