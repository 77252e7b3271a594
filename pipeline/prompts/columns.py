"""Which column of a source is what, and its values as texts and conversations: what is wrong with them is said, never
raised."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.core.errors import ConfigError, InputError, first_line, require_known
from pipeline.core.row import Message
from pipeline.prompts.formats import from_json
from pipeline.prompts.piece import Piece, Types, unify
from pipeline.prompts.sources import SourceConfig

_DEFAULTS = {
    "messages": "messages",
    "prompt": "prompt",
    "id": "prompt_id",
    "cluster": "cluster_id",
    "language": "language",
    "task": "task",
    "reference": "reference",
}
"""Key under ``prompts.columns`` -> the column it takes by default."""

ORIGINAL = "_original"
"""Field of ``source`` that only tables with unreadable rows have: those rows' mapped columns, as JSON text."""

NOTHING = "prompts: the source has no prompt"

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles of turns. Most chat templates render any other word too, as a turn that no model was trained on."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # a NUL would end the text in C code further on


@dataclass
class Layout:
    """Which column of a source is what.

    Attributes:
        mapped: key under ``prompts.columns`` -> column; ``given`` is the column of given answers, ``given:NAME`` are
            those that hold one each.
        others: the columns that go to ``source``.
        source: type of the ``source`` struct.
        as_json: columns of ``source`` whose values have no common Arrow type, kept as JSON text.
    """

    mapped: dict[str, str]
    others: list[str]
    source: pa.StructType
    as_json: frozenset[str] = frozenset()

    def with_original(self) -> pa.StructType:
        """``source`` plus a text field, for what unreadable rows held in the mapped columns."""
        name = ORIGINAL
        while name in self.others:
            name = "_" + name
        return pa.struct([*self.source, (name, pa.string())])


def find_layout(source: SourceConfig, pieces: Sequence[Piece]) -> Layout:
    """Map the columns and find the type of the ``source`` struct.

    Raises:
        ConfigError: a column that was asked for does not exist, or there is no prompt column.
        InputError: files give one column types that do not go together.
    """
    guessed: Types = {}
    for piece in pieces:
        for name, type_ in piece.types.items() if piece.guessed else ():
            guessed[name] = unify(guessed[name], type_) if name in guessed else type_
    every = [guessed, *(piece.types for piece in pieces if not piece.guessed)]
    names = list(dict.fromkeys(name for types in every for name in types))
    mapped = map_columns(source, names)
    others = [name for name in names if name not in mapped.values()]
    as_json = frozenset(name for types in every for name in types if types[name] is None)
    schemas = [pa.schema([(name, types[name] or pa.string()) for name in others if name in types]) for types in every]
    try:
        merged = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        message = f"the files of prompts.path give one column types that do not fit: {first_line(error)}"
        raise InputError(message) from error
    # Parquet cannot store a struct without fields.
    struct = pa.struct([merged.field(name) for name in others] or [("row", pa.int64())])
    return Layout(mapped, others, struct, as_json)


def map_columns(source: SourceConfig, names: list[str]) -> dict[str, str]:
    """Key under ``prompts.columns`` -> column, and the columns of given answers, as in :attr:`Layout.mapped`.

    Raises:
        ConfigError: a column that was asked for does not exist, or there is no prompt column.
    """
    columns, given, mapped = source.columns, source.given, {}
    for key, name in (("column", given.column), ("group", given.group), *(("columns", name) for name in given.columns)):
        if name is not None:
            require_known(name, names, f"prompts.given.{key}", "no column is called")
    if given.column is not None:
        mapped["given"] = given.column
    mapped |= {f"given:{name}": name for name in given.columns}
    named = {getattr(columns, role) for role in _DEFAULTS}  # a column that is named for one role is no other's default
    for role, default in _DEFAULTS.items():
        wanted = getattr(columns, role)
        if wanted == "@row" and role == "cluster":
            continue
        if wanted is not None:
            require_known(wanted, names, f"prompts.columns.{role}", "no column is called")
            mapped[role] = wanted
        elif default in names and default not in named:
            mapped[role] = default
    if "messages" not in mapped and "prompt" not in mapped:
        raise ConfigError(
            "prompts.columns: there is neither a 'messages' nor a 'prompt' column; set prompts.columns.prompt (text) "
            f"or prompts.columns.messages (conversations) to one of: {', '.join(names)}"
        )
    if given.group is not None:
        mapped["id"] = given.group
    if "messages" in mapped and "prompt" in mapped:
        del mapped["messages" if columns.prompt and not columns.messages else "prompt"]
    return mapped


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
