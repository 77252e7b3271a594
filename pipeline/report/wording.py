"""Numbers, names and sentences as the page writes them."""

from __future__ import annotations

from pipeline.config.config import Config
from pipeline.core.languages import language_name
from pipeline.report.model import Report
from pipeline.sampling.plans import PlanConfig
from pipeline.stats.audit import ABLE, ALTERED, CHANCE, IDENTICAL, MISLED, Audit
from pipeline.stats.contests import Standing
from pipeline.stats.intervals import MACRO, POOLED
from pipeline.stats.task_scores import TaskScores
from pipeline.stats.winrate import WinRate

_METRICS = {"chrf": "chrF", "bleu": "BLEU", "numbers": "number match", "win": "wins"}
_VERSIONS = {
    ALTERED: "all altered versions",
    IDENTICAL: "identical",
    "truncated": "cut in half",
    "numbers": "numbers changed",
    "shuffled": "words shuffled",
    "language": "wrong language",
}
_OUT_OF_100 = ("chrf", "bleu")  # scores that nobody writes as percentages


def number(value: float | None) -> str:
    """Four digits of a number of any size: ``1,234``, ``0.01235``."""
    return "–" if value is None else f"{value:,.4g}".replace("-", "−")


def language_label(tag: str) -> str:
    """English name of a BCP 47 tag; the tag itself where it is not known."""
    return {POOLED: "all prompts", MACRO: "mean of languages"}.get(tag) or language_name(tag) or tag


def metric_label(metric: str) -> str:
    """A metric as people write it."""
    return _METRICS.get(metric, metric)


def quality(metric: str, value: float | None) -> str:
    """A metric's value: ``57.3`` for chrF and BLEU, ``43.1%`` for a share."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" + ("" if metric in _OUT_OF_100 else "%")


def quality_interval(metric: str, low: float | None, high: float | None) -> str:
    """``55.1–59.4``, with a percent sign for a share."""
    return interval(low, high) if metric not in _OUT_OF_100 else interval(low, high).removesuffix("%")


def share(value: float | None) -> str:
    """``78%``; an en dash for a number that does not exist."""
    return "–" if value is None else f"{100 * value:.0f}%".replace("-", "−")


def signed(value: float | None, digits: int = 1) -> str:
    """A difference in 0..1 as points: ``+5.6``, ``−2.0``."""
    if value is None:
        return "–"
    text = f"{100 * value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "−")


def signed_interval(low: float | None, high: float | None) -> str:
    """``+2.1 to +9.0``."""
    return "–" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def version_label(version: str) -> str:
    """An altered version of an answer, in words."""
    return _VERSIONS.get(version, version)


def grade_words(audit: Audit) -> str:
    """What the grade of one row of the audit means."""
    if audit.version == IDENTICAL:
        return {
            ABLE: "no preference for a position seen",
            MISLED: "prefers a position: equal texts, and yet one wins",
        }.get(audit.grade, "has too few questions to say")
    return {
        ABLE: "prefers the undamaged answer",
        CHANCE: "cannot be told from chance",
        MISLED: "prefers the damaged answer",
    }.get(audit.grade, "has too few questions to say")


def percent(value: float | None) -> str:
    """``63.1%``; an en dash for a number that does not exist."""
    return "–" if value is None else f"{100 * value:.1f}%"


def interval(low: float | None, high: float | None) -> str:
    """``54.2–71.5%``; an en dash when there is none."""
    return "–" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f}%"


def count(n: int, noun: str) -> str:
    """``1 prompt``, ``14 prompts``, ``1,400 prompts``."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def listing(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def model_label(name: str) -> str:
    """A model as readers know it: without Lemonpress's ``cache:`` and without the folders of a local path."""
    name = name.removeprefix("cache:")
    return name.rstrip("/").rpartition("/")[2] if name.startswith(("/", "~", ".")) else name


def engine_model(config: Config, name: str) -> str:
    """The model behind an engine's name."""
    engine = config.engines.get(name)
    return model_label(engine.model or engine.kind) if engine else name


def plan_sentence(plan: PlanConfig) -> str:
    """What a sampling plan asks for, e.g. ``one greedy answer and 4 samples at temperature 0.7 (min-p 0.1)``."""
    cuts = [f"{label} {value:g}" for label, value, off in _cuts(plan) if value != off]
    extra = f" ({', '.join(cuts)})" if cuts else ""
    at = f"at temperature {plan.temperature:g}{extra}"
    if plan.kind == "greedy":
        return "one greedy answer"
    if plan.adaptive.by is not None:
        greedy = ", the greedy one included," if plan.kind == "hedged" else ""
        return f"{plan.adaptive.first} to {count(plan.n, 'candidate')}{greedy} as {plan.adaptive.by} needs them, {at}"
    if plan.kind == "hedged":
        return f"one greedy answer and {count(plan.n - 1, 'sample')} {at}"
    temperatures = getattr(plan, "temperatures", None)
    if temperatures:
        return f"{count(plan.n, 'sample')} at temperatures {listing([f'{t:g}' for t in temperatures])}{extra}"
    return f"{count(plan.n, 'sample')} {at}"


def _cuts(plan: PlanConfig) -> list[tuple[str, float, float]]:
    return [("min-p", plan.min_p, 0.0), ("top-p", plan.top_p, 1.0), ("top-k", plan.top_k, 0)]


