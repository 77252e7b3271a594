"""What a selector is: one dataclass in one file, registered under its ``kind``; its fields are its config keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipeline.engines.base import Engine
from pipeline.errors import ConfigError
from pipeline.hashing import argmax, derive_seed
from pipeline.records import Candidate, Row, Score, Selection
from pipeline.registry import Registry

SELECTORS: Registry[Selector] = Registry("selector", ("pipeline.selection",))
selector = SELECTORS.register
"""Decorator for a selector class, built in or a user's own: ``@selector("mine")``."""


@dataclass
class Pool:
    """One plan's candidates of one prompt, as a selector sees them.

    Attributes:
        row: the prompt.
        plan: name of the sampling plan.
        candidates: all of that plan's candidates, in order (what indices refer to).
        run_seed: the run's seed; combine it with ``row.prompt_id`` through :meth:`key`.
        engine: the engine that the selector named, or ``None``.
    """

    row: Row
    plan: str
    candidates: list[Candidate]
    run_seed: int
    engine: Engine | None = None

    def selectable(self) -> list[int]:
        """Indices of candidates that may be chosen: they have a text and are not evidence."""
        return [i for i, c in enumerate(self.candidates) if c.text is not None and c.origin != "evidence"]

    def greedy(self) -> int | None:
        """Index of the greedy candidate, if the pool has a usable one."""
        return next((i for i in self.selectable() if self.candidates[i].origin == "greedy"), None)

    def key(self, *parts: Any) -> tuple[Any, ...]:
        """What seeds a random choice about this pool."""
        return (self.run_seed, self.row.prompt_id, self.plan, *parts)

    def fallback(self) -> int | None:
        """The greedy candidate; in a pool without one, the hash-seeded index (shared definition, Baselines)."""
        index = self.greedy()
        if index is not None:
            return index
        valid = self.selectable()
        return valid[derive_seed(*self.key("fallback")) % len(valid)] if valid else None


@dataclass
class Choice:
    """A selector's answer.

    Attributes:
        index: position in ``Pool.candidates``; -1 for a new text; ``None`` when nothing could be chosen.
        text: the new text when ``index`` is -1.
        score: the chosen candidate's score, where the method has one.
        detail: anything worth keeping (permutations, verdicts, fallbacks); stored as JSON.
        values: one number per candidate when the method scored them; stored under ``scores``.
    """

    index: int | None
    text: str | None = None
    score: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    values: Sequence[float | None] | None = None


@dataclass
class Selector:
    """Base of every selector.

    Attributes:
        needs: engine capabilities that it calls.
        cost: engine calls per prompt, in N (candidates) and M (evidence), for ``lemonpress select --list``.
        source: paper and section.
        engine: name under ``engines``; required when ``needs`` is not empty.
        plans: the sampling plans to apply it to; ``null`` = all.
    """

    kind: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "0"
    source: ClassVar[str] = ""
    engine: str | None = None
    plans: list[str] | None = None

    def check(self, key: str) -> None:
        """Raise ConfigError, naming the key, on a contradiction."""
        if self.needs and not self.engine:
            raise ConfigError(f"{key}.engine: {self.kind} needs an engine that can {', '.join(sorted(self.needs))}")

    def templates(self) -> dict[str, str]:
        """Purpose -> hash of every judge template that it uses: part of the fingerprint."""
        return {}

    async def select(self, pool: Pool) -> Choice:
        """Choose among ``pool.candidates`` (at least one is selectable)."""
        raise NotImplementedError

    def best(self, pool: Pool, values: Sequence[float | None], **detail: Any) -> Choice:
        """The selectable candidate with the largest value; ties by seeded hash; no valid value: the fallback."""
        valid = set(pool.selectable())
        masked = [v if i in valid else None for i, v in enumerate(values)]
        index = argmax(masked, *pool.key(self.kind))
        if index is None:
            return Choice(pool.fallback(), detail={**detail, "fallback": "no valid score"}, values=values)
        return Choice(index, score=masked[index], detail=detail, values=values)


def to_records(name: str, pool: Pool, choice: Choice) -> tuple[Selection, Score | None]:
    """Turn a selector's answer into what the table stores."""
    text = choice.text
    if choice.index is not None and choice.index >= 0:
        text = pool.candidates[choice.index].text
    detail = json.dumps(choice.detail, ensure_ascii=False, sort_keys=True) if choice.detail else None
    selection = Selection(pool.plan, name, choice.index, text, choice.score, detail)
    score = None if choice.values is None else Score(name, pool.plan, list(choice.values))
    return selection, score
