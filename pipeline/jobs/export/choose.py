"""One row -> the answer, the rejected answer and their scores; or the reason why the row is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.config.config import Config
from pipeline.config.sections import PAIRED
from pipeline.core.hashing import derive_seed
from pipeline.core.languages import base_language, is_language
from pipeline.core.policy import NAME as POLICY
from pipeline.core.policy import Policy
from pipeline.core.row import Candidate, Row, Selection
from pipeline.jobs.export.duplicates import essence
from pipeline.jobs.export.inventory import Choices
from pipeline.stats.failures import Detail
from pipeline.tasks import task_for
from pipeline.tasks.measure import ANSWER, METRIC, is_own_text

UNREADABLE = "prompt could not be read"
ENDS_ANSWERED = "prompt ends with an assistant turn"
NO_ANSWER = "no answer selected"
TRUNCATED = "answer cut at the token limit"
WRONG_LANGUAGE = "answer in another language"
NO_SCORE = "no score"
LOW_SCORE = "score too small"
LOW_IN_LANGUAGE = "score too small for its language"
FALLBACK = "fallback, not a choice"
NO_REJECTED = "no other answer to reject"
LOW_MARGIN = "margin too small"
CONTRADICTED = "wrong by the task's metric, the rejected answer right"
DUPLICATE = "duplicate"

_ROUNDING = 1e-6  # of scores, relative: reward models give float32 at best


class Dropped(Exception):
    """A row is left out; the argument is the reason, one of this module's."""


@dataclass
class Side:
    """One answer: its text, the candidate that it is (``None`` for a new text) and its score, where known.

    ``finish_reason`` is the candidate's, or what the fusor said of a new text; ``fell_back`` where the method chose
    nothing.
    """

    text: str
    candidate: Candidate | None
    score: float | None
    finish_reason: str | None = None
    fell_back: bool = False


@dataclass
class Pair:
    """What a row gives: the prompt's answer and, in paired formats, a worse one (in KTO perhaps none)."""

    chosen: Side
    rejected: Side | None = None

    @property
    def margin(self) -> float | None:
        """Score difference, where both are known."""
        if self.rejected is None or self.chosen.score is None or self.rejected.score is None:
            return None
        return self.chosen.score - self.rejected.score


def choose(row: Row, config: Config, choices: Choices, thresholds: Mapping[str | None, float] | None = None) -> Pair:
    """Pick a row's answers.

    Args:
        row: with prompt, candidates, scores, selections and errors.
        choices: the resolved plan, method and scorer.
        thresholds: base language -> smallest score; answers without a score have none.

    Raises:
        Dropped: the row is left out.
    """
    settings = config.export
    chosen = choose_answer(row, config, choices)
    if settings.min_score is not None or thresholds:
        if chosen.score is None:
            raise Dropped(NO_SCORE)
        if settings.min_score is not None and chosen.score < settings.min_score:
            raise Dropped(LOW_SCORE)
        if thresholds and chosen.score < thresholds.get(base_language(row.language), -math.inf):
            raise Dropped(LOW_IN_LANGUAGE)
    if settings.format not in PAIRED:
        return Pair(chosen)
    plan, own = _followed(row, config, choices)
    pool, scores = row.plan(plan), _scores(row, plan, choices.scorer or own)
    pair = Pair(chosen, _rejected(row, config, choices, pool, scores, chosen))
    if settings.contradicted and pair.rejected and _contradicted(row, config, pair.chosen, pair.rejected):
        raise Dropped(CONTRADICTED)
    reason = _refused(pair, config)
    if reason is None:
        return pair
    if settings.format == "kto":  # its answers are not paired: the good one stands alone
        return Pair(chosen)
    raise Dropped(reason)


def choose_answer(row: Row, config: Config, choices: Choices) -> Side:
    """The row's answer, whatever its score.

    Raises:
        Dropped: there is none, or it is left out.
    """
    settings = config.export
    if row.unreadable or not row.messages:
        raise Dropped(UNREADABLE)
    if row.messages[-1].get("role") == "assistant":
        raise Dropped(ENDS_ANSWERED)  # two assistant turns in a row are no conversation
    plan, own = _followed(row, config, choices)
    pool, scores = row.plan(plan), _scores(row, plan, choices.scorer or own)
    chosen = _selected(row, choices.plan, choices.method, pool, scores)
    if chosen is None:
        raise Dropped(NO_ANSWER)
    if chosen.score is None and choices.scorer is None:
        chosen.score = _own_score(row, choices)
    if settings.fallbacks and chosen.fell_back:
        raise Dropped(FALLBACK)
    if settings.truncated and _is_truncated(chosen):
        raise Dropped(TRUNCATED)
    language = task_for(row, config.tasks).answer_language(row)
    if settings.language and is_language(chosen.text, language) is False:
        raise Dropped(WRONG_LANGUAGE)
    return chosen


