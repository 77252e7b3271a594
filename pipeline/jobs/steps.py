"""From a job's stages to its passes: neighbouring stages on one engine share a pass, and what is done is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.config.load import Config
from pipeline.core.folder import MARKER, RunFolder
from pipeline.engines.stage import Stage
from pipeline.execution import extend
from pipeline.tasks.measure import MeasureStage, QualityStage

if TYPE_CHECKING:
    from pipeline.execution.spec import PassSpec


@dataclass
class Step:
    """A stage with what planning needs to know about it.

    Attributes:
        engine: name under ``engines``; ``None`` for a stage on the CPU.
        stage: what runs.
        fingerprint: the settings that its result depends on.
        requests: engine requests of one row in flight at once, about.
        last: runs after all other steps of the job, and whenever one of them has something to do; those on the CPU
            first, then those with an engine.
        phase: steps of a later phase run after all of the phases before, whatever their engines.
        decide: makes the stage anew when what the phase before wrote is finished: from the run and the table.
        settings: of ``fingerprint`` what may not change when the finished table is extended; default: all of it.
        units: what of the stage is made on its own -> what it is made from (:mod:`pipeline.execution.extend`).
    """

    engine: str | None
    stage: Stage
    fingerprint: dict[str, Any]
    requests: int = 1
    last: bool = False
    settings: dict[str, Any] | None = None
    units: Mapping[str, Any] = field(default_factory=lambda: {"": None})
    phase: int = 0
    decide: Callable[[RunFolder, str, int], Stage] | None = None

    def wanted(self, common: dict[str, Any]) -> extend.Wanted:
        """What the finished table is compared with."""
        settings = self.fingerprint if self.settings is None else self.settings
        return extend.Wanted(self.stage, {**common, **settings}, self.units, self.last)


def chain(
    job: str, config: Config, steps: Sequence[Step], reads: str, writes: str, fingerprint: dict[str, Any]
) -> list[PassSpec]:
    """Passes that run ``steps``, grouped by engine, from table ``reads`` to table ``writes``.

    Where ``writes`` is finished, only what it lacks is run, on top of what it holds; passes that have nothing to do are
    marked ``skip``.

    One pass an engine, in order of first use; steps without an engine ride along in the first one, because a pass of
    their own would copy the whole table once more. Tables between the passes lie under ``work/``.

    Args:
        fingerprint: settings that all of the job's passes depend on.

    Raises:
        ResumeError: the config would mix with what the table holds.
    """
    from pipeline.execution.spec import PassSpec

    run = RunFolder(config.out)
    identities = {s.engine: config.engines[s.engine].identity() if s.engine else None for s in steps}
    wanted = [s.wanted({**fingerprint, "engine": identities[s.engine]}) for s in steps]
    force = config.resume == "force"
    plan = extend.plan(run, job, wanted, reads, writes, force)
    if plan.finished:
        _keep(run, reads, writes, plan)
        return _skipped(run, job, reads, writes, ())
    everything, source = steps, reads
    groups = _groups(job, [s for s in steps if plan.extension is None or s.stage.name in plan.needed])
    names = list(groups)
    specs = _skipped(run, job, reads, writes, names)
    for i, (name, group) in enumerate(groups.items()):
        engine = next((s.engine for s in group if s.engine), None)
        is_last = i == len(groups) - 1
        target = writes if is_last else f"work/{name}/table"
        engine_config = config.engines[engine] if engine else None
        depends = {s.stage.name: s.fingerprint for s in group}
        specs.append(
            PassSpec(
                name=name,
                job=job,
                reads=reads,
                writes=target,
                stages=[s.stage for s in group],
                engine=engine_config,
                engine_name=engine or "",
                requests_per_row=min((s.requests for s in group if s.engine), default=1),
                fingerprint={**fingerprint, "engine": identities.get(engine), "stages": depends},
                extension=plan.extension,
                earlier=names[:i],
                record=_record(run, source, plan) if is_last else {},
                counts=[s.stage.name for s in everything if s.engine == engine and s.phase == group[0].phase],
                prepare=_prepare(group, plan),
                force=force,
            )
        )
        reads = target
    return specs


def _prepare(group: Sequence[Step], plan: extend.Plan) -> Callable[[RunFolder, str], list[Stage]] | None:
    """What makes the pass's stages when its input is finished, where any of them depends on it."""
    if all(step.decide is None for step in group):
        return None
    start = plan.extension.rows if plan.extension else 0
    return lambda run, reads: [step.decide(run, reads, start) if step.decide else step.stage for step in group]


