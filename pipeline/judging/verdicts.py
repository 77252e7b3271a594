"""What a judge says: asked for one of a template's labels, or about two answers in both orders, and what it means."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import EngineRequestError, UnreadableJudge
from pipeline.core.hashing import argmax
from pipeline.core.row import Message
from pipeline.core.safety import isolated
from pipeline.engines.base import Completion, Engine, SamplingParams, Step
from pipeline.engines.labels import bare_label, label_masses
from pipeline.judging.replies import read_reply
from pipeline.judging.templates import JudgeTemplate
from pipeline.tasks.base import Question

VERDICT = "label_probs|generate"
"""What an engine needs for verdicts, as an item of ``Selector.needs``."""
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
FIRST = 50
"""Verdicts after which a judge must have been read mostly."""

_MIN_MASS = 0.5
_MAX_MASS = 1.05  # rounded log-probabilities add up to a little more than 1
_QUOTED = 300  # characters of a judge's words that are kept
_SHOWN = 3


@dataclass(frozen=True)
class Verdict:
    """What a judge said.

    Attributes:
        labels: what it was asked to say one of.
        probs: label -> raw probability; empty when the engine refused or its words name no label.
        error: why the engine refused.
        problem: why its words name no label, and the words; ``None`` where there are none, or they do.
        reason: what it wrote before it chose, and what else is to be known.
    """

    labels: Sequence[str]
    probs: dict[str, float]
    error: str | None = None
    problem: str | None = None
    reason: str | None = None

    @property
    def mass(self) -> float | None:
        """What the labels hold together, or ``None`` when the verdict is invalid: they hold less than half of the
        mass, or an endpoint's numbers are no probabilities.
        """
        mass = sum(self.probs.values())
        usable = all(p >= 0 for p in self.probs.values()) and _MIN_MASS <= mass <= _MAX_MASS  # false for NaN, too
        return mass if usable else None

    def pick(self, *tie_key: Any) -> str | None:
        """The most probable label (ties by seeded hash), or ``None`` when invalid."""
        index = None if self.mass is None else argmax([self.probs.get(label) for label in self.labels], *tie_key)
        return None if index is None else self.labels[index]

    def grade(self) -> float | None:
        """Mean of the numeric labels under their normalised probabilities, or ``None`` when invalid."""
        if self.mass is None:
            return None
        return sum(float(label) * self.probs.get(label, 0.0) for label in self.labels) / self.mass

    def score(self, soft: bool = False) -> float | None:
        """Score in [0, 1] of the answer shown first, or ``None`` when invalid; the labels mean first, second, tie.

        Args:
            soft: win probability plus half the tie probability, instead of the hard 1, 1/2, 0.
        """
        if self.mass is None:
            return None
        first, second, tie = (self.probs.get(label, 0.0) for label in self.labels)
        if soft:
            return (first + 0.5 * tie) / self.mass
        if first > max(second, tie):
            return 1.0
        return 0.0 if second > max(first, tie) else 0.5


@dataclass
class FirstVerdicts:
    """The first verdicts of one judge in one worker: one that cannot be read is noticed before the money is spent.

    Attributes:
        most: share of them that may be unreadable; 1 = all.
        key: config key of the judge's engine, for the message.
        asked, invalid: so far.
    """

    most: float
    key: str
    asked: int = 0
    invalid: int = 0
    _quoted: list[str] = field(default_factory=list)

    def add(self, said: Verdict) -> None:
        """Count one.

        Raises:
            UnreadableJudge: it is among the first, and too many of them cannot be read.
        """
        if self.asked < FIRST:
            self.asked += 1
            if said.mass is None:
                self.invalid += 1
                words = said.error or said.problem or f"label mass {said.probs}"
                if words not in self._quoted and len(self._quoted) < _SHOWN:
                    self._quoted.append(words)
        if self.asked == FIRST and self.invalid > self.most * FIRST:
            quoted = "\n".join(f"  - {isolated(' '.join(words.split())[:200])}" for words in self._quoted)
            raise UnreadableJudge(
                f"{self.invalid} of the first {FIRST} verdicts cannot be read (judge.max_invalid={self.most:g}):\n"
                f"{quoted}\nIf they were cut, raise {self.key}.verdict_tokens; if the judge does not say a letter, try "
                f"{self.key}.structured_output=none or another model; if requests failed, see {self.key}. "
                "The passes before are stored: the same command, with what you change, goes on from there; "
                "judge.max_invalid=1 goes on all the same"
            )


@dataclass
class Tally:
    """What became of a judge's verdicts.

    Attributes:
        verdicts: how many were asked for.
        invalid: how many of them cannot be read.
        error: an engine's reason for one that it refused.
        problem: the first words that cannot be read.
    """

    verdicts: int = 0
    invalid: int = 0
    error: str | None = None
    problem: str | None = None

    def add(self, said: Verdict) -> None:
        self.verdicts += 1
        self.invalid += said.mass is None
        self.error = self.error or said.error
        self.problem = self.problem or said.problem

    def detail(self) -> dict[str, Any]:
        """For ``Choice.detail``."""
        detail: dict[str, Any] = {"verdicts": self.verdicts, "invalid": self.invalid}
        detail |= {"failure": self.error[:500]} if self.error else {}
        return detail | ({"unreadable": self.problem} if self.problem else {})


class Judge:
    """A judge before one prompt.

    Args:
        engine: asked.
        question: the prompt, as judges see it.
        early: notices a judge that cannot be read.

    Attributes:
        tally: the verdicts so far.
    """

    def __init__(self, engine: Engine, question: Question, early: FirstVerdicts | None = None) -> None:
        self.engine = engine
        self.question = question
        self.tally = Tally()
        self._early = early
        self._compared: dict[tuple[str, str], asyncio.Task[Verdict]] = {}

    async def verdict(self, template: JudgeTemplate, labels: Sequence[str], **values: Any) -> Verdict:
        """Ask for one of ``labels``.

        Args:
            values: what the template shows besides the question.
        """
        return await self.ask(self.render(template, **values), template, labels)

    def render(self, template: JudgeTemplate, **values: Any) -> list[Message]:
        """The judge's conversation, up to its answer."""
        return template.render(self.question.messages, language=self.question.language, **values)

    async def ask(self, prompt: Sequence[Message], template: JudgeTemplate, labels: Sequence[str]) -> Verdict:
        """:meth:`verdict` on a rendered prompt.

        Raises:
            UnreadableJudge: it is the one that makes too many.
        """
        said = await _ask(self.engine, prompt, labels, template)
        self.tally.add(said)
        if self._early is not None:
            self._early.add(said)
        return said

    def compare(self, template: JudgeTemplate, first: str, second: str) -> asyncio.Task[Verdict]:
        """The verdict on two answers shown in this order; asked for once, by the template that came first."""
        if (first, second) not in self._compared:
            self._compared[first, second] = asyncio.ensure_future(self._compare(template, first, second))
        return self._compared[first, second]

    async def _compare(self, template: JudgeTemplate, first: str, second: str) -> Verdict:
        return await self.verdict(template, template.labels, answer_a=first, answer_b=second)

    async def utility(self, template: JudgeTemplate, text: str, other: str) -> float | None:
        """How ``text`` does against ``other``: win 1, tie 1/2, loss 0, the mean of both orders.

        ``None`` when the verdict of either order is invalid; 1/2 without a call when the texts are equal.
        """
        if text != other:
            await asyncio.gather(self.compare(template, text, other), self.compare(template, other, text))
        return self._utility(text, other)

    async def matrix(
        self, within: JudgeTemplate, texts: Sequence[str], across: JudgeTemplate, evidence: Sequence[str]
    ) -> list[list[float | None]]:
        """Utilities [text][other text, then evidence]; |texts|·(|texts| - 1) + 2·|texts|·|evidence| verdicts.

        Args:
            within: template for two of ``texts``.
            across: template for a text and a piece of evidence.
        """
        # Asked grouped by the text shown first: the question and that text are then one prefix in the engine's cache.
        orders = [
            *((within, first, second) for first, second in itertools.permutations(texts, 2)),
            *((across, text, other) for text, other in itertools.product(texts, evidence)),
            *((across, other, text) for other, text in itertools.product(evidence, texts)),
        ]
        await asyncio.gather(*(self.compare(template, a, b) for template, a, b in orders if a != b))
        return [[self._utility(text, other) for other in (*texts, *evidence)] for text in texts]

    def _utility(self, text: str, other: str) -> float | None:
        if text == other:
            return 0.5
        first, second = (self._compared[pair].result().score() for pair in ((text, other), (other, text)))
        return None if first is None or second is None else (first + 1.0 - second) / 2


