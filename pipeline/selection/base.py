"""What a selector is: one dataclass in one file, registered under its ``kind``; its fields are its config keys."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.hashing import argmax, derive_seed
from pipeline.core.registry import Registry
from pipeline.core.row import Candidate, Row
from pipeline.engines.base import Engine, spell_needs
from pipeline.judging.templates import JudgeTemplate, check_pairwise, load_template
from pipeline.judging.verdicts import FirstVerdicts, Judge
from pipeline.tasks import Task, task_for
from pipeline.tasks.base import Question

if TYPE_CHECKING:  # numpy loads with it, and the config imports this module
    from pipeline.tasks.utilities import Utility

_FILES = (
    *("best_of_n", "chops", "fusion", "greedy", "likelihood", "longest", "majority_vote", "mbr", "one_pass", "oracle"),
    *("pointwise_judge", "random", "sample", "self_certainty", "tournament", "weighted_vote", "xmbr"),
)
SELECTORS: Registry[Selector] = Registry("selector", tuple(f"pipeline.selection.{name}" for name in _FILES))
selector = SELECTORS.register
"""Decorator for a selector class, built in or a user's own: ``@selector("mine")``."""

T = TypeVar("T")

SELECTABLE = ("greedy", "sample", "given")
"""Origins of candidates that may be chosen."""

TAKES_ONE = ("sample", "greedy", "random")
"""Kinds of selectors that take one candidate unseen: their answer costs one candidate, not a set."""


