"""Some of a run's prompts are sampled again, from nothing but their stored provenance, and the texts compared."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config.config import Config
from pipeline.core.columns import Ints
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed
from pipeline.core.layers import TABLES
from pipeline.core.row import Candidate, Row, row_from_dict
from pipeline.prompts.sources import RunSource
from pipeline.prompts.write import write_some
from pipeline.sampling.plans import Adaptive, PlanConfig

_COLUMNS = ["row_id", "prompt_id", "candidates", "errors"]

Key = tuple[Any, ...]


@dataclass
class Match:
    """How many answers of one candidate set and model are the same again.

    Attributes:
        plan, model, revision: as the candidates name them.
        n: candidates that were sampled again.
        same: those with the same text.
        prefix: sum of the shares of the stored texts that come before the first difference, in characters (tables
            hold texts, not tokens; 1 for the same text).
    """

    plan: str
    model: str
    revision: str | None = None
    n: int = 0
    same: int = 0
    prefix: float = 0.0

    @property
    def rate(self) -> float:
        """Share of the same texts."""
        return self.same / self.n if self.n else 1.0


@dataclass
class Mismatch:
    """A candidate that came out as another text (``None``: it failed, or is missing)."""

    prompt_id: str
    plan: str
    model: str
    index: int
    seed: int | None
    stored: str | None
    again: str | None
    prefix: float


@dataclass
class Comparison:
    """What sampling again showed."""

    rows: int = 0
    matches: list[Match] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)


def sampled_rows(run: RunFolder, rows: int | None, seed: int) -> Ints:
    """``row_id`` of the prompts to sample again, ascending: some of those with sampled candidates, chosen by hash."""
    found = []
    for batch in run.leaves("candidates", lambda top, leaf: top == "row_id" or (top, leaf) in _ORIGIN):
        origins = batch.column("candidates").to_pylist()
        for row_id, candidates in zip(batch.column("row_id").to_pylist(), origins, strict=True):
            if any(c["origin"] != "given" for c in candidates or ()):
                found.append((derive_seed("verify", seed, row_id), row_id))
    return np.array(sorted(row_id for _, row_id in sorted(found)[:rows]), np.int64)


_ORIGIN = (("candidates", "origin"),)


def sample_again(
    run: RunFolder, config: Config, work: RunFolder, ids: Ints, generate: Callable[[Config], None]
) -> None:
    """Put some prompts through ``generate`` in a run folder of their own, with the run's config: seeds come from the
    prompts' ids, so they are the same. A sampling that was interrupted goes on.
    """
    source = work.inside("input")
    if source.marker("prompts") is None:
        write_some(run, source, ids)
    prompts = RunSource(path=source.name, table="prompts", sets=config.prompts.given_sets())
    execution = dataclasses.replace(config.execution, max_failed_rows=1.0)  # a row that fails again is a mismatch
    sampling = None if config.sampling is None else uniform(config.sampling)
    plans = {name: uniform(plan) for name, plan in config.plans.items()}
    config = dataclasses.replace(config, sampling=sampling, plans=plans)
    generate(dataclasses.replace(config, out=f"{work.name}/run", prompts=prompts, execution=execution))


def uniform(plan: PlanConfig) -> PlanConfig:
    """The plan with its N for every prompt: what was decided over all prompts is not decided again over some."""
    return dataclasses.replace(plan, adaptive=Adaptive())


def compare(run: RunFolder, work: RunFolder, ids: Ints) -> Comparison:
    """Compare the candidates of the run's last table with those that were sampled again.

    They belong together by what was asked: candidate set, model, origin, temperature and seed. So neither their order
    nor a set that was extended in steps matters.
    """
    table = next(name for name in reversed(TABLES) if run.marker(name) is not None)
    again = {row.row_id: row for row in _rows(work.inside("run"), "candidates")}
    found = Comparison(rows=len(ids))
    matches: dict[tuple[str, str], Match] = {}
    places = {int(row_id): i for i, row_id in enumerate(ids)}
    for row in _rows(run, table, ids):
        _compare_row(row, _by_key(again[places[row.row_id]]), matches, found.mismatches)
    found.matches = sorted(matches.values(), key=lambda m: (m.plan, m.model))
    found.mismatches.sort(key=lambda m: (m.prompt_id, m.plan, m.index))
    return found


def _compare_row(
    row: Row,
    again: dict[Key, list[Candidate]],
    matches: dict[tuple[str, str], Match],
    mismatches: list[Mismatch],
) -> None:
    seen: dict[str, int] = defaultdict(int)
    for candidate in row.candidates:
        plan, model = candidate.plan, candidate.model or "-"
        index, seen[plan] = seen[plan], seen[plan] + 1
        if candidate.origin == "given":
            continue
        waiting = again.get(_key(candidate))
        other = waiting.pop(0) if waiting else Candidate()
        match = matches.setdefault((plan, model), Match(plan, model, candidate.revision))
        share = common_prefix(candidate.text, other.text)
        match.n += 1
        match.prefix += share
        if candidate.text == other.text:
            match.same += 1
        else:
            mismatches.append(
                Mismatch(row.prompt_id, plan, model, index, candidate.seed, candidate.text, other.text, share)
            )


def common_prefix(stored: str | None, again: str | None) -> float:
    """Share of ``stored`` before its first difference to ``again``, in characters."""
    if stored == again:
        return 1.0
    if stored is None or again is None:
        return 0.0
    pairs = enumerate(zip(stored, again, strict=False))
    length = next((i for i, (a, b) in pairs if a != b), min(len(stored), len(again)))
    return length / max(len(stored), 1)


def _by_key(row: Row) -> dict[Key, list[Candidate]]:
    found: dict[Key, list[Candidate]] = defaultdict(list)
    for candidate in row.candidates:
        found[_key(candidate)].append(candidate)
    return found


def _key(c: Candidate) -> Key:
    return c.plan, c.model, c.revision, c.origin, c.temperature, c.min_p, c.top_p, c.seed


def _rows(run: RunFolder, table: str, ids: Ints | None = None) -> Iterator[Row]:
    for batch in run.dataset(table).batches(_COLUMNS):
        if ids is not None:
            batch = batch.filter(pa.array(np.isin(batch.column("row_id").to_numpy(), ids)))
        yield from (row_from_dict(item) for item in batch.to_pylist())
