"""Weighted vote: the final answer with the largest sum of rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pipeline.selection.base import Choice, Pool, Selector, score_texts, selector
from pipeline.selection.majority_vote import by_answer, final_answers, winner


@selector("weighted_vote")
@dataclass
class WeightedVote(Selector):
    """Rewards summed per canonical final answer; returns the highest-reward candidate of the winning answer.

    The paper sums the raw rewards. Where a reward model's scores are negative, that makes agreement count against
    an answer (three candidates at -1 lose to one at -2); ``detail`` then counts the ``negative_rewards``, and
    ``softmax`` avoids it: its weights are positive and sum to 1.

    Candidates without a readable answer, or whose reward failed, cast no vote; equal texts are scored once. No
    votes: the marked fallback. All ties are broken by a seeded hash. ``values`` are the weights of each candidate's
    answer.

    Attributes:
        softmax: weigh by the softmax of the rewards over the pool's voters instead of the raw rewards.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reward"})
    cost: ClassVar[str] = "N reward scores"
    source: ClassVar[str] = "arXiv 2506.20544, selection; best-of-N weighted, arXiv 2206.02336"
    softmax: bool = False

    async def select(self, pool: Pool) -> Choice:
        answers = await final_answers(pool)
        voters = {c.text for c, answer in zip(pool.candidates, answers, strict=True) if answer is not None}

        async def reward(text: str) -> float | None:
            value = await pool.reward(text) if text in voters else math.nan
            return value if math.isfinite(value) else None

        rewards, detail = await score_texts(pool, reward)
        voting = [a if r is not None else None for a, r in zip(answers, rewards, strict=True)]
        rewards = [r if a is not None else None for a, r in zip(voting, rewards, strict=True)]
        shares = self._shares(rewards)
        # fsum: the order of the candidates cannot make or break a tie.
        weights = {a: math.fsum(shares[i] for i in indices) for a, indices in by_answer(voting).items()}
        choice = winner(self.kind, pool, voting, weights, rewards)
        negative = sum(r < 0 for r in rewards if r is not None)
        if negative and not self.softmax:
            detail["negative_rewards"] = negative
        choice.detail.update(detail)
        return choice

    def _shares(self, rewards: list[float | None]) -> list[float]:
        """Each candidate's weight; 0 for one that does not vote."""
        if not self.softmax:
            return [r or 0.0 for r in rewards]
        top = max((r for r in rewards if r is not None), default=0.0)
        powers = [0.0 if r is None else math.exp(r - top) for r in rewards]
        total = math.fsum(powers)
        return [p / total for p in powers] if total else powers
