"""Which system won, in one sentence that claims no more than the intervals (and the judge's audit) allow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pipeline.report.model import Report
from pipeline.report.wording import (
    count,
    interval,
    language_label,
    listing,
    metric_label,
    model_label,
    percent,
    quality,
    share,
    signed,
    signed_interval,
)
from pipeline.stats.audit import CHANCE, MISLED, Audit
from pipeline.stats.contests import Contest
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM
from pipeline.stats.task_scores import TaskScores


@dataclass(frozen=True)
class Headline:
    """The answer to "which system won".

    Attributes:
        kind: ``won``, ``open``, ``lost``, ``judge`` (the audit forbids an answer) or ``empty``.
        system: whom it is about: the best system; ``None`` where nobody is named.
        against: the opponent or the base that it is compared with.
        close: the systems that a winner cannot be told from; ``None`` where they were not compared.
    """

    kind: str
    title: str
    text: str
    system: str | None = None
    against: str | None = None
    close: tuple[str, ...] | None = None


def headline(report: Report) -> Headline:
    """The page's headline: from games where there are any, else from the largest task's scores."""
    if report.contests:
        return contest_headline(report, report.contests[0])
    if report.tasks:
        return score_headline(report, report.tasks[0])
    return Headline(
        "empty", "No games were judged", "There is nothing to compute a win-rate from, and no metric was measured."
    )


def by_language(report: Report) -> str:
    """In which languages the headline's system is ahead, behind, or cannot be told, each taken by itself."""
    sides: dict[str, list[str]] = {"above": [], "below": [], "even": []}
    if report.contests:
        best = report.contests[0].best
        if best is None or report.failed_audit(report.contests[0]) is not None:
            return ""
        found = [(rate.language, rate.side) for rate in best.languages]
        name, against = best.system, report.contests[0].opponent
    elif report.tasks and report.tasks[0].leader and report.tasks[0].base:
        task = report.tasks[0]
        name, against = str(task.leader), str(task.base)
        found = [(language, task.side(name, language)) for language in task.languages()]
    else:
        return ""
    if len(found) < 2:
        return ""
    for language, where in found:
        sides["even" if where == "none" else where].append(language_label(language))
    said = {"above": "ahead in", "below": "behind in", "even": "not to be told apart in"}
    parts = [f"{said[where]} {listing(names)}" for where, names in sides.items() if names]
    return f"{report.short(name)} against {report.short(against)}, each language by itself: {'; '.join(parts)}."


def contest_headline(report: Report, contest: Contest) -> Headline:
    """Which system won games. A winner needs a judge who is able, and an interval that leaves out an even match."""
    opponent = report.short(contest.opponent)
    best = contest.best
    if best is None or best.pooled.win_rate is None:
        return Headline("empty", "No verdict could be used", f"No prompt has a valid verdict against {opponent}.")
    audit = report.failed_audit(contest)
    if audit is not None:
        return _judge_headline(report, contest, audit)
    about = partial(Headline, system=best.system, against=contest.opponent)
    rate, won = best.pooled, best.pooled.win_rate
    n = f"n = {count(rate.n_prompts, 'prompt')}"
    low, high, kind = (
        (rate.ci_low, rate.ci_high, "")
        if rate.joint_low is None
        else (rate.joint_low, rate.joint_high, "simultaneous " if len(contest.standings) > 1 else "")
    )
    name = report.short(best.system)
    basis = f"{count(rate.n_prompts, 'prompt')} in {count(rate.n_clusters, 'independent cluster')}"
    found = f"{name} wins {percent(rate.win_rate)} against {opponent}"
    if low is None:
        text = f"{found}, but from fewer than 2 independent clusters no interval can be computed ({basis})."
        return about("open", f"No system can be told from {opponent} at {n}", text)
    span = f"{_level(report)} {kind}interval {interval(low, high)}, {basis}"
    if rate.effective_clusters < CLUSTERS_TO_CLAIM:
        few = _too_few(rate.n_clusters, rate.effective_clusters)
        text = f"The best, {name}, wins {percent(rate.win_rate)} ({span}). {few}"
        return about("open", f"No system can be told from {opponent} at {n}", text)
    if best.hidden:
        text = (
            f"{found} ({span}) in the verdicts that could be read; {count(rate.n_invalid, 'prompt')} had none. With "
            f"these lost it would win {percent(rate.if_lost)}, with these won {percent(rate.if_won)}."
        )
        return about("open", "No winner: too many verdicts could not be read", text)
    if best.side == "above":
        rest = _rest(contest)
        close = _close(rest, contest.behind)
        about = partial(about, close=close)
        points = f"{100 * (won - 0.5):.1f} points above an even match"
        text = f"{found}: {points} ({span}).{_paired(report, rest, close)}{_upper_bound(report, contest)}"
        if best.self_judged:
            title = f"{name} beats {opponent}, says the model that selected for it"
            return about("won", title, f"{text} That is no independent verdict: see the warning above.")
        return about("won", f"{name} beats {opponent}", text)
    losers = [report.short(s.system) for s in contest.standings if s.side == "below"]
    if best.side == "below":
        title = f"{opponent} beats " + (f"all {len(losers)} systems" if len(losers) > 1 else name)
        lead = "Even the best: " if len(losers) > 1 else ""
        return about("lost", title, f"{lead}{found} ({span}).")
    lost = f" {listing(losers)} {'loses' if len(losers) == 1 else 'lose'} to {opponent}." if losers else ""
    text = f"The best, {name}, wins {percent(rate.win_rate)} ({span}): an even match, 50%, is inside.{lost}"
    return about("open", f"No system can be told from {opponent} at {n}", text)


