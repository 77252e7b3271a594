"""Layers: what passes made for a run's rows, one file a shard, holding only what is new.

``prompts/00042.parquet`` is a shard: some consecutive rows, fixed when they are read. ``TABLE/LAYER/00042.parquet``
holds what one pass made for these rows: ``row_id``, ``prompt_id`` and the items that it added to nested columns. A file
is there, or its shard is not done: it is written under another name and renamed. Nothing that is written is written
again; a later layer's item replaces an earlier one's of the same row and name. Reading is laying layers side by side.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.columns import Bools, Ints
from pipeline.core.errors import InputError
from pipeline.core.units import CANDIDATE, Made, Unit, outdated, results

if TYPE_CHECKING:
    from pipeline.core.folder import RunFolder

LAYER = "_layer.json"
"""Says which units a layer holds."""
FILES = "_files.json"
"""Says what a layer's files are (:mod:`pipeline.core.digests`), once a table that it belongs to was finished."""

TABLES = ("prompts", "candidates", "selections", "games")
"""The run's tables: each is the one before it with the layers of its own."""

KEYS: dict[str, tuple[str, ...]] = {
    "scores": ("scorer", "plan"),
    "selections": ("plan", "method"),
    "answers": ("system",),
    "games": ("system", "opponent", "judge", "template", "order"),
}
"""Column -> the fields by which a later item replaces an earlier one of the same row."""
_NAMED = {**KEYS, "candidates": ("plan",), "errors": ("stage",)}
"""Column -> the fields that say which unit an item belongs to."""


