"""Which column of a source is what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.core.errors import ConfigError, InputError, nearest
from pipeline.core.tables import storage_schema
from pipeline.prompts.files import Piece, cause
from pipeline.prompts.sources import Given, SourceConfig
from pipeline.prompts.types import json_types

_ROLES = {
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


@dataclass
class Layout:
    """Which column of a source is what.

    Attributes:
        mapped: key under ``prompts.columns`` -> column; ``given`` is the column of given answers, ``given:NAME`` are
            those that hold one each.
        others: the columns that go to ``source``.
        source: type of the ``source`` struct.
        as_json: columns of ``source`` whose JSON values have no common Arrow type, kept as JSON text.
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
    """Map the columns and find the type of the ``source`` struct; parses all JSON Lines once.

    Raises:
        ConfigError: a column that was asked for does not exist, or there is no prompt column.
        InputError: a line is no JSON object, or files give one column types that do not go together.
    """
    found = json_types(pieces)
    schemas = [storage_schema(piece.schema) for piece in pieces if not piece.lines]
    names = list(dict.fromkeys([*found, *(name for schema in schemas for name in schema.names)]))
    if not names:  # files of blank lines
        raise InputError(NOTHING + ": its files are empty")
    mapped = map_columns(source, names)
    others = [name for name in names if name not in mapped.values()]
    as_json = frozenset(name for name in others if name in found and found[name] is None)
    fields = [pa.schema([(name, found[name] or pa.string()) for name in others if name in found])]
    fields += [pa.schema([schema.field(name) for name in others if name in schema.names]) for schema in schemas]
    try:
        merged = pa.unify_schemas(fields, promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"the files of prompts.path give one column types that do not fit: {cause(error)}") from error
    # Parquet cannot store a struct without fields.
    struct = pa.struct([merged.field(name) for name in others] or [("row", pa.int64())])
    return Layout(mapped, others, struct, as_json)


def map_columns(source: SourceConfig, names: list[str]) -> dict[str, str]:
    """Key under ``prompts.columns`` -> column, and the columns of given answers, as in :attr:`Layout.mapped`.

    Raises:
        ConfigError: a column that was asked for does not exist, or there is no prompt column.
    """
    columns, mapped = source.columns, _map_given(source.given, names)
    named = {getattr(columns, role) for role in _ROLES}  # a column that is named for one role is no other's default
    for role, default in _ROLES.items():
        wanted = getattr(columns, role)
        if wanted == "@row" and role == "cluster":
            continue
        if wanted is not None and wanted not in names:
            raise ConfigError(f"prompts.columns.{role}: no column is called {wanted!r}{nearest(wanted, names)}")
        if wanted is not None or (default in names and default not in named):
            mapped[role] = wanted or default
    if "messages" not in mapped and "prompt" not in mapped:
        raise ConfigError(
            "prompts.columns: there is neither a 'messages' nor a 'prompt' column; set prompts.columns.prompt (text) "
            f"or prompts.columns.messages (conversations) to one of: {', '.join(names)}"
        )
    if source.given.group is not None:
        mapped["id"] = source.given.group
    if "messages" in mapped and "prompt" in mapped:
        del mapped["messages" if columns.prompt and not columns.messages else "prompt"]
    return mapped


def _map_given(given: Given, names: list[str]) -> dict[str, str]:
    mapped: dict[str, str] = {}
    wanted = [("column", given.column), ("group", given.group), *(("columns", name) for name in given.columns)]
    for key, name in wanted:
        if name is not None and name not in names:
            raise ConfigError(f"prompts.given.{key}: no column is called {name!r}{nearest(name, names)}")
    if given.column is not None:
        mapped["given"] = given.column
    return mapped | {f"given:{name}": name for name in given.columns}
