"""Requests that are longer than a model's context: refused one by one, or cut where the config says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pipeline.core.errors import PromptTooLong

T = TypeVar("T")


def fit(tokens: Sequence[T], context: int, reserve: int, truncate: bool, whole: int = 0) -> list[T]:
    """``tokens``, cut in the middle when they do not fit and may be cut.

    The middle goes because the chat template's turns, the task's instruction and a judge's question stand at the ends.

    Args:
        tokens: of the whole request.
        context: longest request plus answer, in tokens.
        reserve: tokens that the answer may take. A request that leaves room for less, but for one token, is not cut;
            one that is cut leaves room for them, up to half of the context.
        truncate: cut instead of raising.
        whole: so many tokens at the end must not be cut: the text that is scored.

    Raises:
        PromptTooLong: it does not fit, and must not be cut, or not that much.
    """
    limit = context - min(reserve, 1)
    if len(tokens) <= limit:
        return list(tokens)
    room = max(context - reserve, context // 2)
    if not truncate or whole + 2 > room:
        raise PromptTooLong(
            f"the request has {len(tokens)} tokens, but the model takes {limit}"
            + ("; engines.NAME.truncate_prompt=true cuts it" if not truncate else f" and {whole} may not be cut")
        )
    head = (room - whole) // 2
    return [*tokens[:head], *tokens[len(tokens) - (room - head) :]]
