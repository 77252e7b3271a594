"""Outside systems' answers: where they come from, one dataclass per ``kind``.

A system that is no selector of this run takes part under its name in ``answers``: an answer in a column of the prompts,
in a file, in another run, or written by a model that ``judge`` first asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, InputError, nearest
from pipeline.core.folder import RunFolder
from pipeline.core.hashing import derive_seed
from pipeline.core.registry import Registry
from pipeline.core.remote import is_uri
from pipeline.core.row import Answer, Row
from pipeline.engines.base import Engine, SamplingParams
from pipeline.engines.stage import Stage
from pipeline.tasks import Task, task_for

if TYPE_CHECKING:  # Arrow's compute functions load with it, and the config imports this module
    from pipeline.judging.lookup import Lookup

ANSWERS: Registry[AnswerSource] = Registry("source of answers", ("pipeline.judging.answers",))


@dataclass
class AnswerSource:
    """Base of every source of answers.

    Attributes:
        engine: name under ``engines`` of the model that is asked; ``None`` where the answers exist already.
    """

    kind: ClassVar[str] = ""
    engine: ClassVar[str | None] = None

    def ready(self, key: str) -> None:
        """Raise ConfigError when a file that it needs is not here; called by the jobs that will read it."""

    def check_table(self, schema: pa.Schema, key: str) -> None:
        """Raise ConfigError unless the run's table holds what is needed."""

    def pairs(self, key: str) -> Iterator[tuple[str, str | None]] | None:
        """(prompt_id, text) of answers that lie elsewhere; ``None`` when nothing has to be looked up.

        Raises:
            ConfigError, InputError: they cannot be read.
        """
        return None


@ANSWERS.register("column")
@dataclass
class ColumnAnswers(AnswerSource):
    """A column that the prompts' source has beside the prompt.

    Attributes:
        column: its name in the source.
    """

    column: str = bounded("", filled=True, cure="the name of a column of the prompts' source")

    def check_table(self, schema: pa.Schema, key: str) -> None:
        fields = {f.name: f.type for f in schema.field("source").type} if "source" in schema.names else {}
        if self.column not in fields:
            raise ConfigError(
                f"{key}.column: the prompts' source has no column {self.column!r}{nearest(self.column, fields)}"
            )
        kind = fields[self.column]
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise ConfigError(f"{key}.column: {self.column!r} holds {kind}, not text")


@ANSWERS.register("file")
@dataclass
class FileAnswers(AnswerSource):
    """A JSONL, Parquet, CSV or TSV file with one answer per prompt, joined on the prompts' ids.

    Attributes:
        path: the file.
        id: its column with the prompt's id.
        text: where the answer's text is: a column, or a path into it such as ``messages.1.content``.
    """

    path: str = bounded("", filled=True, cure="a file with one answer per prompt")
    id: str = "prompt_id"
    text: str = "text"

    def ready(self, key: str) -> None:
        if not is_uri(self.path) and not Path(self.path).expanduser().is_file():
            raise ConfigError(f"{key}.path: no such file: {self.path}")

    def pairs(self, key: str) -> Iterator[tuple[str, str | None]]:
        from pipeline.prompts.files import local_file
        from pipeline.prompts.given import AnswerFile
        from pipeline.prompts.sources import Given

        return AnswerFile(local_file(Path(), self.path, f"{key}.path"), Given(text=self.text), self.id, key).pairs()


@ANSWERS.register("run")
@dataclass
class RunAnswers(AnswerSource):
    """A system of another run, joined on the prompts' ids.

    Attributes:
        path: the other run's folder (or URI).
        system: one of its systems: ``plan/selector``, or an outside system.
    """

    path: str = bounded("", filled=True)
    system: str = bounded("", filled=True)

    def pairs(self, key: str) -> Iterator[tuple[str, str | None]]:
        from pipeline.core.columns import column, nested

        run = RunFolder(self.path, f"{key}.path")
        table = "games" if run.marker("games") is not None else "selections"
        leaves = {"selections": ("plan", "method", "text"), "answers": ("system", "text")}
        known: set[str] = set()
        for batch in run.leaves(table, lambda top, leaf: top == "prompt_id" or leaf in leaves.get(top, ())):
            chosen = nested(batch, "selections", *leaves["selections"])
            outside = nested(batch, "answers", *leaves["answers"])
            for prompt_id, selections, answers in zip(column(batch, "prompt_id"), chosen, outside, strict=True):
                texts = {f"{plan}/{method}": text for plan, method, text in selections} | dict(answers)
                known.update(texts)
                if self.system in texts:
                    yield prompt_id, texts[self.system]
        if self.system not in known:
            raise InputError(f"{key}.system: {self.path} has no system {self.system!r}{nearest(self.system, known)}")


@ANSWERS.register("engine")
@dataclass
class EngineAnswers(AnswerSource):
    """Answers that a model of this config gives to the prompts, one each, before the games.

    Attributes:
        engine: name under ``engines``.
        temperature: 0 = greedy.
        max_tokens: limit of one answer.
    """

    engine: str = bounded("", filled=True, cure="a name under engines")  # type: ignore[misc]
    temperature: float = bounded(0.0, ge=0)
    max_tokens: int = bounded(1024, ge=1)


@dataclass
class AnswersStage(Stage):
    """Appends one outside system's answer; a prompt without one gets an answer without a text, which loses.

    Args:
        system: the outside system's name.
        source: where its answers come from.
        run: folder with the answers to look up (see :class:`~pipeline.judging.lookup.Lookup`).
        run_seed: seeds sampled answers.
        tasks: settings of the tasks that have any.
    """

    system: str
    source: AnswerSource
    run: str = ""
    run_seed: int = 1
    tasks: dict[str, Task] = field(default_factory=dict)

    reads: ClassVar[tuple[str, ...]] = (
        "prompt_id",
        "task",
        "language",
        "messages",
        "reference",
        "source",
        "answers",
        "errors",
    )
    writes: ClassVar[tuple[str, ...]] = ("answers",)

    def __post_init__(self) -> None:
        self._lookup: Lookup | None = None

    @property
    def name(self) -> str:
        return f"answers:{self.system}"

    async def __call__(self, row: Row, engine: Engine | None) -> Row:
        if row.unreadable:
            return row
        kept = [a for a in row.answers if a.system != self.system]
        row.answers = [*kept, Answer(self.system, await self._text(row, engine))]
        return row

    async def _text(self, row: Row, engine: Engine | None) -> str | None:
        match self.source:
            case ColumnAnswers(column=column):
                return (row.source or {}).get(column)
            case EngineAnswers() as asked:
                assert engine is not None
                task = task_for(row, self.tasks)
                params = SamplingParams(
                    temperature=asked.temperature,
                    max_tokens=asked.max_tokens,
                    seed=derive_seed(self.run_seed, row.prompt_id, self.name) if asked.temperature else None,
                    stop=task.stops(),
                )
                return (await engine.generate(task.instruct(row.messages, row), params)).completions[0].text
            case _:
                if self._lookup is None:  # in the worker, not where the stage was made
                    from pipeline.judging.lookup import Lookup

                    self._lookup = Lookup(RunFolder(self.run), self.system)
                return self._lookup.get(row.prompt_id)
