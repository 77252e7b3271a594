"""The report: one self-contained HTML page, and the same content in Markdown."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline import __version__
from pipeline.config.config import Config, to_dict, to_yaml
from pipeline.core.folder import RunFolder
from pipeline.core.safety import escape_line, escape_markdown, fence, on_page, page_text
from pipeline.report import plots, wording
from pipeline.report.banners import warnings
from pipeline.report.collect import collect
from pipeline.report.headline import by_language, headline, score_headline
from pipeline.report.model import Report
from pipeline.report.panels import audits, sampling_panels
from pipeline.stats.contests import Contest, Standing
from pipeline.stats.intervals import POOLED
from pipeline.stats.task_scores import TaskScores
from pipeline.stats.winrate import WinRate
from pipeline.tasks.measure import LANGUAGE

_FOLDER = Path(__file__).parent
_WORDS = ("count", "interval", "quality", "quality_interval", "readable", "share", "signed", "signed_interval")


def build_report(run: RunFolder, config: Config) -> str:
    """Write ``report/index.html`` and ``report/report.md`` of a finished run.

    Returns:
        Path of the page.

    Raises:
        UnfinishedTableError: ``judge`` has not finished (without a judge and outside answers: ``select``).
        InputError: a table cannot be used.
    """
    report = collect(run, config)
    run.write_text(render_markdown(report), "report", "report.md")
    return run.write_text(render_html(report), "report", "index.html")


def render_html(report: Report) -> str:
    """The page. Everything that is not template is escaped: texts of models, data and configs cannot break out."""
    env = _environment("html", autoescape=True)
    env.filters |= {"clean": page_text, "pct": _pct_html, "num": _number_html, "score": _score}
    script = (_FOLDER / "html" / "page.js").read_text(encoding="utf-8")
    return env.get_template("page.html.j2").render(
        **_context(report),
        style=Markup((_FOLDER / "html" / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        # beside escaping: the browser loads nothing and runs nothing but this one script
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        plots=plots,
    )


def render_markdown(report: Report) -> str:
    """The page's main content as Markdown; texts of models stand in fences that they cannot close."""
    env = _environment("md", autoescape=False)
    env.filters |= {"md": escape_markdown, "line": escape_line, "fence": fence, "pct": wording.percent, "num": _number}
    text = env.get_template("report.md.j2").render(**_context(report))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment(folder: str, autoescape: bool) -> Environment:
    """The folder's templates; compiling them takes longer than filling them in."""
    env = Environment(
        loader=FileSystemLoader(_FOLDER / folder),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=on_page,
    )
    env.filters |= {
        "language": wording.language_label,
        "model": wording.model_label,
        "listing": wording.listing,
        "metric": wording.metric_label,
        "version": wording.version_label,
    }
    return env


def _context(report: Report) -> dict[str, Any]:
    choices = {s.system: s for s in report.selectors}
    return {
        "r": report,
        "results": report.results,
        "config": report.config,
        "headline": headline(report),
        "score_headline": partial(score_headline, report),
        "distrusted": report.failed_audit,
        "by_language": by_language(report),
        "banners": warnings(report),
        "asked": wording.asked(report),
        **{name: getattr(wording, name) for name in _WORDS},
        "missing": wording.missing_number,
        "grade": wording.grade_words,
        "left_out": wording.LEFT_OUT,
        "cost_how": wording.COSTS,
        "has_gains": any(
            c.gain is not None and c.tokens is not None and not c.is_base for c in report.results.system_costs
        ),
        "roles": _roles(report),
        "choices": choices,
        "wrong_language": _wrong_language,
        "untold": _untold,
        "audits": audits(report),
        "panels": sampling_panels(report),
        "has_left_out": partial(has_left_out, report),
        "has_greedy": any(s.greedy is not None for s in report.selectors),
        "pass_notes": {s.system: _notes(s) for c in report.contests for s in c.standings},
        "pooled_notes": partial(_all_footnotes, report),
        "level": f"{100 * report.config.winrate.confidence:g}%",
        "has_new": any(s.new for s in report.selectors),
        "templates": _templates(report),
        "signatures": _signatures(report),
        "config_yaml": _shareable(report.config),
        "version": report.manifest.get("lemonpress", __version__),
        "per_prompt": lambda n: n / report.n_prompts if report.n_prompts else None,
    }


