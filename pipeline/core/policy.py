"""Policy: which sampling plan and selector to use, per task and language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.core.languages import base_language
from pipeline.core.row import Row

NAME = "policy"
"""Name of the set and of the method under which the policy's answer is stored."""


@dataclass
class Rule:
    """One line of a policy: ``{task: math, language: ja, plan: cool, selector: vote}``.

    Attributes:
        task: rows of this task; ``null`` = any.
        language: rows in this language (primary subtag); ``null`` = any.
        plan: the candidate set to sample.
        selector: the selector whose choice is the policy's answer.
    """

    task: str | None = None
    language: str | None = None
    plan: str = ""
    selector: str = ""

    def fits(self, row: Row) -> bool:
        """Whether the rule is about this row."""
        same_language = self.language is None or base_language(self.language) == base_language(row.language)
        return same_language and (self.task is None or self.task == row.task)


@dataclass
class Policy:
    """All rules. The most specific one that fits wins: task and language, then task, then language, then neither.

    A policy must have a rule for every row (``default: {plan: ..., selector: ...}``), which the config check sees to.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)

    def rule(self, row: Row) -> Rule:
        """The rule for one row."""
        fitting = [r for r in self.rules.values() if r.fits(row)]
        return max(fitting, key=lambda r: 2 * (r.task is not None) + (r.language is not None))

    def wants_plan(self, plan: str, row: Row) -> bool:
        """Whether to sample ``plan`` for this row; plans that no rule names are sampled for every row."""
        return all(r.plan != plan for r in self.rules.values()) or self.rule(row).plan == plan

    def wants_selector(self, selector: str, row: Row) -> bool:
        """Whether to run ``selector`` on this row; selectors that no rule names (baselines) run on every row."""
        return all(r.selector != selector for r in self.rules.values()) or self.rule(row).selector == selector

    def baselines(self, selectors: Mapping[str, object]) -> list[str]:
        """The selectors that no rule names: they are compared with the policy on every row."""
        return [s for s in selectors if all(r.selector != s for r in self.rules.values())]
