"""Between two rounds, on the driver: read the numbers, decide, and store the decision before the next pass starts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.adaptive.decide import Decision, State, decide
from pipeline.adaptive.known import SCORER
from pipeline.adaptive.settings import VOTING, Adaptive
from pipeline.stats.arrays import Ints
from pipeline.stats.choices import nested
from pipeline.storage import RunFolder

FOLDER = "adaptive"
_META = b"adaptive"
_CANDIDATE = ("plan", "origin", "num_tokens")


@dataclass(frozen=True)
class Round:
    """One round of one plan that a decision is made about.

    Attributes:
        plan: the sampling plan's name.
        set_name: its candidate set.
        settings: its rounds and budget.
        n: most candidates of a prompt.
        kind: the deciding selector's.
        number: the round that is decided about, from 2.
        start: rows before this one have their candidates already.
    """

    plan: str
    set_name: str
    settings: Adaptive
    n: int
    kind: str
    number: int
    start: int = 0

    def file(self, number: int | None = None) -> str:
        """Where the decision is stored: its table in the run's ``adaptive/``."""
        rows = f"-from{self.start}" if self.start else ""
        return f"{self.plan}-{number or self.number}{rows}.parquet"


def decided(run: RunFolder, source: str, this: Round) -> Ints:
    """The decision about one round: the stored one where there is one, so that a resumed run goes on with the same.

    Args:
        source: the finished table of the round before; only numbers are read of it, some 30 bytes a candidate.

    Returns:
        Further candidates by ``row_id``.
    """
    marker = run.marker(source) or {}
    stored = run.read_table(FOLDER, this.file())
    if stored is None or _meta(stored)["input"] != marker.get("fingerprint_hash"):
        ids, state = read_state(run, source, this)
        before = run.read_table(FOLDER, this.file(this.number - 1)) if this.number > 2 else None
        budget = float(_meta(before)["budget"]) if before is not None else None
        made = decide(this.settings, this.n, this.kind in VOTING, state, this.number - 1, budget)
        stored = _table(ids, state, made, this, marker)
        run.make(FOLDER)
        with run.whole(FOLDER, this.file()) as path:
            pq.write_table(stored, path, filesystem=run.fs)
    more = np.zeros(marker["rows"], np.int64)
    more[stored.column("row_id").to_numpy()] = stored.column("more").to_numpy()
    return more


def _meta(table: pa.Table) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((table.schema.metadata or {})[_META])
    return found


def _table(ids: Ints, state: State, made: Decision, this: Round, marker: dict[str, Any]) -> pa.Table:
    meta = {
        "input": marker.get("fingerprint_hash"),
        "plan": this.plan,
        "round": this.number,
        "settings": asdict(this.settings),
        "prompts": int((state.count > 0).sum()),
        "candidates": int(state.count.sum()),
        "drawn": int(made.more.sum()),
        **{key: getattr(made, key) for key in ("budget", "spent", "expected", "gain")},
    }
    tokens = np.nansum(state.tokens, axis=1).astype(np.int64)
    columns = {"row_id": ids, "candidates": state.count, "tokens": tokens, "more": made.more}
    return pa.table(columns).replace_schema_metadata({_META: json.dumps(meta).encode()})


def read_state(run: RunFolder, source: str, this: Round) -> tuple[Ints, State]:
    """(row ids, the numbers of their candidates) of a finished table, by ``row_id``; texts are not read."""
    rows = sorted(_rows(run, source, this), key=lambda row: row[0])
    width = max((len(row[1]) for row in rows), default=0)
    shape = (len(rows), width)
    scores, tokens, drawn = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, bool)
    for i, (_, candidates, values) in enumerate(rows):
        size = len(candidates)
        tokens[i, :size] = [np.nan if count is None else count for _, count in candidates]
        drawn[i, :size] = [origin == "sample" for origin, _ in candidates]
        known = [np.nan if v is None else v for v in values[:size]]
        scores[i, : len(known)] = known
    count = np.array([len(row[1]) for row in rows], np.int64)
    return np.array([row[0] for row in rows], np.int64), State(scores, tokens, drawn, count)


