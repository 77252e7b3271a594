"""How many rows a block holds, how many blocks an actor has open, and how many actors work without an engine."""

from __future__ import annotations

import math

from pipeline.config.sections import ExecutionConfig
from pipeline.engines.base import EngineConfig, PoolConfig

_BLOCKS_GOAL = 1000  # about as many files as a pass writes, once it has enough rows
_MOST_ROWS = 2000  # 10 million prompts make 5,000 files
# Each block costs Ray 0.1 s and more of processor time, so there are fewer of them as long as they are small. Without
# an engine a row takes milliseconds (but a user's own selector may take a second), and small is more.
_SMALL_BLOCKS_GOAL = 250
_SMALL_ROWS, _SMALL_ROWS_CPU = (4, 16), (16, 100)
_BLOCKS_PER_ACTOR = 16  # fewer would hardly pay for an actor's start
_SPARE_CPUS = 2  # for Ray's reading and writing, without which nothing moves

_CALLS_PER_ACTOR = (8, 256)  # each is a thread of the actor
# Rows at hand x requests per row, as a multiple of what the engine works on at once. A block stays open until its
# slowest row ends: with 4 rows a block, 4 candidates and exponentially distributed lengths, 1.5 keeps 44% of the engine
# busy and 4 all of it; log-normal ones (sigma 1.5) take 8. When they begin is the worker's business (its ``Intake``).
_FILL = 8


def rows_per_block(rows: int, config: ExecutionConfig, engine: bool = True) -> int:
    """Rows per block (k): what is redone at most per block after a crash, and what one output file holds.

    Args:
        rows: of the pass.
        config: may say it.
        engine: whether the pass has one.
    """
    if config.rows_per_checkpoint is not None:
        return config.rows_per_checkpoint
    low, high = _SMALL_ROWS if engine else _SMALL_ROWS_CPU
    small = max(low, min(high, math.ceil(rows / _SMALL_BLOCKS_GOAL)))
    return max(small, min(_MOST_ROWS, math.ceil(rows / _BLOCKS_GOAL)))


def blocks_of(rows: int, config: ExecutionConfig, engine: bool = True) -> int:
    """How many blocks a pass has."""
    return math.ceil(rows / rows_per_block(rows, config, engine))


def calls_per_actor(k: int, requests_per_row: int, engine: EngineConfig | None, pool: PoolConfig) -> int:
    """Blocks that one actor may have open (c): c x k x requests per row is 8 x the engine's appetite, within bounds.

    With blocks of 4 and one request a row, 256 of them are 4 x 256 sequences.
    """
    if pool.calls_per_actor is not None:
        return pool.calls_per_actor
    if engine is None:
        return 1
    low, high = _CALLS_PER_ACTOR
    return max(low, min(high, math.ceil(_FILL * engine.max_requests() / (k * max(1, requests_per_row)))))


def cpu_pool(blocks: int, processors: float, cpus: float, config: ExecutionConfig) -> PoolConfig:
    """The pool of a pass without an engine: one actor, and more where there are blocks and processors for them.

    Args:
        blocks: that are left to do.
        processors: of the cluster's machines. Half of them are left to Ray's reading and writing.
        cpus: logical CPUs that Ray gives out.
        config: may say the size.
    """
    most = config.cpu_workers or min(blocks // _BLOCKS_PER_ACTOR, int(processors / 2))
    return PoolConfig(size=max(1, min(most, int(cpus) - _SPARE_CPUS)), num_cpus=1.0 if most > 1 else 0.5)
