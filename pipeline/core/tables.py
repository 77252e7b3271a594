"""The one way to open a table: its schema is looked at before any of its values, whoever wrote it.

An Arrow extension type is a name in a file that lets a library turn stored bytes into its own objects, and some do so
by unpickling them: Ray Data's ``ray.data.arrow_pickled_object`` runs the file's code as soon as a process that has
imported Ray Data makes a Python value of it. So no file's extension types are used, but those that are known to be
harmless, and no table is handed to ``to_pylist``, pandas or Ray before it went through here. What cannot be read is an
:class:`~pipeline.core.errors.InputError` of one line.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipeline.core.errors import InputError, first_line
from pipeline.core.schema import COLUMNS

if TYPE_CHECKING:  # it loads pandas, and the config imports this module
    import pyarrow.dataset as pads

HARMLESS = frozenset(
    {
        "arrow.uuid",
        "arrow.json",
        "arrow.bool8",
        "arrow.fixed_shape_tensor",
        # Those of datasets hold shapes and numbers; its Parquet files have them for matrices.
        *(f"datasets.features.features.Array{n}DExtensionType" for n in range(2, 6)),
    }
)
"""Extension types whose values are those of their storage type: nothing in them is run."""

MOST_COLUMNS = 2_000
"""Columns of a table; its rows become Python objects and Parquet files, each column with its own costs."""
MOST_FIELDS = 20_000
"""Fields of a table, those inside of structs and lists counted."""
DEEPEST = 64
"""Levels of a column's type."""

_THREADS = 8  # on an object store each footer is a request, and there may be hundreds
_EXTENSION = b"ARROW:extension:name"


def extensions(schema: pa.Schema) -> set[str]:
    """Names of the extension types in a schema, at any depth."""
    return {name for field, _, _ in _fields(schema) if (name := _extension(field)) is not None}


def _fields(schema: pa.Schema) -> Iterator[tuple[pa.Field, str, int]]:
    """Every field at any depth, with its dotted name and its level."""
    todo = [(field, field.name, 1) for field in schema]
    while todo:
        field, name, depth = todo.pop()
        yield field, name, depth
        todo += [(child, f"{name}.{child.name}", depth + 1) for child in _children(field.type)]


def check_schema(schema: pa.Schema, where: str) -> None:
    """Refuse a schema whose values are not safe to read.

    Args:
        where: how messages call the table.

    Raises:
        InputError: a column is of an extension type that is not among ``HARMLESS``, at any depth; or there are too many
            columns. Names the column.
    """
    if len(schema) > MOST_COLUMNS:
        raise InputError(f"{where}: has {len(schema):,} columns; at most {MOST_COLUMNS:,} are read")
    for count, (field, name, depth) in enumerate(_fields(schema), 1):
        if count > MOST_FIELDS or depth > DEEPEST:
            what = f"more than {MOST_FIELDS:,} fields" if count > MOST_FIELDS else f"more than {DEEPEST} levels"
            raise InputError(f"{where}: column {name[:80]!r}: {what}")
        found = _extension(field)
        if found is not None and found not in HARMLESS:
            raise InputError(
                f"{where}: column {name[:80]!r} is of the extension type {found[:80]!r}, which is not read: such a "
                "type may run code; store the column's values as plain text, numbers, lists or structs"
            )


def _extension(field: pa.Field) -> str | None:
    """Name of a field's own extension type, registered in this process or not."""
    if isinstance(field.type, pa.BaseExtensionType):
        return str(field.type.extension_name)
    named = (field.metadata or {}).get(_EXTENSION)
    return None if named is None else named.decode("utf-8", "replace")


def _children(type_: pa.DataType) -> list[pa.Field]:
    if isinstance(type_, pa.BaseExtensionType):
        return [pa.field("storage", type_.storage_type)]
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return [pa.field("values", type_.value_type)]
    if pa.types.is_map(type_):
        return [type_.key_field, type_.item_field]
    return [type_.field(i) for i in range(type_.num_fields)]