def _followed(row: Row, config: Config, choices: Choices) -> tuple[str, str]:
    """The candidate set and the method that the row's answer is of, a policy followed."""
    if choices.plan != POLICY:
        return choices.plan, choices.method
    rule = Policy(config.policy).rule(row)
    return rule.plan, rule.selector if choices.method == POLICY else choices.method


def _contradicted(row: Row, config: Config, chosen: Side, rejected: Side) -> bool:
    """Whether the task calls the answer wrong and the rejected one right; graded metrics (chrF) call nothing so."""
    if not row.reference:
        return False
    task = task_for(row, config.tasks)
    return task.verify(chosen.text, row.reference, row) == 0 and task.verify(rejected.text, row.reference, row) == 1


def measured(row: Row, choices: Choices) -> dict[str, float]:
    """Metric -> value in 0..1 of the row's selected answer; without those that could not be computed."""
    selection = _find(row, choices.plan, choices.method)
    if selection is None or selection.index is None:
        return {}
    own = is_own_text(selection.plan, selection.index)
    place, index = (ANSWER + selection.system, 0) if own else (selection.plan, selection.index)
    found = {
        s.scorer.removeprefix(METRIC): s.values for s in row.scores if s.plan == place and s.scorer.startswith(METRIC)
    }
    known = ((name, values[index]) for name, values in found.items() if index < len(values))
    return {name: value for name, value in known if value is not None and math.isfinite(value)}


def _refused(pair: Pair, config: Config) -> str | None:
    """Why a pair cannot be used."""
    settings, margin = config.export, pair.margin
    if pair.rejected is None:
        return NO_REJECTED
    if margin is None:
        return NO_SCORE if settings.format == "reward" or settings.min_margin else None
    assert pair.chosen.score is not None and pair.rejected.score is not None
    rounding = _ROUNDING * max(1.0, abs(pair.chosen.score), abs(pair.rejected.score))
    if settings.min_margin is not None and (margin <= rounding or margin < settings.min_margin - rounding):
        return LOW_MARGIN
    return None


def _scores(row: Row, plan: str, scorer: str) -> list[float | None]:
    for score in row.scores:
        if (score.plan, score.scorer) == (plan, scorer):
            return [v if v is not None and math.isfinite(v) else None for v in score.values]
    return []


def _find(row: Row, plan: str, method: str) -> Selection | None:
    return next((s for s in row.selections if (s.plan, s.method) == (plan, method)), None)


def _selected(row: Row, plan: str, method: str, pool: list[Candidate], scores: list[float | None]) -> Side | None:
    """The stored selection as a side; ``None`` where nothing was selected, or an empty text."""
    selection = _find(row, plan, method)
    if selection is None or selection.index is None or not (selection.text or "").strip():
        return None
    detail = Detail.read(selection.detail)
    if 0 <= selection.index < len(pool):
        return replace(_side(pool, scores, selection.index), fell_back=bool(detail.fallback))
    return Side(selection.text or "", None, None, detail.finish_reason, bool(detail.fallback))


def _own_score(row: Row, choices: Choices) -> float | None:
    """The score stored with the selection itself: of methods that score only what they chose."""
    selection = _find(row, choices.plan, choices.method)
    score = selection.score if selection else None
    return score if score is not None and math.isfinite(score) else None


def _side(pool: list[Candidate], scores: list[float | None], index: int) -> Side:
    score = scores[index] if index < len(scores) else None
    return Side(pool[index].text or "", pool[index], score, pool[index].finish_reason)


def _is_truncated(side: Side) -> bool:
    return side.finish_reason == "length"


def _rejected(
    row: Row, config: Config, choices: Choices, pool: list[Candidate], scores: list[float | None], chosen: Side
) -> Side | None:
    """The worse answer: never the chosen text again, however it is written."""
    settings = config.export
    if settings.rejected == "sample":
        sample = _selected(row, choices.plan, "sample", pool, scores)
        sides = [sample] if sample is not None else []
    else:
        sides = [_side(pool, scores, i) for i, c in enumerate(pool) if c.origin != "evidence"]
    language = task_for(row, config.tasks).answer_language(row)
    same = essence(chosen.text, language)
    sides = [s for s in sides if s.text.strip() and essence(s.text, language) != same]
    if settings.truncated:
        sides = [s for s in sides if not _is_truncated(s)]
    if settings.rejected == "lowest":
        scored = [s for s in sides if s.score is not None]
        lowest = min((s.score for s in scored if s.score is not None), default=None)
        sides = [s for s in scored if s.score == lowest]
    # ties by seeded hash: the first of them would favour the greedy candidate
    return sides[derive_seed("rejected", settings.seed, row.prompt_id) % len(sides)] if sides else None
