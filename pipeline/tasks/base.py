"""What a task is: one dataclass in one file, registered under its ``kind``; its fields are its config keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.languages import language_name
from pipeline.core.registry import Registry
from pipeline.core.row import Message, Row
from pipeline.engines.base import Prompt

TASKS: Registry[Task] = Registry("task", ("pipeline.tasks",))
task = TASKS.register
"""Decorator for a task class, built in or a user's own: ``@task("mine")``."""


@dataclass(frozen=True)
class Question:
    """What judges, reward models and fusors see of a prompt.

    Attributes:
        messages: the conversation with the task's instruction, without few-shot examples.
        language: English name of the language that the answer should be in; ``None`` = not known.
    """

    messages: Sequence[Message]
    language: str | None = None


@dataclass
class Task:
    """Base of every task: an open question, sent as it is, with no closed answer to vote on or to verify.

    ``canonicalise`` and ``verify`` are handed untrusted model output: they never raise and never hang.

    Attributes:
        source: paper and section.
        stop: strings that end an answer, besides the sampling plan's.
    """

    kind: ClassVar[str] = ""
    source: ClassVar[str] = ""
    stop: list[str] = bounded(factory=list, filled=True, cure="an empty string would end every answer at once")

    def stops(self) -> tuple[str, ...]:
        """Every stop string that the task's prompts need."""
        return tuple(self.stop)

    def answer_language(self, row: Row) -> str | None:
        """Language (BCP 47) in which the row should be answered; ``None`` = not known."""
        return row.language

    def source_language_of(self, row: Row) -> str | None:
        """Language of what is to be translated; ``None`` where nothing is, or it is not known."""
        return None

    def instruct(self, messages: Sequence[Message], row: Row) -> Prompt:
        """What the generator is sent: messages, or the raw text that a base model continues.

        ``messages`` is never changed in place.
        """
        return messages

    def instruct_in(self, language: str, messages: Sequence[Message], row: Row) -> Prompt:
        """What the generator is sent where the answer is wanted in another language than the task's."""
        return self.instruct(messages, replace(row, language=language))

    def zero_shot(self, messages: Sequence[Message], row: Row) -> Sequence[Message]:
        """The conversation with the task's instruction, for models that do not answer it but judge or fuse answers."""
        prompt = self.instruct(messages, row)
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt

    def question(self, row: Row) -> Question:
        """The row as judges, reward models and fusors see it."""
        return Question(self.zero_shot(row.messages, row), language_name(self.answer_language(row)))

    def warning(self, language: str | None) -> str | None:
        """What a person should know before prompts of this language are sampled."""
        return None

    def canonicalise(self, text: str, row: Row) -> str | None:
        """The final answer in the form in which equal answers are equal strings; ``None`` = casts no vote."""
        return None

    def verify(self, text: str, reference: str | None, row: Row) -> float | None:
        """Quality of ``text`` in 0..1 against ``reference``; ``None`` when there is nothing to compare with."""
        return None

    def measure(self, texts: Sequence[str | None], row: Row) -> dict[str, list[float | None]]:
        """Every metric of the task, by name: one number in 0..1 per text, ``None`` where there is no text or reference.

        The first metric is the task's main one. What cannot be measured at all is left out.
        """
        return {}

    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of :meth:`measure`, the main one first."""
        return tuple(self.measure([], Row(0, "")))


def task_for(row: Row, tasks: Mapping[str, Task] | None = None) -> Task:
    return task_named(row.task, tasks)


def task_named(name: str, tasks: Mapping[str, Task] | None = None) -> Task:
    """What ``tasks`` configures under a task's name, else that kind with default settings.

    A name that is no kind either (a user's own label in the ``task`` column) is treated as ``open``.
    """
    if tasks and name in tasks:
        return tasks[name]
    return _default(name if name in TASKS else "open")


@cache
def _default(kind: str) -> Task:
    return TASKS.get(kind)()