@dataclass(frozen=True)
class Layer:
    """What one pass made for some units of one job.

    Attributes:
        table, name: its folder is ``TABLE/NAME``.
        number: later ones have larger numbers, over all tables of the run.
        job: ``generate``, ``select`` or ``judge``.
        stages: the units that it holds.
        builds_on: layers of its table to whose candidate sets it adds, instead of replacing them.
        base: of a retry, which redoes some rows only: in these rows, layers of its table with smaller numbers do not
            count.
    """

    table: str
    name: str
    number: int
    job: str
    stages: Mapping[str, Mapping[str, Unit]] = field(default_factory=dict)
    builds_on: tuple[str, ...] = ()
    base: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For ``_layer.json``; settings, which hold whole prompts, are written once."""
        settings: dict[str, Any] = {}
        stages: dict[str, dict[str, Any]] = {}
        for stage, units in self.stages.items():
            for name, unit in units.items():
                key = Unit.of(unit.settings, None).id
                settings[key] = unit.settings
                stages.setdefault(stage, {})[name] = {"settings": key, "inputs": unit.inputs, "id": unit.id}
        known = {"number": self.number, "job": self.job, "builds_on": list(self.builds_on), "base": self.base}
        return {**known, "stages": stages, "settings": settings}

    @classmethod
    def read(cls, run: RunFolder, table: str, name: str) -> Layer:
        """A layer of a run.

        Raises:
            InputError: its record is missing or damaged.
        """
        data = run.read_json(table, name, LAYER)
        try:
            stages = {
                stage: {
                    u: Unit(data["settings"][of["settings"]], of["inputs"], str(of["id"])) for u, of in units.items()
                }
                for stage, units in data["stages"].items()
            }
            built = tuple(str(each) for each in data["builds_on"])
            base = None if data["base"] is None else int(data["base"])
            return cls(table, name, int(data["number"]), str(data["job"]), stages, built, base)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{run.path(table, name, LAYER)}: is no record of a layer") from error


def read_layers(run: RunFolder) -> list[Layer]:
    """All layers of a run, finished or not, from the first to the last."""
    found = [
        Layer.read(run, table, name)
        for table in TABLES[1:]
        for name in run.subfolders(table)
        if run.exists(table, name, LAYER)
    ]
    return sorted(found, key=lambda layer: layer.number)


def made_by(layers: Iterable[Layer]) -> Made:
    """What layers hold together, given from the first to the last."""
    return Made(layer.stages for layer in layers)


@dataclass(frozen=True)
class Laid:
    """A layer as it is read together with others.

    Attributes:
        table, name, number, base: as in :class:`Layer`.
        drops: what of it does not count any more, as :func:`~pipeline.core.units.results` names it, or ``:STAGE`` for a
            stage's errors.
    """

    table: str
    name: str
    number: int
    base: int | None = None
    drops: frozenset[str] = frozenset()

    def as_json(self) -> dict[str, Any]:
        """For a table's record."""
        return {**vars(self), "drops": sorted(self.drops)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Laid:
        """What :meth:`as_json` gave."""
        return cls(data["table"], data["name"], data["number"], data["base"], frozenset(data["drops"]))


def lay(layers: Sequence[Layer], built: Collection[str] = ()) -> list[Laid]:
    """Say of each layer what later ones leave of it.

    Args:
        layers: from the first to the last.
        built: names of layers that a pass builds on: it reads what they say of sets that have grown since.
    """
    now = made_by(layers)
    found = []
    for i, layer in enumerate(layers):
        drops: set[str] = set()
        for stage, units in layer.stages.items():
            if is_metric(stage):
                drops |= {name for unit in units.values() for name in outdated(unit, now)}
                continue
            gone = {
                name
                for name, unit in units.items()
                if (outdated(unit, now) and layer.name not in built)
                or _is_replaced(layer, stage, name, layers[i + 1 :])
            }
            drops |= {results(stage, name) for name in gone}
            if gone == set(units):
                drops.add(f":{stage}")
        found.append(Laid(layer.table, layer.name, layer.number, layer.base, frozenset(drops)))
    return found


def is_metric(stage: str) -> bool:
    """Whether a stage measures what others made: then its numbers go with the texts."""
    return stage == "measure" or stage.startswith("metric:")


def _is_replaced(layer: Layer, stage: str, unit: str, later: Sequence[Layer]) -> bool:
    return any(
        unit in each.stages.get(stage, {}) and layer.name not in each.builds_on and each.base is None for each in later
    )


def overlay(prompts: pa.Table, sources: Sequence[tuple[Laid, pa.Table]], types: Mapping[str, pa.DataType]) -> pa.Table:
    """The rows of one shard with nested columns, made of what the shard itself and layers hold of them.

    Args:
        prompts: of the shard, with ``row_id`` at least; ascending.
        sources: layers from the first to the last with their files' columns; rows in the same order, or fewer.
        types: name -> type of the nested columns; one that nobody holds is empty lists.

    Raises:
        InputError: a layer has other rows than the shard, or one of them twice.
    """
    ids: Ints = prompts.column("row_id").to_numpy()
    parts = [_Part(Laid("prompts", "", -1), prompts, np.arange(len(ids)))]
    parts += [_Part(laid, table, _places(ids, table, f"{laid.table}/{laid.name}")) for laid, table in sources]
    for part in parts:
        part.hide(parts, len(ids))
    columns = {name: prompts.column(name) for name in prompts.column_names if name not in types}
    for name, type_ in types.items():
        columns[name] = _column(name, type_, [part for part in parts if name in part.table.column_names], len(ids))
    return pa.table(columns)


def _places(ids: Ints, table: pa.Table, where: str) -> Ints:
    mine: Ints = table.column("row_id").to_numpy()
    if len(mine) == len(ids) and np.array_equal(mine, ids):
        return np.arange(len(ids))
    places = np.searchsorted(ids, mine)
    if len(np.unique(mine)) != len(mine) or not np.isin(mine, ids).all():
        raise InputError(f"{where}: its rows are not those of the shard, each once")
    return places


class _Part:
    """What one layer holds of a shard: its rows' places in it, and which of these rows a retry has redone."""

    def __init__(self, laid: Laid, table: pa.Table, places: Ints) -> None:
        self.laid, self.table, self.places = laid, table, places
        self.hidden: Bools | None = None

    def hide(self, parts: Sequence[_Part], rows: int) -> None:
        """Find the rows in which a retry takes this layer's place."""
        for each in parts:
            if each.laid.base is not None and each.laid.table == self.laid.table and self.laid.number < each.laid.base:
                self.hidden = np.zeros(rows, bool) if self.hidden is None else self.hidden
                self.hidden[each.places] = True

    def items(self, name: str) -> tuple[pa.StructArray, Ints]:
        """The items of a column that count, and the place of each one's row."""
        lists = self.table.column(name)
        array = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
        values = pc.list_flatten(array)
        places: Ints = self.places[pc.list_parent_indices(array).to_numpy()]
        if name == "usage":  # what was paid stays paid
            return values, places
        keep = None if self.hidden is None else ~self.hidden[places]
        if self.laid.drops:
            counts = ~_is_dropped(name, values, self.laid.drops)
            keep = counts if keep is None else keep & counts
        if keep is None or keep.all():
            return values, places
        return values.filter(pa.array(keep)), places[keep]

    def is_whole(self, rows: int) -> bool:
        """Whether all of it counts, for all rows of the shard."""
        return not self.laid.drops and self.hidden is None and len(self.places) == rows


def _column(name: str, type_: pa.DataType, parts: Sequence[_Part], rows: int) -> pa.Array:
    filled = [part for part in parts if not _is_empty(part.table.column(name))]
    if not filled:
        return pa.array([[]] * rows, type_)
    if len(filled) == 1 and filled[0].is_whole(rows):
        return filled[0].table.column(name).combine_chunks()
    pieces = [part.items(name) for part in filled]
    values = pa.concat_arrays([piece[0] for piece in pieces])
    places = np.concatenate([piece[1] for piece in pieces])
    order: Ints = np.argsort(places, kind="stable")
    if len(pieces) > 1 and name in KEYS and (kept := _last(values, places, KEYS[name])) is not None:
        order = order[kept[order]]
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(places[order], minlength=rows), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values.take(pa.array(order)))