@dataclass
class Pool:
    """One plan's candidates of one prompt, as a selector sees them.

    Attributes:
        row: the prompt.
        plan: name of the sampling plan.
        candidates: all of that plan's candidates, in order (what indices refer to).
        run_seed: the run's seed; combine it with ``row.prompt_id`` through :meth:`key`.
        engine: the engine that the selector named, or ``None``.
        tasks: settings of the tasks that have any.
        barred: indices that may not be chosen although they have a text.
        origins: only candidates of these origins may be chosen, or take part; empty = all.
        utilities: utilities by name that know their values already; those that are missing are computed.
        known: text -> the selector's number for it, where it was asked for before; such a text costs nothing.
        early: notices a judge that cannot be read.
    """

    row: Row
    plan: str
    candidates: list[Candidate]
    run_seed: int
    engine: Engine | None = None
    tasks: Mapping[str, Task] = field(default_factory=dict)
    barred: frozenset[int] = frozenset()
    origins: Sequence[str] = ()
    utilities: Mapping[str, Utility] = field(default_factory=dict)
    known: Mapping[str, float] = field(default_factory=dict)
    early: FirstVerdicts | None = None

    @property
    def task(self) -> Task:
        """The row's task: canonical answers and verification."""
        return task_for(self.row, self.tasks)

    @property
    def question(self) -> Question:
        """The prompt as judges, reward models and fusors see it."""
        return self.task.question(self.row)

    def judge(self) -> Judge:
        """The engine as a judge of this prompt's answers."""
        assert self.engine is not None
        return Judge(self.engine, self.question, self.early)

    async def reward(self, text: str) -> float:
        """The engine's score of an answer to this prompt."""
        assert self.engine is not None
        return (await self.engine.reward(self.question.messages, text)).value

    def template(self, name: str) -> JudgeTemplate:
        """A judge template, in the prompt's language where it is there in it."""
        return load_template(name, self.row.language)

    def selectable(self) -> list[int]:
        """Indices of candidates that may be chosen: they have a text, are not evidence and not barred."""
        usable = [i for i, c in enumerate(self.candidates) if c.text is not None and c.origin != "evidence"]
        if self.origins:
            usable = [i for i in usable if self.candidates[i].origin in self.origins]
        return [i for i in usable if i not in self.barred]

    async def of_each(self, read: Callable[[str], T]) -> list[T | None]:
        """What a function makes of every selectable candidate's text, off the event loop; ``None`` for the others."""
        chosen = set(self.selectable())

        def every() -> list[T | None]:
            return [read(c.text or "") if i in chosen else None for i, c in enumerate(self.candidates)]

        return await asyncio.to_thread(every)

    def greedy(self) -> int | None:
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
        needs: engine capabilities that it calls; ``a|b`` means that either will do.
        cost: engine calls per prompt, in N (candidates) and M (evidence), for ``lemonpress select --list``.
        source: paper and section.
        engine: name under ``engines``; required when :meth:`requires` is not empty.
        plans: the sampling plans to apply it to; ``null`` = all.
        origins: choose only among candidates of these origins (``[sample]`` leaves the greedy one of a hedged set out);
            empty = among all.
    """

    kind: ClassVar[str] = ""
    draws: ClassVar[str] = ""
    """The kind whose seeded choices it shares; empty = its own."""
    template_keys: ClassVar[tuple[str, ...]] = ()
    """Its keys that name judge templates."""
    compares: ClassVar[bool] = False
    """Whether these templates are for two answers: their labels mean first, second, tie."""
    by_text: ClassVar[bool] = False
    """Whether its ``values`` depend on prompt and text alone: a text of a set that grew is not asked about again."""
    needs: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "0"
    source: ClassVar[str] = ""
    engine: str | None = None
    plans: list[str] | None = None
    origins: list[str] = bounded(factory=list, one_of=SELECTABLE)

    def check(self, key: str) -> None:
        """Raise ConfigError, naming the key, on a contradiction."""
        if self.requires() and not self.engine:
            raise ConfigError(f"{key}.engine: {self.kind} needs an engine that can {spell_needs(self.requires())}")
        for name in self.template_keys:
            check = check_pairwise if self.compares else load_template
            check(getattr(self, name), key=f"{key}.{name}")

    def requires(self) -> frozenset[str]:
        """The part of ``needs`` that these settings call for."""
        return self.needs

    def evidence_plan(self) -> str | None:
        """Name of the evidence plan that it reads, if it reads one."""
        return None

    def templates(self) -> dict[str, str]:
        """Name -> hash of every judge template that it uses: part of the fingerprint."""
        return {getattr(self, key): load_template(getattr(self, key)).hash for key in self.template_keys}

    def highest(self) -> float:
        """The largest number that it can give a candidate, where that is known."""
        return math.inf

    async def select(self, pool: Pool) -> Choice:
        """Choose among ``pool.candidates`` (at least one is selectable)."""
        raise NotImplementedError

    def best(self, pool: Pool, values: Sequence[float | None], **detail: Any) -> Choice:
        """The selectable candidate with the largest value; ties by seeded hash; no valid value: the fallback."""
        valid = set(pool.selectable())
        masked = [v if i in valid else None for i, v in enumerate(values)]
        index = argmax(masked, *pool.key(self.draws or self.kind))
        if index is None:
            return Choice(pool.fallback(), detail={**detail, "fallback": "no valid score"}, values=values)
        return Choice(index, score=masked[index], detail=detail, values=values)


async def score_texts(
    pool: Pool, score: Callable[[str], Awaitable[float | None]]
) -> tuple[list[float | None], dict[str, Any]]:
    """Score every candidate, equal texts once, and known ones not again.

    Returns:
        One number per candidate (``None``: no text, or invalid), and what to put into ``detail``: how many texts could
        not be scored and why the first of them could not, or nothing.
    """
    texts = sorted({c.text for c in pool.candidates if c.text is not None} - pool.known.keys())
    results = await asyncio.gather(*(score(text) for text in texts), return_exceptions=True)
    failures = [r for r in results if isinstance(r, BaseException)]
    for failure in failures:
        if not isinstance(failure, EngineRequestError):
            raise failure
    scores: dict[str, float | None] = dict(pool.known)
    scores |= {t: None if isinstance(r, BaseException) else r for t, r in zip(texts, results, strict=True)}
    values = [None if c.text is None else scores[c.text] for c in pool.candidates]
    return values, {"failed": len(failures), "failure": str(failures[0])[:500]} if failures else {}
