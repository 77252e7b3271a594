"""Games as flat columns of integer codes: what every statistic reads.

An outside flat table is read from Parquet, CSV or JSONL; :mod:`pipeline.stats.run_games` reads a run's. Both are
checked here, once: every error names the row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson

from pipeline.core import tables
from pipeline.core.columns import Bools, Floats, Ints
from pipeline.core.errors import InputError, first_line, nearest
from pipeline.core.languages import RESERVED
from pipeline.core.remote import is_uri, open_uri
from pipeline.stats.intervals import Frame

REQUIRED = ("prompt_id", "language", "system", "opponent", "order", "score")
"""Columns that an outside table must have."""

MOST_COMPARISONS = 1_000
"""Pairs of a system and an opponent (by one judge and template): each is bootstrapped, and has a row per language."""

MOST_LANGUAGES = 1_000
"""Languages of a table; there are some 8,000 living ones, and a code that is wrong in every row makes as many."""

UNKNOWN = "unspecified"
"""Judge or template of an outside table that does not name one."""

UNDETERMINED = "und"
"""BCP 47's tag for prompts without a language."""

ORDERS = ("ab", "ba")
FORFEIT = "forfeit"
"""Column of :func:`build_games` (1 or 0): one of a game's answers is missing."""

INVALID = -2
"""``Games.outcome`` of a game without a score."""

_OPTIONAL_TEXT = ("cluster_id", "judge", "template", "verdict")
_OPTIONAL_NUMBERS = ("mass", "length", "opponent_length")
_NUMBERS = ("score", *_OPTIONAL_NUMBERS)
_NULLS = ["", "null", "none", "na"]
_SEPARATOR = "\x1f"
_PROMPT = ["prompt_id", "cluster_id", "language"]

PromptKey = tuple[str, str]
"""What tells prompts apart: (prompt_id, language)."""


@dataclass(frozen=True, order=True)
class Comparison:
    """Who was compared with whom, and by which measuring instrument."""

    system: str
    opponent: str
    judge: str
    template: str


@dataclass(frozen=True)
class Games(Frame):
    """G games on P prompts and K comparisons.

    Codes follow the sorted names, so nothing below depends on the order of the table's rows. A prompt is a (prompt_id,
    language): tables that repeat a question's id in every language are understood, and those prompts share a cluster by
    default.

    Attributes:
        comparisons: the K comparisons, sorted.
        prompt_id: names [P].
        unjudged: [P], prompts of the run's table without a single game (their row failed): invalid everywhere.
        comparison, prompt, order: codes [G]; order 0 = ``ab`` (system shown first), 1 = ``ba``.
        score: [G], the system's, 0..1; NaN = invalid.
        outcome: [G], 1 win, 0 tie, -1 loss (the verdict, or without one the score against 1/2), ``INVALID``.
        mass: [G], probability on the judge's labels; NaN = not known.
        length_difference: [G], length - opponent_length in the table's unit (a run's: characters); NaN = not known.
        forfeit: [G], one of the answers is known to be missing (an outside table does not say so).
    """

    comparisons: list[Comparison]
    prompt_id: pa.StringArray
    unjudged: Bools
    comparison: Ints
    prompt: Ints
    order: Ints
    score: Floats
    outcome: Ints
    mass: Floats
    length_difference: Floats
    forfeit: Bools

    def prompts(self, keys: Collection[PromptKey]) -> Bools:
        """Which prompts [P] are among some (prompt_id, language)."""
        names = pa.array(self.languages, pa.string()).take(pa.array(self.prompt_language))
        mine = pc.binary_join_element_wise(names, self.prompt_id, _SEPARATOR)  # a language's tag holds no separator
        listed = pa.array([f"{language}{_SEPARATOR}{prompt_id}" for prompt_id, language in keys], pa.string())
        return np.asarray(pc.is_in(mine, value_set=listed).to_numpy(zero_copy_only=False))


def load_table_games(path: str) -> Games:
    """Games of an outside flat table: a Parquet file or folder, CSV (.csv, .tsv) or JSON lines.

    Columns ``prompt_id, language, system, opponent, order, score``, optional ``cluster_id, judge, template, verdict,
    mass, length, opponent_length``; others are ignored. Ids may be numbers.

    Raises:
        InputError: the file cannot be read, a column is missing, or a row is wrong (see :func:`games_from_table`).
    """
    fs, inner = _open(path)
    known = (*REQUIRED, *_OPTIONAL_TEXT, *_OPTIONAL_NUMBERS)
    try:
        if inner.endswith((".csv", ".tsv")):
            # everything as text: prompt_id "007" stays "007", and a bad number is reported with its row
            options = pacsv.ConvertOptions(column_types={name: pa.string() for name in known})
            parse = pacsv.ParseOptions(delimiter="\t" if inner.endswith(".tsv") else ",", newlines_in_values=True)
            with fs.open_input_stream(inner) as stream:
                table = pacsv.read_csv(stream, parse_options=parse, convert_options=options)
        elif inner.endswith((".jsonl", ".json")):
            with fs.open_input_stream(inner) as stream:
                table = pajson.read_json(stream)
        else:
            data = tables.open_outside(inner, fs, path)
            table = data.to_table(columns=[c for c in data.schema.names if c in known])
            _require_columns(data.schema.names, path)
    except FileNotFoundError as error:
        raise InputError(f"winrate.games: no such file: {path}") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as a table of games: {first_line(error)}") from error
    tables.check_schema(table.schema, path)
    return games_from_table(table, path)


