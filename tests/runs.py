"""Runs of the dummy engine, made once a session in this process; a test that changes one takes a copy."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli import main
from tests.conftest import jsonl
from tests.inprocess import without_ray

REFERENCE = "alpha bravo coral delta ember"
_MORE = [
    "selectors.vote={kind: majority_vote}",
    "selectors.weighted={kind: weighted_vote, engine: reward}",
    "selectors.bleu={kind: mbr, utility: bleu}",
    "selection.bar_truncated=true",
    "judge={opponent: hedged/sample, candidates: true, audit: 0}",
]


def make_run(folder: Path) -> Path:
    """Eight translations with references and eight open prompts, sampled, selected and judged.

    Two sets: ``hedged`` of six candidates, and ``warm``, which was extended from three to five in a second step. Every
    kind of selector chose from both; games of the systems, and of the candidates.

    Returns:
        The run's folder, inside ``folder``.
    """
    items = [
        {"prompt": f"question {i}", "task": task, "reference": REFERENCE, "language": "en", "cluster_id": f"c{i // 2}"}
        for i in range(8)
        for task in ("translation", "open")
    ]
    prompts = jsonl(folder / "prompts.jsonl", *items)
    words = ["dummy", f"out={folder / 'run'}", f"prompts={{kind: file, path: {prompts}}}", "sampling.n=6", *_MORE]
    with without_ray():
        for warm, jobs in ((3, ("generate", "select")), (5, ("generate", "select", "judge"))):
            for job in jobs:
                assert main([job, *words, f"plans.warm={{kind: mixed, n: {warm}}}", "execution.progress=false"]) == 0
    return folder / "run"


def make_whole(folder: Path) -> Path:
    """Two prompts, from reading them to the report and the replay table; with games of the candidates.

    Returns:
        ``folder``, the run's.
    """
    words = ["dummy", "prompts.limit_clusters=1", "prompts.languages=[en,de]", f"out={folder}"]
    with without_ray():
        assert main(["run", *words, "judge.candidates=true", "execution.progress=false"]) == 0
        assert main(["replay", str(folder)]) == 0
    return folder
