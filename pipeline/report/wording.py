"""The page's sentences: what was asked, which system won, what to beware of. They claim no more than the intervals."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Config
from pipeline.languages import language_name
from pipeline.report.collect import POOLED, Contest, Report, Standing, WinRate
from pipeline.sampling.plans import PlanConfig
from pipeline.stats.intervals import CLUSTERS_TO_CLAIM, FEW_CLUSTERS

FLIPS_TOO_MANY = 0.5
"""Above this share of prompts whose winner changes with the order, position decides more than content."""


def language_label(tag: str) -> str:
    """English name of a BCP 47 tag; the tag itself where it is not known."""
    return language_name(tag) or tag


@dataclass(frozen=True)
class Headline:
    """The answer to "which system won": ``kind`` is ``won``, ``open``, ``lost`` or ``empty``."""

    kind: str
    title: str
    text: str


@dataclass(frozen=True)
class Banner:
    """A banner: ``level`` is ``loud`` (the result may be wrong) or ``note``."""

    level: str
    title: str
    text: str


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
        f"{engine_model(config, plan.engine)} gave {plan_sentence(plan)} (plan {name}, at most "
        f"{plan.max_tokens:,} tokens)"
        for name, plan in config.all_plans().items()
    ]
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
    return " ".join(sentences)


def _be(n: int) -> str:
    return "was" if n == 1 else "were"


def _only_language(report: Report) -> str:
    tag = next(iter(report.languages))
    return "an unspecified language" if tag == "und" else language_label(tag)


def headline(report: Report) -> Headline:
    """Which system won, and whether that is certain. A winner needs an interval that leaves out an even match."""
    if not report.contests:
        return Headline("empty", "No games were judged", "There is nothing to compute a win-rate from.")
    contest = report.contests[0]
    opponent = report.short(contest.opponent)
    best = contest.standings[0]
    rate = best.pooled
    n = f"n = {count(rate.n_prompts, 'prompt')}"
    if rate.win_rate is None:
        return Headline("empty", "No verdict could be used", f"No prompt has a valid verdict against {opponent}.")
    low, high, kind = (
        (rate.low, rate.high, "")
        if best.joint_low is None
        else (best.joint_low, best.joint_high, "simultaneous " if len(contest.standings) > 1 else "")
    )
    name = report.short(best.system)
    level = f"{100 * report.config.winrate.confidence:g}%"
    basis = f"{count(rate.n_prompts, 'prompt')} in {count(contest.n_clusters, 'independent cluster')}"
    found = f"{name} wins {percent(rate.win_rate)} against {opponent}"
    if low is None:
        text = f"{found}, but from fewer than 2 independent clusters no interval can be computed ({basis})."
        return Headline("open", f"No system can be told from {opponent} at {n}", text)
    span = f"{level} {kind}interval {interval(low, high)}, {basis}"
    if contest.n_clusters < CLUSTERS_TO_CLAIM:
        text = f"The best, {name}, wins {percent(rate.win_rate)} ({span}). So few independent clusters decide nothing."
        return Headline("open", f"No system can be told from {opponent} at {n}", text)
    if best.side == "above":
        points = f"{100 * (rate.win_rate - 0.5):.1f} points above an even match"
        text = f"{found}: {points} ({span}).{_others(report, contest)}"
        if best.self_judged:
            title = f"{name} beats {opponent}, says the model that selected for it"
            return Headline("won", title, f"{text} That is no independent verdict: see the warning above.")
        return Headline("won", f"{name} beats {opponent}", text)
    losers = [report.short(s.system) for s in contest.standings if s.side == "below"]
    if best.side == "below":
        title = f"{opponent} beats " + (f"all {len(losers)} systems" if len(losers) > 1 else name)
        lead = "Even the best: " if len(losers) > 1 else ""
        return Headline("lost", title, f"{lead}{found} ({span}).")
    lost = f" {listing(losers)} {'loses' if len(losers) == 1 else 'lose'} to {opponent}." if losers else ""
    text = f"The best, {name}, wins {percent(rate.win_rate)} ({span}): an even match, 50%, is inside.{lost}"
    return Headline("open", f"No system can be told from {opponent} at {n}", text)


def _others(report: Report, contest: Contest) -> str:
    """How the best system stands against the other systems."""
    rest = [s for s in contest.standings[1:] if s.pooled.win_rate is not None]
    close = [report.short(s.system) for s in rest if s.system not in contest.behind]
    if not rest:
        return ""
    if not close:
        return " Compared prompt by prompt, it is also ahead of every other system."
    return f" It cannot be told from {listing(close)}: their paired differences include zero."


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
    if config.report.note:
        found.append(Banner("note", "Read this first", config.report.note))
    if report.contests:
        found += _data_warnings(report, report.contests[0])
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
    if contest.n_clusters < FEW_CLUSTERS:
        found.append(
            Banner(
                "note",
                "Few independent questions",
                f"The prompts form only {count(contest.n_clusters, 'cluster')} (translations of one question count "
                "once): intervals are wide, and rest on a t approximation.",
            )
        )
    return found


LEFT_OUT = (
    "Without fallbacks: win-rate, interval and number of prompts when those prompts are left out on which the system’s "
    "selector fell back, for example because no verdict was readable. Leaving prompts out is a selection of its own: "
    "those that remain may be easier, and differ from system to system. It shows what the fallbacks hide; it ranks "
    "no systems."
)


def readable(rate: WinRate) -> str:
    """``62.3% (54.2–71.5%), n = 41``."""
    return f"{percent(rate.win_rate)} ({interval(rate.low, rate.high)}), n = {rate.n_prompts:,}"


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
        span = "" if rate.low is None else f" (interval {interval(rate.low, rate.high)})"
        where = "all prompts" if rate.language == POOLED else language_label(rate.language)
        parts.append(f"{where} {value}{span}")
    return f"Win-rate of {name} against {opponent}: {'; '.join(parts)}."