def _open(path: str) -> tuple[pafs.FileSystem, str]:
    return open_uri(path, "winrate.games") if is_uri(path) else (pafs.LocalFileSystem(), path)


def state_of(path: str) -> tuple[int | None, int | None]:
    """Size and time of an outside table: what tells one version of it from the next."""
    fs, inner = _open(path)
    info = fs.get_file_info(inner)
    return info.size, info.mtime_ns


def games_from_table(table: pa.Table, where: str = "games") -> Games:
    """Check and encode a flat table of games.

    Args:
        table: one row a game (columns: see :func:`load_table_games`).
        where: how messages call the table.

    Raises:
        InputError: no rows; a column is missing (names the nearest); a null key; an order other than ab or ba; a score
            that is NaN or outside 0..1; a game listed twice; a system playing itself; a prompt in two clusters.
            Rows are counted from 1, a header not counted.
    """
    _require_columns(table.column_names, where)
    if not len(table):
        raise InputError(f"{where}: holds no game")
    columns: dict[str, Any] = {}
    for name in (*REQUIRED, *_OPTIONAL_TEXT, *_OPTIONAL_NUMBERS):
        if name not in table.column_names:
            continue
        column = table.column(name)
        columns[name] = _numbers(column, name, where) if name in _NUMBERS else _text(column, name, where)
    columns.update(prompt_columns(pa.table(columns)))
    return build_games(encode_names(pa.table(columns)), where, None)


def _require_columns(names: list[str], where: str) -> None:
    for name in REQUIRED:
        if name not in names:
            raise InputError(f"{where}: no column {name!r}{nearest(name, names)}")


def _text(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.string())
    except pa.ArrowException as error:
        raise InputError(f"{where}: column {name!r} must hold text or numbers, not {column.type}") from error


def _numbers(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    if pa.types.is_string(column.type):
        trimmed = pc.utf8_trim_whitespace(column)
        empty = pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(_NULLS))
        column = pc.if_else(empty, pa.scalar(None, pa.string()), trimmed)
    try:
        return column.cast(pa.float64())
    except pa.ArrowException as error:
        for row, value in enumerate(column.to_pylist()):
            try:
                float(value if value is not None else 0)
            except (TypeError, ValueError):
                raise InputError(f"{where}: row {row + 1}: {name} must be a number, not {value!r}") from error
        raise InputError(f"{where}: column {name!r} must hold numbers, not {column.type}") from error


def prompt_columns(table: Any) -> dict[str, Any]:
    """``prompt_id``, ``cluster_id`` (default: the prompt's id) and ``language`` (default: und), without nulls."""
    ids = table.column("prompt_id")
    names = table.schema.names
    clusters = pc.coalesce(table.column("cluster_id"), ids) if "cluster_id" in names else ids
    languages = table.column("language") if "language" in names else pa.nulls(len(ids), pa.string())
    return {"prompt_id": ids, "cluster_id": clusters, "language": pc.fill_null(languages, UNDETERMINED)}


def encode_names(table: pa.Table) -> pa.Table:
    """The table with judge and template filled in and text as dictionary codes: a name is stored once, not per game."""
    for name in ("judge", "template"):
        if name in table.column_names:
            filled = pc.fill_null(table.column(name), UNKNOWN)
            table = table.set_column(table.column_names.index(name), name, filled)
        else:
            table = table.append_column(name, pa.repeat(UNKNOWN, len(table)))
    for i, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            table = table.set_column(i, field.name, pc.dictionary_encode(table.column(i)))
    return table


