"""Config: strict keys, types and contradictions, each with a message that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.config.config import to_yaml
from pipeline.config.load import build_config, load_config, presets
from pipeline.core.errors import ConfigError
from pipeline.jobs.judge import independence
from pipeline.sampling.plans import Greedy, Hedged
from pipeline.selection.mbr import MBR


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["samplng.n=3"], ["'samplng'", "'sampling'"]),
        (["sampling.temprature=1"], ["'sampling.temprature'", "'temperature'"]),
        (["engines.generator.modle=x"], ["'engines.generator.modle'", "'model'"]),
        (["engines.generator.pool.siz=3"], ["'engines.generator.pool.siz'", "'size'"]),
        (["engines.judge.kind=vlm"], ["engines.judge.kind", "'vlm'", "'vllm'"]),
        (["engines.extra.model=x"], ["engines.extra.kind", "missing"]),
        (["sampling.n=abc"], ["sampling.n", "'abc'"]),
        (["sampling.n=1"], ["sampling.n: ", "hedged", "sampling.kind=greedy"]),
        (["sampling.kind=greedy", "sampling.n=2"], ["sampling.n: ", "greedy"]),
        (["sampling.kind=single", "sampling.temperature=0"], ["sampling.temperature: ", "greedy"]),
        (["sampling.top_p=0"], ["sampling.top_p"]),
        (["selectors.mrb.utility=chrf"], ["selectors.mrb", "'mbr'"]),
        (["selectors.mbr.utility=chf"], ["selectors.mbr.utility", "'chf'", "'chrf'"]),
        (["selectors.best_of_n.engine=judg"], ["selectors.best_of_n.engine", "'judg'", "'judge'"]),
        (["selectors.best_of_n.engine=null"], ["selectors.best_of_n.engine", "reward"]),
        (["selectors.mbr.plans=[hedgd]"], ["selectors.mbr.plans", "'hedgd'", "'hedged'"]),
        (["selectors.chops.template=nope"], ["selectors.chops.template", "'nope'"]),
        (["judge.scores=warm"], ["judge.scores", "warm"]),
        (["winrate.confidence=2"], ["winrate.confidence"]),
        (["prompts.shard_rows=0"], ["prompts.shard_rows"]),
        (["report=3"], ["report", "map"]),
        (["seed=x"], ["seed", "'x'"]),
        (["modules=[no_such_module_here]"], ["modules", "no_such_module_here"]),
        (["report.title=${oc.env:HOME}"], ["report.title", "environment"]),
        (["report.title=${nothing.here}"], ["nothing.here"]),
        (["no/such/file.yaml"], ["no/such/file.yaml"]),
        (["dumy"], ["'dummy'"]),
    ],
)
def test_a_mistake_is_named(words: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(["dummy", *words])
    assert error.value.exit_code == 2
    for part in parts:
        assert part in str(error.value)


def test_layers_merge_left_to_right(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("sampling: {n: 7}\nselectors: {chops: null, alike: {kind: mbr}}\n")
    config = load_config(["dummy", str(mine), "sampling.temperature=0.9"])
    assert isinstance(config.sampling, Hedged)
    assert (config.sampling.n, config.sampling.temperature, config.sampling.max_tokens) == (7, 0.9, 64)
    assert isinstance(config.selectors["alike"], MBR)
    assert "chops" not in config.selectors


def test_another_kind_replaces_the_item_instead_of_mixing_keys() -> None:
    config = load_config(["demo", "engines.generator.kind=dummy"])
    assert config.engines["generator"].kind == "dummy"
    assert config.engines["judge"].kind == "dummy"  # the demo's judge is its generator
    assert config.engines["generator"].model == ""
    assert isinstance(load_config(["dummy", "sampling.kind=greedy"]).sampling, Greedy)


def test_the_resolved_config_of_every_preset_reads_back_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(key, "none")
    for name, path in presets().items():
        text = path.read_text(encoding="utf-8")
        words = [name]
        words += ["prompts.path=x.jsonl"] if "path: ???" in text else []
        words += ["prompts.paths.en=x.tsv"] if "paths: ???" in text else []
        if "engines.generator}" in text and "generator:" not in text:  # an experiment: it takes any model
            words.append("models/aya-expanse-8b")
        config = load_config(words)
        again = build_config(OmegaConf.to_container(OmegaConf.create(to_yaml(config))))  # type: ignore[arg-type]
        assert again == config


def test_numbers_as_text_become_numbers() -> None:
    assert load_config(["dummy", 'seed="5"']).seed == 5


def test_capabilities_are_checked_before_anything_loads() -> None:
    with pytest.raises(ConfigError, match=r"selectors.chops.engine: engine 'reward' cannot generate"):
        load_config(["demo", "selectors.chops.engine=reward"])


def test_a_judge_that_selected_or_wrote_is_named() -> None:
    words = ["dummy", "selectors.other={kind: judge, engine: second}"]
    config = load_config([*words, "engines.second={kind: dummy, model: dummy-judge}"])
    assert config.judge_conflicts() == (["judge", "chops", "other"], [])  # the same engine, or the same model
    assert [line.partition(" selected with ")[0] for line in independence(config)] == ["judge, chops, other"]
    config = load_config([*words, "engines.second={kind: dummy, model: x}", "judge.engine=generator"])
    assert config.judge_conflicts() == ([], ["hedged"])
    assert "models favour their own" in independence(config)[0]
    config = load_config([*words, "engines.second={kind: dummy, model: x}", "judge.engine=second"])
    assert config.judge_conflicts() == (["other"], [])
    assert independence(load_config(["dummy", "judge.engine=null"])) == []
