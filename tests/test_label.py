"""Offline labelling: answers that three real models gave to 500 real prompts are selected from, in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.errors import ConfigError
from pipeline.scoring.chrf import chrf_matrix
from pipeline.storage import RunFolder
from tests.conftest import rows_of

ARENA = Path(__file__).parents[2] / "shared" / "data" / "arena-hard-v0.1"
MODELS = ("gpt-4-0314", "gpt-4-0613", "gpt-3.5-turbo-0125")


def words(out: Path) -> list[str]:
    files = ", ".join(f"{m}: {ARENA / 'model_answer' / f'{m}.jsonl'}" for m in MODELS)
    return [
        "select",
        "label",
        f"out={out}",
        f"prompts.path={ARENA / 'question.jsonl'}",
        "prompts.columns={id: uid, cluster: uid}",
        f"prompts.given={{files: {{{files}}}, id: uid, text: messages.1.content.answer}}",
    ]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.skipif(not ARENA.is_dir(), reason="the arena-hard-v0.1 answers are not beside the checkout")
def test_five_hundred_prompts_are_labelled(tmp_path: Path) -> None:
    assert main([*words(tmp_path / "run"), "execution.progress=false"]) == 0
    rows = rows_of(
        RunFolder(str(tmp_path / "run")), "selections", "candidates", "scores", "selections", "source", "errors"
    )
    assert len(rows) == 500
    assert {"category", "cluster"} <= set(rows[0]["source"])
    for row in rows:
        assert [(c["model"], c["origin"]) for c in row["candidates"]] == [(m, "given") for m in MODELS]
        chosen = {s["method"]: s for s in row["selections"]}
        assert set(chosen) == {"longest", "mbr"}
        texts = [c["text"] for c in row["candidates"]]
        assert len(chosen["longest"]["text"]) == max(map(len, texts))
        assert row["errors"] == []
    for row in rows[:25]:
        texts = [c["text"] for c in row["candidates"]]
        matrix = chrf_matrix(texts, texts)
        means = [(sum(r) - r[i]) / 2 for i, r in enumerate(matrix)]
        (score,) = [s for s in row["scores"] if s["scorer"] == "mbr"]
        assert score["values"] == pytest.approx(means)


def test_the_recipe_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.path"):
        load_config(["label"])


def test_nothing_is_sampled_where_candidates_are_given(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps({"prompt": "Q?", "answers": ["a", "b"]}) + "\n")
    config = load_config(["label", f"prompts.path={tmp_path / 'q.jsonl'}", "prompts.given.column=answers"])
    assert config.sampling is None
    assert config.sets() == ["given"]
    sampled = load_config(
        ["label", "prompts.path=x", "prompts.given.column=a", "sampling.kind=greedy", "engines.generator.kind=dummy"]
    )
    assert sampled.sets() == ["given", "greedy"]
