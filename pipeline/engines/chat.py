"""Messages as chat APIs and chat templates want them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.errors import EngineRequestError
from pipeline.records import Message


def chat_messages(messages: Sequence[Message]) -> list[Message]:
    """Copies of ``messages`` as chat APIs and chat templates want them: known fields only, tool calls parsed.

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
        result.append(copy)
    return result
