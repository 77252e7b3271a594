"""A uniformly random candidate."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.hashing import hash_rng
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("random")
@dataclass
class Random(Selector):
    """A candidate drawn uniformly by a hash of (run seed, prompt_id, plan): the same on every run."""

    source = "baseline"

    async def select(self, pool: Pool) -> Choice:
        return Choice(hash_rng(*pool.key("random")).choice(pool.selectable()))
