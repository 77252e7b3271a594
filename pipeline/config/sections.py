"""The config's sections that belong to no registry: how runs are judged, counted, executed, limited and reported.

:mod:`pipeline.config.load` puts them together with what plans, selectors, engines and sources define themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field


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
        max_chars: longer answers are cut in the judge's prompt to this many characters (0 = never).
        reason_tokens: the judge first writes a reason of at most so many tokens (0 = none, the paper's setting); costs
            a second request a game, and is shown in the report.
        max_invalid: the job stops when a larger share of a judge's first 50 verdicts cannot be read, here and where
            selectors ask judges; 1 = never.
    """

    engine: str | None = "judge"
    opponent: str = "sample"
    systems: list[str] | None = None
    candidates: bool = False
    audit: int = 20
    template: str = "pairwise"
    scores: str = "hard"
    max_chars: int = 0
    reason_tokens: int = 0
    max_invalid: float = 0.5


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
    draws: int = 10_000
    confidence: float = 0.95
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
    samples: int = 14


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

    cpu_workers: int | None = None
    max_failed_rows: float = 0.5
    progress: bool = True
    poison_attempts: int = 2
    max_restarts: int = 30
    row_seconds: float | None = None
    replace_seconds: float = 600.0
    drain_seconds: float = 30.0
    pilot: int = 0
    side_by_side: bool = False


@dataclass
class LimitsConfig:
    """Where to stop, resumably. Rows in flight still finish, so a little more is spent; ``null`` = no limit.

    Attributes:
        tokens: prompt and completion tokens of the whole run folder, all attempts together.
        money: the same in the unit of ``engines.X.price``.
        seconds: wall time of one command.
    """

    tokens: int | None = None
    money: float | None = None
    seconds: float | None = None


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
    num_cpus: int | None = None
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

    count: int = 1
    gpus: float = 0.0
    cpus: float = 8.0


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
