"""The ``export:`` section of the config."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pipeline.core.errors import ConfigError, nearest

FORMATS = ("sft", "dpo", "reward", "kto")
PAIRED = ("dpo", "reward", "kto")
REJECTED = ("lowest", "sample", "random")
TOOLS = "tools"
SPLITS = {"train": 0.9, "test": 0.1}

_SPLIT = re.compile(r"[A-Za-z0-9_]+")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass
class ExportConfig:
    """What ``export`` writes, and which rows it leaves out.

    Attributes:
        format: ``sft`` (the selected answers), ``dpo`` or ``reward`` (pairs), ``kto`` (answers labelled good or bad).
        plan: the candidate set; ``null`` = the policy's, or the only one that has selections.
        method: the selection that is the answer; ``null`` = the only one that is no baseline.
        scorer: the stored scorer that ranks candidates; ``null`` = the method's own.
        rejected: the worse answer: the ``lowest`` by the scorer, the run's ``sample`` selection, or a ``random`` other.
        min_margin: smallest score difference of a pair; a pair whose known difference is not above 0 is left out
            whatever this says; ``null`` keeps those too.
        min_score: smallest score of the answer; ``null`` = any.
        min_score_quantile: smallest score as a quantile of the answers in the same language (0.5 leaves out the lower
            half), since scores are not calibrated across languages; ``null`` = none.
        fallbacks: leave out answers that the method fell back to: no final answer, an unreadable verdict, a crash.
        contradicted: leave out pairs of which the task's own metric calls the answer wrong and the rejected one right.
        language: leave out answers that are identified as another language than the one asked for.
        truncated: leave out answers that ended at the token limit, fused ones too, also as rejected ones.
        reasoning: ``strip``, or ``keep``: in ``<think>`` tags before the answer.
        deduplicate: leave out rows whose prompt and answer came before.
        tools: source column with the definitions of the tools that the prompt's turns may call (a list of objects, or
            its JSON text), exported as TRL's column ``tools``; ``null`` = none. The generator does not see them.
        splits: name -> share; a cluster is in one split only. Empty = train 0.9, test 0.1; a share of 0 = no split.
        seed: of the splits and of random rejected answers.
        rows_per_shard: records per Parquet file.
        output: folder, here or on an object store (``s3://bucket/data``); ``null`` = ``export/FORMAT`` in the run's
            folder.
        licenses: of models and data, by name, for the card.
        push: name of a private dataset on the Hugging Face Hub to upload to (``me/data``); ``null`` = none.
    """

    format: str = "sft"
    plan: str | None = None
    method: str | None = None
    scorer: str | None = None
    rejected: str = "lowest"
    min_margin: float | None = 0.0
    min_score: float | None = None
    min_score_quantile: float | None = None
    fallbacks: bool = True
    contradicted: bool = True
    language: bool = True
    truncated: bool = True
    reasoning: str = "strip"
    deduplicate: bool = True
    tools: str | None = TOOLS
    splits: dict[str, float] = field(default_factory=dict)
    seed: int = 1
    rows_per_shard: int = 50_000
    output: str | None = None
    licenses: dict[str, str] = field(default_factory=dict)
    push: str | None = None

    def shares(self) -> dict[str, float]:
        """Split -> share, those of 0 left out."""
        return {name: share for name, share in (self.splits or SPLITS).items() if share}

    def check(self, key: str) -> None:
        """Raise ConfigError, naming the key, on a wrong value."""
        for name, valid in (("format", FORMATS), ("rejected", REJECTED), ("reasoning", ("strip", "keep"))):
            value = getattr(self, name)
            if value not in valid:
                raise ConfigError(f"{key}.{name}: there is no {value!r}{nearest(value, valid)}")
        if self.min_margin is not None and not 0 <= self.min_margin < float("inf"):
            raise ConfigError(f"{key}.min_margin: must be at least 0, not {self.min_margin}")
        if self.min_score is not None and self.min_score != self.min_score:
            raise ConfigError(f"{key}.min_score: must be a number, not {self.min_score}")
        if self.min_score_quantile is not None and not 0 < self.min_score_quantile < 1:
            raise ConfigError(f"{key}.min_score_quantile: must be between 0 and 1, not {self.min_score_quantile}")
        if self.rows_per_shard < 1:
            raise ConfigError(f"{key}.rows_per_shard: must be at least 1, not {self.rows_per_shard}")
        for name, share in self.splits.items():
            if not _SPLIT.fullmatch(str(name)):
                raise ConfigError(f"{key}.splits: {name!r} is no name: letters, digits and '_'")
            if not 0 <= share <= 1:
                raise ConfigError(f"{key}.splits.{name}: must be between 0 and 1, not {share}")
        total = sum(self.shares().values())
        if abs(total - 1) > 1e-6:
            raise ConfigError(f"{key}.splits: the shares must add up to 1, not {total:g}")
        if self.push is not None and not _HUB_NAME.fullmatch(self.push):
            raise ConfigError(f"{key}.push: {self.push!r} is no name of a dataset; it must be OWNER/NAME")
