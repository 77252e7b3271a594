"""Utilities u(hypothesis, reference) for minimum Bayes risk, as matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Utility = Callable[[Sequence[str], Sequence[str]], list[list[float]]]
"""(hypotheses, references) -> matrix [hypothesis][reference]."""


def chrf_matrix(hypotheses: Sequence[str], references: Sequence[str]) -> list[list[float]]:
    """Sentence chrF (character order 6, beta 2) in 0..100; equals sacrebleu's ``CHRF`` bit for bit.

    Source: Popovic 2015; computed by ``fastchrf``, about 20 times faster than sacrebleu.
    """
    import fastchrf

    if not hypotheses or not references:
        return [[] for _ in hypotheses]
    return fastchrf.pairwise_chrf([list(hypotheses)], [list(references)])[0]  # type: ignore[no-any-return]


UTILITIES: dict[str, Utility] = {"chrf": chrf_matrix}
