"""Texts on their way to a model and back: conversations, their length, and what a model thought before its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TypeVar

from pipeline.core.errors import EngineRequestError, PromptTooLong
from pipeline.core.row import Message
from pipeline.engines.control import COMMON, defuse, split, split_or_sign

T = TypeVar("T")

_QUOTES = frozenset("`'\"“”„‘’«»「」")


def chat_messages(messages: Sequence[Message], tokens: re.Pattern[str] | None = None) -> list[Message]:
    """Copies of ``messages`` as chat APIs and chat templates want them: known fields only, tool calls parsed.

    Args:
        messages: a conversation.
        tokens: what may not be spelled in them; ``None`` for an endpoint, whose tokenizer is not known: the common
            control tokens (:mod:`pipeline.engines.control`) are broken.

    Raises:
        EngineRequestError: ``tool_calls`` is not JSON.
    """
    result = []
    for message in messages:
        copy = {k: message[k] for k in ("role", "content", "name", "tool_calls") if message.get(k) is not None}
        if isinstance(copy.get("tool_calls"), str):
            try:
                copy["tool_calls"] = json.loads(copy["tool_calls"])
            except ValueError as error:
                raise EngineRequestError(f"tool_calls of a message is not JSON: {error}") from None
        result.append(defuse(copy, COMMON, split_or_sign) if tokens is None else defuse(copy, tokens, split))
    return result


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


def split_reasoning(
    text: str, start: str = "<think>", end: str = "</think>", opened: bool = False
) -> tuple[str | None, str]:
    """Split generated text into (reasoning, answer).

    - The start tag may be missing: many chat templates open the block in the prompt, so the text begins inside it.
    - A block that is never closed (cut off while thinking) is all reasoning, and the answer is empty.
    - Tags that follow other text are part of the answer, e.g. one that explains them.
    - A closing tag that is only quoted closes nothing: in quotation marks or backticks of its own, or in a block of
      code. Where nothing else closes a block that was opened, the first tag does.

    Args:
        text: what the model generated.
        opened: the prompt is known to end with the start tag, so a text without any tag was cut off while thinking.

    Returns:
        The reasoning without its tags and surrounding white space (``None`` when there is none), and the answer:
        unchanged when ``text`` has no reasoning block, else without the white space that followed the block.
    """
    place = _closing(text, end)
    if place < 0 and (opened or text.lstrip().startswith(start)):
        place = text.find(end)
    closed = place >= 0
    reasoning, answer = (text[:place], text[place + len(end) :]) if closed else (text, "")
    if reasoning.lstrip().startswith(start):
        reasoning = reasoning.lstrip().removeprefix(start)
    elif not opened and (not closed or start in reasoning):
        return None, text
    return reasoning.strip() or None, answer.lstrip()


def _closing(text: str, end: str) -> int:
    """Where the first closing tag stands that is not quoted; -1 for none. O(length)."""
    place, before, fences, last = text.find(end), 0, 0, text.rfind("```")
    while place >= 0:
        fences, before = fences + text.count("```", before, place), place
        behind = place + len(end)
        around = {text[max(place - 1, 0) : place], text[behind : behind + 1]}
        if not (around <= _QUOTES or (fences % 2 and last > place)):
            return place
        place = text.find(end, behind)
    return -1
