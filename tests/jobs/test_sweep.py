"""The sweep's plan and policy, and a whole sweep on the dummy engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.config.load import build_config, load_config, to_dict
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.jobs.sweep_plan import chosen_selector, metrics_of, policy_yaml, sweep_config
from pipeline.stats.sweep import SweepChoice
from tests.conftest import jsonl, rows_of

BASE: dict[str, Any] = {
    "engines": {"generator": {"kind": "dummy"}, "judge": {"kind": "dummy", "model": "judge"}},
    "sampling": {"kind": "hedged", "n": 5, "temperature": 0.9, "top_p": 0.95, "max_tokens": 8},
    "plans": {"other": {"kind": "single"}, "evidence": {"kind": "evidence"}},
    "selectors": {"random": {}, "mbr": {"utility": "chrf", "plans": ["hedged"]}, "chops": {"engine": "judge"}},
    "policy": {"default": {"plan": "other", "selector": "mbr"}},
    "sweep": {"temperatures": [1.0, 0.5], "min_p": [0.1, 0.0], "n": 3},
}


def config_of(**changes: Any) -> Any:
    sections = {key: {**BASE.get(key, {}), **value} for key, value in changes.items()}
    return build_config({**BASE, **sections})


def test_the_grid_becomes_plans_of_an_ordinary_run() -> None:
    planned = sweep_config(config_of())
    plans = planned.all_plans()
    assert list(plans) == ["greedy", "evidence", "t0.5-p0", "t0.5-p0.1", "t1-p0", "t1-p0.1"]
    hot = plans["t1-p0.1"]
    assert (hot.kind, hot.n, hot.temperature, hot.min_p, hot.top_p, hot.max_tokens) == ("single", 3, 1.0, 0.1, 0.95, 8)
    assert (plans["greedy"].n, plans["greedy"].max_tokens) == (1, 8)
    assert planned.systems() == ["greedy/greedy"] + [f"{p}/{s}" for s in ("sample", "mbr") for p in list(plans)[2:]]
    assert planned.policy == {} and planned.judge.engine is None
    assert to_dict(sweep_config(planned)) == to_dict(planned)  # the stored config resumes the sweep
    assert planned.sweep.base_setting() == "t0.5-p0"  # of the grid the nearest to 0.7


def test_a_judge_plays_candidates_against_the_bases_answer() -> None:
    planned = sweep_config(config_of(judge={"engine": "judge", "candidates": True}))
    assert planned.judge.opponent == "t0.5-p0/sample" and planned.judge.systems == []
    assert to_dict(sweep_config(planned)) == to_dict(planned)
    with pytest.raises(ConfigError, match=r"judge\.opponent: a sweep has no 'random'"):
        sweep_config(config_of(judge={"engine": "judge", "candidates": True, "opponent": "random"}))


def test_which_selector_and_metric_count() -> None:
    assert chosen_selector(config_of()) == "mbr"
    assert chosen_selector(config_of(sweep={"selector": "chops"})) == "chops"
    assert chosen_selector(build_config({**BASE, "selectors": {"random": {}}, "policy": {}})) == "sample"
    config = config_of(sweep={"metrics": {"translation": "bleu"}})
    assert metrics_of(config, "translation") == ("bleu",)
    assert metrics_of(config, "math") == ("accuracy", "win") and metrics_of(config, "open") == ("win",)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"temperatures": [0.0]}, r"sweep\.temperatures: must be above 0"),
        ({"temperatures": []}, r"sweep\.temperatures: a list"),
        ({"min_p": [0.1, 0.1]}, r"sweep\.min_p: a list of different"),
        ({"min_p": [2.0]}, r"sweep\.min_p: must be in"),
        ({"n": 0}, r"sweep\.n"),
        ({"development": 1.0}, r"sweep\.development"),
        ({"base": "t0.7-p0"}, r"sweep\.base: the grid has no 't0.7-p0'"),
        ({"selector": "mbrr"}, r"sweep\.selector: .*did you mean 'mbr'"),
        ({"tempratures": [1.0]}, r"sweep\.tempratures'; did you mean 'temperatures'"),
    ],
)
def test_a_sweep_that_cannot_work(sweep: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep_config(config_of(sweep=sweep))


def test_a_bound_and_what_no_setting_changes_are_no_systems() -> None:
    for kind in ("oracle", "greedy"):
        with pytest.raises(ConfigError, match=rf"sweep\.selector: {kind} "):
            sweep_config(config_of(selectors={kind: {}}, sweep={"selector": kind}))
    with pytest.raises(ConfigError, match=r"^sampling: null"):
        sweep_config(build_config({**BASE, "sampling": None, "selectors": {}, "policy": {}}))


def test_without_references_or_a_judge_there_is_nothing_to_choose_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "dummy", f"out={tmp_path / 'run'}", "prompts.limit_clusters=1"]) == 2
    assert "judge.candidates: the prompts have no references" in capsys.readouterr().err
    assert not (tmp_path / "run" / "candidates").exists()


def choice(task: str, language: str, recommended: str, resolved: bool = True) -> SweepChoice:
    found = SweepChoice(task, language, n=3, n_enough=2, note="because")
    return replace(found, recommended=recommended, resolved=resolved)


def test_the_policy_is_a_config_layer(tmp_path: Path) -> None:
    """A task's rule is its setting for all languages; a language has its own where that was shown to be better."""
    planned = sweep_config(config_of())
    choices = [
        choice("math", "all", "t0.5-p0.1"),
        choice("math", "es", "t0.5-p0", resolved=False),
        choice("math", "ja", "t1-p0"),
        choice("math", "de", "t0.5-p0.1"),
        choice("open", "all", "t0.5-p0", resolved=False),
    ]
    layer = tmp_path / "policy.yaml"
    layer.write_text(policy_yaml(planned, choices))
    user = tmp_path / "user.yaml"
    user.write_text("{engines: {generator: {kind: dummy}}, sampling: {kind: hedged}, selectors: {sample: {}}}")
    config = load_config([str(user), str(layer)])
    rules = {name: (r.task, r.language, r.plan, r.selector) for name, r in config.policy.items()}
    assert rules == {
        "default": (None, None, "t0.5-p0", "mbr"),
        "math": ("math", None, "t0.5-p0.1", "mbr"),
        "math_ja": ("math", "ja", "t1-p0", "mbr"),
        "open": ("open", None, "t0.5-p0", "mbr"),
    }
    assert config.sampling is None and set(config.plans) == {"t0.5-p0", "t0.5-p0.1", "t1-p0"}
    assert to_dict(config.plans["t1-p0"]) == to_dict(planned.plans["t1-p0"])
    assert config.systems() == ["policy/policy", "policy/sample"]
    assert "2 of 3 candidates give 90%" in layer.read_text()


