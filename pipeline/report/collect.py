"""Everything that the report shows: the run's last table is streamed once for counts, and results are computed."""

from __future__ import annotations

from pipeline.config.config import Config
from pipeline.core.folder import RunFolder
from pipeline.report.costs import CostTally
from pipeline.report.counts import Counts, pass_costs
from pipeline.report.model import Audit, Report
from pipeline.report.samples import Picker, read_samples
from pipeline.report.scores import task_scores
from pipeline.report.standings import contests
from pipeline.stats.facts import set_facts
from pipeline.stats.results import Results, outside_results, run_results

_STREAMED = (
    *("row_id", "prompt_id", "cluster_id", "language", "task"),
    *("candidates", "scores", "selections", "games", "usage", "errors"),
)
_BATCH = 256  # rows: a batch of long candidate sets still fits into little memory
_RESULT_TABLES = (
    *("winrates", "judge_rates", "differences", "bradley_terry", "length_controlled"),
    *("audit", "scores", "curves", "hope_risk"),
)


def collect(run: RunFolder, config: Config) -> Report:
    """Read a finished run.

    Raises:
        UnfinishedTableError: ``judge`` (or without games and outside answers ``select``) has not finished.
        InputError: a table cannot be used.
    """
    report = Report(config, manifest=run.manifest())
    report.judge_selects, report.judge_generates = config.judge_conflicts()
    table = "games" if config.judges() or run.marker("games") is not None else "selections"
    counts, tally, picker = Counts(), CostTally(config), Picker(config)
    data = run.dataset(table)
    for batch in data.batches(_STREAMED):
        counts.add(batch)
        tally.add(batch)
        picker.add(batch, counts.main_metrics)
    counts.fill(report)
    _fill_results(report, _results(run, config))
    systems = {s.system for s in report.selectors} | {c.opponent for c in report.contests}
    systems |= {s.system for c in report.contests for s in c.standings}
    report.name_systems(systems | {s for t in report.tasks for s in t.systems})
    ranked = [s.system for c in report.contests for s in c.standings] + [s for t in report.tasks for s in t.systems]
    place = {system: i for i, system in reversed(list(enumerate(ranked)))}
    report.selectors.sort(key=lambda s: (place.get(s.system, len(place)), s.system))
    report.costs = tally.costs(report)
    report.passes = pass_costs(run, report.manifest)
    report.sample = read_samples(run, table, picker.picked())
    report.tables = [name for name in _RESULT_TABLES if run.exists(f"{name}.parquet") and run.exists(f"{name}.csv")]
    return report


def _results(run: RunFolder, config: Config) -> Results:
    if config.winrate.games:
        return outside_results(config.winrate.games, config.winrate)
    return run_results(run, config.winrate, config.judge.opponent, set_facts(config))


def _fill_results(report: Report, results: Results) -> None:
    fell_back = {s.system: s.fell_back for s in report.selectors if s.fell_back}
    report.contests = contests(results, report.config, report.judge_selects, fell_back)
    report.tasks = task_scores(results, report.config, report.main_metrics)
    report.left_out = results.left_out
    rows = {name: table.to_pylist() for name, table in results.tables.items()}
    report.audit = [Audit(**row) for row in rows.get("audit", [])]
    report.curves, report.hope_risk = rows.get("curves", []), rows.get("hope_risk", [])
