"""Judge prompts: one readable file per purpose, in English, localisable by language (``NAME.ja.txt``).

A file has sections: ``[user]`` (required), ``[system]``, ``[prefill]`` (how the judge's answer begins) and
``[labels]``. Sections are Jinja templates, rendered in a sandbox; texts of models and users go in as values and are
never parsed as templates. Lines before the first section are comments.
"""

from __future__ import annotations

import functools
import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from pipeline.core.errors import ConfigError, nearest
from pipeline.core.hashing import digest
from pipeline.core.languages import base_language
from pipeline.core.row import Message
from pipeline.engines.control import COMMON, defuse, sign

FOLDER = Path(__file__).parent / "templates"
_SECTIONS = ("system", "user", "prefill", "labels")
_TAG = re.compile(r"<\s*(?:/\s*)?([A-Za-z]+)")
_LANGUAGE = re.compile("[a-z]{2,8}")
_FRAME = re.compile(r"</?([A-Za-z][\w-]*?(?:\{\{\s*\w+\s*\}\})?)>")
_frame: ContextVar[tuple[Any, ...]] = ContextVar("frame", default=())


@dataclass(frozen=True)
class JudgeTemplate:
    """A parsed template.

    Attributes:
        name: file name without ending and language.
        hash: of the texts in all languages, so that one template has one identity; recorded in the provenance.
        labels: what a verdict may be.
        prefill: how the judge's answer begins.
    """

    name: str
    hash: str
    system: str
    user: str
    prefill: str
    labels: tuple[str, ...]

    def render(self, messages: Sequence[Message], **values: Any) -> list[Message]:
        """The judge's conversation.

        Args:
            messages: the prompt that was answered.
            values: what the template shows besides ``question``; strings and (label, text) pairs are delimited:
                tags of the template that occur inside them are defused, and so are the control tokens of common chat
                formats (an endpoint's tokenizer would read them; engines of this process see to their own).
        """
        values = {k: self.defused(v) for k, v in {**values, "question": conversation(messages)}.items()}
        values["_frame"] = _word(_frame.get())
        system, user = (_compile(_framed(s)).render(**values).strip() for s in (self.system, self.user))
        turns: list[Message] = [{"role": "system", "content": system}] if system else []
        return [*turns, {"role": "user", "content": user}]

    def defused(self, value: Any) -> Any:
        """Texts of models as :meth:`render` shows them: a candidate cannot close its frame and speak as us. Also for
        turns that follow: a judge's reason quotes the answers.
        """
        return defuse(defuse(value, _own_tags(self.system + self.user), sign), COMMON, sign)

    @functools.cached_property
    def options(self) -> dict[str, str]:
        """Label -> the words of the options that the template ends with."""
        found = re.findall(r"^\((\w)\) (.+)$", self.user, re.MULTILINE)
        return {label: words for label, words in found if label in self.labels}


@contextmanager
def framed(*seed: Any) -> Iterator[None]:
    """Within the block, the tags around texts in judges' prompts end in a word that no text can know:
    ``<answer_a-5c1f0e>``.

    Args:
        seed: the run's seed and the prompt's id. All calls about one prompt share the word, and so its prefix in the
            engine's cache; the same run has the same words again.
    """
    token = _frame.set(seed)
    try:
        yield
    finally:
        _frame.reset(token)


@functools.lru_cache(maxsize=256)
def _word(seed: tuple[Any, ...]) -> str:
    return f"-{digest('frame', *seed, size=3)}" if seed else ""


_ENV = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)


@functools.lru_cache(maxsize=256)
def _compile(source: str) -> Template:
    return _ENV.from_string(source)


@functools.lru_cache(maxsize=256)
def _framed(source: str) -> str:
    """The source with a place for the word in every tag that it both opens and closes."""
    opened = {m[1] for m in _FRAME.finditer(source) if not m[0].startswith("</")}
    both = opened & {m[1] for m in _FRAME.finditer(source) if m[0].startswith("</")}
    return _FRAME.sub(lambda m: f"{m[0][:-1]}{{{{ _frame }}}}>" if m[1] in both else m[0], source)


def conversation(messages: Sequence[Message]) -> str:
    """A conversation as plain text: one user turn stands alone, several turns are marked with their role."""
    turns = [m for m in messages if m.get("content")]
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in turns)


@functools.lru_cache(maxsize=512)
def load_template(name: str, language: str | None = None, key: str = "template") -> JudgeTemplate:
    """Read a template.

    Args:
        name: of a built-in template, or the path of a file.
        language: a tag; ``NAME.LANGUAGE.txt`` is preferred where it exists (by base language), English is the default.
        key: config key named in errors.

    Raises:
        ConfigError: there is no such template, or it cannot be used.
    """
    tag = base_language(language) or ""  # data: no part of a path unless it is a plain word
    path = _find(name, tag if _LANGUAGE.fullmatch(tag) else "", key)
    text = path.read_text(encoding="utf-8")
    parts: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.splitlines():
        match = re.fullmatch(r"\[(\w+)\]", line.strip())
        if match and match[1] in _SECTIONS:
            current = parts.setdefault(match[1], [])
        elif current is not None:
            current.append(line)
    sections = {k: "\n".join(v).strip() for k, v in parts.items()}
    if "user" not in sections:
        raise ConfigError(f"{key}: {path.name} has no [user] section")
    try:
        for section in ("system", "user"):
            _compile(sections.get(section, ""))
    except TemplateError as error:
        raise ConfigError(f"{key}: {path.name}: {error}") from error
    return JudgeTemplate(
        name=path.name.split(".")[0],
        hash=digest([p.read_text(encoding="utf-8") for p in _family(path)], size=6),
        system=sections.get("system", ""),
        user=sections["user"],
        prefill=sections.get("prefill", ""),
        labels=tuple(sections.get("labels", "").split()),
    )


def check_pairwise(name: str, key: str) -> None:
    """Raise ConfigError, naming ``key``, unless the template can compare two answers."""
    labels = load_template(name, key=key).labels
    if len(labels) != 3:
        raise ConfigError(f"{key}: {name} needs three [labels] (first is better, second is better, tie), not {labels}")


def _find(name: str, language: str, key: str) -> Path:
    own = Path(name).expanduser()
    base = own.with_suffix("") if own.suffix == ".txt" else FOLDER / name
    for path in ([Path(f"{base}.{language}.txt")] if language else []) + [Path(f"{base}.txt")]:
        if path.is_file():
            return path
    known = {p.name.split(".")[0] for p in FOLDER.glob("*.txt")}
    raise ConfigError(f"{key}: no judge template {name!r}{nearest(name, known)} (or the path of a .txt file)")


def _family(path: Path) -> list[Path]:
    """The template's files in all languages, sorted."""
    return sorted(path.parent.glob(glob.escape(path.name.split(".")[0]) + ".*txt"), key=lambda p: p.name)


@functools.lru_cache(maxsize=256)
def _own_tags(source: str) -> re.Pattern[str]:
    """What opens or closes a tag of the template (``answer`` stands for ``answer_a`` too): own templates have own.

    Two neighbouring ``\\s*`` would take time quadratic in the spaces behind a ``<``.
    """
    names = "|".join(sorted({name.lower() for name in _TAG.findall(source)}))
    return re.compile(rf"[<\uff1c\ufe64](?=\s*(?:/\s*)?(?:{names}))" if names else "(?!)", re.IGNORECASE)