@pytest.mark.usefixtures("no_ray")
def test_a_whole_sweep(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two tasks: translation by its references, open prompts by a judge's games; then its policy in a run."""
    items = [
        {
            "prompt_id": f"{task}-{language}-{i}",
            "cluster_id": f"{task}-{i}",
            "task": task,
            "language": language,
            "prompt": f"{task} {i}",
            "reference": "alpha bravo coral" if task == "translation" else None,
        }
        for task in ("translation", "open")
        for language in ("es", "ja")
        for i in range(8)
    ]
    prompts = jsonl(tmp_path / "prompts.jsonl", *items)
    out, words = tmp_path / "run", ["prompts.kind=file", f"prompts.path={prompts}", "execution.progress=false"]
    words += ["tasks.translation.target_language=en", "sampling.max_tokens=6", "winrate.draws=200"]
    words += ["metrics.learned.engine=reward"]
    sweep = ["sweep.temperatures=[0.7,1.0]", "sweep.n=3", "judge.candidates=true", "judge.audit=0"]
    assert main(["sweep", "dummy", f"out={out}", *words, *sweep]) == 0
    shown = capfd.readouterr().out
    assert "best setting for likelihood against t0.7-p0" in shown

    run = RunFolder(str(out))
    candidates = rows_of(run, "candidates", "candidates")
    assert [[c["plan"] for c in r["candidates"]] for r in candidates] == [
        ["greedy", *["t0.7-p0"] * 3, *["t1-p0"] * 3]
    ] * 32
    scorers = [{s["scorer"] for s in r["scores"]} for r in rows_of(run, "selections", "scores")]
    assert sum("metric:learned" in s for s in scorers) == 16  # translation prompts only
    curves = pq.read_table(out / "sweep.parquet").to_pylist()
    assert {(c["task"], c["metric"]) for c in curves} == {
        ("open", "win"),
        *(("translation", m) for m in ("bleu", "chrf", "learned", "win")),
    }
    of_chrf = [c for c in curves if (c["metric"], c["language"], c["setting"]) == ("chrf", "all", "t1-p0")]
    assert [c["n"] for c in of_chrf] == [1, 2, 3] and {c["n_prompts"] for c in of_chrf} == {16}
    assert of_chrf[0]["best"] < of_chrf[1]["best"] < of_chrf[2]["best"] and of_chrf[2]["hope"] > 0 > of_chrf[2]["risk"]
    choices = pq.read_table(out / "sweep_choices.parquet")
    assert pacsv.read_csv(out / "sweep_choices.csv").num_rows == choices.num_rows == 6
    assert {(c["task"], c["metric"]) for c in choices.to_pylist()} == {("open", "win"), ("translation", "chrf")}

    assert main(["sweep", f"out={out}"]) == 0  # the folder's own config; nothing is sampled again
    assert capfd.readouterr().out.count("done before") == 4
    used = ["dummy", f"{out}/policy.yaml", f"out={tmp_path / 'used'}", *words, "judge.engine=null"]
    used += ["selectors.judge=null", "selectors.chops=null"]
    for job in ("generate", "select", "winrate"):
        assert main([job, *used]) == 0
    scores = pq.read_table(tmp_path / "used" / "scores.parquet").to_pylist()
    assert {(s["system"], s["metric"]) for s in scores} >= {("policy/policy", "chrf"), ("policy/policy", "learned")}
