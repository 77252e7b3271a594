"""Extending a finished table: what of a changed config is added to it, and what would mix with it.

A table's marker records what was *made*: per stage its units, the smallest things that are made on their own. A unit is
a sampling plan (in ``generate``), a selector on one candidate set (``select``) or a system against the opponent
(``judge``). It has *settings* (seed, engine, template, temperature ...) and *inputs*: for a plan its N, for a selection
the candidates that it chose from, for a game the two answers. Compared with the config at hand, a unit is

- made already (same settings, same inputs): nothing is done;
- new (another plan, selector or system): made for every row;
- extended or redone (other inputs): a larger N samples the missing candidates only; selections from a set that grew,
  and the games of selections that were redone, are made again, and only those;
- mixed (other settings): refused, unless ``resume=force`` keeps what is there and records it;
- no longer configured: its results stay, unless they were made from inputs that changed.

Rows that the table has not yet (more prompts) get everything. The next version of a table is its input's current
version plus the results carried over from the version before, by ``row_id``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import ResumeError
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import digest
from pipeline.engines.stage import Stage


@dataclass(frozen=True)
class Unit:
    """One thing that a stage makes on its own.

    Attributes:
        settings: what may not change; JSON.
        inputs: what it is made from: names of candidate sets or systems of the table before -> their ids; or N.
        id: stands for its results in the ``inputs`` of what is made from them.
    """

    settings: Any
    inputs: Any
    id: str

    @classmethod
    def of(cls, settings: Any, inputs: Any) -> Unit:
        """A unit that is made afresh."""
        settings, inputs = json.loads(json.dumps([settings, inputs]))
        return cls(settings, inputs, digest(settings, inputs, size=8))


class Made:
    """What a finished table holds, from the tables before it as well: stage -> unit -> :class:`Unit`.

    Args:
        units: as in the marker.
    """

    def __init__(self, units: Mapping[str, Mapping[str, Unit]] | None = None) -> None:
        self.units: dict[str, dict[str, Unit]] = {stage: dict(found) for stage, found in (units or {}).items()}

    @classmethod
    def read(cls, run: RunFolder, table: str) -> Made:
        """Of a table of the run; empty when it is not finished, or its marker tells nothing."""
        marker = run.marker(table) or {}
        if "made" not in marker:
            return cls(dict(_before_units(run, marker)))
        settings, stages = marker["made"]["settings"], marker["made"]["stages"]
        return cls(
            {stage: {n: Unit(settings[u["settings"]], u["inputs"], u["id"]) for n, u in units.items()}
             for stage, units in stages.items()}
        )  # fmt: skip

    def set_id(self, name: str) -> str:
        """Stands for the contents of one candidate set; given candidates never change."""
        plans = (stage for stage in self.units if stage.startswith("generate:"))
        return digest(sorted((stage, self.units[stage][name].id) for stage in plans if name in self.units[stage]))

    def system_id(self, system: str) -> str:
        """Stands for the answers of one system ``set/method``, a selector of this table or an outside one."""
        name, _, method = system.partition("/")
        unit = self.units.get(f"select:{method}", {}).get(name)
        if unit is not None or name != "policy":
            return unit.id if unit else ""
        return digest(self.as_json())  # the policy's answer may be any selector's

    def ids(self, *names: str) -> dict[str, str]:
        """Names of candidate sets, or of systems ``set/method``, with what stands for their contents."""
        return {name: self.system_id(name) if "/" in name else self.set_id(name) for name in names}

    def as_json(self) -> dict[str, Any]:
        """For the marker; settings, which hold whole prompts, are written once."""
        settings: dict[str, Any] = {}
        stages: dict[str, dict[str, Any]] = {}
        for stage, units in self.units.items():
            for name, unit in units.items():
                key = digest(unit.settings, size=8)
                settings[key] = unit.settings
                stages.setdefault(stage, {})[name] = {"settings": key, "inputs": unit.inputs, "id": unit.id}
        return {"settings": settings, "stages": stages}


def _before_units(run: RunFolder, marker: dict[str, Any]) -> Iterator[tuple[str, dict[str, Unit]]]:
    """What ``generate`` had made when markers held no units, but one fingerprint a pass."""
    fingerprint = marker.get("fingerprint") or {}
    common = {k: v for k, v in fingerprint.items() if k not in ("stages", "input")}
    for stage, settings in (fingerprint.get("stages") or {}).items():
        if "plan" in settings:
            plan = dict(settings["plan"])
            inputs = {"n": plan.pop("n")}
            name = plan["candidate_set"] or stage.removeprefix("generate:")
            yield stage, {name: Unit.of({**common, "plan": plan}, inputs)}
    for name in run.subfolders("work"):
        earlier = run.marker(f"work/{name}/table") or {}
        if earlier.get("fingerprint_hash", "") == fingerprint.get("input"):
            yield from _before_units(run, earlier)


@dataclass
class Wanted:
    """What the config at hand asks of one stage.

    Attributes:
        stage: for rows that have nothing yet.
        settings: of all its units.
        units: name -> inputs.
        follows: it completes what other stages made (metrics, the policy's answer), and runs whenever one of them does.
    """

    stage: Stage
    settings: dict[str, Any]
    units: Mapping[str, Any]
    follows: bool = False


@dataclass
class Extension:
    """How the next version of a table follows from the one before.

    Attributes:
        table, version: the finished version that is carried over.
        job: whose table it is.
        rows: it holds the rows with a ``row_id`` below this number.
        rest: stage -> what is left to do for those rows; ``None`` = nothing.
        stale: results that are not carried over: ``set``, ``set/method`` or ``system vs opponent``.
        redone: stages whose earlier errors are not carried over.
        columns: what the job's stages write.
        source_changed: the table's input has another version than the one that it was made from.
    """

    table: str
    version: int
    job: str
    rows: int
    rest: dict[str, Stage | None] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    redone: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    source_changed: bool = False


@dataclass
class Plan:
    """What a job has to do to its table.

    Attributes:
        made: what the table will hold, the tables before it left out.
        needed: names of the stages that have something to do.
        extension: ``None`` while no version of the table is finished.
        mixed: what ``resume=force`` let pass, one text each.
    """

    made: Made
    needed: frozenset[str]
    extension: Extension | None = None
    mixed: list[str] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """The table needs no new version."""
        return self.extension is not None and not self.needed and not self.extension.source_changed


def plan(run: RunFolder, job: str, wanted: Sequence[Wanted], reads: str, writes: str, force: bool = False) -> Plan:
    """Compare what the config at hand asks for with what the table ``writes`` holds.

    Args:
        reads: the table that it is made from.
        force: let settings differ, and record it.

    Raises:
        ResumeError: the config would mix with what the table holds; the message shows the difference.
    """
    marker, source = run.marker(writes), run.marker(reads) or {}
    fresh = Made({w.stage.name: {n: Unit.of(w.settings, inputs) for n, inputs in w.units.items()} for w in wanted})
    if marker is None:
        return Plan(fresh, frozenset(w.stage.name for w in wanted))
    _check_root(run, reads, writes)
    before, above = Made.read(run, writes), Made.read(run, reads)
    if not before.units and "made" not in marker:
        raise ResumeError(
            f"{run.path(writes)} was written by an earlier Lemonpress, which did not record what it made; use another "
            "folder (out=...), or remove that table to make it again from the one before it"
        )
    rows, more = marker["rows"], source.get("rows", 0) > marker["rows"]
    changed = "source" in marker and marker["source"] != source.get("fingerprint_hash")
    columns = frozenset(name for w in wanted for name in w.stage.writes)
    extension = Extension(writes, marker.get("version", 1), job, rows, columns=columns, source_changed=changed)
    found = _Difference(before, fresh, above)
    for each in wanted:
        extension.rest[each.stage.name] = found.rest(each)
    if found.conflicts and not force:
        raise ResumeError(
            f"{run.path(writes)} was made with another config, and would be mixed:\n"
            + "\n".join(found.conflicts)
            + "\n"
            + ADVICE
        )
    needed = {name for name, rest in extension.rest.items() if rest is not None or more}
    if needed or changed:
        for each in wanted:
            if each.follows:
                extension.rest[each.stage.name] = each.stage
                needed.add(each.stage.name)
                found.redone.add(each.stage.name)
    made, dropped = found.kept()
    extension.stale = frozenset(found.stale | dropped)
    extension.redone = frozenset(found.redone)
    return Plan(made, frozenset(needed), extension, found.conflicts)


ADVICE = (
    "use another folder (out=...), or the config that the folder was made with; resume=force keeps what is there as if "
    "this config had made it, and marks the table as mixed"
)


class _Difference:
    """Compares units, and collects what follows."""

    def __init__(self, before: Made, fresh: Made, source: Made) -> None:
        self._before = {stage: units for stage, units in before.units.items() if stage not in source.units}
        self._fresh, self._source = fresh.units, source
        self._made = Made(fresh.units)
        self.conflicts: list[str] = []
        self.stale: set[str] = set()
        self.redone: set[str] = set()

    def rest(self, wanted: Wanted) -> Stage | None:
        """What is left of a stage for the rows that the table has."""
        name = wanted.stage.name
        before, todo = self._before.get(name, {}), []
        for unit, new in self._fresh[name].items():
            old = before.get(unit)
            if old is not None and old.settings != new.settings:
                self.conflicts.append(difference(old.settings, new.settings, f"{name} {unit}".strip()))
                if old.inputs == new.inputs:
                    self._made.units[name][unit] = Unit(new.settings, new.inputs, old.id)
            if old is None or old.inputs != new.inputs:
                todo.append(unit)
                self.stale |= tokens(name, unit) if old else set()
            elif old.settings == new.settings:
                self._made.units[name][unit] = old
        if todo and set(todo) >= set(before):
            self.redone.add(name)
        return wanted.stage.rest(todo, {u: before[u].inputs for u in todo if u in before}) if todo else None

    def kept(self) -> tuple[Made, set[str]]:
        """What the next version holds, and what is dropped besides: results that nobody asks for any more, of inputs
        that changed.
        """
        dropped: set[str] = set()
        for stage, units in self._before.items():
            for unit, old in units.items():
                if unit in self._made.units.setdefault(stage, {}):
                    continue
                if self._is_outdated(old):
                    dropped |= tokens(stage, unit)
                else:
                    self._made.units[stage][unit] = old
        self._made.units = {stage: units for stage, units in self._made.units.items() if units}
        return self._made, dropped

    def _is_outdated(self, unit: Unit) -> bool:
        inputs = {k: v for k, v in (unit.inputs or {}).items() if isinstance(v, str)}
        return inputs != self._source.ids(*inputs)


def tokens(stage: str, unit: str) -> set[str]:
    """What names a unit's results in :attr:`Extension.stale`."""
    return {unit, f"{unit}/{stage.removeprefix('select:')}"} if stage.startswith("select:") else {unit}


def _check_root(run: RunFolder, reads: str, writes: str) -> None:
    """A table is extended by rows of the prompts that it was made from, and by no others."""
    ours, theirs = root(run, writes), root(run, reads)
    if ours and theirs and ours != theirs:
        raise ResumeError(f"{run.path(writes)} was made from other prompts than {run.path(reads)}; use another folder")


def root(run: RunFolder, table: str) -> str | None:
    """Stands for the prompts that a table goes back to; more prompts do not change it."""
    marker = run.marker(table) or {}
    known: str | None = marker.get("root") or (marker.get("fingerprint_hash") if table == "prompts" else None)
    return known


def difference(before: Any, now: Any, name: str) -> str:
    """Two JSON values as the lines that differ, or an empty text."""
    old, new = (json.dumps(json.loads(json.dumps(x)), indent=1, sort_keys=True).splitlines() for x in (before, now))
    lines = difflib.unified_diff(old, new, f"{name}: in the folder", f"{name}: now", lineterm="", n=0)
    return "\n".join(line for line in lines if line[:2] != "@@")
