"""What a plan with adaptive N has drawn and cost, counted from what is stored and nothing else."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.core.columns import Ints, nested
from pipeline.core.folder import RunFolder
from pipeline.sampling.adaptive.rounds import decisions, meta_of, without
from pipeline.sampling.plans import Adaptive


@dataclass
class Account:
    """What one round of a plan has drawn and cost, counted from the table and nothing else.

    Attributes:
        prompts: that were given candidates.
        candidates: that it drew.
        tokens: completion tokens that the engine counted in it.
        expected: tokens that the decision expected; ``None`` for the first round.
    """

    prompts: int = 0
    candidates: int = 0
    tokens: int = 0
    expected: float | None = None


@dataclass
class LanguageAccount:
    """What one language's prompts got.

    Attributes:
        prompts: with candidates.
        candidates, tokens: theirs.
        gain: what the candidates of later rounds were expected to gain when they were decided on, summed: in the unit
            of the deciding score, or in the probability that the leading answer is the most probable one.
    """

    prompts: int = 0
    candidates: int = 0
    tokens: int = 0
    gain: float = 0.0


@dataclass
class PlanAccount:
    """What an adaptive plan has drawn and cost.

    Attributes:
        plan: its name.
        budget: tokens of all rounds together.
        rounds: one entry a round.
        candidate_tokens: the sum of what the candidates say of their own lengths.
        lost: tokens of rows that failed half-way (``execution.row_seconds``): spent, and no candidate to show for them.
        sizes: candidates per prompt -> prompts.
        languages: language (empty where a prompt has none) -> what its prompts got.
    """

    plan: str
    budget: float
    rounds: list[Account]
    candidate_tokens: int
    lost: int
    sizes: dict[int, int]
    languages: dict[str, LanguageAccount]

    @property
    def spent(self) -> int:
        """Completion tokens of all rounds."""
        return sum(each.tokens for each in self.rounds)

    @property
    def adds_up(self) -> bool:
        """Whether rounds and candidates agree, in tokens and in numbers."""
        drawn = sum(each.candidates for each in self.rounds)
        there = sum(size * prompts for size, prompts in self.sizes.items())
        return drawn == there and self.spent == self.candidate_tokens + self.lost


def account(run: RunFolder, plan: str, set_name: str, settings: Adaptive) -> PlanAccount:
    """Count what a finished plan has drawn and cost: tokens from ``usage``, numbers from the decisions, and both again
    from the candidates that are there.
    """
    rounds = [Account() for _ in range(settings.rounds)]
    languages: defaultdict[str, LanguageAccount] = defaultdict(LanguageAccount)
    batches = run.leaves("candidates", _counted)
    tokens, lost, sizes, failed = _count_candidates(batches, plan, set_name, rounds, languages)
    budget = _count_decisions(run, plan, rounds, failed, languages)
    return PlanAccount(plan, budget, rounds, tokens, lost, sizes, dict(sorted(languages.items())))


@dataclass
class _Failed:
    """A row that failed in a later round: whether that round's candidates are there depends on how.

    Attributes:
        size: candidates that it has.
        rounds: in which it failed.
        given: round -> candidates that were decided on; those of the first round under 1.
    """

    size: int
    rounds: set[int]
    given: dict[int, int] = field(default_factory=dict)

    def lost(self) -> Iterator[tuple[int, int]]:
        """(round, candidates) of what was decided on and is not there."""
        missing = sum(self.given.values()) - self.size
        for number in sorted(self.rounds, reverse=True):
            if 0 < self.given.get(number, 0) <= missing:
                missing -= self.given[number]
                yield number, self.given[number]


def _count_decisions(
    run: RunFolder,
    plan: str,
    rounds: list[Account],
    failed: dict[int, _Failed],
    languages: dict[str, LanguageAccount],
) -> float:
    """Add what the stored decisions gave to each round, as far as it was drawn; returns the budget."""
    budget, ids = 0.0, np.array(list(failed), np.int64)
    for later in rounds[1:]:
        later.expected = 0.0
    for found in _that_count(run, plan, len(rounds)):
        meta = meta_of(found)
        this = rounds[meta["round"] - 1]
        this.expected = (this.expected or 0.0) + meta["expected"]
        given = {meta["round"]: "more"}
        if meta["round"] == 2:
            given[1] = "candidates"
            budget += sum(meta["budgets"].values())
        for language, gain in zip(found.column("language").to_pylist(), found.column("gain").to_pylist(), strict=True):
            languages[language].gain += gain
        mine = found.filter(pa.array(np.isin(found.column("row_id").to_numpy(), ids))).to_pylist()
        for number, column in given.items():
            numbers = found.column(column).to_numpy()
            rounds[number - 1].candidates += int(numbers.sum())
            rounds[number - 1].prompts += int((numbers > 0).sum())
            for row in mine:
                failed[row["row_id"]].given[number] = row[column]
    for number, candidates in (loss for row in failed.values() for loss in row.lost()):
        rounds[number - 1].candidates -= candidates
        rounds[number - 1].prompts -= 1
    return budget


def _that_count(run: RunFolder, plan: str, rounds: int) -> Iterator[pa.Table]:
    """The decisions of a plan; those of rows that were decided about again later are left out of the earlier ones."""
    again: dict[int, Ints] = {}
    for table in reversed(decisions(run)):
        meta = meta_of(table)
        if meta["plan"] != plan or meta["round"] > rounds:
            continue
        seen = again.get(meta["round"], np.empty(0, np.int64))
        again[meta["round"]] = np.union1d(seen, table.column("row_id").to_numpy())
        yield without(table, seen)


def _count_candidates(
    batches: Iterable[pa.RecordBatch],
    plan: str,
    set_name: str,
    rounds: list[Account],
    languages: dict[str, LanguageAccount],
) -> tuple[int, int, dict[int, int], dict[int, _Failed]]:
    """Add the tokens of ``usage`` to each round; returns the candidates' own tokens, those of failed rows that no
    candidate has, the candidates' number -> prompts, and the rows that failed in later rounds.
    """
    stages = {f"generate:{plan}" + (f":{r}" if r > 1 else ""): r for r in range(1, len(rounds) + 1)}
    failures: dict[int, _Failed] = {}
    sizes: Counter[int] = Counter()
    tokens = lost = 0
    for batch in batches:
        pools = nested(batch, "candidates", "plan", "num_tokens")
        usages = nested(batch, "usage", "stage", "completion_tokens")
        errors = nested(batch, "errors", "stage")
        ids, spoken = batch.column("row_id").to_pylist(), batch.column("language").to_pylist()
        for row_id, language, pool, used, failed in zip(ids, spoken, pools, usages, errors, strict=True):
            mine = [count or 0 for name, count in pool if name == set_name]
            tokens += sum(mine)
            sizes[len(mine)] += bool(mine)
            if mine:
                its = languages[language or ""]
                its.prompts += 1
                its.candidates += len(mine)
                its.tokens += sum(mine)
            spent = [(stages[stage], completion or 0) for stage, completion in used if stage in stages]
            for number, completion in spent:
                rounds[number - 1].tokens += completion
            failed_in = {stages[stage] for (stage,) in failed if stage in stages}
            if failed_in:
                lost += sum(completion for _, completion in spent) - sum(mine)
            if failed_in - {1}:
                failures[row_id] = _Failed(len(mine), failed_in - {1})
    return tokens, lost, {size: prompts for size, prompts in sorted(sizes.items()) if prompts}, failures


def _counted(top: str, leaf: str) -> bool:
    known = {"candidates": {"plan", "num_tokens"}, "usage": {"stage", "completion_tokens"}, "errors": {"stage"}}
    return top in ("row_id", "language") or leaf in known.get(top, ())
