"""Writes the reference pages of the documentation from the code: every config key, every method, the command line.

A Sphinx extension; ``python docs/_ext/lemonpress_reference.py FOLDER`` writes the pages without building. The pages
are not stored in the repository, so they cannot go stale.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import re
import sys
import textwrap
import types
import typing
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click

from pipeline import cli
from pipeline.config.config import Config
from pipeline.core.errors import ConfigError
from pipeline.core.registry import Registry
from pipeline.core.row import NESTED, Row
from pipeline.engines.base import ENGINES, EngineConfig, spell_needs
from pipeline.jobs.commands import JOBS
from pipeline.judging.answers import ANSWERS, AnswerSource
from pipeline.prompts.sources import SOURCES, SourceConfig
from pipeline.sampling.plans import PLANS, PlanConfig
from pipeline.selection.base import SELECTORS, Selector
from pipeline.stats.results import TABLES, WINRATES
from pipeline.tasks import TASKS, Task
from pipeline.tasks.utilities import UTILITIES

NOTICE = "<!-- Generated from the code by docs/_ext/lemonpress_reference.py: change the docstrings there. -->\n"


@dataclass(frozen=True)
class Key:
    """One config key.

    Attributes:
        name: in full, such as ``engines.NAME.pool.size``.
        hint: its type, in words.
        default: as YAML; ``None`` = it has none.
        text: what it means.
    """

    name: str
    hint: str
    default: str | None
    text: str


@dataclass(frozen=True)
class Kinds:
    """A place in the config where a ``kind`` picks the dataclass."""

    prefix: str
    registry: Registry[Any]
    base: type[Any]
    default: str


KINDS: dict[str, Kinds] = {
    "prompts": Kinds("prompts", SOURCES, SourceConfig, "example"),
    "engines": Kinds("engines.NAME", ENGINES, EngineConfig, ""),
    "sampling": Kinds("sampling", PLANS, PlanConfig, "hedged"),
    "plans": Kinds("plans.NAME", PLANS, PlanConfig, ""),
    "selectors": Kinds("selectors.NAME", SELECTORS, Selector, "NAME"),
    "tasks": Kinds("tasks.NAME", TASKS, Task, "NAME"),
    "answers": Kinds("answers.NAME", ANSWERS, AnswerSource, ""),
}


def to_markdown(text: str) -> str:
    """A docstring's text as Markdown: roles become plain code, angle brackets and stars stay what they are."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"``{m[1].rsplit('.', 1)[-1]}``", text)
    pieces = re.split(r"(``.+?``)", " ".join(text.split()))
    return "".join(p if p.startswith("``") else re.sub(r"([*_<>\[\]|$])", r"\\\1", p) for p in pieces)


def sections(doc: str) -> tuple[list[str], dict[str, str]]:
    """The paragraphs of a docstring before its first section, and what its ``Attributes`` section says, by name."""
    body, _, rest = inspect.cleandoc(doc).partition("\nAttributes:\n")
    body = re.split(r"\n(?:Args|Returns|Raises):\n", body)[0]
    found: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(re.split(r"\n(?=\S)", rest)[0]).splitlines():
        started = re.match(r"([\w, ]+): (.*)", line) if line and not line[0].isspace() else None
        if started:
            names = [name.strip() for name in started[1].split(",")]
        for name in names:
            said = started[2] if started else line.strip()
            found[name] = f"{found.get(name, '')} {said}".strip()
    return [p for p in body.split("\n\n") if p.strip()], found


@cache
def described(cls: type[Any]) -> dict[str, str]:
    """What one class (not its bases) says about its fields: in its docstring, under them, or beside them."""
    if cls is object:
        return {}
    _, found = sections(cls.__doc__ or "")
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return found
    lines = source.splitlines()
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)) or node.target.id in found:
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            found[node.target.id] = after.value.value
        else:
            comment = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :].partition("# ")[2]
            if comment:
                found[node.target.id] = comment
    return found


def describe(cls: type[Any], name: str) -> str:
    """What is said about a field, by the class or the nearest of its bases that says something."""
    return next((described(c)[name] for c in cls.__mro__ if name in described(c)), "")


