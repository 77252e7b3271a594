"""Between two rounds, on the driver: read the numbers, decide, and store the decision before the next pass starts."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.columns import Ints, nested
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import digest
from pipeline.sampling.adaptive.decide import Decision, State, decide
from pipeline.sampling.plans import VOTING, Adaptive
from pipeline.selection.stage import SCORER

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
        highest: the largest number that the selector can give a candidate.
    """

    plan: str
    set_name: str
    settings: Adaptive
    n: int
    kind: str
    number: int
    start: int = 0
    highest: float = math.inf

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
    if stored is None or meta_of(stored)["input"] != marker.get("fingerprint_hash"):
        ids, state = read_state(run, source, this)
        before = run.read_table(FOLDER, this.file(this.number - 1)) if this.number > 2 else None
        budgets = meta_of(before)["budgets"] if before is not None else None
        made = decide(this.settings, this.n, this.kind in VOTING, state, this.number - 1, budgets, this.highest)
        stored = _table(ids, state, made, this, marker)
        _store(run, this.file(), stored)
    more = np.zeros(marker["rows"], np.int64)
    more[stored.column("row_id").to_numpy()] = stored.column("more").to_numpy()
    return more


def meta_of(table: pa.Table) -> dict[str, Any]:
    """What a stored decision says of itself: plan, round, settings, budget ..."""
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
        **{key: getattr(made, key) for key in ("budgets", "spent", "expected", "gain")},
    }
    tokens = np.nansum(state.tokens, axis=1).astype(np.int64)
    columns = {"row_id": ids, "language": state.language, "candidates": state.count, "tokens": tokens}
    columns |= {"more": made.more, "gain": made.gains}
    return pa.table(columns).replace_schema_metadata({_META: json.dumps(meta).encode()})


def read_state(run: RunFolder, source: str, this: Round) -> tuple[Ints, State]:
    """(row ids, the numbers of their candidates) of a finished table, by ``row_id``; texts are not read."""
    parts = [_numbers(batch, this) for batch in run.leaves(source, _wanted)]
    language = [name for part in parts for name in part[1].language or ()]
    width = max((part[1].tokens.shape[1] for part in parts), default=0)
    ids = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
    order = np.argsort(ids, kind="stable")

    def whole(name: str, empty: float | bool) -> Any:
        grids = [getattr(part[1], name) for part in parts]
        wide = [np.pad(g, ((0, 0), (0, width - g.shape[1])), constant_values=empty) for g in grids]
        return np.concatenate([np.full((0, width), empty), *wide])[order]

    count = np.concatenate([np.empty(0, np.int64), *(part[1].count for part in parts)])[order]
    numbers = (whole("scores", np.nan), whole("tokens", np.nan), whole("drawn", False), count)
    return ids[order], State(*numbers, [language[i] for i in order])


def _numbers(batch: pa.RecordBatch, this: Round) -> tuple[Ints, State]:
    """(row ids, numbers) of one batch's rows that the decision is about, in their order."""
    scorer = SCORER + str(this.settings.by)
    ids, pools, values, languages = [], [], [], []
    spoken = batch.column("language").to_pylist()
    every = nested(batch, "candidates", *_CANDIDATE)
    numbers = nested(batch, "scores", "scorer", "plan", "values")
    for row_id, language, pool, scores in zip(batch.column("row_id").to_pylist(), spoken, every, numbers, strict=True):
        if row_id >= this.start:
            ids.append(row_id)
            languages.append(language or "")
            pools.append([(origin, tokens) for plan, origin, tokens in pool if plan == this.set_name])
            found = [known for name, plan, known in scores if (name, plan) == (scorer, this.set_name)]
            values.append(found[0] if found else [])
    count = np.array([len(pool) for pool in pools], np.int64)
    shape = (len(ids), int(count.max(initial=0)))
    state = State(np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, bool), count, languages)
    for i, (pool, known) in enumerate(zip(pools, values, strict=True)):
        state.tokens[i, : len(pool)] = [np.nan if tokens is None else tokens for _, tokens in pool]
        state.drawn[i, : len(pool)] = [origin == "sample" for origin, _ in pool]
        known = [np.nan if value is None else value for value in known[: len(pool)]]
        state.scores[i, : len(known)] = known
    return np.array(ids, np.int64), state


def _wanted(top: str, leaf: str) -> bool:
    return top in ("row_id", "language", "scores") or (top == "candidates" and leaf in _CANDIDATE)


def adopt(run: RunFolder, retried: RunFolder, ids: Ints) -> None:
    """Take over what a retry has decided about some of the run's rows; what had been decided about them before goes.

    Args:
        retried: the retry's own run, whose row i is the run's ``ids[i]``.
        ids: ascending.
    """
    for path in retried.parquet_files(FOLDER):
        new = retried.read_table(FOLDER, path.rpartition("/")[2])
        if new is None:
            continue
        mine = new.column("row_id").to_numpy()
        new = new.filter(pa.array(mine < len(ids)))  # rows that only begin with a later job are not decided about
        new = new.set_column(0, "row_id", pa.array(ids[new.column("row_id").to_numpy()]))
        meta = meta_of(new)
        name = f"{meta['plan']}-{meta['round']}-retry-{digest(ids.tolist(), size=6)}.parquet"
        for old_path in run.parquet_files(FOLDER):
            old_name = old_path.rpartition("/")[2]
            old = run.read_table(FOLDER, old_name)
            if old is not None and (meta_of(old)["plan"], meta_of(old)["round"]) == (meta["plan"], meta["round"]):
                _store(run, old_name, _without(old, ids))
        _store(run, name, new)


def _without(table: pa.Table, ids: Ints) -> pa.Table:
    """A decision without some of its rows, and without their parts of what it may spend and expects to."""
    left = table.filter(pa.array(~np.isin(table.column("row_id").to_numpy(), ids)))
    meta = meta_of(table)
    more, all_more = (int(t.column("more").to_numpy().sum()) for t in (left, table))
    meta["budgets"] = {name: tokens * len(left) / max(len(table), 1) for name, tokens in meta["budgets"].items()}
    meta["expected"] *= more / max(all_more, 1)
    return left.replace_schema_metadata({_META: json.dumps(meta).encode()})


def _store(run: RunFolder, name: str, table: pa.Table) -> None:
    run.make(FOLDER)
    with run.whole(FOLDER, name) as path:
        pq.write_table(table, path, filesystem=run.fs)


__all__ = ["FOLDER", "Round", "adopt", "decided", "meta_of", "read_state"]
