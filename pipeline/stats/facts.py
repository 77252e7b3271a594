"""What the statistics have to know of a run's candidate sets that no candidate says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # statistics read settings, and import no config
    from pipeline.config.config import Config


@dataclass(frozen=True)
class SetFacts:
    """One candidate set.

    Attributes:
        engines: names of the engines that its candidates are drawn with (a model and its adapter), sorted.
        first: candidates that every prompt has from the first round, where scores decided on the rest; ``None`` = all.
    """

    engines: tuple[str, ...] = ()
    first: int | None = None


def set_facts(config: Config) -> dict[str, SetFacts]:
    """The facts of every set that a plan draws (evidence apart); given ones have none."""
    found: dict[str, SetFacts] = {}
    for name, plan in config.all_plans().items():
        if plan.kind == "evidence":
            continue
        key = plan.candidate_set or name
        before = found.get(key, SetFacts())
        engines = tuple(sorted({*before.engines, plan.engine or ""}))
        found[key] = SetFacts(engines, plan.adaptive.first if plan.adaptive.by is not None else before.first)
    return found


def same_source(facts: Mapping[str, SetFacts], one: str, other: str) -> bool:
    """Whether both sets come from one and the same engine (as far as is known)."""
    return len({*facts.get(one, SetFacts()).engines, *facts.get(other, SetFacts()).engines}) <= 1
