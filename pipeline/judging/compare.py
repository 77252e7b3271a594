"""Every judge call that a selector makes: a verdict among labels, and two texts compared in both orders."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.row import Message
from pipeline.engines.base import Engine, LabelProbs, SamplingParams
from pipeline.engines.labels import bare_label, match_label
from pipeline.judging.early import FirstVerdicts
from pipeline.judging.replies import read_reply
from pipeline.judging.templates import JudgeTemplate, load_template
from pipeline.judging.verdicts import mass_of, pairwise_score
from pipeline.tasks.base import Question

VERDICT = "label_probs|generate"
"""What an engine needs for verdicts, as an item of ``Selector.needs``."""

_QUOTED = 300  # characters of a judge's words that are kept


@dataclass(frozen=True)
class Verdict:
    """What a judge said.

    Attributes:
        probs: label -> raw probability; empty when the engine refused or its words name no label, which
            :mod:`pipeline.judging.verdicts` reads as invalid.
        error: why the engine refused.
        problem: why its words name no label, and the words; ``None`` where there are none, or they do.
    """

    probs: dict[str, float]
    error: str | None = None
    problem: str | None = None


@dataclass
class Judge:
    """A judge before one prompt.

    Attributes:
        engine: asked.
        question: the prompt, as judges see it.
        early: notices a judge that cannot be read.
    """

    engine: Engine
    question: Question
    early: FirstVerdicts | None = None

    async def verdict(self, template: JudgeTemplate, labels: Sequence[str], **values: Any) -> Verdict:
        """Ask for one of ``labels``.

        Args:
            values: what the template shows besides the question.
        """
        turns = self.render(template, **values)
        return await self.ask(turns, template, labels)

    def render(self, template: JudgeTemplate, **values: Any) -> list[Message]:
        """The judge's conversation, up to its answer."""
        return template.render(self.question.messages, language=self.question.language, **values)

    async def ask(self, prompt: Sequence[Message], template: JudgeTemplate, labels: Sequence[str]) -> Verdict:
        """:meth:`verdict` on a rendered prompt.

        Raises:
            UnreadableJudge: it is the one that makes too many.
        """
        said = await _ask(self.engine, prompt, labels, template)
        if self.early is not None:
            self.early.add(mass_of(said.probs) is not None, said.error or said.problem or f"label mass {said.probs}")
        return said


async def _ask(engine: Engine, prompt: Sequence[Message], labels: Sequence[str], template: JudgeTemplate) -> Verdict:
    """By the labels' probabilities where the engine offers them, else by structured output or plain words, which put
    all of the mass on the label that they name.
    """
    options = template_options(template)
    try:
        if "label_probs" in engine.capabilities:
            found = await engine.label_probs(prompt, labels, template.prefill)
            if found.text is None:
                return Verdict(found.probs)
            return _read(found.text, found.finish_reason, labels, options, found)
        params = SamplingParams(temperature=0.0, max_tokens=engine.verdict_tokens, choice=tuple(labels))
        wrote = (await engine.generate(prompt, params)).completions[0]
    except EngineRequestError as error:
        return Verdict({}, str(error))
    # Endpoints may ignore the choice. A text that was left empty by thoughts was cut while thinking.
    thoughts = "<think>" if wrote.reasoning and not wrote.text.strip() else ""
    return _read(thoughts + wrote.text, wrote.finish_reason, labels, options)


def _read(
    text: str, finish: str | None, labels: Sequence[str], options: Mapping[str, str], found: LabelProbs | None = None
) -> Verdict:
    """The verdict of a text; its probabilities are those where its label was written, if the labels hold half."""
    reply = read_reply(text, labels, options, finish)
    if reply.label is None:
        return Verdict({}, problem=f"{reply.problem}: {text.strip()[:_QUOTED]!r}")
    for step in found.steps if found else ():
        if bare_label(step.token, labels) != reply.label:
            continue
        probs = dict.fromkeys(labels, 0.0)
        for token, probability in step.top.items():
            label = match_label(token, labels)
            if label is not None:
                probs[label] += probability
        if mass_of(probs) is not None and max(probs, key=lambda label: probs[label]) == reply.label:
            return Verdict(probs)
        break
    return Verdict({label: float(label == reply.label) for label in labels})


def template_options(template: JudgeTemplate) -> dict[str, str]:
    """Label -> the words of the options that the template ends with."""
    found = re.findall(r"^\((\w)\) (.+)$", template.user, re.MULTILINE)
    return {label: words for label, words in found if label in template.labels}


@dataclass
class Tally:
    """What became of the verdicts of one selection.

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

    def add(self, valid: bool, said: Verdict) -> None:
        self.verdicts += 1
        self.invalid += not valid
        self.error = self.error or said.error
        self.problem = self.problem or said.problem

    def detail(self) -> dict[str, Any]:
        """For ``Choice.detail``."""
        detail: dict[str, Any] = {"verdicts": self.verdicts, "invalid": self.invalid}
        detail |= {"failure": self.error[:500]} if self.error else {}
        return detail | ({"unreadable": self.problem} if self.problem else {})


@dataclass
class PairwiseJudge:
    """Compares answers to one prompt in both orders. Equal texts are never compared, equal pairs only once.

    Attributes:
        judge: before the prompt.
        tally: the verdicts so far.
    """

    judge: Judge
    tally: Tally = field(default_factory=Tally)
    _asked: dict[tuple[str, str], asyncio.Task[float | None]] = field(default_factory=dict, repr=False)

    async def utility(self, template: JudgeTemplate, text: str, other: str) -> float | None:
        """How ``text`` does against ``other``: win 1, tie 1/2, loss 0, the mean of both orders.

        ``None`` when the verdict of either order is invalid; 1/2 without a call when the texts are equal.
        """
        if text != other:
            await asyncio.gather(self._ask(template, text, other), self._ask(template, other, text))
        return self._mean(text, other)

    async def matrix(
        self, within: JudgeTemplate, texts: Sequence[str], across: JudgeTemplate, evidence: Sequence[str] = ()
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
        await asyncio.gather(*(self._ask(template, a, b) for template, a, b in orders if a != b))
        return [[self._mean(text, other) for other in (*texts, *evidence)] for text in texts]

    def _mean(self, text: str, other: str) -> float | None:
        if text == other:
            return 0.5
        first, second = self._asked[text, other].result(), self._asked[other, text].result()
        return None if first is None or second is None else (first + 1.0 - second) / 2

    def _ask(self, template: JudgeTemplate, first: str, second: str) -> asyncio.Task[float | None]:
        """The verdict's task; a pair that was asked about before keeps its first template's verdict."""
        if (first, second) not in self._asked:
            self._asked[first, second] = asyncio.ensure_future(self._score(template, first, second))
        return self._asked[first, second]

    async def _score(self, template: JudgeTemplate, first: str, second: str) -> float | None:
        said = await self.judge.verdict(template, template.labels, answer_a=first, answer_b=second)
        first_label, second_label, tie = template.labels
        score = pairwise_score(said.probs, first_label, second_label, tie, soft=False)
        self.tally.add(score is not None, said)
        return score


def check_pairwise(name: str, key: str) -> None:
    """Raise ConfigError, naming ``key``, unless the template can compare two answers."""
    labels = load_template(name, key=key).labels
    if len(labels) != 3:
        raise ConfigError(f"{key}: {name} needs three [labels] (first is better, second is better, tie), not {labels}")
