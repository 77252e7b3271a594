"""A stage: one async function on one row, with at most one engine. Stages import neither Ray nor vLLM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pipeline.core.row import Row
from pipeline.engines.base import Engine

PROMPT = ("prompt_id", "task", "language", "messages", "errors")
"""Columns that a stage reads to know the prompt."""


class Stage(ABC):
    """What a pass runs on every row.

    Attributes:
        run_seed: the run's seed, where it uses one.
        reads: columns it looks at.
        writes: columns it changes or appends (``usage`` and ``errors`` are the worker's).
    """

    run_seed: int = 1
    reads: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """Unique in its pass; stands in ``usage.stage`` and ``errors.stage``."""

    @abstractmethod
    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        """Return the row with this stage's columns filled.

        An exception becomes an entry of the row's ``errors``; the row itself is kept, so a stage changes the
        row only once it has its result.
        """

    def rest(self, units: Sequence[str], before: Mapping[str, Any]) -> Stage:
        """The same stage for some of its units only: what a row still needs that has the others already.

        Args:
            units: as in :mod:`pipeline.core.units`.
            before: for those of them that the row has in part or from other inputs: what these were.

        Raises:
            ResumeError: what the row has cannot be added to.
        """
        return self
