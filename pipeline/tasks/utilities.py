"""Utilities u(hypothesis, reference) for minimum Bayes risk, as matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.core.languages import base_language
from pipeline.tasks.chrf import chrf_matrix

__all__ = ["UTILITIES", "Utility", "bleu_matrix", "chrf_matrix", "cosine_matrix"]

Utility = Callable[[Sequence[str], Sequence[str], str | None], list[list[float]]]
"""(hypotheses, references, the language that they should be in) -> matrix [hypothesis][reference]."""


def bleu_matrix(hypotheses: Sequence[str], references: Sequence[str], language: str | None = None) -> list[list[float]]:
    """Sentence BLEU in 0..100 by sacrebleu, with the effective n-gram order (short answers lack 4-grams).

    Source: Papineni 2002; Chen and Cherry 2014. Slow: about 1 ms a pair. Texts in scripts that put no spaces between
    words are split into characters, Chinese by sacrebleu's own tokenizer.
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(effective_order=True, tokenize=_TOKENIZERS.get(base_language(language) or "", "13a"))
    return [[metric.sentence_score(h, [r]).score for r in references] for h in hypotheses]


def cosine_matrix(vectors: Sequence[Sequence[float]]) -> list[list[float]]:
    """Cosine of every two embedding vectors, in -1..1; a zero vector is like nothing.

    Made exactly symmetric: rounding must not decide between candidates that tie.
    """
    if not vectors:
        return []
    array = np.asarray(vectors, dtype=np.float64)
    norm = np.linalg.norm(array, axis=1, keepdims=True)
    unit = array / np.where(norm > 0, norm, 1.0)
    product = unit @ unit.T
    return ((product + product.T) / 2).tolist()  # type: ignore[no-any-return]


_TOKENIZERS = {"zh": "zh", **dict.fromkeys(("ja", "th", "lo", "km", "my", "bo"), "char")}
UTILITIES: dict[str, Utility] = {"chrf": chrf_matrix, "bleu": bleu_matrix}
"""Utilities of two texts by name; ``embedding`` and ``judge`` need an engine and live in the selector."""
