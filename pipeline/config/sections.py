"""The config's sections that belong to no registry: how runs are judged, counted, executed, limited and reported.

:mod:`pipeline.config.config` puts them together with what plans, selectors, engines and sources define themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields

from pipeline.core.bounds import bounded
from pipeline.core.errors import ConfigError, require_known
from pipeline.sampling.plans import PlanConfig, SingleTemperature


@dataclass
class JudgeConfig:
    """Pairwise games between this run's systems and those under ``answers``.

    Attributes:
        engine: name under ``engines``; ``null`` = no games: systems are compared by their tasks' metrics only.
        opponent: the baseline: a selector's name, or ``plan/selector``; or a name under ``answers``.
        systems: selectors (or ``plan/selector``), or names under ``answers``, to judge; ``null`` = all others.
        candidates: every candidate plays against the opponent too: hope, risk and oracle for tasks without a metric.
        audit: prompts per language on which the judge is first asked about known-answer pairs; 0 = no audit.
        template: name of the judge template (``pipeline/judging/templates``) or path of a file.
        scores: ``hard`` (win 1, tie 1/2, loss 0) or ``soft`` (probabilities).
        reason_tokens: the judge first writes a reason of at most so many tokens (0 = none, the paper's setting); costs
            a second request a game, and is shown in the report.
        max_invalid: the job stops when a larger share of a judge's first 50 verdicts cannot be read, here and where
            selectors ask judges; 1 = never.
    """

    engine: str | None = "judge"
    opponent: str = "sample"
    systems: list[str] | None = None
    candidates: bool = False
    audit: int = bounded(20, ge=0)
    template: str = "pairwise"
    scores: str = bounded("hard", one_of=("hard", "soft"))
    reason_tokens: int = bounded(0, ge=0)
    max_invalid: float = bounded(0.5, ge=0, le=1)


@dataclass
class SelectionConfig:
    """What no selector may choose, whatever it scores. If nothing else is left, the bars are lifted; both are recorded.

    Attributes:
        bar_truncated: candidates that ended at the token limit.
        bar_wrong_language: candidates that language identification finds to be in another language than the prompt.
    """

    bar_truncated: bool = False
    bar_wrong_language: bool = False


@dataclass
class WinrateConfig:
    """How win-rates and their intervals are computed.

    Attributes:
        games: an outside table of games instead of this run's (Parquet, CSV or JSONL).
        draws: bootstrap draws.
        confidence: coverage of the intervals.
        seed: of the bootstrap.
        base: the selector that task scores are compared with: the paper's single-sample decoding.
    """

    games: str | None = None
    draws: int = bounded(10_000, ge=1)
    confidence: float = bounded(0.95, gt=0, lt=1)
    seed: int = 1
    base: str = "sample"


@dataclass
class ReportConfig:
    """The report page.

    Attributes:
        title: headline.
        note: a sentence shown beside the headline result, e.g. that judge and generator are one model.
        samples: prompts shown with all their candidates.
    """

    title: str = "Lemonpress report"
    note: str = ""
    samples: int = bounded(14, ge=0)


@dataclass
class ExecutionConfig:
    """How passes run.

    Attributes:
        cpu_workers: worker processes of a pass without an engine, as far as the cluster has room for them; ``null`` =
            up to half of its processors, and one for small tables.
        max_failed_rows: share of rows with errors above which the job ends with exit code 3.
        progress: show progress on standard error.
        poison_attempts: a row that was alone in flight when its engine died so often is set aside, as an error row.
        max_restarts: engine deaths in a row, without one finished row between, after which a pass fails.
        row_seconds: longest time that one stage may take on one row; then it is an error row. ``null`` = for ever.
        replace_seconds: how long workers that were lost with their machine may wait for room on another one, before
            the pass fails (and the same command resumes with what is left of the cluster).
        drain_seconds: what rows in flight get to finish in after SIGTERM, Ctrl-C or a limit.
        pilot: prompts that ``run`` puts through the whole path first, to estimate what all of them will cost; 0 = none.
            ``estimate`` takes 10 where it is 0.
        side_by_side: neighbouring passes on different engines run at the same time where the cluster holds their
            pools at once, each shard going from one to the next; else, and by default, one after the other, each with
            the whole cluster.
    """

    cpu_workers: int | None = bounded(None, ge=1)
    max_failed_rows: float = bounded(0.5, ge=0, le=1)
    progress: bool = True
    poison_attempts: int = bounded(2, ge=1)
    max_restarts: int = bounded(30, ge=1)
    row_seconds: float | None = bounded(None, gt=0)
    replace_seconds: float = bounded(600.0, ge=0)
    drain_seconds: float = bounded(30.0, ge=0)
    pilot: int = bounded(0, ge=0)
    side_by_side: bool = False


@dataclass
class LimitsConfig:
    """Where to stop, resumably. Rows in flight still finish, so a little more is spent; ``null`` = no limit.

    Attributes:
        tokens: prompt and completion tokens of the whole run folder, all attempts together.
        money: the same in the unit of ``engines.X.price``.
        seconds: wall time of one command.
    """

    tokens: int | None = bounded(None, gt=0)
    money: float | None = bounded(None, gt=0)
    seconds: float | None = bounded(None, gt=0)


@dataclass
class RayConfig:
    """The Ray cluster.

    Attributes:
        address: cluster to join; ``null`` follows ``RAY_ADDRESS``, else starts a local one.
        num_cpus: logical CPUs of a local cluster; ``null`` = at least 8, because with fewer than 4 a resume hangs.
        worker_logs: show the workers' own output, for debugging.
        nodes: the nodes that an autoscaling cluster may grow to, those that are up included: the placement is planned
            on them; empty = on the nodes that are up.
        env: *names* of environment variables that ``submit`` sends along with their values (``HF_TOKEN`` ...), beside
            the engines' ``api_key_env``. Ray keeps a job's variables in the job's record, where whoever may query the
            cluster's job server can read them; where that matters, set them on the nodes instead.
    """

    address: str | None = None
    num_cpus: int | None = bounded(None, ge=1)
    worker_logs: bool = False
    nodes: list[NodeGroup] = field(default_factory=list)
    env: list[str] = field(default_factory=list)


@dataclass
class NodeGroup:
    """Equal nodes.

    Attributes:
        count: how many.
        gpus: of each.
        cpus: logical CPUs of each.
    """

    count: int = bounded(1, ge=1)
    gpus: float = bounded(0.0, ge=0)
    cpus: float = bounded(8.0, ge=0)


@dataclass
class LabelConfig:
    """What ``label`` writes.

    Attributes:
        method: the selector whose choices are written; ``null`` = the only one that is configured.
        prefix: begins the names of the new columns: ``lemonpress_index`` ...
        output: where the labelled files go: a folder, or a ``.parquet`` file where the input is one file; ``null`` =
            ``labels/`` in the run's folder.
    """

    method: str | None = None
    prefix: str = "lemonpress"
    output: str | None = None


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

    format: str = bounded("sft", one_of=FORMATS)
    plan: str | None = None
    method: str | None = None
    scorer: str | None = None
    rejected: str = bounded("lowest", one_of=REJECTED)
    min_margin: float | None = bounded(0.0, ge=0, lt=float("inf"))
    min_score: float | None = None
    min_score_quantile: float | None = bounded(None, gt=0, lt=1)
    fallbacks: bool = True
    contradicted: bool = True
    language: bool = True
    truncated: bool = True
    reasoning: str = bounded("strip", one_of=("strip", "keep"))
    deduplicate: bool = True
    tools: str | None = TOOLS
    splits: dict[str, float] = bounded(factory=dict, ge=0, le=1)
    seed: int = 1
    rows_per_shard: int = bounded(50_000, ge=1)
    output: str | None = None
    licenses: dict[str, str] = field(default_factory=dict)
    push: str | None = None

    def shares(self) -> dict[str, float]:
        """Split -> share, those of 0 left out."""
        return {name: share for name, share in (self.splits or SPLITS).items() if share}

    def check(self, key: str) -> None:
        """Raise ConfigError, naming the key, on names and shares that do not fit."""
        for name in self.splits:
            if not _SPLIT.fullmatch(name):
                raise ConfigError(f"{key}.splits: {name!r} is no name: letters, digits and '_'")
        total = sum(self.shares().values())
        if abs(total - 1) > 1e-6:
            raise ConfigError(f"{key}.splits: the shares must add up to 1, not {total:g}")
        if self.push is not None and not _HUB_NAME.fullmatch(self.push):
            raise ConfigError(f"{key}.push: {self.push!r} is no name of a dataset; it must be OWNER/NAME")


PAPER_TEMPERATURE = 0.7
"""The lower end of what the paper recommends (arXiv 2506.20544): the default base of a sweep."""


@dataclass
class SweepConfig:
    """What ``lemonpress sweep`` tries out, and how it chooses.

    All other settings of the plans (engine, ``max_tokens``, ``top_p`` ...) are those of ``sampling``.

    Attributes:
        temperatures, min_p: the grid; its settings are called ``t0.7-p0.1``.
        n: candidates sampled per setting; what fewer would give follows in closed form.
        base: the setting that others must beat; ``null`` = the temperature nearest to 0.7 with the lowest min-p.
        selector: the selector whose answers are compared, and which the policy names; ``null`` = the first one
            configured that is no baseline, else ``sample`` (the mean of the candidates).
        metrics: task -> metric to choose by (``win`` = candidates' games); ``null`` = the task's main metric, and
            ``win`` for tasks without one.
        development: share of the clusters on which settings are chosen; they are scored on the others.
    """

    temperatures: list[float] = bounded(
        factory=lambda: [0.3, 0.7, 1.0], gt=0, cure="the greedy answer is sampled anyway"
    )
    min_p: list[float] = bounded(factory=lambda: [0.0], ge=0, le=1)
    n: int = bounded(8, ge=1)
    base: str | None = None
    selector: str | None = None
    metrics: dict[str, str] = field(default_factory=dict)
    development: float = bounded(0.5, gt=0, lt=1)

    def check(self, key: str) -> None:
        """Raise ConfigError, naming the key below ``key``, on a grid that cannot work."""
        for name, values in (("temperatures", self.temperatures), ("min_p", self.min_p)):
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{key}.{name}: a list of different numbers, not {values}")
        if self.base is not None:
            require_known(self.base, self.settings(), f"{key}.base", "the grid has no")

    def settings(self) -> dict[str, tuple[float, float]]:
        """Name -> (temperature, min-p), cool ones first."""
        return {f"t{t:g}-p{p:g}": (t, p) for t in sorted(self.temperatures) for p in sorted(self.min_p)}

    def base_setting(self) -> str:
        """Name of the setting that others must beat."""
        grid = self.settings()
        return self.base or min(grid, key=lambda name: (abs(grid[name][0] - PAPER_TEMPERATURE), grid[name]))

    def plans(self, template: PlanConfig) -> dict[str, PlanConfig]:
        """One plan of ``n`` candidates per setting, with the template's other settings."""
        common = {f.name: getattr(template, f.name) for f in fields(PlanConfig)}
        common |= {"n": self.n, "candidate_set": None}
        return {
            name: SingleTemperature(**{**common, "temperature": t, "min_p": p})
            for name, (t, p) in self.settings().items()
        }


@dataclass
class VerifyConfig:
    """How a run is verified.

    Attributes:
        rows: prompts whose candidates are sampled again; ``null`` = all.
        seed: chooses them, by hash.
        min_match: smallest share of candidates, in each candidate set and model, that must be the same text again; else
            the exit code is 3. ``null`` = 1 for engines that are deterministic (the dummy), and 0 for all others:
            vLLM's numbers depend on which requests share a batch, so that some answers differ although nothing is
            wrong.
        folder: where the sampling is done again and ``verify.json`` goes; ``null`` = the run's own folder.
    """

    rows: int | None = bounded(20, ge=1, cure="null = all")
    seed: int = 1
    min_match: float | None = bounded(None, ge=0, le=1)
    folder: str | None = None


@dataclass
class ReplayConfig:
    """How selectors are tried on the candidates of a finished run.

    Attributes:
        n: sizes at which selectors are compared: each sees the first so many candidates of every set, as if no more had
            been sampled. The whole set is always among them.
        metrics: what answers are scored by; ``null`` = each task's main metric, and win-rates of candidate games where
            there are any.
        split: share of the clusters to choose a selector on (in 0..1); the others say what the choice is worth.
            ``null`` = one comparison on all of them, which flatters what was chosen, or tuned, on it.
        table: where the table is (or will be); ``null`` = ``replay.parquet`` in the run's folder.
    """

    n: list[int] = bounded(factory=lambda: [1, 2, 4, 8], ge=1)
    metrics: list[str] | None = None
    split: float | None = bounded(None, gt=0, lt=1)
    table: str | None = None
