"""A judge that cannot be read is noticed after its first verdicts, not after the money is spent."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.core.errors import UnreadableJudge
from pipeline.core.safety import isolated

FIRST = 50
"""Verdicts after which a judge must have been read mostly."""
_SHOWN = 3


@dataclass
class FirstVerdicts:
    """The first verdicts of one judge in one worker.

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

    def add(self, valid: bool, words: str) -> None:
        """Count one.

        Raises:
            UnreadableJudge: it is among the first, and too many of them cannot be read.
        """
        if self.asked < FIRST:
            self.asked += 1
            self.invalid += not valid
            if not valid and words not in self._quoted and len(self._quoted) < _SHOWN:
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
