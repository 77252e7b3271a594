"""Results as dataclasses: a table's columns are its class's fields, from which the Arrow schema follows."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)
else:
    T = TypeVar("T")

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def schema_of(kind: type[T]) -> pa.Schema:
    """A class of texts, numbers and truth values (``X | None`` where one may not exist) as a schema."""
    hints = get_type_hints(kind)
    return pa.schema([(f.name, _ARROW[_plain(hints[f.name])]) for f in fields(kind)])


def _plain(hint: Any) -> type:
    options = get_args(hint) if get_origin(hint) is types.UnionType else (hint,)
    kind: type = next(option for option in options if option is not types.NoneType)
    return kind


def table_of(kind: type[T], rows: Iterable[T]) -> pa.Table:
    """Objects of one class as a table, which may be empty."""
    every = list(rows)
    columns = {f.name: [getattr(row, f.name) for row in every] for f in fields(kind)}
    return pa.table(columns, schema=schema_of(kind))


def objects_of(kind: type[T], table: pa.Table, where: str) -> list[T]:
    """A stored table as objects of its class.

    Raises:
        InputError: it is not a table of that class.
    """
    if not table.schema.equals(schema_of(kind)):
        raise InputError(f"{where}: its columns are not those of {kind.__name__}; winrate makes it again")
    return [kind(**row) for row in table.to_pylist()]


def csv_text(table: pa.Table) -> str:
    """A table as it is stored as CSV.

    A spreadsheet takes a cell for a formula that begins with ``= + - @`` (or white space, control or unseen characters
    before them): a text that does, and is no number, gets a ``'`` before it. Columns of numbers stay as they are.
    """
    for i, name in enumerate(table.schema.names):
        if _holds_texts(table.schema.field(i).type):
            table = table.set_column(i, name, no_formula(table.column(i).cast(pa.large_string())))
    sink = pa.BufferOutputStream()
    pacsv.write_csv(table, sink)
    return str(sink.getvalue().to_pybytes(), "utf-8")


def _holds_texts(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_texts(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def no_formula(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts (strings or large strings) that no spreadsheet takes for formulas."""
    # \s is ASCII's here; the last five are drawn as nothing, and Unicode calls them letters or marks
    before = r"[\s\p{Cc}\p{Z}\p{Cf}\x{034F}\x{115F}\x{1160}\x{3164}\x{FFA0}]*"
    acts = pc.match_substring_regex(texts, rf"^{before}[=+\-@\x{{FF1D}}\x{{FF0B}}\x{{FF0D}}\x{{FF20}}]|^[\t\r\n]")
    number = pc.match_substring_regex(texts, r"^[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$")
    sign, nothing = (pa.scalar(text, texts.type) for text in ("'", ""))
    return pc.if_else(pc.and_not(acts, number), pc.binary_join_element_wise(sign, texts, nothing), texts)