def _is_empty(column: pa.ChunkedArray) -> bool:
    return not sum(len(pc.list_flatten(chunk)) for chunk in column.chunks)


def _last(values: pa.StructArray, places: Ints, key: Sequence[str]) -> Bools | None:
    """Of the items of one row and key, the last one only; ``None`` where each is there once."""
    codes = places.astype(np.int64)
    for field_name in key:
        encoded = pc.dictionary_encode(pc.struct_field(values, field_name), null_encoding="encode")
        codes = codes * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy(zero_copy_only=False)
    _, last = np.unique(codes[::-1], return_index=True)
    if len(last) == len(codes):
        return None
    kept = np.zeros(len(codes), bool)
    kept[len(codes) - 1 - last] = True
    return kept


def _is_dropped(name: str, values: pa.StructArray, drops: Collection[str]) -> Bools:
    """Which items are of units that do not count any more."""
    if name not in _NAMED or not len(values):
        return np.zeros(len(values), bool)
    fields = [pc.struct_field(values, each).to_pylist() for each in _NAMED[name]]
    return np.fromiter((_owner(name, item) in drops for item in zip(*fields, strict=True)), bool, len(values))


def _owner(name: str, item: tuple[Any, ...]) -> str:
    """What :func:`~pipeline.core.units.results` calls the unit that an item is of."""
    match name:
        case "errors":
            return f":{item[0]}"
        case "selections":
            return "policy" if item[0] == "policy" else f"{item[0]}/{item[1]}"
        case "scores":
            scorer, plan = item
            if scorer.startswith("metric:"):
                name = str(plan).removeprefix("answer:")
                return "policy" if name.startswith("policy/") else name
            return str(plan) if scorer.startswith(("adaptive:", "self_certainty")) else f"{plan}/{scorer}"
        case "games":
            system, opponent = item[0], item[1]
            pool, sign, index = system.rpartition(CANDIDATE)
            return f"{pool + sign if sign and index.isdigit() else system} vs {opponent}"
    return str(item[0])
