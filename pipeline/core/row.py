"""The records inside a row. ``pipeline.core.schema`` holds the same fields as Arrow types; a test keeps them equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.core.safety import redact

_LONGEST_MESSAGE = 10_000  # characters of an error

Message = dict[str, Any]
"""One turn of a conversation: ``role``, ``content``, optional ``name`` and ``tool_calls`` (JSON text)."""


@dataclass
class Candidate:
    """One sampled (or given) answer.

    Attributes:
        text: the answer without its reasoning; ``None`` only when ``error`` is set.
        reasoning: the model's thinking, kept apart from the answer.
        model, revision: who wrote it, and the commit of its weights, where these are known.
        plan: name of the candidate set that it belongs to: that of the sampling plan that asked for it.
        origin: ``greedy``, ``sample``, ``evidence`` (never selectable) or ``given``.
        language: in which it was asked for, where that is not the prompt's.
        temperature, min_p, top_p, seed: how it was sampled.
        finish_reason: ``stop``, ``length`` (cut at the token limit), or the endpoint's own word.
        num_tokens: generated tokens, the end token included.
        logprob: total log-probability (natural log) of those tokens under the unmodified model
            distribution, the end token included when ``finish_reason`` is ``stop``.
        error: why there is no text.
    """

    text: str | None = None
    reasoning: str | None = None
    model: str | None = None
    revision: str | None = None
    plan: str = ""
    origin: str = "sample"
    language: str | None = None
    temperature: float | None = None
    min_p: float | None = None
    top_p: float | None = None
    seed: int | None = None
    finish_reason: str | None = None
    num_tokens: int | None = None
    logprob: float | None = None
    error: str | None = None


@dataclass
class Score:
    """One scorer's numbers for the candidates of one set.

    Attributes:
        scorer: the selector, or ``metric:NAME``.
        plan: the candidate set.
        values: one a candidate of the set, in their order; ``None`` where invalid.
    """

    scorer: str
    plan: str
    values: list[float | None]


@dataclass
class Selection:
    """The answer that one selector made of one plan's candidates.

    Attributes:
        plan: the candidate set that it chose from.
        method: the selector's name in the config.
        index: position among that set's candidates; -1 for a synthesised text; ``None`` when nothing
            could be selected.
        text: the answer.
        score: the selector's number for it, where it has one.
        detail: JSON text: permutations, verdicts, fallbacks.
    """

    plan: str
    method: str
    index: int | None
    text: str | None
    score: float | None = None
    detail: str | None = None

    @property
    def system(self) -> str:
        """The name under which this answer is compared: ``plan/method``."""
        return f"{self.plan}/{self.method}"


@dataclass
class Answer:
    """An outside system's answer to the prompt.

    Attributes:
        system: its name under ``answers``.
        text: the answer; ``None`` where it has none.
    """

    system: str
    text: str | None


@dataclass
class Game:
    """One judged comparison in one order.

    Attributes:
        system, opponent: who was compared: ``SET/METHOD``, ``SET#3`` (a candidate) or an outside system's name.
        judge, template: the model that decided, and the name of its prompt.
        order: ``ab`` = the system was shown first, ``ba`` = the opponent was.
        score: the *system's* score in [0, 1]; ``None`` when the verdict is invalid.
        mass: probability that the judge gave to the labels, before normalising; ``None`` without a call.
        verdict: ``win``, ``tie``, ``loss`` (the system's) or ``invalid``.
        reason: free text: the judge's words, or why no call was needed.
    """

    system: str
    opponent: str
    judge: str
    template: str
    order: str
    score: float | None
    mass: float | None
    verdict: str
    reason: str | None = None


@dataclass
class Usage:
    """What one stage spent on one row. Tokens are counted by the engine.

    Attributes:
        job, stage, model: who spent it.
        requests: that were sent.
        prompt_tokens, cached_tokens, completion_tokens: of all requests; cached ones are prompt tokens, too.
    """

    job: str
    stage: str
    model: str
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class RowError:
    """Why a row has no result of one stage. The message holds no secret, whatever raised it.

    Attributes:
        job, stage: where it happened.
        kind: the error's type.
        message: what it said.
    """

    job: str
    stage: str
    kind: str
    message: str

    def __post_init__(self) -> None:
        self.message = redact(self.message, _LONGEST_MESSAGE)


@dataclass
class Row:
    """One prompt with everything known about it. Only the columns that a stage reads are filled.

    Attributes:
        row_id: its number in the run, from 0.
        prompt_id: the source's own id, or one made of the content.
        cluster_id: the same for prompts that are one question in several languages, or copies.
        task: how it is asked and measured: ``open``, ``math``, ``translation``.
        language: BCP 47 tag of the language that the answer should be in (of a translation: that of the source).
        messages: the conversation so far: ``role``, ``content``, and ``name`` and ``tool_calls`` where there are any.
        reference: the right answer, where there is one.
        source: all other columns of the input, untouched.
        candidates, scores, selections, answers, games, usage, errors: see below; lists of structs.
    """

    row_id: int
    prompt_id: str
    cluster_id: str = ""
    task: str = "open"
    language: str | None = None
    messages: list[Message] = field(default_factory=list)
    reference: str | None = None
    source: dict[str, Any] | None = None
    candidates: list[Candidate] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    games: list[Game] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)

    @property
    def unreadable(self) -> bool:
        """Whether the source row could not be read as a prompt: later stages carry it along and skip it."""
        return any(error.job == "prompts" for error in self.errors)

    def plan(self, name: str) -> list[Candidate]:
        """The candidates of one plan, in order: what ``Score.values`` and ``Selection.index`` refer to."""
        return [c for c in self.candidates if c.plan == name]


NESTED: dict[str, type] = {
    "candidates": Candidate,
    "scores": Score,
    "selections": Selection,
    "answers": Answer,
    "games": Game,
    "usage": Usage,
    "errors": RowError,
}
"""Nested columns and the record each of their items is."""


def row_from_dict(data: dict[str, Any]) -> Row:
    """Build a row from one item of ``Table.to_pylist()``; columns that were not read stay empty."""
    values = dict(data)
    for name, record in NESTED.items():
        items = values.get(name)
        values[name] = [record(**item) for item in items] if items else []
    if values.get("messages") is not None:
        values["messages"] = [{k: v for k, v in m.items() if v is not None} for m in values["messages"]]
    else:
        values["messages"] = []
    return Row(**values)


@dataclass
class Tokens:
    """What one call cost."""

    requests: int = 1
    prompt: int = 0
    cached: int = 0
    completion: int = 0


def answer(row: Row, system: str) -> str | None:
    """The text with which a system enters a game: a selection's, or an outside answer's."""
    for selection in row.selections:
        if selection.system == system:
            return selection.text
    for outside in row.answers:
        if outside.system == system:
            return outside.text
    return None
