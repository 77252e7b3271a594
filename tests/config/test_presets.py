"""The presets of the paper: its settings, its data's columns, and GPUs that are enough for each model."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.config import Config
from pipeline.config.load import load_config, presets
from pipeline.config.sections import NodeGroup
from pipeline.core.folder import RunFolder
from pipeline.engines import vllm
from pipeline.execution.placement import plan, spell
from pipeline.jobs import judge, run
from pipeline.prompts.sources import read_prompts
from pipeline.tasks.translation import Translation
from tests.conftest import jsonl, rows_of

MODELS = ["models/aya-expanse-8b", "models/skywork-reward-v2", "models/gpt-4o"]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(key, "none")


def test_everything_that_the_paper_compares_has_a_preset() -> None:
    known = presets()
    for name in ("aya-expanse-8b", "qwen3-8b", "command-a", "gemma-3-27b", "skywork-reward-v2", "inf-orm-70b"):
        assert f"models/{name}" in known
    for name in ("gpt-4o", "gpt-4o-opponent", "gemini-flash", "gemini-pro"):
        assert f"models/{name}" in known
    assert {"m-arena-hard", "mgsm", "wmt24pp", "distill", "distill-mgsm", "label"} <= set(known)


def test_the_demos_examples_are_no_prompts(tmp_path: Path) -> None:
    config = load_config(["demo-translation", "engines.generator={kind: dummy, model: m}", f"out={tmp_path}"])
    run.check(config)
    read_prompts(config.prompts, RunFolder(str(tmp_path)))
    rows = rows_of(RunFolder(str(tmp_path)), "prompts", "language", "messages", "reference")
    languages = {row["language"] for row in rows}
    assert len(rows) == 96 and len(languages) == 8
    task = config.tasks["translation"]
    assert isinstance(task, Translation) and {shot.language for shot in task.few_shot} == languages
    told = {text for shot in task.few_shot for text in (shot.source, shot.target)}
    assert not told & {text for row in rows for text in (row["messages"][0]["content"], row["reference"])}


def test_the_main_experiment_has_the_papers_settings() -> None:
    config = load_config(["m-arena-hard", *MODELS, "models/gemini-flash"])
    run.check(config)  # nothing is missing, every engine can do what it is asked for
    assert config.sampling is not None
    assert (config.sampling.kind, config.sampling.n, config.sampling.temperature) == ("hedged", 5, 0.7)
    assert config.plans["evidence"].n == 3
    assert {"mbr", "xmbr", "chops", "best_of_n", "fusion"} <= set(config.selectors)
    assert config.judge.scores == "hard"
    assert config.engines["judge"].model == "gpt-4o-2024-05-13"
    assert judge.systems(config)[1] == "gemini"
    assert judge.independence(config) == []  # the win-rate judge neither wrote nor selected

    own = load_config(["m-arena-hard", "models/command-a", "models/gpt-4o"])
    run.check(own)
    assert own.engines["selects"] == own.engines["generator"]
    assert own.judge.opponent == "sample"


def test_comparisons_are_fair() -> None:
    """X-MBR beside MBR with as many generations; FusioN beside its fusor alone; nobody else uses those sets."""
    for name, more in (("m-arena-hard", ["models/gpt-4o"]), ("mgsm", []), ("wmt24pp", []), ("distill", [])):
        paths = {"mgsm": ["prompts.paths.en=x"], "wmt24pp": ["prompts.path=x"]}.get(name, [])
        model = [] if name == "distill" else ["models/aya-expanse-8b"]
        config = load_config([name, *model, *more, *paths])
        plans = config.all_plans()
        assert plans["alone"].engine == config.selectors["fusion"].engine and plans["alone"].n == 1
        assert "alone/fusor_alone" in config.systems()
        if name == "m-arena-hard":
            assert config.sampling and plans["more"].n == config.sampling.n + plans["evidence"].n
            assert "more/mbr_more" in config.systems() and "hedged/xmbr" in config.systems()
        users = {s.split("/")[0]: s for s in config.systems()}
        assert [s for s in config.systems() if s.split("/")[0] in ("more", "alone")] == [
            users[k] for k in ("more", "alone") if k in users
        ]


@pytest.mark.parametrize("name", ["mgsm", "wmt24pp"])
def test_experiments_with_references_ask_no_judge(name: str, tmp_path: Path) -> None:
    (tmp_path / "de.tsv").write_text("Wie viel ist 2 + 3?\t5\nWie viel ist 4 + 4?\t8\n")
    (tmp_path / "en.tsv").write_text("How much is 2 + 3?\t5\nHow much is 4 + 4?\t8\n")
    segment = {"source": "Good morning.", "segment_id": 7, "is_bad_source": False}
    segments = jsonl(
        tmp_path / "wmt.jsonl",
        {**segment, "target": "Guten Morgen.", "language": "de"},
        {**segment, "target": "おはようございます。", "language": "ja"},
    )
    data = {
        "mgsm": [f"prompts.paths={{de: {tmp_path / 'de.tsv'}, en: {tmp_path / 'en.tsv'}}}"],
        "wmt24pp": [f"prompts.path={segments}"],
    }[name]
    config = load_config([name, "models/aya-expanse-8b", *data, f"out={tmp_path / 'run'}"])
    run.check(config)
    assert not config.judges()
    folder = RunFolder(config.out)
    report = read_prompts(config.prompts, folder)
    rows = rows_of(folder, "prompts", "task", "language", "cluster_id", "messages", "reference")
    assert len({r["language"] for r in rows}) == 2
    assert report.clusters == len(rows) / 2  # one question in both languages
    assert all(r["reference"] for r in rows)
    assert {r["task"] for r in rows} == {"math" if name == "mgsm" else "translation"}


def test_five_teachers_fill_one_candidate_set() -> None:
    config = load_config(["distill"])
    run.check(config)
    assert config.sets_of("fusion") == config.sets_of("random") == ["teachers"]
    plans = config.all_plans().values()
    assert len({config.engines[p.engine].model for p in plans}) == 5
    assert {(p.n, p.temperature) for p in plans} == {(1, 0.3)}


GPUS = {
    "models/aya-expanse-8b": (1, "1 x CohereLabs/aya-expanse-8b on 1 GPU"),
    "models/command-a": (4, "1 x CohereLabs/c4ai-command-a-03-2025 TP=4 on 4 GPUs"),
    "models/inf-orm-70b": (2, "1 x infly/INF-ORM-Llama3.1-70B on 2 GPUs"),
    "models/gemini-flash": (0, "1 x gemini-2.0-flash on CPUs"),
}


@pytest.mark.parametrize("name", GPUS)
def test_models_fit_on_the_gpus_that_they_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm.vllm_cpu, "is_cpu_build", lambda: False)
    gpus, words = GPUS[name]
    config: Config = load_config([name])
    assert spell(plan(config.engines, [NodeGroup(1, gpus, 16)])) == words
