"""What the statistics have to know of a config, and no row says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # statistics read settings, and import no config
    from pipeline.config.config import Config


@dataclass(frozen=True)
class SetFacts:
    """One candidate set.

    Attributes:
        engines: names of the engines that its candidates are drawn with (a model and its adapter), sorted; none where
            they are given.
        first: candidates that every prompt has from the first round, where scores decided on the rest; ``None`` = all.
    """

    engines: tuple[str, ...] = ()
    first: int | None = None


@dataclass(frozen=True)
class Facts:
    """A run's systems.

    Attributes:
        sets: its candidate sets, in the config's order.
        oracles: selectors that know the reference.
        answers: outside systems.
        opponent: the system that Bradley-Terry strengths are relative to.
    """

    sets: Mapping[str, SetFacts] = field(default_factory=dict)
    oracles: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    opponent: str | None = None

    def of(self, name: str) -> SetFacts:
        """A candidate set's facts."""
        return self.sets.get(name, SetFacts())

    def same_source(self, one: str, other: str) -> bool:
        """Whether two sets come from one and the same engine (as far as is known)."""
        return len({*self.of(one).engines, *self.of(other).engines}) <= 1

    def role(self, system: str) -> str:
        """``oracle`` (an upper bound), ``outside`` (answers that were brought along), or empty: it may win."""
        if "/" in system and system.rpartition("/")[2] in self.oracles:
            return "oracle"
        return "outside" if system in self.answers else ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Facts:
        """What ``asdict`` gave."""
        sets = {name: SetFacts(tuple(each["engines"]), each["first"]) for name, each in data["sets"].items()}
        return cls(sets, tuple(data["oracles"]), tuple(data["answers"]), data["opponent"])


def facts_of(config: Config) -> Facts:
    """The facts of a config."""
    sets = dict.fromkeys(config.sets(), SetFacts())
    for name, plan in config.all_plans().items():
        if plan.kind == "evidence":
            continue
        key = plan.candidate_set or name
        engines = tuple(sorted({*sets[key].engines, plan.engine or ""}))
        sets[key] = SetFacts(engines, plan.adaptive.first if plan.adaptive.by is not None else sets[key].first)
    oracles = tuple(name for name, selector in config.selectors.items() if selector.kind == "oracle")
    return Facts(sets, oracles, tuple(config.answers), config.judge.opponent)
