"""From a job's stages to its passes: neighbouring stages on one engine share a pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.config import Config
from pipeline.scoring.measure import MeasureStage
from pipeline.scoring.quality import QualityStage
from pipeline.stage import Stage

if TYPE_CHECKING:
    from pipeline.execution.passes import PassSpec


@dataclass
class Step:
    """A stage with what planning needs to know about it.

    Attributes:
        engine: name under ``engines``; ``None`` for a stage on the CPU.
        stage: what runs.
        fingerprint: the settings that its result depends on.
        requests: engine requests of one row in flight at once, about.
        last: runs after all other steps of the job; those on the CPU first, then those with an engine.
    """

    engine: str | None
    stage: Stage
    fingerprint: dict[str, Any]
    requests: int = 1
    last: bool = False


def chain(
    job: str, config: Config, steps: Sequence[Step], reads: str, writes: str, fingerprint: dict[str, Any]
) -> list[PassSpec]:
    """Passes that run ``steps``, grouped by engine, from table ``reads`` to table ``writes``.

    One pass an engine, in order of first use; steps without an engine ride along in the first one, because a pass of
    their own would copy the whole table once more. Tables between the passes lie under ``work/``.

    Args:
        fingerprint: settings that all of the job's passes depend on.
    """
    from pipeline.execution.passes import PassSpec

    early, late = [s for s in steps if not s.last], [s for s in steps if s.last]
    first = next((step.engine for step in early if step.engine), None)
    groups: dict[str, list[Step]] = {}
    for step in sorted(early, key=lambda s: s.engine is not None):
        groups.setdefault(_pass_name(job, step.engine or first), []).append(step)
    final = next(reversed(groups), _pass_name(job, None))
    groups.setdefault(final, []).extend(step for step in late if step.engine is None)
    done = set(groups) - {final}
    for step in late:
        if step.engine is not None:
            name = _pass_name(job, step.engine)
            groups.setdefault(f"{name}-last" if name in done else name, []).append(step)
    specs = []
    for i, (name, group) in enumerate(groups.items()):
        engine = next((s.engine for s in group if s.engine), None)
        target = writes if i == len(groups) - 1 else f"work/{name}/table"
        engine_config = config.engines[engine] if engine else None
        depends = {s.stage.name: s.fingerprint for s in group}
        identity = engine_config.identity() if engine_config else None
        specs.append(
            PassSpec(
                name=name,
                job=job,
                reads=reads,
                writes=target,
                stages=[s.stage for s in group],
                engine=engine_config,
                requests_per_row=sum(s.requests for s in group),
                fingerprint={**fingerprint, "engine": identity, "stages": depends},
            )
        )
        reads = target
    return specs


def measure_steps(config: Config, job: str, fingerprint: dict[str, Any] | None = None) -> Iterator[Step]:
    """The steps that measure every text that has no number yet: by its task, then by the metrics of engines."""
    yield Step(None, MeasureStage(config.tasks), fingerprint or {}, last=True)
    for name, metric in config.metrics.items():
        stage = QualityStage(name, tuple(metric.tasks), job)
        texts = sum(plan.n for plan in config.all_plans().values()) or 4
        yield Step(metric.engine, stage, {"tasks": metric.tasks}, texts, last=True)


def _pass_name(job: str, engine: str | None) -> str:
    return f"{job}-{engine or 'cpu'}"