def _judge_headline(report: Report, contest: Contest, audit: Audit) -> Headline:
    """The audit comes before any winner."""
    judge = model_label(contest.judge)
    title = {
        CHANCE: f"No winner: {judge} cannot be told from a judge who guesses",
        MISLED: f"No winner: {judge} prefers damaged answers",
    }.get(audit.grade, f"No winner: too few audited questions to trust {judge}")
    if audit.sensitivity is None:
        return Headline("judge", title, "It gave no usable verdict on answers that had been damaged on purpose.")
    span = "" if audit.ci_low is None else f" ({_level(report)} interval {interval(audit.ci_low, audit.ci_high)})"
    text = (
        f"Asked to choose between an answer and a version damaged on purpose, it preferred the undamaged one in "
        f"{percent(audit.sensitivity)}{span} of {count(audit.n_prompts, 'prompt')}; guessing gives 50%. The win-rates "
        "below say what this judge said, not which system is better."
    )
    return Headline("judge", title, text)


def _too_few(clusters: int, effective: float) -> str:
    """Why nothing is claimed."""
    if clusters < CLUSTERS_TO_CLAIM:
        return "So few independent clusters decide nothing."
    return f"Clusters of so unequal sizes say as much as {effective:.1f} equal ones: that decides nothing."


def _level(report: Report) -> str:
    return f"{100 * report.config.winrate.confidence:g}%"


def _rest(contest: Contest) -> list[str]:
    """The other systems that could have won."""
    rest = [s for s in contest.standings if s is not contest.best and s.role != "oracle"]
    return [s.system for s in rest if s.pooled.win_rate is not None]


def _close(others: list[str], behind: frozenset[str] | None) -> tuple[str, ...] | None:
    """Those that the paired comparison with the best system does not put behind it; ``None`` without a comparison."""
    return None if behind is None else tuple(s for s in others if s not in behind)


def _paired(report: Report, others: list[str], close: tuple[str, ...] | None) -> str:
    """What the paired comparison of the best system with the others says."""
    if not others:
        return ""
    if close is None:
        return " It was not compared with the other systems prompt by prompt."
    if not close:
        return " Compared prompt by prompt, it is also ahead of every other system."
    names = listing([report.short(s) for s in close])
    return f" It cannot be told from {names}: their paired differences include zero."


def _upper_bound(report: Report, contest: Contest) -> str:
    oracles = [s for s in contest.standings if s.role == "oracle" and s.pooled.win_rate is not None]
    parts = [f"{report.short(s.system)} ({percent(s.pooled.win_rate)})" for s in oracles]
    return f" {listing(parts)} chose by the reference: an upper bound, not a system." if parts else ""


