"""Evidence for X-MBR: extra samples in another language, never selectable.

Source: "When Life Gives You Samples" (arXiv 2506.20544), X-MBR: M = 3 samples, English for prompts that are not
English, Chinese for English ones. The instruction is ours (the paper's could not be confirmed).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError
from pipeline.core.hashing import derive_seed
from pipeline.core.languages import base_language, by_language, is_language, language_name
from pipeline.core.row import Candidate, Row
from pipeline.engines.base import Prompt
from pipeline.sampling.plans import PLANS, PlannedRequest, SingleTemperature
from pipeline.tasks.base import Task

_OTHERS = ("en", "zh", "es")  # a translation between the languages of the table leaves neither


@PLANS.register("evidence")
@dataclass
class Evidence(SingleTemperature):
    """M samples of the same generator, told to answer in the evidence language: the task's request, for that language.

    A sample that language identification finds to be in another language is drawn again, at most ``redraws`` times,
    then dropped; one that cannot be told is kept. The size of what is left is the number of candidates of this plan.

    Attributes:
        n: M, the number of samples.
        languages: language that answers should be in -> evidence language; ``default`` for all others.
        redraws: how often samples in the wrong language are drawn again.
        instruction: added to the last user turn; ``{language}`` is the English name of the evidence language.
    """

    n: int = bounded(3, ge=1)
    redraws: int = bounded(2, ge=0)
    languages: dict[str, str] = field(default_factory=lambda: {"default": "en", "en": "zh"})
    instruction: str = "Answer in {language} only."
    grows: ClassVar[bool] = False  # how many were refused, and drawn again, is not known afterwards

    def check(self, key: str) -> None:
        super().check(key)
        if "default" not in self.languages:
            raise ConfigError(f"{key}.languages.default: missing; the evidence language of all other prompts")
        if "{language}" not in self.instruction:
            raise ConfigError(f"{key}.instruction: must say {{language}}")
        for prompt, evidence in self.languages.items():
            if base_language(prompt) == base_language(evidence):
                raise ConfigError(f"{key}.languages.{prompt}: evidence must be in another language, not {evidence}")

    def answer_language(self, task: Task, row: Row) -> str | None:
        """The evidence language: neither that of the answers nor, for a translation, that of the source."""
        answers = task.answer_language(row)
        taken = {base_language(answers), base_language(task.source_language_of(row))}
        wanted = by_language(self.languages, answers) or self.languages["default"]
        choices = (wanted, self.languages["default"], *self.languages.values(), *_OTHERS)
        return next(tag for tag in choices if base_language(tag) not in taken)

    def redraw_limit(self) -> int:
        return self.redraws

    def prompt(self, task: Task, row: Row) -> Prompt:
        """What the task would ask for in the evidence language, and a line that says so."""
        chosen = self.answer_language(task, row)
        assert chosen is not None
        prompt = task.instruct_in(chosen, row.messages, row)
        line = self.instruction.format(language=language_name(chosen) or chosen)
        if isinstance(prompt, str):
            return f"{line}\n{prompt}"
        turns = [dict(turn) for turn in prompt]
        last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=None)
        if last is None:
            return [*turns, {"role": "user", "content": line}]
        turns[last]["content"] = f"{turns[last].get('content') or ''}\n\n{line}"
        return turns

    def requests(self, plan: str, prompt_id: str, run_seed: int, draw: int = 0, have: int = 0) -> list[PlannedRequest]:
        seed = derive_seed(run_seed, prompt_id, plan, 0, draw)
        return [replace(self._stochastic(self.n - have, self.temperature, seed), origin="evidence")]

    def accepts(self, candidate: Candidate) -> bool:
        return candidate.text is not None and is_language(candidate.text, candidate.language) is not False