def storage_type(type_: pa.DataType) -> pa.DataType:
    """``type_`` without extension types, which other Parquet readers do not know, and dictionaries, at any depth.

    What is stored in a fixed number of bytes, as a UUID is, becomes plain ``binary``.
    """
    if isinstance(type_, pa.BaseExtensionType):
        return storage_type(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return storage_type(type_.value_type)
    if pa.types.is_struct(type_):
        return pa.struct([(f.name, storage_type(f.type)) for f in type_])
    if pa.types.is_large_list(type_):
        return pa.large_list(storage_type(type_.value_type))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(storage_type(type_.value_type), type_.list_size)
    if pa.types.is_map(type_):
        return pa.map_(storage_type(type_.key_type), storage_type(type_.item_type))
    if pa.types.is_list(type_):
        return pa.list_(storage_type(type_.value_type))
    return pa.binary() if pa.types.is_fixed_size_binary(type_) else type_


def storage_schema(schema: pa.Schema) -> pa.Schema:
    """``schema`` without extension types and metadata."""
    return pa.schema([(f.name, storage_type(f.type)) for f in schema])


def own_schema(schema: pa.Schema, where: str, exactly: bool = False) -> pa.Schema:
    """A run's schema, checked, with our own types for the columns that are ours.

    Args:
        exactly: refuse other types, even where their values could be cast.

    Raises:
        InputError: as :func:`check_schema`; or a column of ours holds something else.
    """
    check_schema(schema, where)
    fields = []
    for field in schema:
        wanted = COLUMNS.get(field.name)
        if wanted is None or field.type == wanted:
            fields.append(field)
            continue
        try:
            if exactly:
                raise pa.ArrowInvalid
            pa.nulls(0, field.type).cast(wanted)
        except pa.ArrowException as error:
            raise InputError(f"{where}: column {field.name!r} must be {wanted}, not {field.type}"[:1000]) from error
        fields.append(pa.field(field.name, wanted, field.nullable))
    return pa.schema(fields, metadata=schema.metadata)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn what Arrow raises about a damaged or hostile file into one line that names it."""
    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        raise InputError(f"{where}: cannot be read: {first_line(error)}") from error


def is_damage(error: BaseException) -> bool:
    """Whether an exception says that a file's bytes are not what they should be.

    Arrow raises its own exceptions, and ``OSError`` without a number for broken pages and footers.
    """
    return isinstance(error, pa.ArrowException) or (isinstance(error, OSError) and error.errno is None)


def open_dataset(files: Sequence[str], fs: pafs.FileSystem, where: str) -> pads.Dataset:
    """Files of one table of a run, opened lazily; columns of ours have our types.

    Raises:
        InputError: the first file cannot be read, or its schema is refused.
    """
    import pyarrow.dataset as pads

    with reading(where):
        data = pads.dataset(list(files), filesystem=fs, format="parquet")
        wanted = own_schema(data.schema, where)
        return data if wanted.equals(data.schema) else data.replace_schema(wanted)


T = TypeVar("T")


def whole(batches: Iterable[T], where: str) -> Iterator[T]:
    """``batches`` as they are read; a damaged file among theirs is an InputError that names ``where``."""
    iterator = iter(batches)
    while True:
        with reading(where):
            try:
                batch = next(iterator)
            except StopIteration:
                return
        yield batch


def open_outside(path: str, fs: pafs.FileSystem, where: str) -> pads.Dataset:
    """A file or folder of Parquet that is no run's, opened lazily.

    Raises:
        InputError: it cannot be read, or its schema is refused.
    """
    import pyarrow.dataset as pads

    with reading(where):
        data = pads.dataset(path, filesystem=fs, format="parquet")
        check_schema(data.schema, where)
    return data


@contextmanager
def open_file(path: str, fs: pafs.FileSystem | None = None, where: str | None = None) -> Iterator[pq.ParquetFile]:
    """One Parquet file, its schema checked; what goes wrong while it is read names it.

    Raises:
        InputError: it cannot be read, or its schema is refused.
    """
    where = where or path
    with reading(where):
        try:
            file = pq.ParquetFile(path, filesystem=fs)
            schema = file.schema_arrow
        except (ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
            # A registered extension type raises whatever it likes about its metadata.
            raise InputError(f"{where}: cannot be read: {first_line(error)}") from error
        check_schema(schema, where)
        with file:
            yield file


def read_file(path: str, fs: pafs.FileSystem, where: str | None = None) -> pa.Table:
    """A small Parquet file. Raises InputError as :func:`open_file`."""
    with open_file(path, fs, where) as file:
        return file.read()


def read_schema(path: str, fs: pafs.FileSystem | None = None, where: str | None = None) -> pa.Schema:
    """The schema of a Parquet file, checked. Raises InputError as :func:`open_file`."""
    with open_file(path, fs, where) as file:
        return file.schema_arrow


def check_files(files: Sequence[str], fs: pafs.FileSystem) -> None:
    """Look at every file's schema before another library reads them by itself.

    Raises:
        InputError: one cannot be read, or is refused.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda path: read_schema(path, fs), files):
            pass


def give_back() -> None:
    """Return freed memory to the operating system; call it after something that allocated much for a short while.

    glibc keeps freed heap below whatever lies on top of it, and Arrow's pool keeps pages for later: after 300,000
    prompts had been read, a driver that lives for days held 50 MiB of it.
    """
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library, such as musl, has no such function
            ctypes.CDLL("libc.so.6").malloc_trim(0)
