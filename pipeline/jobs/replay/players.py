"""Selectors without an engine: as they are, or with what their engine said when the run was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from pipeline.config.config import Config, to_dict
from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.row import Candidate, Row, Tokens
from pipeline.engines.base import Engine, Scored
from pipeline.jobs.replay.table import Pools
from pipeline.selection.base import Choice, Pool, Selector
from pipeline.selection.stage import SelectStage

_EACH_ALONE = ("judge", "likelihood")
"""Kinds that give every candidate a number by itself: the first n numbers are those of a set of n."""


class StoredRewards:
    """Answers with the rewards that a run has stored, by text."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = values

    async def reward(self, messages: object, text: str) -> Scored:
        if text not in self._values:
            raise EngineRequestError("the replay table holds no reward for this text")
        return Scored(self._values[text], Tokens())


@dataclass
class StoredValues(Selector):
    """The best by the numbers that a selector of the run gave.

    Attributes:
        inner: that selector; ties are broken as by it.
        scorer: its name.
    """

    inner: Selector | None = None
    scorer: str = ""

    async def select(self, pool: Pool) -> Choice:
        assert self.inner is not None
        for score in pool.row.scores:
            if (score.scorer, score.plan) == (self.scorer, pool.plan):
                return self.inner.best(pool, score.values)
        return Choice(None, detail={"fallback": f"the table holds no scores of {self.scorer}"})


@dataclass
class ReplayStage(SelectStage):
    """The select stage on a row of the table, whose utilities are looked up."""

    pools: Pools | None = None

    def _pool(self, row: Row, plan: str, engine: Engine | None) -> Pool:
        pool = super()._pool(row, plan, engine)
        pool.utilities = self.pools.utilities(plan) if self.pools is not None else {}
        return pool


@dataclass
class Player:
    """One selector of the comparison.

    Attributes:
        name: in the config.
        selector: what chooses.
        plans: the candidate sets it is applied to.
        rewards: scorer whose stored numbers stand in for its reward engine.
        costs: it called an engine when the run was made.
        own: it is the run's, unchanged: its choices in whole sets can be compared with the run's.
    """

    name: str
    selector: Selector
    plans: tuple[str, ...]
    rewards: str | None = None
    costs: bool = False
    own: bool = False


def players(now: Config, stored: Config) -> tuple[list[Player], dict[str, str]]:
    """The selectors that can be replayed, and why others of the run cannot.

    Raises:
        ConfigError: a selector that is new, or was changed, needs an engine for which nothing is stored.
    """
    found, left_out = [], {}
    for name, chosen in now.selectors.items():
        own = name in stored.selectors and to_dict(stored.selectors[name]) == to_dict(chosen)
        player = Player(name, chosen, tuple(now.sets_of(name)), own=own, costs=chosen.engine is not None)
        if chosen.engine is not None:
            rewards = _rewards(chosen, stored)
            if chosen.kind in _EACH_ALONE and own:
                values = StoredValues(inner=chosen, scorer=name, origins=chosen.origins)
                player = replace(player, selector=values)
            elif rewards is not None and chosen.requires() == {"reward"}:
                player = replace(player, rewards=rewards)
            else:
                why = f"{chosen.kind} needs the engine {chosen.engine!r}, and the table holds nothing that it said"
                if not own:
                    raise ConfigError(f"selectors.{name}: {why}; replay loads no model: use select")
                left_out[name] = why
                continue
        found.append(player)
    return found, left_out


def _rewards(chosen: Selector, stored: Config) -> str | None:
    """The run's selector whose values are the rewards of the same engine."""
    names = [n for n, s in stored.selectors.items() if s.kind == "best_of_n" and s.engine == chosen.engine]
    return names[0] if names else None


async def choose(player: Player, pools: Pools, plan: str, n: int, config: Config) -> tuple[int | None, str | None]:
    """What a selector chooses among the first ``n`` candidates of a set: (index, text), as it is stored by ``select``.

    Its bars, seeds, ties and fallbacks are the run's.
    """
    row = first_candidates(pools.row, plan, n)
    bars = (config.selection.bar_truncated, config.selection.bar_wrong_language)
    stage = ReplayStage(player.name, player.selector, (plan,), config.seed, config.tasks, None, {}, *bars, pools=pools)
    engine = cast(Engine, _stored_engine(player, row, plan)) if player.rewards else None
    row.selections = []
    done = await stage(row, engine)
    selection = done.selections[0]
    return selection.index, selection.text


def _stored_engine(player: Player, row: Row, plan: str) -> StoredRewards:
    texts = [c.text for c in row.plan(plan)]
    values = next((s.values for s in row.scores if (s.scorer, s.plan) == (player.rewards, plan)), [])
    known = {t: v for t, v in zip(texts, values, strict=False) if t is not None and v is not None}
    return StoredRewards(known)


def first_candidates(row: Row, plan: str, n: int) -> Row:
    """The row as if only ``n`` candidates of a set had been sampled; evidence and other sets stay whole."""
    kept: list[Candidate] = []
    seen = 0
    for candidate in row.candidates:
        if candidate.plan == plan:
            seen += 1
            if seen > n:
                continue
        kept.append(candidate)
    scores = [replace(s, values=s.values[:n]) if s.plan == plan else s for s in row.scores]
    return replace(row, candidates=kept, scores=scores, errors=[])


def sizes(row: Row, plans: Sequence[str]) -> dict[str, int]:
    """Candidate set -> how many candidates the row has in it; sets that it has none of are left out."""
    found = {plan: len(row.plan(plan)) for plan in plans}
    return {plan: size for plan, size in found.items() if size}
