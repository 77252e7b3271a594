"""Every judge call that a selector makes: a verdict among labels, and two texts compared in both orders."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.engines.base import Engine, SamplingParams
from pipeline.errors import ConfigError, EngineRequestError
from pipeline.judging.templates import JudgeTemplate, load_template
from pipeline.judging.verdicts import pairwise_score, read_label
from pipeline.records import Message

VERDICT = "label_probs|generate"
"""What an engine needs for verdicts, as an item of ``Selector.needs``."""

_LABEL_TOKENS = 8


@dataclass(frozen=True)
class Verdict:
    """What a judge said.

    Attributes:
        probs: label -> raw probability; empty when the engine refused or its words name no label, which
            :mod:`pipeline.judging.verdicts` reads as invalid.
        error: why the engine refused.
    """

    probs: dict[str, float]
    error: str | None = None


async def verdict(
    engine: Engine, template: JudgeTemplate, messages: Sequence[Message], labels: Sequence[str], **values: Any
) -> Verdict:
    """Ask for one of ``labels``: by their probabilities in one prefill where the engine offers them, else by
    structured output, which puts all of the mass on the label that was written.

    Args:
        messages: the prompt that was answered.
        values: what the template shows besides the question.
    """
    return await ask(engine, template.render(messages=messages, **values), labels, template.prefill)


async def ask(engine: Engine, prompt: Sequence[Message], labels: Sequence[str], prefill: str) -> Verdict:
    """:func:`verdict` on a rendered prompt."""
    try:
        if "label_probs" in engine.capabilities:
            return Verdict((await engine.label_probs(prompt, labels, prefill)).probs)
        params = SamplingParams(temperature=0.0, max_tokens=_LABEL_TOKENS, choice=tuple(labels))
        text = (await engine.generate(prompt, params)).completions[0].text
    except EngineRequestError as error:
        return Verdict({}, str(error))
    said = read_label(text, labels)  # endpoints may ignore the choice
    return Verdict({label: float(label == said) for label in labels})


@dataclass
class Tally:
    """What became of the verdicts of one selection.

    Attributes:
        verdicts: how many were asked for.
        invalid: how many of them cannot be read.
        error: an engine's reason for one that it refused.
    """

    verdicts: int = 0
    invalid: int = 0
    error: str | None = None

    def add(self, valid: bool, error: str | None = None) -> None:
        self.verdicts += 1
        self.invalid += not valid
        self.error = self.error or error

    def detail(self) -> dict[str, Any]:
        """For ``Choice.detail``."""
        detail: dict[str, Any] = {"verdicts": self.verdicts, "invalid": self.invalid}
        return detail | ({"failure": self.error[:500]} if self.error else {})


@dataclass
class PairwiseJudge:
    """Compares answers to one prompt in both orders. Equal texts are never compared, equal pairs only once.

    Attributes:
        engine: the judge.
        messages: the prompt.
        tally: the verdicts so far.
    """

    engine: Engine
    messages: Sequence[Message]
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
        said = await verdict(self.engine, template, self.messages, template.labels, answer_a=first, answer_b=second)
        first_label, second_label, tie = template.labels
        score = pairwise_score(said.probs, first_label, second_label, tie, soft=False)
        self.tally.add(score is not None, said.error)
        return score


def check_pairwise(name: str, key: str) -> None:
    """Raise ConfigError, naming ``key``, unless the template can compare two answers."""
    labels = load_template(name, key=key).labels
    if len(labels) != 3:
        raise ConfigError(f"{key}: {name} needs three [labels] (first is better, second is better, tie), not {labels}")
