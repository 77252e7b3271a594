"""Messages as chat APIs and chat templates want them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from pipeline.core.errors import EngineRequestError
from pipeline.core.row import Message
from pipeline.engines.control import COMMON, in_all_texts, split

_JOINER = "\N{WORD JOINER}"


class ControlTokens:
    """A tokenizer's control tokens (``<|im_end|>``), kept from being read inside the texts of data and models.

    Tokenizers read them wherever they stand, so that a text that spells one ends its turn and opens another, as a
    user or as the model. Here an invisible character breaks the spelling; texts without one stay as they are. Raw
    prompts are left alone: there the tokens are the user's own.

    Args:
        tokenizer: of Hugging Face's kind; its added tokens marked as special count, and of the others those that are
            common control tokens: ``</think>`` is not marked, and chat templates cut a turn at it.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        names = {t.content for t in added if t.special or COMMON.fullmatch(t.content)} | set(
            getattr(tokenizer, "all_special_tokens", ())
        )
        longest_first = sorted((n for n in names if len(n) > 1), key=lambda name: (-len(name), name))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def defuse(self, value: Any) -> Any:
        """``value`` (a text, or dicts and lists of texts, keys included) in which no control token is spelled."""
        return in_all_texts(value, lambda text: self._pattern.sub(lambda m: m[0][0] + _JOINER + m[0][1:], text))


def chat_messages(messages: Sequence[Message], control: ControlTokens | None = None) -> list[Message]:
    """Copies of ``messages`` as chat APIs and chat templates want them: known fields only, tool calls parsed.

    Args:
        messages: a conversation.
        control: what may not be spelled in them; ``None`` for an endpoint, whose tokenizer is not known: the common
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
        result.append(in_all_texts(copy, split) if control is None else control.defuse(copy))
    return result
