"""Minimum Bayes risk: the candidate most like the others."""

from __future__ import annotations

import asyncio
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.engines.base import Engine
from pipeline.errors import ConfigError, EngineRequestError, nearest
from pipeline.judging.compare import VERDICT, PairwiseJudge, check_pairwise
from pipeline.judging.templates import load_template
from pipeline.scoring.utility import UTILITIES, cosine_matrix
from pipeline.selection.base import Choice, Pool, Selector, selector

Matrix = Sequence[Sequence[float | None]]

_ENGINE_UTILITIES = {"embedding": frozenset({"embed"}), "judge": frozenset({VERDICT})}


@selector("mbr")
@dataclass
class MBR(Selector):
    """Argmax over y of the mean utility u(y, y') over the other candidates y'.

    The candidate is the hypothesis, the others are references; it is left out by index, not by text, so a
    repeated text supports itself. Ties are broken by a seeded hash. O(N^2) utilities: on the CPU (``chrf``,
    ``bleu``), from O(N) embeddings, or from O(N^2) verdicts. The pairwise judge (win 1, tie 1/2, loss 0) is asked
    about every two distinct texts in both orders; a pair with an unreadable verdict is left out of the means.

    Attributes:
        utility: ``chrf``, ``bleu`` (needs sacrebleu), ``embedding`` (cosine) or ``judge`` (the paper's).
        template: name or file of the judge template; its labels mean first, second, tie.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"embed", VERDICT})
    cost: ClassVar[str] = "0 (chrf, bleu), N embeddings, judge: N(N-1) = 20 at N=5"
    source: ClassVar[str] = "arXiv 2506.20544, selection"
    utility: str = "chrf"
    template: str = "pairwise_selection"

    def requires(self) -> frozenset[str]:
        return _ENGINE_UTILITIES.get(self.utility, frozenset())

    def check(self, key: str) -> None:
        super().check(key)
        known = [*UTILITIES, *_ENGINE_UTILITIES]
        if self.utility not in known:
            raise ConfigError(f"{key}.utility: unknown utility {self.utility!r}{nearest(self.utility, known)}")
        if self.utility == "bleu" and importlib.util.find_spec("sacrebleu") is None:
            raise ConfigError(f"{key}.utility: bleu needs the package sacrebleu (pip install sacrebleu)")
        check_pairwise(self.template, f"{key}.template")

    def templates(self) -> dict[str, str]:
        return {self.template: load_template(self.template).hash} if self.utility == "judge" else {}

    async def select(self, pool: Pool) -> Choice:
        return await self._select(pool, [], self.template)

    async def _select(self, pool: Pool, extra: list[str], across: str, **detail: Any) -> Choice:
        """The best candidate by the other candidates and ``extra`` texts, which ``across`` is the template for."""
        indices = pool.selectable()
        texts = [pool.candidates[i].text or "" for i in indices]
        matrix: Matrix
        if self.utility == "judge":
            assert pool.engine is not None
            judge = PairwiseJudge(pool.engine, pool.row.messages)
            templates = [load_template(name, pool.row.language) for name in (self.template, across)]
            matrix = await judge.matrix(templates[0], texts, templates[1], extra)
            detail |= judge.tally.detail()
        elif self.utility == "embedding":
            assert pool.engine is not None
            matrix = await _embedding_matrix(pool.engine, texts, extra)
        else:
            utility = pool.utilities.get(self.utility) or UTILITIES[self.utility]
            matrix = await asyncio.to_thread(utility, texts, [*texts, *extra], pool.row.language)
        values: list[float | None] = [None] * len(pool.candidates)
        for i, value in zip(indices, mean_of_others(matrix), strict=True):
            values[i] = value
        return self.best(pool, values, **detail)


def mean_of_others(matrix: Matrix) -> list[float | None]:
    """Means of the rows without their own column and without ``None``; 0 where there is nothing to compare with.

    ``math.fsum`` does not depend on the order, so that equal texts tie exactly and the hash decides, not rounding.
    """
    means: list[float | None] = []
    for i, row in enumerate(matrix):
        valid = [u for j, u in enumerate(row) if j != i and u is not None]
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
