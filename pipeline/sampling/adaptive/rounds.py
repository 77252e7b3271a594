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
from pipeline.core.layers import read_layers
from pipeline.core.reading import Table
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
        highest: the largest number that the selector can give a candidate.
    """

    plan: str
    set_name: str
    settings: Adaptive
    n: int
    kind: str
    number: int
    highest: float = math.inf


def decided(run: RunFolder, before: Table, this: Round, layer: str, ids: Ints) -> Ints:
    """The decision about one round: the stored one where there is one, so that a resumed run goes on with the same.

    Args:
        before: the rows after the round before; only numbers are read of it, some 30 bytes a candidate.
        layer: name of the layer that the round fills.
        ids: ``row_id`` of the rows that lack it, ascending.

    Returns:
        Further candidates by ``row_id``.
    """
    every = [table for table in decisions(run) if meta_of(table)["plan"] == this.plan]
    stored = [table for table in every if meta_of(table)["layer"] == layer]
    known = np.concatenate([np.empty(0, np.int64), *(table.column("row_id").to_numpy() for table in stored)])
    lacking = ids[~np.isin(ids, known)]
    if len(lacking):
        found, state = read_state(before, this, lacking)
        budgets = _budgets([table for table in every if meta_of(table)["round"] == this.number - 1], lacking)
        made = decide(this.settings, this.n, this.kind in VOTING, state, this.number - 1, budgets, this.highest)
        stored.append(_table(found, state, made, this, layer))
        again = sum(meta_of(table)["round"] == this.number for table in every)
        _store(run, f"{this.plan}-{this.number}{f'-{again}' if again else ''}.parquet", stored[-1])
    more = np.zeros(before.count_rows(), np.int64)
    for table in stored:
        more[table.column("row_id").to_numpy()] = table.column("more").to_numpy()
    return more


def decisions(run: RunFolder) -> list[pa.Table]:
    """All decisions of a run, the later ones of the same plan and round last."""
    names = [path.rpartition("/")[2] for path in run.parquet_files(FOLDER)]
    found = [table for name in names if (table := run.read_table(FOLDER, name)) is not None]
    numbers = {layer.name: layer.number for layer in read_layers(run)}
    return sorted(found, key=lambda table: numbers.get(meta_of(table)["layer"], 1 << 30))


def _budgets(earlier: list[pa.Table], ids: Ints) -> dict[str, float] | None:
    """What the round before left these rows to spend, by language; ``None`` before the first decision."""
    for table in reversed(earlier):
        if np.isin(ids, table.column("row_id").to_numpy()).all():
            found: dict[str, float] = meta_of(table)["budgets"]
            return found
    return None


def meta_of(table: pa.Table) -> dict[str, Any]:
    """What a stored decision says of itself: plan, round, settings, budget ..."""
    found: dict[str, Any] = json.loads((table.schema.metadata or {})[_META])
    return found


def _table(ids: Ints, state: State, made: Decision, this: Round, layer: str) -> pa.Table:
    meta = {
        "layer": layer,
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


def read_state(rows: Table, this: Round, wanted: Ints) -> tuple[Ints, State]:
    """(row ids, the numbers of their candidates) of some rows, by ``row_id``; texts are not read."""
    parts = [_numbers(batch, this, wanted) for batch in rows.batches(None, _wanted)]
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


def _numbers(batch: pa.RecordBatch, this: Round, wanted: Ints) -> tuple[Ints, State]:
    """(row ids, numbers) of one batch's rows that the decision is about, in their order."""
    scorer = SCORER + str(this.settings.by)
    ids, pools, values, languages = [], [], [], []
    spoken = batch.column("language").to_pylist()
    every = nested(batch, "candidates", *_CANDIDATE)
    numbers = nested(batch, "scores", "scorer", "plan", "values")
    mine = np.isin(batch.column("row_id").to_numpy(), wanted).tolist()
    rows = zip(mine, batch.column("row_id").to_pylist(), spoken, every, numbers, strict=True)
    for is_mine, row_id, language, pool, scores in rows:
        if is_mine:
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


def without(table: pa.Table, ids: Ints) -> pa.Table:
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


__all__ = ["Round", "decided", "decisions", "meta_of", "read_state", "without"]
