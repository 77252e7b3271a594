"""Task scores, put together from the tables of results: who may claim a gain over the base."""

from __future__ import annotations

from itertools import combinations

from pipeline.config.config import Config
from pipeline.report.sides import POOLED
from pipeline.report.standings import role
from pipeline.report.task_model import Score, TaskScores
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM
from pipeline.stats.pools import TaskQuality
from pipeline.stats.results import MOST_SYSTEMS, Results
from pipeline.stats.score_gaps import simultaneous_gaps
from pipeline.tasks.measure import LANGUAGE


def task_scores(results: Results, config: Config, main_metrics: dict[str, str]) -> list[TaskScores]:
    """The scores of every task that has a metric besides the language check; the largest task first.

    Args:
        main_metrics: task -> its main metric.
    """
    table = results.tables.get("scores")
    if table is None or results.quality is None:
        return []
    per_task: dict[str, dict[tuple[str, str, str], Score]] = {}
    for row in table.to_pylist():
        score = Score(**row)
        per_task.setdefault(score.task, {})[score.metric, score.system, score.language] = score
    found = []
    for task, scores in per_task.items():
        metrics = sorted({metric for metric, _, _ in scores} - {LANGUAGE})
        if metrics:
            main = main_metrics.get(task, "")
            metrics.sort(key=lambda m: (m != main, m))
            found.append(_one_task(results.quality.tasks[task], metrics, scores, config))
    return sorted(found, key=lambda t: (-max(s.n_prompts for s in t.scores.values()), t.task))


def _one_task(
    quality: TaskQuality, metrics: list[str], scores: dict[tuple[str, str, str], Score], config: Config
) -> TaskScores:
    main = metrics[0]
    pooled = {system: s for (metric, system, language), s in scores.items() if (metric, language) == (main, POOLED)}
    systems = sorted(pooled, key=lambda s: (-(pooled[s].mean or 0.0), s))
    base = _main_base(pooled, config)
    if base is not None:  # means over other prompts do not compare
        whole = pooled[base].n_prompts
        systems.sort(
            key=lambda s: (pooled[s].n_prompts < whole, s.rpartition("/")[0] if pooled[s].n_prompts < whole else "")
        )
    roles = {system: role(system, config) for system in systems}
    contenders = []
    if base is not None:
        contenders = [s for s in systems if s != base and not roles[s] and pooled[s].n_prompts >= whole]
    settings = config.winrate
    bootstrap = Bootstrap(settings.draws, settings.confidence, settings.seed)
    pairs = [(s, str(pooled[s].base)) for s in systems if not roles[s] and pooled[s].difference is not None]
    gaps = simultaneous_gaps(quality, main, pairs, bootstrap)
    found = TaskScores(
        task=quality.task,
        main=main,
        metrics=metrics,
        systems=systems,
        scores=scores,
        base=base,
        contenders=contenders,
        joint={s: gap for (s, _), gap in zip(pairs, gaps, strict=True)},
        behind=None,
        oracles=frozenset(s for s in systems if roles[s] == "oracle"),
        outside=frozenset(s for s in systems if roles[s] == "outside"),
        circular=_circular(systems, metrics, config),
    )
    found.behind = _behind(found, quality, bootstrap)
    return found


def _main_base(pooled: dict[str, Score], config: Config) -> str | None:
    """The base of the candidate set that covers most prompts; of several, the config's first."""
    names = [f"{name}/{config.winrate.base}" for name in config.sets()]
    known = [s for s in [*names, *pooled] if s in pooled and s.rpartition("/")[2] == config.winrate.base]
    return max(known, key=lambda s: pooled[s].n_prompts, default=None)


def _behind(task: TaskScores, quality: TaskQuality, bootstrap: Bootstrap) -> frozenset[str] | None:
    """The contenders that the leader beats, from all pairs of contenders together."""
    leader = task.leader
    if leader is None or not 2 <= len(task.contenders) <= MOST_SYSTEMS:
        return None
    pairs = list(combinations(task.contenders, 2))
    behind = set()
    for (a, b), gap in zip(pairs, simultaneous_gaps(quality, task.main, pairs, bootstrap), strict=True):
        if gap.low is None or gap.high is None or gap.effective < CLUSTERS_TO_CLAIM:
            continue
        if a == leader and gap.low > 0:
            behind.add(b)
        if b == leader and gap.high < 0:
            behind.add(a)
    return frozenset(behind)


def _circular(systems: list[str], metrics: list[str], config: Config) -> dict[str, list[str]]:
    """Metric -> the systems whose selector maximises that metric's agreement among the candidates (MBR)."""
    found: dict[str, list[str]] = {}
    for system in systems:
        selector = config.selectors.get(system.rpartition("/")[2]) if "/" in system else None
        utility = getattr(selector, "utility", None)  # of MBR and its relatives, a user's own among them
        if utility in metrics:
            found.setdefault(str(utility), []).append(system)
    return found