def asked(report: Report) -> str:
    """The experiment in a few sentences."""
    config = report.config
    n_languages = len(report.languages)
    languages = f" in {count(n_languages, 'language')}" if n_languages != 1 else f" in {_only_language(report)}"
    sentences = [f"{count(report.n_prompts, 'prompt')}{languages} {_be(report.n_prompts)} put to the generator."]
    plans = [
        f"{engine_model(config, plan.engine)} gave {plan_sentence(plan)} (plan {name}{_only(plan)}, at most "
        f"{plan.max_tokens:,} tokens)"
        for name, plan in config.all_plans().items()
    ]
    if plans:
        sentences.append(f"For each, {'; '.join(plans)}.")
    if report.selectors:
        methods = len({s.method for s in report.selectors})
        sentences.append(f"{count(methods, 'selector').capitalize()} turned each candidate set into one answer.")
    if report.contests:
        contest = report.contests[0]
        sentences.append(
            f"{model_label(contest.judge)} judged each answer against that of {report.short(contest.opponent)}, "
            "with either shown first."
        )
    elif report.tasks:
        metrics = [f"{metric_label(t.main)} ({t.task})" for t in report.tasks]
        sentences.append(f"No judge was asked: the answers are measured against references, by {listing(metrics)}.")
    return " ".join(sentences)


def _only(plan: PlanConfig) -> str:
    tags = plan.only_languages
    return f", only {listing([language_label(tag) for tag in tags])}" if tags is not None else ""


def _be(n: int) -> str:
    return "was" if n == 1 else "were"


def _only_language(report: Report) -> str:
    tag = next(iter(report.languages))
    return "an unspecified language" if tag == "und" else language_label(tag)


COSTS = (
    "Generated: new tokens of the candidates that the system’s selector looks at; a system that takes one candidate "
    "unseen (sample, greedy, random) is charged with that one only. Selecting: tokens that its selector’s requests to "
    "a reward model or judge read and wrote; a selector that worked on several candidate sets of a prompt is "
    "charged an equal share for each; with what was scored between the rounds of an adaptive plan. Reading the "
    "prompts for generation is shared by all systems and not charged, nor is judging the games: that is the cost of "
    "the evaluation. Per point: what the system costs more than what it is compared with, divided by the points "
    "gained; only where a gain is certain, and never for an upper bound."
)

LEFT_OUT = (
    "Without fallbacks: win-rate, interval and number of prompts when those prompts are left out on which the system’s "
    "selector fell back, for example because no verdict was readable. Leaving prompts out is a selection of its own: "
    "those that remain may be easier, and differ from system to system. It shows what the fallbacks hide; it ranks "
    "no systems."
)


def readable(rate: WinRate) -> str:
    """``62.3% (54.2–71.5%), n = 41``."""
    return f"{percent(rate.win_rate)} ({interval(rate.ci_low, rate.ci_high)}), n = {rate.n_prompts:,}"


def missing_number(rate: WinRate, name: str) -> str:
    """Why a number of a win-rate's row does not exist."""
    if name in ("flip_rate", "tie_rate", "mean_mass") and rate.language == "macro":
        return "counted over games, not averaged over languages"
    if name == "flip_rate":
        return "no prompt with a verdict in both orders"
    if name == "mean_mass":
        return "no game needed a call, or the judge reports none"
    if name == "tie_rate":
        return "no valid verdict"
    if rate.win_rate is None:
        if rate.language == "macro":
            return "a language has no prompt with a valid verdict"
        return "no prompt with a valid verdict"
    return "fewer than 2 independent clusters: no interval"


def describe(report: Report, standing: Standing, opponent: str) -> str:
    """A plot of one system in words, for those who cannot see it."""
    rows = [standing.pooled, standing.macro, *standing.languages] if len(standing.languages) > 1 else [standing.pooled]
    name = report.short(standing.system)
    parts = []
    for rate in rows:
        value = "no number" if rate.win_rate is None else percent(rate.win_rate)
        span = "" if rate.ci_low is None else f" (interval {interval(rate.ci_low, rate.ci_high)})"
        where = "all prompts" if rate.language == POOLED else language_label(rate.language)
        parts.append(f"{where} {value}{span}")
    return f"Win-rate of {name} against {opponent}: {'; '.join(parts)}."


def describe_scores(report: Report, task: TaskScores, language: str) -> str:
    """A plot of all systems' scores in one language in words."""
    parts = []
    for system in task.systems:
        score = task.get(system, language)
        if score is not None and score.mean is not None:
            span = quality_interval(task.main, score.ci_low, score.ci_high)
            parts.append(f"{report.short(system)} {quality(task.main, score.mean)} (interval {span})")
    return f"{metric_label(task.main)}, {language_label(language)}: {'; '.join(parts)}."


def describe_gains(report: Report, task: TaskScores) -> str:
    """The plot of differences to the base in words."""
    parts = []
    for system in task.systems:
        score = task.get(system)
        if score is not None and score.difference is not None:
            span = signed_interval(score.difference_low, score.difference_high)
            parts.append(f"{report.short(system)} {signed(score.difference)} (interval {span})")
    return f"Points of {metric_label(task.main)} over {report.short(task.base or '')}: {'; '.join(parts)}."
