"""The tables: one row is one prompt, from the first job to the last.

A pass appends columns; it never splits a row. ``SCHEMA_VERSION`` is written into every file's metadata with
the run's provenance; a reader refuses a newer major version.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from pipeline.core.errors import InputError

SCHEMA_VERSION = "1.0"
METADATA_KEY = b"lemonpress"

MESSAGE = pa.struct(
    [("role", pa.string()), ("content", pa.string()), ("name", pa.string()), ("tool_calls", pa.string())]
)
CANDIDATE = pa.struct(
    [
        ("text", pa.string()),
        ("reasoning", pa.string()),
        ("model", pa.string()),
        ("revision", pa.string()),
        ("plan", pa.string()),
        ("origin", pa.string()),
        ("language", pa.string()),
        ("temperature", pa.float64()),
        ("min_p", pa.float64()),
        ("top_p", pa.float64()),
        ("seed", pa.int64()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int64()),
        ("logprob", pa.float64()),
        ("error", pa.string()),
    ]
)
SCORE = pa.struct([("scorer", pa.string()), ("plan", pa.string()), ("values", pa.list_(pa.float64()))])
SELECTION = pa.struct(
    [
        ("plan", pa.string()),
        ("method", pa.string()),
        ("index", pa.int32()),
        ("text", pa.string()),
        ("score", pa.float64()),
        ("detail", pa.string()),
    ]
)
ANSWER = pa.struct([("system", pa.string()), ("text", pa.string())])
GAME = pa.struct(
    [
        ("system", pa.string()),
        ("opponent", pa.string()),
        ("judge", pa.string()),
        ("template", pa.string()),
        ("order", pa.string()),
        ("score", pa.float64()),
        ("mass", pa.float64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
    ]
)
USAGE = pa.struct(
    [
        ("job", pa.string()),
        ("stage", pa.string()),
        ("model", pa.string()),
        ("requests", pa.int64()),
        ("prompt_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
    ]
)
ERROR = pa.struct([("job", pa.string()), ("stage", pa.string()), ("kind", pa.string()), ("message", pa.string())])

COLUMNS: dict[str, pa.DataType] = {
    "row_id": pa.int64(),
    "prompt_id": pa.string(),
    "cluster_id": pa.string(),
    "task": pa.string(),
    "language": pa.string(),
    "messages": pa.list_(MESSAGE),
    "reference": pa.string(),
    # "source": the source row's other columns in their own Arrow types; known only when prompts are read
    "candidates": pa.list_(CANDIDATE),
    "scores": pa.list_(SCORE),
    "selections": pa.list_(SELECTION),
    "answers": pa.list_(ANSWER),
    "games": pa.list_(GAME),
    "usage": pa.list_(USAGE),
    "errors": pa.list_(ERROR),
}
"""Every column but ``source``, with its Arrow type, in table order."""

PROMPT_COLUMNS = ("row_id", "prompt_id", "cluster_id", "task", "language", "messages", "reference")
"""What reading prompts produces, besides ``source``, ``usage`` and ``errors`` (and ``candidates`` or
``answers`` when the source brings them)."""


def prompts_schema(source: pa.StructType, *given: str) -> pa.Schema:
    """Schema of the ``prompts/`` table.

    Args:
        source: type of the struct of the source row's other columns.
        given: further columns that the source brings: ``candidates`` and/or ``answers``.
    """
    fields = [pa.field(name, COLUMNS[name]) for name in PROMPT_COLUMNS]
    fields.append(pa.field("source", source))
    fields += [pa.field(name, COLUMNS[name]) for name in (*given, "usage", "errors")]
    return pa.schema(fields)


def with_columns(schema: pa.Schema, names: list[str]) -> pa.Schema:
    """``schema`` plus the named columns that it lacks, in table order."""
    missing = [name for name in names if name not in schema.names]
    for name in missing:
        schema = schema.append(pa.field(name, COLUMNS[name]))
    order = {name: i for i, name in enumerate([*PROMPT_COLUMNS, "source", *list(COLUMNS)[len(PROMPT_COLUMNS) :]])}
    return pa.schema(sorted(schema, key=lambda f: order.get(f.name, 99)), metadata=schema.metadata)


def with_provenance(schema: pa.Schema, provenance: dict[str, Any]) -> pa.Schema:
    """``schema`` whose metadata carries the schema version and the provenance (JSON)."""
    payload = json.dumps({"schema_version": SCHEMA_VERSION, **provenance}, sort_keys=True, ensure_ascii=False)
    return schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: payload.encode()})


def read_provenance(schema: pa.Schema, where: str) -> dict[str, Any]:
    """The provenance stored in a file's schema.

    Args:
        schema: the file's schema.
        where: path used in the message.

    Raises:
        InputError: the file is not a Lemonpress table, or was written by a newer major version.
    """
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise InputError(f"{where}: not a Lemonpress table (no {METADATA_KEY.decode()!r} metadata in its schema)")
    try:
        provenance: dict[str, Any] = json.loads(raw)
        major = int(str(provenance.get("schema_version", "0")).split(".")[0])
    except (ValueError, RecursionError, AttributeError) as error:
        raise InputError(
            f"{where}: not a Lemonpress table (its {METADATA_KEY.decode()!r} metadata are damaged)"
        ) from error
    if major > int(SCHEMA_VERSION.split(".")[0]):
        raise InputError(
            f"{where}: written with table schema {provenance['schema_version']}, but this Lemonpress reads up to "
            f"{SCHEMA_VERSION}; upgrade Lemonpress to read it"
        )
    return provenance
