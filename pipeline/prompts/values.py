"""Values of a source as text and as conversations; what is wrong with them is said, never raised."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from pipeline.core.row import Message
from pipeline.prompts.lines import is_deep

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # a NUL would end the text in C code further on
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles of turns. Most chat templates render any other word too, as a turn that no model was trained on."""


def as_text(value: Any) -> str | None:
    """A value as text: ``None`` for nothing (null, empty, NaN), numbers without a trailing ``.0``, else JSON."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def clean(text: str | None, where: str, problems: list[str]) -> str | None:
    """``text`` without characters that cannot be stored; says so in ``problems``."""
    if text is None or not _UNSTORABLE.search(text):
        return text
    problems.append(f"characters that cannot be stored were replaced by U+FFFD in {where}")
    return _UNSTORABLE.sub("\ufffd", text)


def from_json(value: Any) -> Any:
    """JSON text parsed; what is no text stays as it is, what is no JSON becomes ``None``."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):  # the latter: thousands of brackets inside each other
        return None
    return None if is_deep(value, found) else found


def conversation(value: Any, problems: list[str]) -> list[Message]:
    """The well-formed turns of a conversation; ``problems`` gets what is wrong with it."""
    turns = from_json(value)
    if not isinstance(turns, list):
        problems.append(f"messages is {'null' if value is None else 'neither a list of turns nor its JSON text'}")
        return []
    messages = [turn for i, item in enumerate(turns) if (turn := _turn(from_json(item), f"messages[{i}]", problems))]
    asked = [turn.get("content", "") for turn in messages if turn["role"] == "user"]
    if not asked:
        problems.append("there is no user turn")
    elif not any(text.strip() for text in asked):
        problems.append("the prompt is empty")
    return messages


def _turn(item: Any, where: str, problems: list[str]) -> Message | None:
    """One turn without its empty fields, or ``None`` when it has no role."""
    role = item.get("role") if isinstance(item, dict) else None
    if not isinstance(role, str) or not role:
        problems.append(f"{where} is no object with a role")
        return None
    if role not in ROLES:
        problems.append(f"{where}.role is {role[:40]!r}, not one of {', '.join(ROLES)}")
    calls = _tool_calls(item.get("tool_calls"), where, problems)
    content = item.get("content")
    if isinstance(content, list) and content:
        content = _joined(content, f"{where}.content", problems)
    elif not isinstance(content, str) and not (content is None and calls):
        problems.append(f"{where}.content is {'null' if content is None else 'not text'}")
        content = None
    fields = {"role": role, "content": content, "name": as_text(item.get("name")), "tool_calls": calls}
    return {k: clean(v, f"{where}.{k}", problems) for k, v in fields.items() if v is not None}


def _joined(parts: list[Any], where: str, problems: list[str]) -> str | None:
    """The text of a list of text parts, a line each as vLLM's server joins them; ``None`` if a part is no text."""
    texts = []
    for i, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        text = part.get("text") if isinstance(part, dict) and kind == "text" else None
        if not isinstance(text, str):
            problems.append(f"{where}[{i}] is not text ({kind!s:.40}); only parts of type text can be answered")
            return None
        texts.append(text)
    return "\n".join(texts)


def _tool_calls(value: Any, where: str, problems: list[str]) -> str | None:
    """Tool calls as JSON text."""
    if not value:
        return None
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    if from_json(value) is None:
        problems.append(f"{where}.tool_calls is not valid JSON")
        return None
    return value
