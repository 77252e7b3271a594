"""What to beware of: the warnings below the result."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.report.model import Report
from pipeline.report.wording import count, engine_model, listing, metric_label, model_label, percent
from pipeline.stats.audit import CHANCE, MISLED, Audit
from pipeline.stats.contests import Contest
from pipeline.stats.intervals import FEW_CLUSTERS
from pipeline.stats.task_scores import TaskScores

FLIPS_TOO_MANY = 0.5
"""Above this share of prompts whose winner changes with the order, position decides more than content."""
CUTS_TOO_MANY = 0.25
"""Above this share of candidates that end at the token limit, what is compared are beginnings of answers."""


@dataclass(frozen=True)
class Banner:
    """A banner: ``level`` is ``loud`` (the result may be wrong) or ``note``."""

    level: str
    title: str
    text: str


def warnings(report: Report) -> list[Banner]:
    """Banners, loud ones first."""
    found: list[Banner] = []
    config = report.config
    judge = (
        model_label(report.contests[0].judge) if report.contests else engine_model(config, config.judge.engine or "")
    )
    if report.judge_selects:
        who = listing(report.judge_selects)
        found.append(
            Banner(
                "loud",
                "The judge also selected",
                f"{who} chose with {judge}, the model that then decided whether the choice won. Their win-rates "
                "(marked †) show agreement with the judge, not quality. Judge with another model.",
            )
        )
    if report.judge_generates:
        found.append(
            Banner(
                "loud",
                "The judge also wrote the answers",
                f"{judge} is generator and judge: it compares its own answers, and models favour their own. "
                "Judge with another model.",
            )
        )
    found += _methods(report)
    cut = report.n_truncated / report.n_candidates if report.n_candidates else 0
    if cut > CUTS_TOO_MANY:
        text = f"{percent(cut)} of the candidates end where max_tokens cuts them: beginnings of answers were compared."
        found.append(Banner("loud" if cut > 1 / 2 else "note", "Answers cut at the token limit", text))
    if config.report.note:
        found.append(Banner("note", "Read this first", config.report.note))
    found += [
        Banner(
            "note",
            f"How many candidates {name} has was decided by the references",
            f"Adaptive N of {name} was led by the oracle: every number of this set, its win-rates and curves included, "
            "depends on what nobody knows when a system is used.",
        )
        for name, plan in config.all_plans().items()
        if plan.adaptive.by is not None and config.selectors[plan.adaptive.by].kind == "oracle"
    ]
    if report.contests:
        found += _data_warnings(report, report.contests[0])
    for task in report.tasks:
        found += _circular(report, task)
    best = report.contests[0].best if report.contests else None
    clusters = best.pooled.n_clusters if best else report.n_clusters
    if (report.contests or report.tasks) and clusters < FEW_CLUSTERS:
        found.append(
            Banner(
                "note",
                "Few independent questions",
                f"The prompts form only {count(clusters, 'cluster')} (translations of one question count "
                "once): intervals are wide, and rest on a t approximation.",
            )
        )
    return sorted(found, key=lambda b: b.level != "loud")


def _methods(report: Report) -> list[Banner]:
    """Selectors that were another method than their name says, or had another, perhaps better, model to help."""
    found = []
    for entry in report.selectors:
        if entry.incomplete:
            text = f"{report.short(entry.system)}: {entry.incomplete}, on any prompt. Its numbers are another method's."
            found.append(Banner("loud", "A method without its main part", text))
    config = report.config
    models = {engine_model(config, plan.engine) for plan in config.all_plans().values()}
    for name, chosen in config.selectors.items():
        fusor = engine_model(config, chosen.engine or "")
        sets = config.sets_of(name) if chosen.kind == "fusion" else []
        writers = {
            engine_model(config, plan.engine)
            for key, plan in config.all_plans().items()
            if (plan.candidate_set or key) in sets
        }
        if not writers or fusor in writers:
            continue
        alone = "It also answered alone: compare with that." if fusor in models else "It did not answer alone: let it."
        text = (
            f"{name} writes its answers with {fusor}, and the candidates are {listing(sorted(writers))}'s: what it "
            f"gains may be that model's ability, not the method's. {alone}"
        )
        found.append(Banner("loud", "The fusor is another model than the generator", text))
    return found


def _data_warnings(report: Report, contest: Contest) -> list[Banner]:
    found = []
    flips = [s for s in contest.standings if (s.pooled.flip_rate or 0) > FLIPS_TOO_MANY]
    if flips:
        worst = max(flips, key=lambda s: s.pooled.flip_rate or 0)
        found.append(
            Banner(
                "note",
                "The judge's verdict follows the order",
                f"For {count(len(flips), 'system')} the winner changes with the order in more than half of the "
                f"prompts ({report.short(worst.system)}: {percent(worst.pooled.flip_rate)}): "
                "position decides more than content.",
            )
        )
    audit = report.failed_audit(contest)
    if audit is not None:
        found.append(_audit_warning(model_label(contest.judge), audit))
    return found


def _audit_warning(judge: str, audit: Audit) -> Banner:
    see = "(see “Can the judge be trusted”). Its win-rates rank nothing."
    if audit.grade in (CHANCE, MISLED):
        text = f"{judge} does not reliably prefer an answer to a damaged version of it {see}"
        return Banner("loud", "The judge failed its audit", text)
    text = f"It cannot be said whether {judge} prefers an answer to a damaged version of it {see}"
    return Banner("loud", "Too few questions to audit the judge", text)


def _circular(report: Report, task: TaskScores) -> list[Banner]:
    found = []
    for metric, systems in report.circular(task).items():
        others = [metric_label(m) for m in task.metrics if m != metric]
        advice = f" Look at {listing(others)} too." if others else ""
        found.append(
            Banner(
                "note",
                f"Chosen and scored by {metric_label(metric)}",
                f"{listing(report.short_all(systems))} {'chooses' if len(systems) == 1 else 'choose'} by "
                f"{metric_label(metric)}, the metric that then scores the choice: that is circular.{advice}",
            )
        )
    return found
