"""Names of the games that are not between two systems, and which games are which."""

from __future__ import annotations

from pipeline.core.units import CANDIDATE

JUDGE_FAILED = "judge failed: "
"""Begins ``games.reason`` where the judge's engine refused the request."""

PLEA = "an answer speaks to the judge, and gained nothing by it"
"""In ``games.reason`` where an answer speaks to the judge (:mod:`pipeline.judging.pleas`)."""

PLEA_IGNORED = "an answer speaks to the judge: judged without those sentences"
"""The same, where they would have changed the verdict in its favour."""

UNREADABLE = "judge unreadable: "
"""Begins ``games.reason`` where its words name no option, or several."""

CUT = f"{UNREADABLE}cut"
"""Begins it where the words ended at the token limit: with more room it may be another verdict."""

AUDIT = "audit:"
"""Begins the names of the judge's audit: ``audit:original`` against ``audit:truncated``."""

ORIGINAL = f"{AUDIT}original"
"""The answer that every altered version in the audit is made from."""

IS_CANDIDATE = r"^[^/]+#[0-9]+$"
IS_AUDIT = f"^{AUDIT}"


def candidate_system(plan: str, index: int) -> str:
    return f"{plan}{CANDIDATE}{index}"


def is_candidate(system: str) -> bool:
    plan, mark, index = system.rpartition(CANDIDATE)
    return bool(mark and plan) and index.isdigit() and "/" not in system


def is_audit(system: str) -> bool:
    return system.startswith(AUDIT)


def no_verdict(reason: str | None) -> tuple[bool, str]:
    """(whether the call failed, why) of an invalid game, from its ``reason``; no words where it says none of these."""
    for begins in (JUDGE_FAILED, UNREADABLE):
        if reason and reason.startswith(begins):
            return begins == JUDGE_FAILED, reason.removeprefix(begins)
    return False, ""


def is_cut(problem: str) -> bool:
    """Whether the judge's words ended at the token limit: with more room it may be another verdict."""
    return problem.startswith("cut")