async def _ask(engine: Engine, prompt: Sequence[Message], labels: Sequence[str], template: JudgeTemplate) -> Verdict:
    """By the labels' probabilities where the engine offers them, else by structured output or plain words, which put
    all of the mass on the label that they name.
    """
    try:
        if "label_probs" in engine.capabilities:
            found = await engine.label_probs(prompt, labels, template.prefill)
            if found.wrote is None:
                return Verdict(labels, found.probs)
            return _read(found.wrote, found.steps, labels, template)
        params = SamplingParams(temperature=0.0, max_tokens=engine.verdict_tokens, choice=tuple(labels))
        wrote = (await engine.generate(prompt, params)).completions[0]  # endpoints may ignore the choice
    except EngineRequestError as error:
        return Verdict(labels, {}, str(error))
    return _read(wrote, (), labels, template)


def _read(wrote: Completion, steps: Sequence[Step], labels: Sequence[str], template: JudgeTemplate) -> Verdict:
    """The verdict of a text; its probabilities are those where its label was written, if the labels hold half."""
    words = wrote.text.strip()
    cut_thinking = wrote.reasoning and not words
    reply = read_reply("<think>" if cut_thinking else wrote.text, labels, template.options, wrote.finish_reason)
    if reply.label is None:
        return Verdict(labels, {}, problem=f"{reply.problem}: {(words or wrote.reasoning or '')[:_QUOTED]!r}")
    written = next((step for step in steps if bare_label(step.token, labels) == reply.label), None)
    if written is not None:
        said = Verdict(labels, label_masses(written.top, labels))
        if said.mass is not None and max(said.probs, key=lambda label: said.probs[label]) == reply.label:
            return said
    return Verdict(labels, {label: float(label == reply.label) for label in labels})
