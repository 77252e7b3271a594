"""The policy's answer: the choice of the selector that the row's rule names, under one name for all rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pipeline.core.policy import NAME, Policy
from pipeline.core.row import Row
from pipeline.engines.base import Engine
from pipeline.engines.stage import Stage


@dataclass
class PolicyStage(Stage):
    """Copies the selections of the row's own plan under the plan ``policy``: the rule's selector as ``policy/policy``,
    selectors that no rule names (baselines) under their own names, so that systems are comparable over all rows.
    """

    policy: Policy

    reads: ClassVar[tuple[str, ...]] = ("task", "language", "selections")
    writes: ClassVar[tuple[str, ...]] = ("selections",)

    @property
    def name(self) -> str:
        return "select:policy"

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        rule = self.policy.rule(row)
        ours = [s for s in row.selections if s.plan == rule.plan]
        copies = [replace(s, plan=NAME, method=NAME if s.method == rule.selector else s.method) for s in ours]
        row.selections = [*(s for s in row.selections if s.plan != NAME), *copies]
        return row
