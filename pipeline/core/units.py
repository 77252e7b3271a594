"""Units: the smallest things that are made on their own, and what they were made from.

A unit is a sampling plan's candidates (in ``generate``), a selector on one candidate set (``select``), a system against
the opponent (``judge``) or a metric. It has *settings* (seed, engine, template, temperature ...) and *inputs*: for a
plan its N, for a selection the candidates that it chose from, for a game the two answers. Both together are its
identity: the same identity is never made twice.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.core.hashing import digest


@dataclass(frozen=True)
class Unit:
    """One thing that a stage makes on its own.

    Attributes:
        settings: JSON.
        inputs: what it is made from: names of candidate sets or systems -> their ids; or its N, or a digest; JSON.
        id: stands for its results in the ``inputs`` of what is made from them.
    """

    settings: Any
    inputs: Any
    id: str

    @classmethod
    def of(cls, settings: Any, inputs: Any) -> Unit:
        """The unit of these settings and inputs."""
        settings, inputs = json.loads(json.dumps([settings, inputs]))
        return cls(settings, inputs, digest(settings, inputs, size=8))


Stages = Mapping[str, Mapping[str, Unit]]
"""Stage -> name of a unit -> the unit."""

CANDIDATE = "#"
"""Between a candidate set's name and a candidate's index: ``hedged#3`` plays a game."""


class Made:
    """Units by stage and name, the later ones in place of earlier ones of the same name.

    Args:
        stages: from the earliest to the latest.
    """

    def __init__(self, stages: Iterable[Stages] = ()) -> None:
        self.units: dict[str, dict[str, Unit]] = {}
        for each in stages:
            self.add(each)

    def add(self, stages: Stages) -> None:
        """Units that were made (or will be) after those so far."""
        for stage, units in stages.items():
            self.units.setdefault(stage, {}).update(units)

    def get(self, stage: str, name: str) -> Unit | None:
        """The unit of that name."""
        return self.units.get(stage, {}).get(name)

    def set_id(self, name: str) -> str:
        """Stands for the contents of one candidate set; given candidates never change."""
        plans = (stage for stage in self.units if stage.startswith("generate:"))
        return digest(sorted((stage, self.units[stage][name].id) for stage in plans if name in self.units[stage]))

    def system_id(self, system: str) -> str:
        """Stands for the answers of one system ``set/method``, a selector's or an outside one's."""
        name, _, method = system.partition("/")
        unit = self.get(f"select:{method}", name)
        if unit is None and name == "policy":  # its answer may be any selector's
            unit = self.get("select:policy", "")
        return unit.id if unit else ""

    def ids(self, *names: str) -> dict[str, str]:
        """Names of candidate sets, systems ``set/method`` or outside systems, with what stands for their contents."""
        return {name: self._id(name) for name in names}

    def _id(self, name: str) -> str:
        outside = self.get(f"answers:{name}", "")
        return outside.id if outside else self.system_id(name) if "/" in name else self.set_id(name)

    def texts(self) -> dict[str, str]:
        """The ids of everything that metrics measure: candidate sets, systems and outside systems' answers."""
        names = set()
        for stage, units in self.units.items():
            kind, _, rest = stage.partition(":")
            if kind == "generate":
                names |= set(units)
            elif kind == "select":
                names |= {f"{name}/{rest}" for name in units if name}
            elif kind == "answers":
                names.add(rest)
        found = self.ids(*sorted(names))
        return found | ({"policy": self.system_id("policy/policy")} if "select:policy" in self.units else {})


def outdated(unit: Unit, made: Made) -> set[str]:
    """The names among a unit's inputs whose contents are not those any more that it was made from."""
    inputs = unit.inputs if isinstance(unit.inputs, dict) else {}
    known = {name: of for name, of in inputs.items() if isinstance(of, str)}
    if not known:
        return set()
    now = made.texts()
    return {name for name, of in known.items() if (now.get(name) or made.ids(name)[name]) != of}


def results(stage: str, unit: str) -> str:
    """What names a unit's results: ``set``, ``set/method``, ``system vs opponent`` or an outside system."""
    kind, _, rest = stage.partition(":")
    if kind == "select":
        return f"{unit}/{rest}" if unit else "policy"
    return rest if kind == "answers" else unit


def difference(before: Any, now: Any, name: str) -> str:
    """Two JSON values as the lines that differ, or an empty text."""
    old, new = (json.dumps(json.loads(json.dumps(x)), indent=1, sort_keys=True).splitlines() for x in (before, now))
    lines = difflib.unified_diff(old, new, f"{name}: in the folder", f"{name}: now", lineterm="", n=0)
    return "\n".join(line for line in lines if line[:2] != "@@")
