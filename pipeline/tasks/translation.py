"""Translation of the prompt's text."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError
from pipeline.core.languages import base_language, language_name, parse
from pipeline.core.row import Message, Row
from pipeline.engines.base import Prompt
from pipeline.tasks.base import Task, task
from pipeline.tasks.numbers import written


@dataclass
class Example:
    """One translation shown to the model before the text.

    Attributes:
        source: the text to translate.
        target: its translation.
        language: shown only to prompts in this language (primary subtag); ``null`` = to all.
    """

    source: str = bounded("", filled=True)
    target: str = bounded("", filled=True)
    language: str | None = None


@task("translation")
@dataclass
class Translation(Task):
    """Translate the last user turn; nothing but the translation is asked for.

    Chat models get the instruction, with the examples as earlier turns. Base models (``raw``) get a text to
    complete, ``Spanish: ...`` above ``English:``, which ends at the line's end; line breaks inside the source become
    spaces there. Quality is sentence chrF / 100 (a segment metric; the paper's XCOMET-XL needs a model).

    Attributes:
        source_language: BCP 47 tag; ``null`` = the row's language when ``target_language`` is set, else not named.
        target_language: BCP 47 tag; ``null`` = the row's language.
        instruction: may hold ``{source}`` and ``{target}``, the languages' English names.
        few_shot: examples, in order.
        raw: prompt a base model with raw text instead of messages.
    """

    source = "arXiv 2506.20544, evaluation (WMT24++); chrF: Popovic 2015"
    source_language: str | None = None
    target_language: str | None = None
    instruction: str = (
        "Translate the following {source} text into {target}. Reply with the translation only, without explanations."
    )
    few_shot: list[Example] = field(default_factory=list)
    raw: bool = False

    def check(self, key: str) -> None:
        source, target = (parse(tag) or tag if tag else None for tag in (self.source_language, self.target_language))
        if source and source == target:
            raise ConfigError(f"{key}.target_language: {self.target_language!r} is the source language already")
        if self.raw and not (self.source_language or self.target_language):
            raise ConfigError(f"{key}.source_language: a raw prompt names both languages; set this one or the target's")
        try:
            self.instruction.format(source="", target="")
        except (AttributeError, KeyError, IndexError, ValueError) as error:
            raise ConfigError(
                f"{key}.instruction: may hold {{source}} and {{target}}, no other braces ({error!r})"
            ) from error

    def stops(self) -> tuple[str, ...]:
        return (*self.stop, "\n") if self.raw else tuple(self.stop)

    def answer_language(self, row: Row) -> str | None:
        return self.target_language or row.language

    def source_language_of(self, row: Row) -> str | None:
        return self.source_language or (row.language if self.target_language else None)

    def instruct(self, messages: Sequence[Message], row: Row) -> Prompt:
        source, target = self._languages(row)
        asked = max((i for i, m in enumerate(messages) if m.get("role") == "user"), default=None)
        if asked is None:
            return messages
        text = messages[asked].get("content") or ""
        wanted = base_language(row.language)
        examples = [e for e in self.few_shot if e.language is None or base_language(e.language) == wanted]
        if self.raw:
            blocks = [f"{source or 'Text'}: {_line(e.source)}\n{target}: {_line(e.target)}\n\n" for e in examples]
            return "".join([*blocks, f"{source or 'Text'}: {_line(text)}\n{target}:"])
        # A source that nothing names would leave a double space.
        instruction = self.instruction.format(source=source, target=target).replace("  ", " ")
        shots: list[Message] = []
        for example in examples:
            shots.append({"role": "user", "content": f"{instruction}\n\n{example.source}"})
            shots.append({"role": "assistant", "content": example.target})
        turn = {**messages[asked], "content": f"{instruction}\n\n{text}"}
        return [*messages[:asked], *shots, turn, *messages[asked + 1 :]]

    def instruct_in(self, language: str, messages: Sequence[Message], row: Row) -> Prompt:
        source = self.source_language_of(row)
        return replace(self, source_language=source, target_language=language, few_shot=[]).instruct(messages, row)

    def zero_shot(self, messages: Sequence[Message], row: Row) -> Sequence[Message]:
        return super(Translation, replace(self, few_shot=[], raw=False)).zero_shot(messages, row)

    def canonicalise(self, text: str, row: Row) -> str | None:
        """The text in NFC with single spaces, so that equal translations vote together; ``None`` when empty."""
        return _line(unicodedata.normalize("NFC", text)) or None

    def verify(self, text: str, reference: str | None, row: Row) -> float | None:
        """Sentence chrF (order 6, beta 2) / 100, equal to sacrebleu's; ``None`` without a reference."""
        from pipeline.tasks.utilities import chrf_matrix  # numpy loads with it, and the config imports this module

        return _share(chrf_matrix([text], [reference])[0][0]) if reference and reference.strip() else None

    def measure(self, texts: Sequence[str | None], row: Row) -> dict[str, list[float | None]]:
        """``chrf`` and ``bleu`` (of the sentence, sacrebleu's, / 100) and ``numbers`` (:func:`number_match`)."""
        from pipeline.tasks.utilities import bleu_matrix, chrf_matrix

        reference = row.reference or ""
        known = [t for t in texts if t is not None] if reference.strip() else []
        language = self.answer_language(row)
        found: dict[str, list[float | None]] = {
            "chrf": [_share(line[0]) for line in chrf_matrix(known, [reference])],
            "bleu": [_share(line[0]) for line in bleu_matrix(known, [reference], language)],
            "numbers": [number_match(t, reference, language) for t in known],
        }
        places = [known and t is not None for t in texts]
        numbers = {name: iter(values) for name, values in found.items()}
        return {name: [next(values) if there else None for there in places] for name, values in numbers.items()}

    def _languages(self, row: Row) -> tuple[str, str]:
        target = self.answer_language(row)
        return language_name(self.source_language_of(row)) or "", language_name(target) or "the other language"


def _share(percent: float) -> float:
    return min(1.0, percent / 100)  # sacrebleu's BLEU of a perfect match is 100.00000000000004


def _line(text: str) -> str:
    return " ".join(text.split())


def number_match(text: str, reference: str, language: str | None = None) -> float | None:
    """Share of the numbers, written in digits, that both texts have: |common| / max(|text's|, |reference's|).

    Digits of any script, separators and multipliers are read as the maths task reads them: 1,000 is 1.000 is 1000 is
    १,००० is 1k, and 2,5 is 2.5. Signs are left out (10-15 is a range), 12/05 is two numbers. Numbers count as often as
    they occur; the first 10,000 characters of each text are read. ``None`` where the reference has none. A crude check
    that no n-gram metric makes: one wrong digit is a small edit and a wrong translation.
    """
    mine, wanted = (Counter(written(t, language)) for t in (text, reference))
    return (mine & wanted).total() / max(mine.total(), wanted.total()) if wanted else None