def _codes(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """Distinct names, sorted, and each row's index among them."""
    encoded = column.unify_dictionaries().combine_chunks()
    rank = np.empty(len(encoded.dictionary), dtype=np.int64)
    order = pc.array_sort_indices(encoded.dictionary)
    rank[order.to_numpy()] = np.arange(len(rank))
    return encoded.dictionary.take(order), rank[encoded.indices.to_numpy(zero_copy_only=False)]


def _values(table: pa.Table, name: str) -> Floats:
    """A numeric column, NaN for null or when there is none."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return np.asarray(table.column(name).cast(pa.float64()).to_numpy(), dtype=np.float64)


def build_games(table: pa.Table, where: str, unjudged: pa.Table | None) -> Games:
    """Check and encode games whose names are dictionary codes (:func:`encode_names`).

    Args:
        where: how messages call the table.
        unjudged: prompts (``prompt_id, cluster_id, language``) without a game.

    Raises:
        InputError: as :func:`games_from_table`.
    """

    def refuse(bad: Bools, what: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            at = {name: table.column(name)[row].as_py() for name in ("prompt_id", "system", "opponent", "order")}
            raise InputError(f"{where}: row {row + 1} ({', '.join(f'{k} {v!r}' for k, v in at.items())}): {what}")

    for name in ("prompt_id", "system", "opponent", "order"):
        if table.column(name).null_count:
            refuse(table.column(name).is_null().to_numpy(), f"{name} is null")
    score = _values(table, "score")
    refuse(np.isnan(score) & table.column("score").is_valid().to_numpy(), "score is NaN (an invalid verdict is null)")
    refuse((score < 0) | (score > 1), "score is outside 0..1")
    order_names, order = _codes(table.column("order"))
    known = np.array([name in ORDERS for name in order_names.to_pylist()])
    refuse(~known[order], "order must be 'ab' (the system was shown first) or 'ba'")
    order = np.array([ORDERS.index(name) for name in order_names.to_pylist()])[order]

    fields = [_codes(table.column(name)) for name in ("system", "opponent", "judge", "template")]
    names = [field_names.to_pylist() for field_names, _ in fields]
    opponents = {name: code for code, name in enumerate(names[1])}
    same_name = np.array([opponents.get(name, -1) for name in names[0]])
    refuse(same_name[fields[0][1]] == fields[1][1], "a system cannot play itself")
    sizes = [len(n) for n in names]
    kinds, comparison = np.unique(np.ravel_multi_index([codes for _, codes in fields], sizes), return_inverse=True)
    if len(kinds) > MOST_COMPARISONS:
        raise InputError(
            f"{where}: compares {len(kinds):,} pairs of systems; at most {MOST_COMPARISONS:,} are computed"
        )
    parts = zip(*np.unravel_index(kinds, sizes), strict=True)
    comparisons = [Comparison(*(names[i][code] for i, code in enumerate(codes))) for codes in parts]

    n_games = len(table)
    keys = table.select(_PROMPT)
    if unjudged is not None:
        keys = pa.concat_tables([keys, encode_names(unjudged).select(_PROMPT)])
    ids, id_code = _codes(keys.column("prompt_id"))
    _, cluster = _codes(keys.column("cluster_id"))
    languages, language = _codes(keys.column("language"))
    if len(languages) > MOST_LANGUAGES:
        raise InputError(f"{where}: names {len(languages):,} languages; at most {MOST_LANGUAGES:,} are computed")
    for name in RESERVED:
        if name in languages.to_pylist():
            refuse(language[:n_games] == languages.index(name).as_py(), f"a language cannot be called {name!r}")
    _, first, prompt = np.unique(id_code * len(languages) + language, return_index=True, return_inverse=True)
    refuse((cluster[first][prompt] != cluster)[:n_games], "this prompt has another cluster_id in an earlier row")
    prompt = prompt[:n_games]

    game = (comparison * len(first) + prompt) * 2 + order
    by_game = np.argsort(game, kind="stable")
    repeated = np.zeros(n_games, dtype=bool)
    repeated[by_game[1:]] = game[by_game[1:]] == game[by_game[:-1]]
    refuse(repeated, "this game is listed twice (same prompt, system, opponent, judge, order)")

    played = np.zeros(len(first), dtype=bool)
    played[prompt] = True
    return Games(
        comparisons=comparisons,
        languages=languages.to_pylist(),
        prompt_id=ids.take(pa.array(id_code[first])),
        prompt_language=language[first],
        prompt_cluster=cluster[first],
        unjudged=~played,
        comparison=comparison,
        prompt=prompt,
        order=order,
        score=score,
        outcome=_outcome(table, score),
        mass=_values(table, "mass"),
        length_difference=_values(table, "length") - _values(table, "opponent_length"),
        forfeit=_values(table, FORFEIT) == 1,
    )


def _outcome(table: pa.Table, score: Floats) -> Ints:
    invalid = np.isnan(score)
    outcome = np.where(invalid, INVALID, np.sign(np.where(invalid, 0.5, score) - 0.5)).astype(np.int64)
    if "verdict" in table.column_names:
        verdict = table.column("verdict").cast(pa.string())
        for name, value in (("win", 1), ("tie", 0), ("loss", -1)):
            said = pc.fill_null(pc.equal(verdict, name), False).to_numpy()
            outcome[said & ~invalid] = value
    return outcome
