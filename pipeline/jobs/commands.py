"""What a person can ask for: each job's words, what it does, its keys and examples. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SETTINGS = "[CONFIG ...] [key=value ...]"


@dataclass(frozen=True)
class Command:
    """One job of the command line.

    Attributes:
        group: the heading under which it is listed.
        summary: what it does, in one line.
        words: what follows the job's name.
        keys: the sections of the config that matter to it most.
        examples: lines that do something sensible.
        takes: ``config``: presets, files, settings, or a run's folder; ``run``: a run's folder, then others;
            ``cluster``: it asks the cluster at ``--address``; ``nothing``.
        submitted: whether it can be sent to a cluster.
    """

    group: str
    summary: str
    words: str
    keys: tuple[str, ...]
    examples: tuple[str, ...]
    takes: Literal["config", "run", "cluster", "nothing"] = "config"
    submitted: bool = False

    @property
    def required(self) -> int:
        """How many words it cannot do without."""
        return len(self.words.partition("[")[0].split())

    @property
    def is_exact(self) -> bool:
        """Whether it takes no word more than those."""
        return "[" not in self.words


JOBS = {
    "run": Command(
        "From prompts to a report",
        "generate, select, judge, winrate and report; resumes where it was interrupted",
        SETTINGS,
        ("prompts", "engines", "sampling", "selectors", "judge", "execution", "limits"),
        (
            "lemonpress run dummy out=runs/try",
            "lemonpress run demo prompts.kind=file prompts.path=mine.jsonl out=runs/mine",
        ),
        submitted=True,
    ),
    "generate": Command(
        "From prompts to a report",
        "prompts -> candidates",
        SETTINGS,
        ("prompts", "engines", "sampling", "plans", "policy"),
        ("lemonpress generate dummy out=runs/try", "lemonpress generate runs/try sampling.n=7"),
        submitted=True,
    ),
    "select": Command(
        "From prompts to a report",
        "candidates -> scores and selections",
        SETTINGS,
        ("selectors", "selection", "policy", "engines"),
        ("lemonpress select --list", "lemonpress select runs/try selectors.longest={}"),
        submitted=True,
    ),
    "judge": Command(
        "From prompts to a report",
        "selections -> games (pairwise, both orders)",
        SETTINGS,
        ("judge", "answers", "engines"),
        ("lemonpress judge runs/try", "lemonpress judge runs/try judge.candidates=true"),
        submitted=True,
    ),
    "winrate": Command(
        "From prompts to a report",
        "games -> win-rates with intervals, task scores and more",
        f"{SETTINGS} [games=TABLE]",
        ("winrate", "metrics"),
        ("lemonpress winrate runs/try", "lemonpress winrate games=judgments.csv out=results"),
        submitted=True,
    ),
    "report": Command(
        "From prompts to a report",
        "one self-contained HTML page, and report.md",
        SETTINGS,
        ("report",),
        ("lemonpress report runs/try", "lemonpress report runs/try report.samples=20"),
        submitted=True,
    ),
    "label": Command(
        "Other ends",
        "given answers -> scores, selections, and labels beside the input's own columns",
        SETTINGS,
        ("prompts.given", "label", "selectors", "engines"),
        (
            "lemonpress label prompts.path=pairs.jsonl 'prompts.given={columns: [chosen, rejected]}'",
            "lemonpress label models/skywork-reward-v2 prompts.path=answers.parquet prompts.given.column=answers",
        ),
        submitted=True,
    ),
    "export": Command(
        "Other ends",
        "selections -> training data: SFT, DPO, reward-model or KTO files that datasets and TRL load",
        SETTINGS,
        ("export",),
        (
            "lemonpress export runs/try export.method=mbr",
            "lemonpress export runs/try export.method=mbr export.format=dpo",
        ),
        submitted=True,
    ),
    "sweep": Command(
        "Other ends",
        "a grid of temperatures and min-p -> curves, and a recommended policy",
        SETTINGS,
        ("sweep", "prompts", "engines", "selectors"),
        (
            "lemonpress sweep dummy out=runs/sweep",
            "lemonpress sweep demo sweep.temperatures=[0.3,0.7,1.0] sweep.n=8 out=runs/sweep",
        ),
        submitted=True,
    ),
    "show": Command(
        "Looking at a run",
        "everything known about one prompt, also while the run is going on",
        "RUN PROMPT_ID",
        (),
        ("lemonpress show runs/try en-001", "lemonpress show s3://bucket/run q17"),
        takes="run",
    ),
    "errors": Command(
        "Looking at a run",
        "what went wrong, by cause",
        "RUN",
        (),
        ("lemonpress errors runs/try", "lemonpress errors runs/try --json"),
        takes="run",
    ),
    "table": Command(
        "Looking at a run",
        "a finished table as one Parquet, JSON Lines or CSV file",
        "RUN TABLE FILE [columns=a,b]",
        (),
        (
            "lemonpress table runs/try selections out.parquet",
            "lemonpress table runs/try games games.csv columns=prompt_id,games",
        ),
        takes="run",
    ),
    "retry": Command(
        "Looking at a run",
        "the failed rows of a run again, and only those",
        "RUN [key=value ...]",
        ("engines", "execution"),
        ("lemonpress retry runs/try", "lemonpress retry runs/try engines.generator.truncate_prompt=true"),
        takes="run",
    ),
    "verify": Command(
        "Looking at a run",
        "is a run consistent, and do its prompts give the same answers again?",
        "RUN [key=value ...]",
        ("verify",),
        ("lemonpress verify runs/try", "lemonpress verify runs/try verify.rows=5"),
        takes="run",
    ),
    "replay": Command(
        "Looking at a run",
        "selectors on a finished run's candidates, without Ray or a model",
        "RUN|TABLE.parquet [key=value ...]",
        ("replay", "selectors"),
        ("lemonpress replay runs/try", "lemonpress replay runs/try selectors.longest={}"),
        takes="run",
    ),
    "estimate": Command(
        "Before it costs anything",
        "what a run will cost in tokens, time and money, from a few of its prompts; runs nothing else",
        SETTINGS,
        ("execution.pilot", "engines"),
        ("lemonpress estimate demo", "lemonpress estimate mine.yaml execution.pilot=20"),
    ),
    "doctor": Command(
        "Before it costs anything",
        "what this machine can run, and what is missing",
        "",
        (),
        ("lemonpress doctor",),
        takes="nothing",
    ),
    "submit": Command(
        "On a Ray cluster",
        "send a job, and follow its log",
        SETTINGS,
        ("ray", "out"),
        (
            "lemonpress submit --address http://HEAD:8265 mine.yaml out=s3://bucket/run",
            "lemonpress submit --job select --detach mine.yaml out=s3://bucket/run",
        ),
        takes="cluster",
    ),
    "status": Command(
        "On a Ray cluster",
        "state of a submitted job, or of all",
        "[JOB_ID|RUN]",
        (),
        ("lemonpress status --address http://HEAD:8265", "lemonpress status s3://bucket/run"),
        takes="cluster",
    ),
    "logs": Command(
        "On a Ray cluster",
        "log of a submitted job, until it ends",
        "JOB_ID|RUN",
        (),
        ("lemonpress logs s3://bucket/run",),
        takes="cluster",
    ),
    "stop": Command(
        "On a Ray cluster",
        "stop a submitted job; the same submit resumes it",
        "JOB_ID|RUN",
        (),
        ("lemonpress stop s3://bucket/run",),
        takes="cluster",
    ),
}
SUBMITTED = tuple(name for name, job in JOBS.items() if job.submitted)
