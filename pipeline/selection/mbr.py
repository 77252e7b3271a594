"""Minimum Bayes risk: the candidate most like the others."""

from __future__ import annotations

import asyncio
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.hashing import hash_rng
from pipeline.engines.base import Engine
from pipeline.judging.verdicts import VERDICT
from pipeline.selection.base import Choice, Pool, Selector, selector
from pipeline.tasks.utilities import UTILITIES, aggregate_chrf, cosine_matrix

Matrix = Sequence[Sequence[float | None]]

_APPROXIMATIONS = {"reference_subset": ("chrf", "bleu"), "aggregate": ("chrf",)}
_ENGINE_UTILITIES = {"embedding": frozenset({"embed"}), "judge": frozenset({VERDICT})}
UTILITY_NAMES = (*UTILITIES, *_ENGINE_UTILITIES)


@selector("mbr")
@dataclass
class MBR(Selector):
    """Argmax over y of the mean utility u(y, y') over the other candidates y'.

    The candidate is the hypothesis, the others are references; it is left out by index, not by text, so a
    repeated text supports itself. Ties are broken by a seeded hash. O(N^2) utilities: on the CPU (``chrf``,
    ``bleu``), from O(N) embeddings, or from O(N^2) verdicts. The pairwise judge (win 1, tie 1/2, loss 0) is asked
    about every two distinct texts in both orders. A pair with an unreadable verdict counts as a tie, so that all means
    are over the same number of games and one readable win in one game does not beat three in four; a candidate without
    any readable game is not chosen.

    For large N there are approximations, which do not always choose the same candidate (``docs/performance.md`` has
    how often, and what it costs). ``reference_subset`` compares with the same R candidates only, drawn by a seeded
    hash: O(NR), exact when R >= N. ``aggregate`` compares with one text that has the mean n-gram counts of the others:
    O(N), chrF only (DeNero 2009; Vamvas and Sennrich 2024); here the candidate's own counts are left out of them.

    Attributes:
        utility: ``chrf``, ``bleu`` (needs sacrebleu), ``embedding`` (cosine) or ``judge`` (the paper's).
        template: name or file of the judge template; its labels mean first, second, tie.
        approximation: ``null`` = exact; ``reference_subset`` (``chrf``, ``bleu``) or ``aggregate`` (``chrf``).
        references: R of ``reference_subset``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embed", VERDICT})
    cost: ClassVar[str] = "0 (chrf, bleu), N embeddings, judge: N(N-1) = 20 at N=5"
    source: ClassVar[str] = "arXiv 2506.20544, selection"
    template_keys: ClassVar[tuple[str, ...]] = ("template",)
    compares: ClassVar[bool] = True
    utility: str = bounded("chrf", one_of=UTILITY_NAMES)
    template: str = "pairwise_selection"
    approximation: str | None = bounded(None, one_of=tuple(_APPROXIMATIONS), cure="null = exact")
    references: int = bounded(16, ge=2)

    def requires(self) -> frozenset[str]:
        return _ENGINE_UTILITIES.get(self.utility, frozenset())

    def check(self, key: str) -> None:
        super().check(key)
        if self.utility == "bleu" and importlib.util.find_spec("sacrebleu") is None:
            raise ConfigError(f"{key}.utility: bleu needs the package sacrebleu (pip install sacrebleu)")
        if self.approximation is not None and self.utility not in _APPROXIMATIONS[self.approximation]:
            able = " and ".join(_APPROXIMATIONS[self.approximation])
            raise ConfigError(f"{key}.approximation: {self.approximation} is for {able}, not for {self.utility}")

    def templates(self) -> dict[str, str]:
        return super().templates() if self.utility == "judge" else {}

    def _references(self, pool: Pool, n: int) -> list[int]:
        if self.approximation is None or n <= self.references:
            return list(range(n))
        return sorted(hash_rng(*pool.key("mbr references")).sample(range(n), self.references))

    async def select(self, pool: Pool) -> Choice:
        return await self._select(pool, [], self.template)

    async def _select(self, pool: Pool, extra: list[str], across: str, **detail: Any) -> Choice:
        """The best candidate by the other candidates and ``extra`` texts, which ``across`` is the template for."""
        indices = pool.selectable()
        texts = [pool.candidates[i].text or "" for i in indices]
        means: Sequence[float | None]
        if self.approximation == "aggregate":
            means = await asyncio.to_thread(aggregate_chrf, texts, extra)
            detail |= {"approximation": "aggregate"}
        elif self.utility == "judge":
            judge = pool.judge()
            games = await judge.matrix(pool.template(self.template), texts, pool.template(across), extra)
            means = mean_of_others([_with_ties(row) for row in games])
            detail |= judge.tally.detail()
        elif self.utility == "embedding":
            assert pool.engine is not None
            means = mean_of_others(await _embedding_matrix(pool.engine, texts, extra))
        else:
            utility = pool.utilities.get(self.utility) or UTILITIES[self.utility]
            chosen = self._references(pool, len(texts))
            if len(chosen) < len(texts):
                detail |= {"approximation": "reference_subset", "references": len(chosen)}
            references = [*(texts[j] for j in chosen), *extra]
            matrix = await asyncio.to_thread(utility, texts, references, pool.task.answer_language(pool.row))
            means = mean_of_others(matrix, chosen)
        values: list[float | None] = [None] * len(pool.candidates)
        for i, value in zip(indices, means, strict=True):
            values[i] = value
        return self.best(pool, values, **detail)


def _with_ties(row: Sequence[float | None]) -> list[float | None]:
    """A candidate's games with a tie for each that cannot be read, unless that is all of them.

    Its own place holds the tie of two equal texts, so one value is always there.
    """
    known = sum(u is not None for u in row)
    return [None] * len(row) if known <= 1 < len(row) else [0.5 if u is None else u for u in row]


def mean_of_others(matrix: Matrix, columns: Sequence[int] | None = None) -> list[float | None]:
    """Means of the rows without their own column and without ``None``; 0 where there is nothing to compare with.

    ``math.fsum`` does not depend on the order, so that equal texts tie exactly and the hash decides, not rounding.

    Args:
        columns: whose the first columns are, where not every row has one.
    """
    place = {i: j for j, i in enumerate(range(len(matrix)) if columns is None else columns)}
    means: list[float | None] = []
    for i, row in enumerate(matrix):
        own = place.get(i)
        valid = [u for j, u in enumerate(row) if j != own and u is not None]
        means.append(math.fsum(valid) / len(valid) if valid else 0.0 if len(row) == 1 else None)
    return means


async def _embedding_matrix(engine: Engine, texts: Sequence[str], extra: Sequence[str]) -> Matrix:
    """Cosines [text][other text, then extra text]; every distinct text is embedded once, ``None`` where that failed."""

    async def embed(text: str) -> list[float] | None:
        try:
            return (await engine.embed(text)).vector
        except EngineRequestError:
            return None

    distinct = list(dict.fromkeys((*texts, *extra)))
    embedded = zip(distinct, await asyncio.gather(*(embed(t) for t in distinct)), strict=True)
    vectors = {text: vector for text, vector in embedded if vector is not None}
    cosines = cosine_matrix(list(vectors.values()))
    at = {text: i for i, text in enumerate(vectors)}
    return [[cosines[at[a]][at[b]] if a in at and b in at else None for b in (*texts, *extra)] for a in texts]
