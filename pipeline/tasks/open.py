"""Open-ended prompts."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.tasks.base import Task, task


@task("open")
@dataclass
class Open(Task):
    """Open-ended generation: the prompt unchanged, nothing to vote on, nothing to verify (a judge decides)."""

    source = "arXiv 2506.20544, evaluation (m-ArenaHard)"
