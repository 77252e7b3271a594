"""A judge that cannot be read stops the job after its first verdicts, with its words; what is done is resumed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.core.errors import UnreadableJudge
from pipeline.core.folder import RunFolder
from pipeline.core.row import Tokens
from pipeline.engines.base import ENGINES, Completion, Engine, Generation, Prompt, SamplingParams
from pipeline.engines.dummy import DummyEngine, DummyEngineConfig
from pipeline.judging.verdicts import FIRST, FirstVerdicts, Verdict
from tests.conftest import rows_of
from tests.inprocess import without_ray


@ENGINES.register("mumbler")
@dataclass
class MumblerConfig(DummyEngineConfig):
    """A judge that comes to its verdict after a hundred tokens, and cannot give probabilities."""

    def capabilities(self) -> frozenset[str]:
        return frozenset({"generate"})

    def create(self) -> Engine:
        return Mumbler(self)


class Mumbler(DummyEngine):
    async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
        if not params.choice:
            return await super().generate(prompt, params)
        said = f"\n\nAnswer: {params.choice[1]}" if params.max_tokens >= 100 else ""
        why = "stop" if said else "length"
        return Generation([Completion(f"Let me look at both, which takes time.{said}", why, 9)], Tokens())


def count(watch: FirstVerdicts, *verdicts: bool) -> None:
    for i, valid in enumerate(verdicts):
        watch.add(Verdict("AB", {"A": 1.0} if valid else {}, problem=f"words {i}"))


def test_only_the_first_verdicts_decide() -> None:
    count(FirstVerdicts(0.5, "engines.j"), *[True] * 25, *[False] * 25, *[False] * 500)
    count(FirstVerdicts(0.5, "engines.j"), *[False] * (FIRST - 1))
    count(FirstVerdicts(1.0, "engines.j"), *[False] * 100)
    with pytest.raises(UnreadableJudge) as caught:
        count(FirstVerdicts(0.5, "engines.j"), *[True] * 24, *[False] * 26)
    message = str(caught.value)
    assert "26 of the first 50" in message and "engines.j.verdict_tokens" in message
    assert [word in message for word in ("words 24", "words 25", "words 26", "words 27")] == [True, True, True, False]


WORDS = ["dummy", "engines.judge.kind=mumbler", "engines.judge.model=m", "judge.audit=0", "execution.progress=false"]
NO_JUDGED = ["selectors.judge=null", "selectors.chops=null"]


@pytest.mark.parametrize("more", [NO_JUDGED, ["selectors.chops=null", "judge.engine=null"]], ids=["games", "selector"])
def test_a_run_stops_and_resumes(
    no_ray: None, tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    words = ["run", *WORDS, *more, f"out={out}"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert "of the first 50 verdicts cannot be read" in said.err + said.out
    assert "Let me look at both" in said.err + said.out and "max_invalid" in said.err + said.out
    assert RunFolder(out).marker("candidates") is not None  # what was done before is kept
    assert main([*words, "engines.judge.verdict_tokens=128", "engines.judge.model=n"]) == 0  # another judge, too
    table = "selections" if "judge.engine=null" in more else "games"
    rows = rows_of(RunFolder(out), table, table)
    if table == "games":
        verdicts: Any = {game["verdict"] for row in rows for game in row["games"]}
        assert "invalid" not in verdicts and len(verdicts) > 1
    else:
        details = [s["detail"] or "" for row in rows for s in row["selections"] if s["method"] == "judge"]
        assert len(details) == 56 and not any("invalid" in detail for detail in details)


@pytest.mark.ray
def test_a_run_on_ray_stops(ray_cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The worker's error becomes the job's. How it goes on is the same without Ray."""
    words = [*WORDS, *NO_JUDGED, f"out={tmp_path / 'run'}"]
    with without_ray():
        for job in ("generate", "select"):
            assert main([job, *words]) == 0
    assert main(["judge", *words, f"ray.address={ray_cluster}"]) == 1
    said = capsys.readouterr().err
    assert "of the first 50 verdicts cannot be read" in said and "Let me look at both" in said


def test_it_can_be_told_to_go_on_and_cut_verdicts_are_asked_again_by_retry(no_ray: None, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert main(["run", *WORDS, *NO_JUDGED, f"out={out}", "judge.max_invalid=1", "prompts.limit_clusters=1"]) == 0

    def invalid() -> list[dict[str, Any]]:
        games = [g for row in rows_of(RunFolder(out), "games", "games") for g in row["games"]]
        return [g for g in games if g["verdict"] == "invalid"]

    assert invalid() and all("cut" in g["reason"] and "Let me look at both" in g["reason"] for g in invalid())
    assert main(["retry", out, "engines.judge.verdict_tokens=128"]) == 0
    assert invalid() == []
