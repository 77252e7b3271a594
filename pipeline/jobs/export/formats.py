"""A pair -> the records of a file, in TRL's conversational formats.

| format | columns |
|---|---|
| ``sft`` | ``messages``: the prompt's turns and the answer as the assistant's |
| ``dpo`` | ``prompt``, ``chosen``, ``rejected`` (turns), ``score_chosen``, ``score_rejected`` (float or null) |
| ``reward`` | as ``dpo``, and ``margin``: the difference of the scores |
| ``kto`` | ``prompt``, ``completion``, ``label``: a true record for the answer, a false one for the rejected answer |

A turn is ``{role, content}``, with ``name`` and ``tool_calls`` only when any prompt of the run has them. The run's
table stores ``tool_calls`` as JSON text; here it is a list of structs ``{id, type, function: {name, arguments}}`` whose
``arguments`` are of the ``datasets`` library's ``Json`` type: different functions take different arguments, which no
struct can hold. ``datasets`` gives them back as Python objects, as chat templates want them; other readers of the
Parquet files see JSON text. Where the source defines tools, every format has a column ``tools`` beside these: JSON text
of a list of definitions, which TRL parses, or null.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pipeline.config.sections import TOOLS
from pipeline.core.row import Message
from pipeline.jobs.export.choose import Dropped, Pair, Side
from pipeline.jobs.export.inventory import Inventory

BAD_CALLS = "tool calls cannot be read"
BAD_TOOLS = "tool definitions cannot be read"

Record = dict[str, Any]


def schema_of(format: str, found: Inventory, tools: bool = False) -> pa.Schema:
    """The file's Arrow schema, the ``datasets`` features in its metadata."""
    from datasets import Features, Json, List, Value

    text, number = Value("string"), Value("float64")
    turn: dict[str, Any] = {"role": text, "content": text}
    if found.names:
        turn["name"] = text
    if found.tool_calls:
        turn["tool_calls"] = List({"id": text, "type": text, "function": {"name": text, "arguments": Json()}})
    turns = List(turn)
    pair = {"prompt": turns, "chosen": turns, "rejected": turns, "score_chosen": number, "score_rejected": number}
    columns = {
        "sft": {"messages": turns},
        "dpo": pair,
        "reward": {**pair, "margin": number},
        "kto": {"prompt": turns, "completion": turns, "label": Value("bool")},
    }
    extra = {TOOLS: text} if tools else {}
    schema: pa.Schema = Features({**columns[format], **extra}).arrow_schema
    return schema


def to_table(records: list[Record], schema: pa.Schema) -> pa.Table:
    """Records as a table of ``schema``: built with plain text for JSON, which Arrow can then cast."""
    plain = pa.schema([pa.field(f.name, _plain(f.type)) for f in schema])
    return pa.Table.from_pylist(records, schema=plain).cast(schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return kind.storage_type
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _plain(f.type)) for f in kind])
    return kind


def to_records(format: str, messages: list[Message], pair: Pair, reasoning: bool) -> list[Record]:
    """The records of one row.

    Args:
        format: one of the module's table.
        messages: the prompt's turns.
        pair: its answers.
        reasoning: put the model's reasoning before the answer.

    Raises:
        Dropped: the prompt's tool calls cannot be read.
    """
    prompt = [_turn(m) for m in messages]
    chosen = [_answer(pair.chosen, reasoning)]
    if format == "sft":
        return [{"messages": prompt + chosen}]
    rejected = [_answer(pair.rejected, reasoning)] if pair.rejected else None
    if format == "kto":
        good = {"prompt": prompt, "completion": chosen, "label": True}
        return [good, {**good, "completion": rejected, "label": False}] if rejected else [good]
    assert pair.rejected is not None
    record: Record = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    record |= {"score_chosen": pair.chosen.score, "score_rejected": pair.rejected.score}
    return [{**record, "margin": pair.margin} if format == "reward" else record]


def _answer(side: Side, reasoning: bool) -> Record:
    thought = side.candidate.reasoning if reasoning and side.candidate else None
    return {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{side.text}" if thought else side.text}


def _turn(message: Message) -> Record:
    turn: Record = {"role": message.get("role"), "content": message.get("content") or "", "name": message.get("name")}
    calls = message.get("tool_calls")
    return {**turn, "tool_calls": _calls(calls)} if calls else turn


def _calls(text: str) -> list[Record]:
    """Tool calls in one shape, from the usual ones: arguments as object or JSON text, ``function`` nested or not."""
    try:
        calls = json.loads(text)
        return [_call(call) for call in ([calls] if isinstance(calls, dict) else calls)]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise Dropped(BAD_CALLS) from error


def _call(call: dict[str, Any]) -> Record:
    function = call.get("function") or call
    arguments, key = function.get("arguments", {}), call.get("id")
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    name = {"name": str(function["name"]), "arguments": json.dumps(arguments, ensure_ascii=False, sort_keys=True)}
    return {"id": None if key is None else str(key), "type": str(call.get("type") or "function"), "function": name}


def definitions(value: Any) -> str | None:
    """Tool definitions as JSON text; ``None`` for none.

    Raises:
        Dropped: they are no list of objects.
    """
    try:
        tools = json.loads(value) if isinstance(value, str) and value.strip() else value
    except ValueError as error:
        raise Dropped(BAD_TOOLS) from error
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Dropped(BAD_TOOLS)
    # Arrow fills in the keys that only some definitions have; in JSON text a null is meant
    return json.dumps(tools if isinstance(value, str) else _without_nulls(tools), ensure_ascii=False, default=str)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
