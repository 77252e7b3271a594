"""The report: one self-contained HTML page, and the same content in Markdown."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline import __version__
from pipeline.config import Config, to_dict, to_yaml
from pipeline.report import plots, wording
from pipeline.report.collect import Contest, Report, Standing, WinRate, collect
from pipeline.storage import RunFolder

_FOLDER = Path(__file__).parent
_LONGEST = 20_000  # characters of one text on the page; the table keeps all of it
_CONTROLS = {c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n\r"} | {127: 0x2421}
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~&$@:])")


def build_report(run: RunFolder, config: Config) -> str:
    """Write ``report/index.html`` and ``report/report.md`` of a finished run.

    Returns:
        Path of the page.

    Raises:
        UnfinishedTableError: ``judge`` has not finished.
        InputError: a table cannot be used.
    """
    report = collect(run, config)
    run.write_text(render_markdown(report), "report", "report.md")
    return run.write_text(render_html(report), "report", "index.html")


def render_html(report: Report) -> str:
    """The page. Everything that is not template is escaped: texts of models, data and configs cannot break out."""
    env = _environment(autoescape=True)
    env.filters |= {"clean": clean, "pct": _pct_html, "num": _number_html, "score": _score}
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    return env.get_template("page.html.j2").render(
        **_context(report),
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        # beside escaping: the browser loads nothing and runs nothing but this one script
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        plots=plots,
    )


def render_markdown(report: Report) -> str:
    """The page's main content as Markdown; texts of models stand in fences that they cannot close."""
    env = _environment(autoescape=False)
    env.filters |= {"md": escape_markdown, "line": escape_line, "fence": fence, "pct": wording.percent, "num": _number}
    text = env.get_template("report.md.j2").render(**_context(report))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def clean(text: Any) -> str:
    """A text as it can be shown: control characters become visible signs, very long texts are cut (and say so)."""
    shown = str(_visible(str(text).replace("\r\n", "\n")))
    if len(shown) > _LONGEST:
        return f"{shown[:_LONGEST]}… [{len(shown) - _LONGEST:,} more characters in the table]"
    return shown


def _visible(value: Any) -> Any:
    """Every plain string on its way into a template passes here; Markup has been through it."""
    return value.translate(_CONTROLS) if isinstance(value, str) and not isinstance(value, Markup) else value


def escape_markdown(text: Any) -> str:
    """One line of plain text for running Markdown or a table's cell."""
    line = " ".join(_mark_bidi(clean(text)).split())
    return _SPECIAL.sub(r"\\\1", line).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\&", "&amp;")


def escape_line(text: Any) -> str:
    """One line inside an HTML tag, where Markdown's own escapes do not work."""
    return str(escape(" ".join(_mark_bidi(clean(text)).split())))


def fence(text: Any) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    shown = _mark_bidi(clean(text))
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{ticks}text\n{shown}\n{ticks}"


def _mark_bidi(text: str) -> str:
    """Markdown cannot isolate directions, so the characters that override them are spelled out."""
    return _BIDI.sub(lambda m: f"⟦U+{ord(m[0]):04X}⟧", text)


def _environment(autoescape: bool) -> Environment:
    env = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_visible,
    )
    env.filters |= {
        "language": wording.language_label,
        "model": wording.model_label,
        "listing": wording.listing,
    }
    return env


def _context(report: Report) -> dict[str, Any]:
    notes = {s.system: _notes(s) for c in report.contests for s in c.standings}
    return {
        "r": report,
        "config": report.config,
        "headline": wording.headline(report),
        "banners": wording.warnings(report),
        "asked": wording.asked(report),
        "interval": wording.interval,
        "missing": wording.missing_number,
        "readable": wording.readable,
        "left_out": wording.LEFT_OUT,
        "has_left_out": partial(has_left_out, report),
        "has_greedy": any(s.greedy is not None for s in report.selectors),
        "count": wording.count,
        "pass_notes": notes,
        "pooled_notes": partial(_all_footnotes, report),
        "level": f"{100 * report.config.winrate.confidence:g}%",
        "has_new": any(s.new for s in report.selectors),
        "templates": _templates(report),
        "signatures": _signatures(report),
        "config_yaml": _shareable(report.config),
        "version": report.manifest.get("lemonpress", __version__),
        "per_prompt": lambda n: n / report.n_prompts if report.n_prompts else None,
    }


def footnotes(rates: Iterable[WinRate]) -> list[str]:
    """The reasons for the dashes in a table: touch screens and paper show no tooltips."""
    names = ("win_rate", "low", "flip_rate", "tie_rate")
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
            wording.missing_number(r, name) for r in rest for name in ("win_rate", "low") if vars(r)[name] is None
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
    every = [s.pooled.signature for s in standings] + [s.joint_signature for s in standings if s.joint_low is not None]
    every += [s.readable.signature for s in standings if s.readable is not None]
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
