"""One row -> the answer, the rejected answer and their scores; or the reason why the row is left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.config import Config
from pipeline.export.config import PAIRED
from pipeline.export.duplicates import normalised
from pipeline.export.inventory import Choices
from pipeline.hashing import derive_seed
from pipeline.languages import is_language
from pipeline.policy import NAME as POLICY
from pipeline.policy import Policy
from pipeline.records import Candidate, Row, Selection
from pipeline.scoring.measure import ANSWER, METRIC, is_own_text
from pipeline.tasks import task_for

UNREADABLE = "prompt could not be read"
ENDS_ANSWERED = "prompt ends with an assistant turn"
NO_ANSWER = "no answer selected"
TRUNCATED = "answer cut at the token limit"
WRONG_LANGUAGE = "answer in another language"
NO_SCORE = "no score"
LOW_SCORE = "score too small"
NO_REJECTED = "no other answer to reject"
LOW_MARGIN = "margin too small"
DUPLICATE = "duplicate"


class Dropped(Exception):
    """A row is left out; the argument is the reason, one of this module's."""


@dataclass
class Side:
    """One answer: its text, the candidate that it is (``None`` for a new text) and its score, where known."""

    text: str
    candidate: Candidate | None
    score: float | None


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


def choose(row: Row, config: Config, choices: Choices) -> Pair:
    """Pick a row's answers.

    Args:
        row: with prompt, candidates, scores, selections and errors.
        choices: the resolved plan, method and scorer.

    Raises:
        Dropped: the row is left out.
    """
    settings = config.export
    if row.unreadable or not row.messages:
        raise Dropped(UNREADABLE)
    if row.messages[-1].get("role") == "assistant":
        raise Dropped(ENDS_ANSWERED)  # two assistant turns in a row are no conversation
    plan, own = choices.plan, choices.method
    if plan == POLICY:
        rule = Policy(config.policy).rule(row)
        plan, own = rule.plan, rule.selector if choices.method == POLICY else choices.method
    pool, scores = row.plan(plan), _scores(row, plan, choices.scorer or own)
    chosen = _selected(row, choices.plan, choices.method, pool, scores)
    if chosen is None:
        raise Dropped(NO_ANSWER)
    if chosen.score is None and choices.scorer is None:
        chosen.score = _own_score(row, choices)
    if settings.truncated and _is_truncated(chosen):
        raise Dropped(TRUNCATED)
    language = task_for(row, config.tasks).answer_language(row)
    if settings.language and is_language(chosen.text, language) is False:
        raise Dropped(WRONG_LANGUAGE)
    if settings.min_score is not None:
        if chosen.score is None:
            raise Dropped(NO_SCORE)
        if chosen.score < settings.min_score:
            raise Dropped(LOW_SCORE)
    if settings.format not in PAIRED:
        return Pair(chosen)
    pair = Pair(chosen, _rejected(row, config, choices, pool, scores, chosen))
    reason = _refused(pair, config)
    if reason is None:
        return pair
    if settings.format == "kto":  # its answers are not paired: the good one stands alone
        return Pair(chosen)
    raise Dropped(reason)


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
    if settings.min_margin is not None and (margin <= 0 or margin < settings.min_margin):
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
    if 0 <= selection.index < len(pool):
        return _side(pool, scores, selection.index)
    return Side(selection.text or "", None, None)


def _own_score(row: Row, choices: Choices) -> float | None:
    """The score stored with the selection itself: of methods that score only what they chose."""
    selection = _find(row, choices.plan, choices.method)
    score = selection.score if selection else None
    return score if score is not None and math.isfinite(score) else None


def _side(pool: list[Candidate], scores: list[float | None], index: int) -> Side:
    return Side(pool[index].text or "", pool[index], scores[index] if index < len(scores) else None)


def _is_truncated(side: Side) -> bool:
    return side.candidate is not None and side.candidate.finish_reason == "length"


def _rejected(
    row: Row, config: Config, choices: Choices, pool: list[Candidate], scores: list[float | None], chosen: Side
) -> Side | None:
    """The worse answer: never the chosen text again, spaces and Unicode forms apart."""
    settings = config.export
    if settings.rejected == "sample":
        sample = _selected(row, choices.plan, "sample", pool, scores)
        sides = [sample] if sample is not None else []
    else:
        sides = [_side(pool, scores, i) for i, c in enumerate(pool) if c.origin != "evidence"]
    same = normalised(chosen.text)
    sides = [s for s in sides if s.text.strip() and normalised(s.text) != same]
    if settings.truncated:
        sides = [s for s in sides if not _is_truncated(s)]
    if settings.rejected == "lowest":
        scored = [s for s in sides if s.score is not None]
        lowest = min((s.score for s in scored if s.score is not None), default=None)
        sides = [s for s in scored if s.score == lowest]
    # ties by seeded hash: the first of them would favour the greedy candidate
    return sides[derive_seed("rejected", settings.seed, row.prompt_id) % len(sides)] if sides else None