def score_headline(report: Report, task: TaskScores) -> Headline:
    """Which system scores above the base: only where the simultaneous interval of the paired difference allows it."""
    metric = metric_label(task.main)
    leader, base = task.leader, task.base
    score = task.get(leader) if leader else None
    if base is None or leader is None or score is None or score.difference is None:
        text = f"No paired difference to a base ({report.config.winrate.base}) can be computed from the scores below."
        return Headline("empty", f"Nothing to compare by {metric}", text)
    about = partial(Headline, system=leader, against=base)
    name, against = report.short(leader), report.short(base)
    low, high = score.joint_low, score.joint_high
    basis = f"{count(score.n_prompts, 'prompt')} in {count(score.n_clusters, 'independent cluster')}"
    told_apart = f"No system can be told from {against} by {metric} at n = {count(score.n_prompts, 'prompt')}"
    means = f"{name} scores {quality(task.main, score.mean)}, {against} {_mean(task, base)}"
    gap = f"{signed(score.difference)} points"
    if low is None or high is None:
        text = f"{means}: {gap}, but from fewer than 2 independent clusters no interval can be computed ({basis})."
        return about("open", told_apart, text)
    kind = "simultaneous " if sum(map(task.is_tested, task.systems)) > 1 else ""
    span = f"{_level(report)} {kind}interval of the paired difference {signed_interval(low, high)}, {basis}"
    if score.effective_clusters < CLUSTERS_TO_CLAIM:
        few = _too_few(score.n_clusters, score.effective_clusters)
        return about("open", told_apart, f"{means}: {gap} ({span}). {few}")
    bounds = _bounds(report, task)
    side = task.side(leader)
    if side == "above":
        circular = _circular_words(report, task, leader)
        others = [s for s in task.contenders if s != leader]
        close = _close(others, task.behind)
        title = f"{name} beats {against} by {signed(score.difference).removeprefix('+')} points of {metric}"
        if circular:
            title += ", the metric that it chooses by"
        text = f"{means} ({span}).{_paired(report, others, close)}{circular}{bounds}"
        return about("won", title, text, close=close)
    if side == "below":
        losers = [report.short(s) for s in task.contenders if task.side(s) == "below"]
        title = f"{against} beats " + (f"{len(losers)} systems" if len(losers) > 1 else losers[0]) + f" by {metric}"
        return about("lost", title, f"The best of all, {name}: {gap} ({span}).{bounds}")
    return about("open", told_apart, f"The best, {name}: {gap} ({span}): zero is inside.{bounds}")


def _mean(task: TaskScores, system: str) -> str:
    score = task.get(system)
    return quality(task.main, score.mean if score else None)


def _circular_words(report: Report, task: TaskScores, system: str) -> str:
    """What the other metrics say of a winner that chooses by the metric that scores it."""
    if system not in report.circular(task).get(task.main, []):
        return ""
    said = []
    for metric in task.metrics[1:]:
        score = task.get(system, metric=metric)
        if score is not None and score.difference is not None and system not in report.circular(task).get(metric, []):
            span = signed_interval(score.difference_low, score.difference_high)
            said.append(f"{metric_label(metric)} {signed(score.difference)} ({span})")
    other = f" Other metrics: {'; '.join(said)}." if said else ""
    return f" It also chooses by {metric_label(task.main)}, so this metric is on its side.{other}"


def _bounds(report: Report, task: TaskScores) -> str:
    """The oracle, and outside answers that score higher than every system."""
    words = ""
    leader = task.get(task.leader or "")
    oracle = next((s for s in task.systems if task.roles[s] == "oracle" and _same_plan(s, task.base)), None)
    if oracle is not None:
        words = f" The oracle, which knows the reference, reaches {_mean(task, oracle)}: an upper bound, not a system."
        if leader is not None and leader.recovered is not None:
            words += f" Of its gain {report.short(leader.system)} recovers {share(leader.recovered)}."
    above = [s for s in task.systems if task.roles[s] == "outside" and _above(task, s)]
    if above:
        names = listing([f"{report.short(s)} ({_mean(task, s)})" for s in above])
        words += f" Answers from outside score higher on average: {names}."
    return words


def _same_plan(system: str, base: str | None) -> bool:
    return system.rpartition("/")[0] == (base or "").rpartition("/")[0]


def _above(task: TaskScores, system: str) -> bool:
    mine, best = task.get(system), task.get(task.leader or "")
    return bool(mine and best and mine.mean is not None and best.mean is not None and mine.mean > best.mean)