def _groups(job: str, steps: Sequence[Step]) -> dict[str, list[Step]]:
    """Name of a pass -> its steps, in order; a later phase without an engine rides along in the last pass before."""
    groups: dict[str, list[Step]] = {}
    for phase in sorted({step.phase for step in steps}):
        mine = [step for step in steps if step.phase == phase]
        if groups and all(step.engine is None for step in mine):
            groups[next(reversed(groups))].extend(mine)
            continue
        suffix = f"-{phase + 1}" if phase else ""
        groups.update({f"{name}{suffix}": found for name, found in _phase(job, mine).items()})
    return groups


def _phase(job: str, steps: Sequence[Step]) -> dict[str, list[Step]]:
    early, late = [s for s in steps if not s.last], [s for s in steps if s.last]
    first = next((step.engine for step in early if step.engine), None)
    groups: dict[str, list[Step]] = {}
    for step in sorted(early, key=lambda s: s.engine is not None):
        groups.setdefault(_pass_name(job, step.engine or first), []).append(step)
    final = next(reversed(groups), _pass_name(job, None))
    on_cpu = [step for step in late if step.engine is None]
    if on_cpu:
        groups.setdefault(final, []).extend(on_cpu)
    done = set(groups) - {final}
    for step in late:
        if step.engine is not None:
            name = _pass_name(job, step.engine)
            groups.setdefault(f"{name}-last" if name in done else name, []).append(step)
    return groups


def measure_steps(config: Config, job: str, fingerprint: dict[str, Any] | None = None) -> Iterator[Step]:
    """The steps that measure every text that has no number yet: by its task, then by the metrics of engines."""
    yield Step(None, MeasureStage(config.tasks), fingerprint or {}, last=True)
    for name, metric in config.metrics.items():
        stage = QualityStage(name, tuple(metric.tasks), job)
        texts = sum(plan.n for plan in config.all_plans().values()) or 4
        yield Step(metric.engine, stage, {"tasks": metric.tasks}, texts, last=True)


def _pass_name(job: str, engine: str | None) -> str:
    return f"{job}-{engine or 'cpu'}"


def _skipped(run: RunFolder, job: str, reads: str, writes: str, names: Sequence[str]) -> list[PassSpec]:
    """The passes that filled the table and are not among ``names``: they have nothing to do."""
    from pipeline.execution.spec import PassSpec, summaries

    done = summaries(run.marker(writes) or {})
    return [PassSpec(name, job, reads, writes, [], skip=True) for name in done if name not in names]


def _record(run: RunFolder, reads: str, plan: extend.Plan) -> dict[str, Any]:
    """What the table's marker tells the next extension."""
    made = extend.Made({**extend.Made.read(run, reads).units, **plan.made.units})
    source = (run.marker(reads) or {}).get("fingerprint_hash")
    return {"source": source, "made": made.as_json(), "mixed": plan.mixed}


def _keep(run: RunFolder, reads: str, writes: str, plan: extend.Plan) -> None:
    """A finished table stays as it is; that ``resume=force`` let another config pass is recorded."""
    run.tidy(writes)
    if plan.mixed:
        marker, record = run.marker(writes) or {}, _record(run, reads, plan)
        mixed = list(dict.fromkeys([*marker.get("mixed", ()), *plan.mixed]))
        run.write_json({**marker, **record, "mixed": mixed}, writes, MARKER)
