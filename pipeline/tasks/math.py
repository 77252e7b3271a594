"""Mathematical problems with one number as the answer, in any language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.core.errors import ConfigError
from pipeline.core.languages import base_language
from pipeline.core.row import Message, Row
from pipeline.engines.base import Prompt
from pipeline.tasks.answers import answer
from pipeline.tasks.base import Task, task
from pipeline.tasks.numbers import same

INSTRUCTIONS = {
    "bn": 'সমস্যাটি ধাপে ধাপে সমাধান করুন। শেষ লাইনে শুধু "উত্তর:" এবং তার পরে চূড়ান্ত উত্তরের সংখ্যাটি লিখুন।',
    "de": "Löse die Aufgabe Schritt für Schritt. Schreibe in die letzte Zeile nur „Antwort:“ und dahinter das "
    "Endergebnis als Zahl.",
    "en": 'Solve the problem step by step. On the last line, write only "Answer:" followed by the final number.',
    "es": "Resuelve el problema paso a paso. En la última línea escribe solo «Respuesta:» seguido del resultado "
    "final en cifras.",
    "fr": "Résous le problème étape par étape. Sur la dernière ligne, écris seulement « Réponse : » suivi du "
    "résultat final en chiffres.",
    "ja": "順を追って解いてください。最後の行には「答え:」に続けて、最終的な答えの数字だけを書いてください。",
    "ru": "Реши задачу шаг за шагом. В последней строке напиши только «Ответ:» и после него итоговое число.",
    "sw": 'Tatua swali hili hatua kwa hatua. Kwenye mstari wa mwisho andika tu "Jibu:" ikifuatiwa na nambari ya jibu '
    "la mwisho.",
    "te": 'ఈ సమస్యను దశలవారీగా పరిష్కరించండి. చివరి పంక్తిలో "సమాధానం:" తర్వాత తుది జవాబు సంఖ్యను మాత్రమే రాయండి.',
    "th": 'แก้โจทย์นี้ทีละขั้นตอน แล้วในบรรทัดสุดท้ายให้เขียนเฉพาะ "คำตอบ:" ตามด้วยตัวเลขคำตอบสุดท้าย',
    "zh": "请逐步解答。在最后一行只写“答案:”和最终答案的数字。",
}
"""Final-answer instruction per language (those of MGSM), each in that language; others get the English one."""


@task("math")
@dataclass
class Math(Task):
    r"""Problems whose answer is one number: fractions, decimals and numerical LaTeX included, no variables.

    The prompt asks, in its own language, for a last line of MGSM's form "Answer: 18". The answer is read from the
    last of ``\boxed{}``, that marker in any language, or ``####`` that a number follows (else it is a heading); failing
    these, from the last phrase like "the answer is"; failing those, it is the last number of the text. Thousands
    separators, decimal commas and multipliers (70k, 2 लाख) follow ``row.language``; digits may be of any script. Units,
    currencies and % are dropped: "25 %" is 25.

    Equality is math-verify's, between integers exact. About 1 ms a solution, 30 ms where a LaTeX term is evaluated.

    Attributes:
        instructions: language -> instruction, over ours; an empty text adds none.
    """

    source = "MGSM, arXiv 2210.03057; math-verify"
    instructions: dict[str, str] = field(default_factory=dict)

    def check(self, key: str) -> None:
        for language in self.instructions:
            if language != base_language(language):
                raise ConfigError(
                    f"{key}.instructions.{language}: instructions go by the primary language; "
                    f"write {base_language(language)!r}"
                )

    def instruct(self, messages: Sequence[Message], row: Row) -> Prompt:
        """The messages with the instruction appended to the last user turn."""
        texts = {**INSTRUCTIONS, **self.instructions}
        text = texts.get(base_language(row.language) or "", texts["en"])
        turns = [dict(message) for message in messages]
        asked = next((m for m in reversed(turns) if m.get("role") == "user"), None)
        if asked is None or not text:
            return turns
        asked["content"] = f"{asked.get('content') or ''}\n\n{text}".strip()
        return turns

    def warning(self, language: str | None) -> str | None:
        base = base_language(language)
        if base in {**INSTRUCTIONS, **self.instructions}:
            return None
        key = f"tasks.math.instructions.{base}" if base else "a language for the prompts"
        return f"the instruction is in English, for want of one in that language; set {key}"

    def canonicalise(self, text: str, row: Row) -> str | None:
        """The answer as an exact integer or fraction in lowest terms (``-3``, ``9/8``); ``None`` when unreadable.

        Idempotent. An ambiguous 1.234 goes by the language's convention.
        """
        readings = answer(text, row.language)
        return str(readings[0]) if readings else None

    def verify(self, text: str, reference: str | None, row: Row) -> float | None:
        """1 when the answer equals the reference, else 0 (also when unreadable); ``None`` without a readable reference.

        The reference is read in the English convention, as MGSM writes its own in all languages. Where an answer is
        ambiguous (German "2,125"), either reading may be the reference: what is graded is the mathematics.
        """
        gold = answer(reference, "en") if reference else ()
        if not gold:
            return None
        return float(any(same(gold[0], value) for value in answer(text, row.language)))

    def measure(self, texts: Sequence[str | None], row: Row) -> dict[str, list[float | None]]:
        """``accuracy``: :meth:`verify` of each text."""
        return {"accuracy": [None if t is None else self.verify(t, row.reference, row) for t in texts]}