def spell(hint: Any) -> str:
    """A type in words for people who write YAML."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is type(None) else spell(a) for a in args)
    if origin in (list, tuple):
        return f"list of {spell(args[0])}"
    if origin is dict:
        return f"map of {spell(args[0])} to {spell(args[1])}"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}
    if hint in words:
        return words[hint]
    return "map" if dataclasses.is_dataclass(hint) else str(getattr(hint, "__name__", hint))


def as_yaml(value: Any) -> str:
    """A default as it would stand in YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {as_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if value == "" or "\n" in str(value):
        return json.dumps(value)
    return str(value)


def keys(cls: type[Any], prefix: str, inherited: type[Any] | None = None) -> Iterator[Key]:
    """Every key of one dataclass, those of dataclasses inside it included.

    Args:
        prefix: what stands before the keys.
        inherited: leave out what this base has with the same default.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: _default(f) for f in dataclasses.fields(inherited)} if inherited else {}
    for field in dataclasses.fields(cls):
        if not field.init or (field.name in known and known[field.name] == _default(field)):
            continue
        yield from _key(cls, field, hints[field.name], f"{prefix}.{field.name}" if prefix else field.name)


def _key(cls: type[Any], field: dataclasses.Field[Any], hint: Any, name: str) -> Iterator[Key]:
    default = _default(field)
    text = describe(cls, field.name)
    inner = next((a for a in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(a)), None)
    if inner is None:
        yield Key(name, spell(hint), None if default is dataclasses.MISSING else as_yaml(default), text)
        return
    items = typing.get_origin(hint) is list
    paragraphs, _ = sections(inner.__doc__ or "")
    text = text or paragraphs[0]
    shown = "[]" if items else "null" if default is None else None
    yield Key(name, "list of maps" if items else "map", shown, text)
    yield from keys(typing.cast(type[Any], inner), f"{name}[]" if items else name)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else dataclasses.MISSING


def own(registry: Registry[Any]) -> list[tuple[str, type[Any]]]:
    """The registered classes that are the library's own."""
    return [(kind, cls) for kind, cls in registry.items() if cls.__module__.startswith("pipeline.")]


def all_keys() -> list[Key]:
    """Every key that a config may hold."""
    found: list[Key] = []
    for kinds in KINDS.values():
        found += keys(kinds.base, kinds.prefix)
        for _, cls in own(kinds.registry):
            found += keys(cls, kinds.prefix, kinds.base)
    hints = typing.get_type_hints(Config)
    for field in dataclasses.fields(Config):
        if field.name not in KINDS:
            found += _top(field, hints[field.name])
    return found


def _top(field: dataclasses.Field[Any], hint: Any) -> list[Key]:
    if typing.get_origin(hint) is dict:  # a plain map of names
        return list(keys(typing.get_args(hint)[1], f"{field.name}.NAME"))
    if dataclasses.is_dataclass(hint):
        return list(keys(typing.cast(type[Any], hint), field.name))
    return list(_key(Config, field, hint, field.name))


def _entry(key: Key) -> str:
    default = "" if key.default is None else f" · default {_code(key.default)}"
    return f"{_code(key.name)}\n: *{key.hint}*{default}\n\n  {_sentence(to_markdown(key.text))}\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _entries(found: Iterator[Key] | list[Key]) -> list[str]:
    return [_entry(key) for key in found]


def _paragraphs(cls: type[Any]) -> list[str]:
    return [to_markdown(p) + "\n" for p in sections(cls.__doc__ or "")[0]]


def config_page() -> str:
    """The configuration reference."""
    out = [
        NOTICE,
        "# Configuration reference\n",
        "Every key of a config, with its type and its default. The page is made from the code that checks the config. "
        "`NAME` stands for a name that you choose, `[]` for the items of a list. Where a `kind` is chosen, the common "
        "keys come first, then the keys that each kind adds or whose default it changes.\n",
        "Configs are merged from left to right: presets, files, then `key=value` words. An unknown key or a wrong type "
        "is refused before anything loads (exit code 2).\n",
    ]
    hints = typing.get_type_hints(Config)
    fields = {f.name: f for f in dataclasses.fields(Config)}
    plain = [n for n in fields if n not in KINDS and not _is_section(hints[n])]
    out += ["## Top level\n", *(e for n in plain for e in _entries(_top(fields[n], hints[n])))]
    for name, field in fields.items():
        if name in plain or name == "plans":
            continue
        title = "sampling and plans" if name == "sampling" else name
        out.append(f"## {title}\n")
        if describe(Config, name):
            out.append(_sentence(to_markdown(describe(Config, name))) + "\n")
        if name == "sampling":
            out.append("`plans.NAME` takes the same keys as `sampling`; there `kind` must be given.\n")
        if name in KINDS:
            out += _kinds_section(KINDS[name])
            continue
        hint = hints[name]
        cls = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else hint
        out += [*_paragraphs(cls), *_entries(_top(field, hint))]
    return "\n".join(out)


def _is_section(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict


def _kinds_section(kinds: Kinds) -> list[str]:
    names = [kind for kind, _ in own(kinds.registry)]
    kind = Key(f"{kinds.prefix}.kind", "text", kinds.default or None, f"One of {', '.join(f'``{n}``' for n in names)}.")
    out = [_entry(kind), *_entries(keys(kinds.base, kinds.prefix))]
    for name, cls in own(kinds.registry):
        out.append(f"### {kinds.prefix}: kind `{name}`\n")
        out += _paragraphs(cls)
        if kinds.registry in (SELECTORS, PLANS):
            what = "selector" if kinds.registry is SELECTORS else "plan"
            out[-1:] = [out[-1], f"More in the [method reference](methods.md#{what}-{name.replace('_', '-')}).\n"]
        out += _entries(keys(cls, kinds.prefix, kinds.base)) or ["No keys of its own.\n"]
    return out


def methods_page() -> str:
    """The method reference: sampling plans, selectors, utilities."""
    out = [
        NOTICE,
        "# Method reference\n",
        "Every sampling plan, selector and scorer, from the registry. N is the number of candidates, M the number of "
        "pieces of evidence, R the number of permutations. `lemonpress select --list` prints the selectors in the "
        "terminal.\n",
        "## Sampling plans\n",
        "A plan says which requests make up a candidate set. All plans share the keys of "
        "[sampling](config.md#sampling-and-plans). Source: arXiv 2506.20544, sampling.\n",
    ]
    for kind, cls in own(PLANS):
        out += [f"(plan-{kind.replace('_', '-')})=\n", f"### {kind}\n", *_paragraphs(cls)]
        out += ["**Cost:** " + _plan_cost(kind, cls) + "\n", *_entries(keys(cls, "", PlanConfig))]
    out += [
        "## Selectors\n",
        "A selector turns a candidate set into one answer. All of them share the first keys "
        "of [selectors](config.md#selectors): `engine`, `plans`, `origins`.\n",
    ]
    out += ["| selector | calls per prompt | needs | source |", "|---|---|---|---|"]
    for kind, cls in own(SELECTORS):
        link = f"[{kind}](#selector-{kind.replace('_', '-')})"
        out.append(f"| {link} | {to_markdown(cls.cost)} | {_needs(cls)} | {to_markdown(cls.source)} |")
    out.append("")
    for kind, cls in own(SELECTORS):
        out += [f"(selector-{kind.replace('_', '-')})=\n", f"### {kind}\n", *_paragraphs(cls)]
        out.append(f"**Calls per prompt:** {to_markdown(cls.cost)}\\\n**Needs of its engine:** {_needs(cls)}\\")
        out.append(f"**Source:** {to_markdown(cls.source)}\n")
        out += _entries(keys(cls, "", Selector)) or ["No keys of its own.\n"]
    out += [
        "## Scorers\n",
        "A scorer gives every candidate of a set a number. The selectors above store theirs in the column `scores` "
        "under their own names. MBR compares texts by one of these utilities on the CPU, or asks an engine "
        "(`embedding`, `judge`):\n",
    ]
    for name, function in UTILITIES.items():
        what = inspect.getdoc(function) or ""
        out.append(f"`{name}`\n: {to_markdown(what.split(chr(10) + chr(10))[0])}\n")
    out.append(
        "The metrics of tasks need no model. They are for reports and for the oracle, never for other selectors:\n"
    )
    out += ["| task | metrics | source |", "|---|---|---|"]
    for kind, cls in own(TASKS):
        metrics = ", ".join(f"`{m}`" for m in cls().metrics()) or "-"
        out.append(f"| `{kind}` | {metrics}, `language` | {to_markdown(cls.source) or '-'} |")
    return "\n".join([*out, ""])


def _needs(cls: type[Selector]) -> str:
    return (
        " or ".join(f"`{need}`" for need in spell_needs(cls.needs).replace(", ", " or ").split(" or ") if need) or "-"
    )


def _plan_cost(kind: str, cls: type[PlanConfig]) -> str:
    plan = cls()
    requests = plan.requests(kind, "prompt", 1)
    n = sum(r.params.n for r in requests)
    more = f", and up to {plan.redraw_limit()} redraws" if plan.redraw_limit() else ""
    return f"{_count(len(requests), 'request')} for {_count(n, 'candidate')} (at the defaults){more}."


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def command_page() -> str:
    """The command reference, from the command line's own help."""
    out = [
        NOTICE,
        "# Command reference\n",
        "`lemonpress` alone lists the jobs, `lemonpress JOB --help` its words. `CONFIG` is a preset, a YAML file,",
        "or a run's folder, which brings the config that it was made with; all are merged from left to right.\n",
        "`python -m jobs.JOB` does the same from a checkout, for the jobs that work on a run. For completion of jobs,",
        'presets and files in the shell: `eval "$(_LEMONPRESS_COMPLETE=bash_source lemonpress)"` (or `zsh_source`,',
        "`fish_source`).\n",
    ]
    for group in dict.fromkeys(job.group for job in JOBS.values()):
        out.append(f"## {group}\n")
        for name, job in JOBS.items():
            if job.group == group:
                out += [f"### {name}\n", f"{_sentence(to_markdown(job.summary))}\n"]
                out.append(f"```text\nlemonpress {name} {job.words}\n```\n".replace(" \n", "\n"))
                out += [_option(p) for p in cli.program.commands[name].params if isinstance(p, click.Option)]
                if job.keys:
                    out.append(f"Keys that matter most: {', '.join(f'`{key}`' for key in job.keys)}.\n")
                out.append("Examples:\n\n```text\n" + "\n".join(job.examples) + "\n```\n")
    out.append("## Exit codes\n")
    out += [
        to_markdown(p) + "\n" for p in (importlib.import_module("pipeline.core.errors").__doc__ or "").split("\n\n")[1:]
    ]
    return "\n".join(out)


def _option(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or 'TEXT'}"
    return f"`{', '.join(option.opts[:1])}{value}`\n: {_sentence(to_markdown(option.help or ''))}\n"


HOLDS = {
    "prompts": "`row_id` to `reference`, `source`, `usage` and `errors`; `candidates` that the prompts brought",
    "candidates": "also `candidates` and `scores`",
    "selections": "also `selections`",
    "games": "also `answers` and `games`: everything",
}
"""The run's tables, each with what it has more than the one before."""


def tables_page() -> str:
    """Every column of every table, from the records that a row is made of."""
    out = [
        NOTICE,
        "# Tables\n",
        "What `pipeline.open_run`, `lemonpress table` and the Parquet files hold. A row is one prompt in all of the",
        "run's tables, which grow from one to the next; [Concepts](../concepts.md) shows how to read them with DuckDB,",
        "pandas and `datasets`.\n",
        "| table | holds |\n|---|---|",
        *(f"| `{name}` | {text} |" for name, text in HOLDS.items()),
        "",
        "A position (`selections.index`) and a list of values (`scores.values`) count within one candidate set: among",
        "the candidates whose `plan` is that of the selection or the score, in their order, from 0. With one set that",
        "is the place in `candidates`; with several, take the set's candidates first:",
        "`[c for c in row['candidates'] if c['plan'] == chosen['plan']][chosen['index']]`. The chosen text stands in",
        "`selections.text`, too.\n",
        "## A row\n",
        *_columns(Row),
    ]
    for name, record in NESTED.items():
        out += [f"## {name}\n", *(to_markdown(p) + "\n" for p in sections(record.__doc__ or "")[0]), *_columns(record)]
    out += ["# Results\n", "Each as Parquet and CSV in the run's folder; what a run has no use for is not there.\n"]
    for name, record in {"winrates": TABLES["judge_rates"], **TABLES}.items():
        text = sections(record.__doc__ or "")[0][:1]
        kept = WINRATES if name == "winrates" else None
        out += [f"## {name}\n", *(to_markdown(p) + "\n" for p in text), *_columns(record, kept)]
    return "\n".join(out)


_COMMON = {
    "system": "whose numbers these are: `SET/METHOD`, or an outside system's name",
    "system_a, system_b": "the two that are compared",
    "opponent": "whom it was compared with",
    "judge, template": "who decided, and with which prompt",
    "language": "of the prompts; `all`: over all of them, `macro`: the mean of the languages",
    "task": "of the prompts",
    "plan": "the candidate set",
    "method": "the selector's name in the config",
    "metric": "what was measured, of 0 to 1",
    "version": "how the good answer was damaged",
    "temperature, min_p": "of the plan",
    "n_prompts": "that count",
    "n_invalid": "games without a readable verdict",
    "n_untold": "prompts of which the metric cannot say anything",
    "n_clusters": "independent questions among them",
    "effective_clusters": "how many clusters of equal size tell as much",
    "n": "prompts on which both chose; of hope and risk: candidates a prompt",
    "m": "candidates that one may choose from",
    "win_rate": "share of the games that it won, ties as half",
    "length_controlled_win_rate": "what it would be against answers of the same length",
    "phi": "how much length decides",
    "strength": "log odds of winning against the opponent",
    "mean": "over prompts; of a curve: of one candidate",
    "best, worst": "of m candidates, expected",
    "greedy": "the greedy answer's mean",
    "hope_absolute, risk_absolute": "in the metric's unit",
    "difference": "of the means, paired by prompt",
    "minimum_detectable": "the smallest difference that so many clusters would show four times in five",
    "se, difference_se, first_se": "standard error, over clusters",
    "invalid_rate": "share of the games without a readable verdict",
    "lost_low, won_high": "the interval's end with all unreadable games lost, or won",
    "joint_signature, signature": "how the number was made: the recipe in one line",
    "missing": "prompts without an answer",
    "same": "prompts on which both chose the same text",
    "where, cause, count, example": "job and stage, the kind of error, how many rows, and one message",
    "requests, prompt_tokens, cached_tokens, completion_tokens": "what was spent",
    "accepted": "prompts with an answer that may be used",
    "is_base": "whether it is what others are compared with",
    "money_per_point": "of the gain's metric",
}
"""What columns of the results mean that mean the same in all of them."""


def _common(name: str) -> str:
    said = next((text for names, text in _COMMON.items() if name in names.split(", ")), "")
    return said or ("an end of the interval" if name.endswith(("_low", "_high")) else "")


def _columns(record: type[Any], kept: Collection[str] | None = None) -> list[str]:
    hints = typing.get_type_hints(record)
    lines = ["| column | type | |\n|---|---|---|"]
    for one in dataclasses.fields(record):
        if kept is None or one.name in kept:
            text = _sentence(to_markdown(describe(record, one.name) or _common(one.name)))
            lines.append(f"| `{one.name}` | {spell(hints[one.name])} | {text} |")
    return [*lines, ""]


PAGES = {
    "config.md": config_page,
    "methods.md": methods_page,
    "commands.md": command_page,
    "tables.md": tables_page,
}


def write(folder: Path) -> None:
    """Write all pages into ``folder``; files that would not change stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        text, path = page(), folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Sphinx calls this: the pages are written before it looks for sources."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "reference"))
    return {"parallel_read_safe": True, "version": "1"}


if __name__ == "__main__":
    unexplained = [key.name for key in all_keys() if not key.text]
    if unexplained:
        raise SystemExit(f"{ConfigError.__name__}: keys without an explanation: {', '.join(unexplained)}")
    write(Path(sys.argv[1]))
