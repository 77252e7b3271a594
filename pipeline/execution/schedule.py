"""From steps to passes: which layers a run needs, which shards lack them, and in which order pools make them.

What the folder holds is compared with what the config at hand asks for, unit by unit. A unit is

- made already (same settings, same inputs): its layer is gone on with where shards lack it;
- new (another plan, selector or system): made for every shard, in a further layer;
- extended or redone (other inputs): a larger N samples the missing candidates only; selections from a set that grew,
  and the games of selections that were redone, are made again, and only those;
- another under the same name (other settings): refused, unless ``resume=anew`` makes it beside the old one;
- no longer configured: its results stay, unless they were made from inputs that changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.core.columns import Ints
from pipeline.core.errors import ResumeError
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES, Laid, Layer, lay, read_layers
from pipeline.core.reading import Table, shards_in
from pipeline.core.units import Unit, difference
from pipeline.engines.base import EngineConfig
from pipeline.engines.stage import Stage
from pipeline.execution.spec import LayerSpec, PassSpec

Decide = Callable[[Table, str, Ints], Stage]
"""Makes a stage anew when the layers before it are finished: from the rows so far, its own layer's name, and the
``row_id`` of the rows that it is for.
"""


@dataclass
class Step:
    """A stage with what planning needs to know about it.

    Attributes:
        job: whose it is.
        table: where its layers lie.
        engine: name under ``engines``; ``None`` for a stage on the CPU.
        stage: what runs.
        settings: what may not change for the same unit; JSON.
        units: what of the stage is made on its own -> what it is made from (:mod:`pipeline.core.units`).
        requests: engine requests of one row in flight at once, about.
        after: names of stages that come before it, where they are planned, too.
        decide: makes the stage when all rows have those.
        phase: steps of different phases never share a layer.
    """

    job: str
    table: str
    engine: str | None
    stage: Stage
    settings: dict[str, Any]
    units: Mapping[str, Any] = field(default_factory=lambda: {"": None})
    requests: int = 1
    after: frozenset[str] = frozenset()
    decide: Decide | None = None
    phase: int = 0

    def made(self) -> dict[str, dict[str, Unit]]:
        """Stage -> its units, as they will be."""
        return {self.stage.name: {name: Unit.of(self.settings, inputs) for name, inputs in self.units.items()}}


@dataclass
class Planned:
    """A layer of the plan.

    Attributes:
        spec: what is to be made; nothing where no shard lacks it.
        steps: of its stages.
        needs: names of the layers that come before it.
    """

    spec: LayerSpec
    steps: Sequence[Step]
    needs: frozenset[str] = frozenset()

    @property
    def waits(self) -> bool:
        """Whether it is decided over all rows."""
        return any(step.decide is not None for step in self.steps)


class Plan:
    """What is to be done for some steps.

    Args:
        run: the run.
        steps: in an order in which they could run.
        engines: name -> engine.
        sizes: rows of every shard that is to be done.
        anew: make units again that the folder has with other settings.

    Attributes:
        layers: those that count and those that are new, from the first to the last.

    Raises:
        ResumeError: the config would mix with what the folder holds; the message shows the difference.
    """

    def __init__(
        self,
        run: RunFolder,
        steps: Sequence[Step],
        engines: Mapping[str, EngineConfig],
        sizes: Sequence[int],
        anew: bool = False,
    ) -> None:
        self._run, self._engines, self.sizes = run, engines, list(sizes)
        self._known = read_layers(run)
        self._held = {(k.table, k.name): frozenset(shards_in(run, k.table, k.name)) for k in self._known}
        self._anew = anew
        self._steps = list(steps)
        self.layers = self._plan()

    def _plan(self) -> list[Planned]:
        holders = {
            (stage, name): layer
            for layer in self._known
            if layer.base is None
            for stage, units in layer.stages.items()
            for name in units
        }
        kept: dict[str, list[tuple[Step, list[str]]]] = {}
        new: dict[_Key, list[tuple[Step, list[str]]]] = {}
        conflicts = []
        for step in self._steps:
            todo: list[str] = []
            mine: dict[str, list[str]] = {}
            for name, unit in step.made()[step.stage.name].items():
                holder = holders.get((step.stage.name, name))
                old = holder.stages[step.stage.name][name] if holder else None
                if holder and old and old.id == unit.id:
                    mine.setdefault(holder.name, []).append(name)
                    continue
                if old and old.settings != unit.settings and not self._anew:
                    conflicts.append(difference(old.settings, unit.settings, f"{step.stage.name} {name}".strip()))
                todo.append(name)
            for layer_name, names in mine.items():
                kept.setdefault(layer_name, []).append((step, names))
            if todo:
                new.setdefault((step.job, step.engine, step.phase), []).append((step, todo))
        if conflicts:
            raise ResumeError(
                f"{self._run.name} was made with another config, and would be mixed:\n"
                + "\n".join(conflicts)
                + "\n"
                + ADVICE
            )
        found = [self._kept(layer, kept[layer.name]) for layer in self._known if layer.name in kept]
        number = max((layer.number for layer in self._known), default=-1) + 1
        taken = {layer.name for layer in self._known}
        for i, (job, engine, phase) in enumerate(_sorted(new)):
            name = _free_name(f"{job}-{engine or 'cpu'}" + (f"-{phase + 1}" if phase else ""), taken)
            taken.add(name)
            found.append(self._new(new[job, engine, phase], name, number + i))
        return [replace(one, needs=_needs(one, found)) for one in found]

    def _kept(self, layer: Layer, parts: Sequence[tuple[Step, list[str]]]) -> Planned:
        built = [each for each in self._known if each.name in layer.builds_on]
        stages, rest = [], {}
        for step, names in parts:
            name = step.stage.name
            stages.append(step.stage.rest(names, {}))
            before = {u: each.stages[name][u].inputs for each in built for u in names if u in each.stages.get(name, {})}
            if before:
                rest[name] = step.stage.rest(names, before)
        lacks = frozenset(range(len(self.sizes))) - self._held[layer.table, layer.name]
        return Planned(self._spec(layer, [step for step, _ in parts], stages, rest, lacks), [step for step, _ in parts])

    def _new(self, parts: Sequence[tuple[Step, list[str]]], name: str, number: int) -> Planned:
        stages, rest, built = [], {}, set()
        units: dict[str, dict[str, Unit]] = {}
        for step, names in parts:
            stage = step.stage.name
            units[stage] = {u: unit for u, unit in step.made()[stage].items() if u in names}
            holders = [each for each in self._known if any(u in each.stages.get(stage, {}) for u in names)]
            before = {
                u: each.stages[stage][u].inputs
                for each in holders
                for u in names
                if u in each.stages.get(stage, {})
                and each.stages[stage][u].settings == units[stage][u].settings
                and (step.job != "select" or self._only_grew(u))
            }
            stages.append(step.stage.rest(names, {}))
            remaining = step.stage.rest(names, before)
            if remaining != stages[-1]:
                rest[stage] = remaining
                built |= {each.name for each in holders}
        steps = [step for step, _ in parts]
        layer = Layer(steps[0].table, name, number, steps[0].job, units, tuple(sorted(built)))
        return Planned(self._spec(layer, steps, stages, rest, frozenset(range(len(self.sizes)))), steps)

    def _only_grew(self, candidate_set: str) -> bool:
        """Whether all that was and will be drawn for a set adds to what was there; else its texts are others."""
        settings: dict[str, list[Any]] = {}
        for stages in [*(each.stages for each in self._known), *(step.made() for step in self._steps)]:
            for stage, units in stages.items():
                if stage.startswith("generate:") and candidate_set in units:
                    settings.setdefault(stage, []).append(units[candidate_set].settings)
        return all(each == drawn[0] for drawn in settings.values() for each in drawn)

    def _spec(
        self,
        layer: Layer,
        steps: Sequence[Step],
        stages: list[Stage],
        rest: Mapping[str, Stage],
        lacks: frozenset[int],
    ) -> LayerSpec:
        engine = next((step.engine for step in steps if step.engine), None)
        requests = min((step.requests for step in steps if step.engine), default=1)
        config = self._engines[engine] if engine else None
        return LayerSpec(layer, stages, rest, engine or "", config, requests, shards=lacks)

    def again(self, rows: Mapping[str, Ints], base: int) -> None:
        """Make this the plan of a retry: of every job some rows, and nothing else.

        Args:
            rows: job -> ``row_id`` of its rows, ascending; a later job's hold those of the jobs before.
            base: the first number of the retry's layers: those that it has begun are gone on with.
        """
        open_ = [layer for layer in self._known if layer.base == base]
        number = max([base, *(layer.number + 1 for layer in open_)])
        names = {layer.name for layer in self._known}
        starts = np.cumsum([0, *self.sizes])
        found = []
        for planned in (p for p in self.layers if len(rows.get(p.spec.layer.job, ()))):
            old, ids = planned.spec.layer, rows[planned.spec.layer.job]
            units = {step.stage.name: step.made()[step.stage.name] for step in planned.steps}
            known = next(
                (each for each in open_ if each.table == old.table and each.stages.keys() == units.keys()), None
            )
            if known is None:
                name = _free_name(f"{old.name}-retry", names)
                names.add(name)
                known = Layer(old.table, name, number, old.job, units, base=base)
                number += 1
            stages = [step.stage for step in planned.steps]
            shards = frozenset(np.unique(np.searchsorted(starts, ids, side="right") - 1).tolist())
            shards -= self._held.get((known.table, known.name), frozenset())
            spec = replace(self._spec(known, planned.steps, stages, {}, shards), rows=ids)
            found.append(Planned(spec, planned.steps))
        self.layers = [replace(one, needs=_needs(one, found)) for one in found]

    def laid(
        self, before: int | None = None, finished: bool = False, built: frozenset[str] = frozenset()
    ) -> list[Laid]:
        """The layers that count, the plan's own with them, as they are read together.

        Args:
            before: only those with smaller numbers.
            finished: only those that lack no shard.
            built: names of those that count although what they were made from has grown.
        """
        every = {layer.name: layer for layer in [*self._known, *(one.spec.layer for one in self.layers)]}
        layers = sorted(every.values(), key=lambda layer: layer.number)
        lacking = {one.spec.layer.name for one in self.layers if one.spec.shards}
        kept = [each for each in layers if before is None or each.number < before]
        return [laid for laid in lay(kept, built) if not (finished and laid.name in lacking)]

    def passes(self) -> Iterator[list[Planned]]:
        """Layers that lack shards, grouped into passes: what a pool makes in one go, its engine loaded once.

        A pass takes in, as long as it can, whatever its engine (or none) is needed for next; what is decided over all
        rows waits for the passes before. Two names of equal settings (``judge: ${engines.generator}``) are one engine.
        """
        waiting = [one for one in self.layers if one.spec.shards]
        done = {one.spec.layer.name for one in self.layers} - {one.spec.layer.name for one in waiting}
        while waiting:
            group: list[Planned] = []
            engine = ""
            for one in waiting:
                ours = {each.spec.layer.name for each in group}
                name = one.spec.engine_name
                fits = not name or not engine or self._engines[name] == self._engines[engine]
                if fits and one.needs <= (done if one.waits else done | ours):
                    group.append(one)
                    engine = engine or one.spec.engine_name
            assert group, "steps that wait for one another"
            yield group
            done |= {one.spec.layer.name for one in group}
            waiting = [one for one in waiting if one not in group]

    def spec_of(self, group: Sequence[Planned]) -> PassSpec:
        """The pass that makes some layers."""
        own = {one.spec.layer.name for one in group}
        built = frozenset(name for one in group for name in one.spec.layer.builds_on)
        laid = self.laid(max(one.spec.layer.number for one in group) + 1, built=built)
        held = {place: shards for place, shards in self._held.items() if place[1] not in own}
        return PassSpec([one.spec for one in group], laid, held, self.sizes)

    def table(self, before: int) -> Table:
        """The rows with what layers numbered below hold of them."""
        return Table(self._run, self.sizes, self.laid(before, finished=True), self._run.name)

    def rows_of(self, shards: Iterable[int]) -> Ints:
        """``row_id`` of the rows of some shards, ascending."""
        starts = np.cumsum([0, *self.sizes])
        parts = [np.arange(starts[number], starts[number + 1]) for number in sorted(shards)]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def finish(self, group: Sequence[Planned]) -> None:
        """Note that a pass has made its layers."""
        for one in group:
            place = (one.spec.layer.table, one.spec.layer.name)
            self._held[place] = self._held.get(place, frozenset()) | one.spec.shards
            one.spec.shards = frozenset()

    def is_complete(self, table: str) -> bool:
        """Whether no layer of a table, or of those before it, lacks a shard."""
        upto = TABLES[: TABLES.index(table) + 1]
        return not any(one.spec.shards for one in self.layers if one.spec.layer.table in upto)


_Key = tuple[str, str | None, int]
"""(job, engine, phase): steps of one key share a layer."""


def _sorted(new: Mapping[_Key, Sequence[tuple[Step, list[str]]]]) -> list[_Key]:
    """Groups of steps in an order in which each comes after those that its steps come after."""
    stages = {key: {step.stage.name for step, _ in parts} for key, parts in new.items()}
    after = {key: {name for step, _ in parts for name in step.after} for key, parts in new.items()}
    order: list[_Key] = []
    waiting = list(new)
    while waiting:
        key = next(k for k in waiting if not any(after[k] & stages[other] for other in waiting if other != k))
        order.append(key)
        waiting.remove(key)
    return order


def _needs(one: Planned, others: Sequence[Planned]) -> frozenset[str]:
    after = {name for step in one.steps for name in step.after}
    mine = one.spec.layer
    return frozenset(
        each.spec.layer.name
        for each in others
        if each.spec.layer.name != mine.name
        and (after & set(each.spec.layer.stages) or each.spec.layer.name in mine.builds_on)
    )


def _free_name(name: str, taken: set[str]) -> str:
    return next(n for i in range(1, len(taken) + 2) if (n := name if i == 1 else f"{name}-{i}") not in taken)


ADVICE = (
    "use another folder (out=...), or the config that the folder was made with; resume=anew makes what differs again, "
    "beside what is there, with all that depends on it"
)