def _rows(
    run: RunFolder, source: str, this: Round
) -> Iterator[tuple[int, list[tuple[str, int | None]], list[float | None]]]:
    """(row_id, [(origin, tokens)], scores) of the rows that the decision is about."""
    scorer = SCORER + str(this.settings.by)
    for batch in run.leaves(source, _wanted):
        pools = nested(batch, "candidates", *_CANDIDATE)
        scores = nested(batch, "scores", "scorer", "plan", "values")
        for row_id, pool, numbers in zip(batch.column("row_id").to_pylist(), pools, scores, strict=True):
            if row_id >= this.start:
                mine = [(origin, count) for plan, origin, count in pool if plan == this.set_name]
                found = [values for name, plan, values in numbers if (name, plan) == (scorer, this.set_name)]
                yield row_id, mine, found[0] if found else []


def _wanted(top: str, leaf: str) -> bool:
    return top == "row_id" or top == "scores" or (top == "candidates" and leaf in _CANDIDATE)


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
class PlanAccount:
    """What an adaptive plan has drawn and cost.

    Attributes:
        plan: its name.
        budget: tokens of all rounds together.
        rounds: one entry a round.
        candidate_tokens: the sum of what the candidates say of their own lengths.
        sizes: candidates per prompt -> prompts.
    """

    plan: str
    budget: float
    rounds: list[Account]
    candidate_tokens: int
    sizes: dict[int, int]

    @property
    def spent(self) -> int:
        """Completion tokens of all rounds."""
        return sum(each.tokens for each in self.rounds)

    @property
    def adds_up(self) -> bool:
        """Whether rounds and candidates agree, in tokens and in numbers."""
        candidates = sum(size * prompts for size, prompts in self.sizes.items())
        return self.spent == self.candidate_tokens and candidates == sum(each.candidates for each in self.rounds)


def account(run: RunFolder, plan: str, set_name: str, settings: Adaptive, table: str = "candidates") -> PlanAccount:
    """Count what a finished plan has drawn and cost: tokens from ``usage``, numbers from the decisions, and both again
    from the candidates that are there.
    """
    rounds = [Account() for _ in range(settings.rounds)]
    budget = _count_decisions(run, plan, rounds)
    tokens, sizes = _count_candidates(run.leaves(table, _counted), plan, set_name, rounds)
    return PlanAccount(plan, budget, rounds, tokens, sizes)


def _count_decisions(run: RunFolder, plan: str, rounds: list[Account]) -> float:
    """Add what the stored decisions gave to each round; returns the budget."""
    budget = 0.0
    for later in rounds[1:]:
        later.expected = 0.0
    for name in sorted(run.parquet_files(FOLDER)):
        found = run.read_table(FOLDER, name.rpartition("/")[2])
        if found is None or _meta(found)["plan"] != plan or _meta(found)["round"] > len(rounds):
            continue
        meta = _meta(found)
        this = rounds[meta["round"] - 1]
        this.expected = (this.expected or 0.0) + meta["expected"]
        given = [(this, "more")]
        if meta["round"] == 2:
            given.append((rounds[0], "candidates"))
            budget += meta["budget"]
        for each, column in given:
            numbers = found.column(column).to_numpy()
            each.candidates += int(numbers.sum())
            each.prompts += int((numbers > 0).sum())
    return budget


def _count_candidates(
    batches: Iterable[pa.RecordBatch], plan: str, set_name: str, rounds: list[Account]
) -> tuple[int, dict[int, int]]:
    """Add the tokens of ``usage`` to each round; returns the candidates' own tokens, and their number -> prompts."""
    stages = {f"generate:{plan}" + (f":{r}" if r > 1 else ""): each for r, each in enumerate(rounds, 1)}
    sizes: Counter[int] = Counter()
    tokens = 0
    for batch in batches:
        pools = nested(batch, "candidates", "plan", "num_tokens")
        usages = nested(batch, "usage", "stage", "completion_tokens")
        for pool, used in zip(pools, usages, strict=True):
            mine = [count or 0 for name, count in pool if name == set_name]
            tokens += sum(mine)
            sizes[len(mine)] += bool(mine)
            for stage, completion in used:
                if stage in stages:
                    stages[stage].tokens += completion or 0
    return tokens, {size: prompts for size, prompts in sorted(sizes.items()) if prompts}


def _counted(top: str, leaf: str) -> bool:
    return leaf in {"candidates": {"plan", "num_tokens"}, "usage": {"stage", "completion_tokens"}}.get(top, ())


__all__ = ["FOLDER", "Account", "PlanAccount", "Round", "account", "decided", "read_state"]
