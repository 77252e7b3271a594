"""A run's games: streamed, their nested lists flattened inside Arrow, with the answers' lengths beside them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.judging.names import IS_AUDIT, IS_CANDIDATE
from pipeline.stats.games import FORFEIT, Games, build_games, encode_names, prompt_columns

SYSTEMS, CANDIDATES, AUDIT = "systems", "candidates", "audit"
"""Kinds of games: between systems, of single candidates against the baseline, of the judge's audit."""

_FIELDS = ("system", "opponent", "judge", "template", "order", "score", "mass", "verdict")
_SEPARATOR = "\x1f"


class GamesReader:
    """Collects the games of one kind from a table's batches.

    Of ids, names and verdicts the codes are kept, and of the systems' texts only the lengths (in characters): about 100
    bytes a game. Only for ``systems`` does a prompt without a game count as unjudged.

    Args:
        kind: ``systems``, ``candidates`` (``hedged#3`` as the system) or ``audit``.
    """

    def __init__(self, kind: str = SYSTEMS) -> None:
        self._kind = kind
        self._found: list[pa.Table] = []
        self._unjudged: list[pa.Table] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Read a batch with its games, selections and answers."""
        if "games" not in batch.schema.names:
            return
        prompts = prompt_columns(batch)
        parents, items = _flat(batch, "games")
        mine = _of_kind(items.field("system"), self._kind)
        parents, items = parents.filter(mine), items.filter(mine)
        taken = {name: pc.take(pc.dictionary_encode(values), parents) for name, values in prompts.items()}
        fields = {name: items.field(name) for name in _FIELDS if items.type.get_field_index(name) >= 0}
        lengths = _lengths(batch, parents, items) if self._kind == SYSTEMS else {}
        self._found.append(encode_names(pa.table({**taken, **fields, **lengths})))
        if self._kind == SYSTEMS:
            empty = pc.invert(pc.is_in(pa.array(range(len(batch))), value_set=parents.cast(pa.int64())))
            self._unjudged.append(pa.table({name: pc.filter(values, empty) for name, values in prompts.items()}))

    def finish(self, where: str) -> Games | None:
        """The games of all batches; ``None`` where there is none of that kind.

        Raises:
            InputError: a game is malformed; ``where`` is how messages call the table.
        """
        if not sum(map(len, self._found)):
            return None
        unjudged = pa.concat_tables(self._unjudged) if self._unjudged else None
        return build_games(pa.concat_tables(self._found), where, unjudged)


def _flat(batch: pa.RecordBatch, name: str) -> tuple[pa.Array, pa.StructArray]:
    """(row of every item, the items) of a nested column."""
    lists = batch.column(name)
    return pc.list_parent_indices(lists), pc.list_flatten(lists)


def _of_kind(systems: pa.Array, kind: str) -> pa.Array:
    audit = pc.match_substring_regex(systems, IS_AUDIT)
    single = pc.match_substring_regex(systems, IS_CANDIDATE)
    found = {AUDIT: audit, CANDIDATES: single}.get(kind)
    return pc.fill_null(pc.invert(pc.or_(audit, single)) if found is None else found, kind == SYSTEMS)


def _lengths(batch: pa.RecordBatch, parents: pa.Array, games: pa.StructArray) -> dict[str, Any]:
    """Characters of both sides' answers in every game, and whether one is missing; null where it is not of this run."""
    keys: list[pa.Array] = []
    lengths: list[pa.Array] = []
    if "selections" in batch.schema.names:
        rows, items = _flat(batch, "selections")
        names = pc.binary_join_element_wise(items.field("plan"), items.field("method"), "/")
        keys.append(_key(rows, names))
        lengths.append(pc.utf8_length(items.field("text")))
    if "answers" in batch.schema.names:
        rows, items = _flat(batch, "answers")
        keys.append(_key(rows, items.field("system")))
        lengths.append(pc.utf8_length(items.field("text")))
    if not keys:
        return {}
    known, values = pa.concat_arrays(keys), pa.concat_arrays(lengths)
    found, missing = {}, []
    for name, side in (("length", "system"), ("opponent_length", "opponent")):
        at = pc.index_in(_key(parents, games.field(side)), value_set=known)
        found[name] = values.take(at).cast(pa.float64())
        missing.append(pc.and_(at.is_valid(), found[name].is_null()))
    return found | {FORFEIT: pc.or_(*missing).cast(pa.float64())}


def _key(rows: pa.Array, names: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(rows.cast(pa.string()), names, _SEPARATOR)
