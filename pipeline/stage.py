"""A stage: one async function on one row, with at most one engine. Stages import neither Ray nor vLLM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from pipeline.engines.base import Engine
from pipeline.records import Row


class Stage(ABC):
    """What a pass runs on every row.

    Attributes:
        reads: columns it looks at.
        writes: columns it changes or appends (``usage`` and ``errors`` are the worker's).
    """

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
