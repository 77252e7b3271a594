"""Passes side by side: neighbouring passes of a job whose engines find room at the same time become one.

Its plan holds all of their pools, one after the other. A block goes from pool to pool without being written between
them, so the second engine works while the first one still does; rows are durable when the last pool is done with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.execution.spec import PassSpec
from pipeline.execution.unfinished import STATE
from pipeline.storage import RunFolder

Fits = Callable[[Sequence[PassSpec]], bool]
"""Whether the cluster holds the pools of these passes at once."""


def side_by_side(specs: Sequence[PassSpec], run: RunFolder, fits: Fits) -> list[PassSpec]:
    """The passes of a job, neighbours joined as long as they fit.

    A pass with an unfinished or finished table of its own, one that extends a table, and one that waits for decisions
    over its whole input runs by itself. So does the rest when a run goes on that was begun in turn.
    """
    groups: list[list[PassSpec]] = []
    for spec in specs:
        group = groups[-1] if groups else []
        if group and all(_can_join(each, run) for each in (*group, spec)) and fits([*group, spec]):
            group.append(spec)
        else:
            groups.append([spec])
    found: list[PassSpec] = []
    earlier: list[str] = []
    for group in groups:
        spec = join(group) if len(group) > 1 else group[0]
        if spec.reads.startswith("work/") and found:
            spec = replace(spec, reads=found[-1].writes)
        if not spec.skip:
            spec = replace(spec, earlier=list(earlier))
            earlier.append(spec.name)
        found.append(spec)
    return found


def join(specs: Sequence[PassSpec]) -> PassSpec:
    """One pass that does what ``specs`` do one after the other, with all of their pools."""
    first, last = specs[0], specs[-1]
    name = "+".join(spec.name for spec in specs)
    return PassSpec(
        name=name,
        job=last.job,
        reads=first.reads,
        writes=f"work/{name}/table" if last.is_between else last.writes,
        stages=[stage for spec in specs for stage in spec.stages],
        fingerprint={spec.name: spec.fingerprint for spec in specs},
        earlier=first.earlier,
        record=last.record,
        force=last.force,
        pools=list(specs),
    )


def _can_join(spec: PassSpec, run: RunFolder) -> bool:
    alone = spec.skip or spec.extension is not None or spec.prepare is not None or spec.engine is None
    begun = spec.is_between and run.marker(spec.writes) is not None
    return not alone and not begun and run.read_json("work", spec.name, STATE) is None


__all__ = ["join", "side_by_side"]