def _roles(report: Report) -> dict[str, str]:
    """What stands beside the systems that are no contenders."""
    words = {"oracle": "upper bound", "outside": "outside answer"}
    found = {s.system: words[s.role] for c in report.contests for s in c.standings if s.role}
    return found | {s: words[role] for task in report.tasks for s, role in task.roles.items() if role}


def _wrong_language(task: TaskScores, system: str) -> float | None:
    """Share of a system's texts that are not in the language asked for, of those that could be told."""
    score = task.get(system, POOLED, LANGUAGE)
    return None if score is None or score.mean is None else 1 - score.mean


def _untold(task: TaskScores, system: str) -> float | None:
    """Share of a system's texts whose language cannot be told."""
    score = task.get(system, POOLED, LANGUAGE)
    texts = score.n_prompts + score.n_untold if score else 0
    return score.n_untold / texts if score and texts else None


def footnotes(rates: Iterable[WinRate]) -> list[str]:
    """The reasons for the dashes in a table: touch screens and paper show no tooltips."""
    names = ("win_rate", "ci_low", "flip_rate", "tie_rate")
    return sorted({wording.missing_number(r, name) for r in rates for name in names if getattr(r, name) is None})


def pooled_footnotes(contest: Contest) -> list[str]:
    """:func:`footnotes` of the table over all prompts, which shows one number of the macro average."""
    macro = (s.macro for s in contest.standings if s.macro.win_rate is None)
    reasons = footnotes(s.pooled for s in contest.standings)
    return list(dict.fromkeys([*reasons, *(wording.missing_number(r, "win_rate") for r in macro)]))


def has_left_out(report: Report, contest: Contest) -> bool:
    """Whether a selector of the contest fell back or could not read a verdict."""
    troubled = {s.system for s in report.selectors if s.fallbacks or s.invalid}
    return any(s.system in troubled for s in contest.standings)


def _all_footnotes(report: Report, contest: Contest) -> list[str]:
    reasons = pooled_footnotes(contest)
    if has_left_out(report, contest):
        rest = [s.readable for s in contest.standings if s.readable is not None]
        reasons += [
            wording.missing_number(r, name) for r in rest for name in ("win_rate", "ci_low") if vars(r)[name] is None
        ]
        reasons += [s.no_readable for s in contest.standings if s.readable is None]
    return list(dict.fromkeys(reasons))


def _notes(standing: Standing) -> list[str]:
    return footnotes([standing.pooled, standing.macro, *standing.languages])


def _templates(report: Report) -> list[tuple[str, str]]:
    """(user, template@hash) of every judge template behind the numbers."""
    found = [("judge", c.template) for c in report.contests]
    for name, chosen in report.config.selectors.items():
        found += [(f"selector {name}", f"{template}@{hashed}") for template, hashed in chosen.templates().items()]
    return list(dict.fromkeys(found))


def _signatures(report: Report) -> list[str]:
    standings = [s for c in report.contests for s in c.standings]
    every = [s.pooled.signature for s in standings]
    every += [str(s.pooled.joint_signature) for s in standings if s.pooled.joint_low is not None]
    every += [s.readable.signature for s in standings if s.readable is not None]
    every += [a.signature for a in report.results.audit if a.language == POOLED]
    every += [s.signature for t in report.tasks for s in t.scores.values() if s.language == POOLED]
    return list(dict.fromkeys(every))


def _shareable(config: Config) -> str:
    """The resolved config without ``out``: where the run lies is nobody's business."""
    return to_yaml(config).replace(f"out: {to_dict(config)['out']}\n", "", 1)


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def _score(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _none(reason: str) -> Markup:
    return Markup('<span class="none" title="{}">–<span class="sr"> ({})</span></span>').format(reason, reason)


def _pct_html(value: float | None, reason: str = "nothing to count") -> Markup:
    return _none(reason) if value is None else Markup.escape(wording.percent(value))


def _number_html(value: float | None, digits: int = 0, reason: str = "nothing to count") -> Markup:
    return _none(reason) if value is None else Markup.escape(_number(value, digits))
