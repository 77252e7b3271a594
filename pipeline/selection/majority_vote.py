"""Majority vote: the most frequent final answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.core.hashing import argmax
from pipeline.core.row import Candidate
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("majority_vote")
@dataclass
class MajorityVote(Selector):
    """A candidate with the most frequent canonical final answer (the row's task says what that is).

    Candidates without a readable answer cast no vote; when none has one (always so for ``open``), the fallback is
    taken and marked. Ties between answers are broken by a seeded hash of the answers, whatever the candidates'
    order. Within the winning answer: the highest mean token log-probability when all its candidates bring one,
    else (and on a tie) the seeded hash. ``values`` are the votes for each candidate's answer. O(N).
    """

    cost: ClassVar[str] = "0"
    source: ClassVar[str] = "self-consistency, arXiv 2203.11171; arXiv 2506.20544, selection"

    async def select(self, pool: Pool) -> Choice:
        answers = await final_answers(pool)
        votes = {answer: float(len(indices)) for answer, indices in by_answer(answers).items()}
        means = [_mean_logprob(c) for c in pool.candidates]
        return winner(self.kind, pool, answers, votes, means)


async def final_answers(pool: Pool) -> list[str | None]:
    """Each candidate's canonical final answer; ``None`` where it may not be chosen or has no closed answer."""
    task = pool.task
    return await pool.of_each(lambda text: task.canonicalise(text, pool.row))


def by_answer(answers: list[str | None]) -> dict[str, list[int]]:
    """Answer -> the indices of its candidates, in an order that does not depend on the candidates'."""
    groups: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is not None:
            groups.setdefault(answer, []).append(index)
    return dict(sorted(groups.items()))


def winner(
    kind: str, pool: Pool, answers: list[str | None], weights: dict[str, float], quality: list[float | None]
) -> Choice:
    """The best candidate, by ``quality``, of the answer with the largest weight; ties by seeded hash.

    Args:
        answers: canonical answer per candidate.
        weights: weight per answer; an answer that is missing here cannot win.
        quality: per candidate; if one of the winning answer's candidates has none, the hash decides among them.
    """
    groups = {answer: indices for answer, indices in by_answer(answers).items() if answer in weights}
    names = list(groups)
    best = argmax([weights[name] for name in names], *pool.key(kind, "answer"))
    if best is None:
        return Choice(pool.fallback(), detail={"fallback": "no final answer"})
    members = groups[names[best]]
    marks = [quality[i] for i in members]
    member = argmax([0.0] * len(members) if None in marks else marks, *pool.key(kind, "member"))
    assert member is not None
    values = [None if answer is None else weights.get(answer) for answer in answers]
    # Translations are answers too: cut, or the column would hold every text twice.
    detail = {
        "answer": names[best][:80],
        "votes": [len(groups[n]) for n in names],
        "weights": [weights[n] for n in names],
    }
    return Choice(members[member], score=weights[names[best]], detail=detail, values=values)


def _mean_logprob(candidate: Candidate) -> float | None:
    if candidate.logprob is None or not candidate.num_tokens:
        return None
    return candidate.logprob / candidate.num_tokens
