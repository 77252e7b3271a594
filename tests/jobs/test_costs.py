"""Pilots, estimates and the account of a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.core.folder import RunFolder
from pipeline.core.row import Candidate, Row, Selection, Usage
from pipeline.engines.base import PriceConfig
from pipeline.execution.control import Ledger
from pipeline.jobs.pilot import choose_pilot, write_pilot
from pipeline.stats.costs import (
    Costs,
    PilotRow,
    StageCost,
    Stratum,
    count_costs,
    extrapolate,
    extrapolate_passes,
    pass_costs,
    weights,
)
from pipeline.stats.counts import SelectorCounts
from pipeline.stats.system_costs import Gain, SystemCosts
from tests.conftest import rows_of, run_with_prompts

PRICED = ["engines.generator.price={prompt: 1, cached: 0.5, completion: 4}", "engines.judge.price.hour=36"]


def used(stage: str, prompt: int, completion: int, cached: int = 0, job: str = "generate") -> Usage:
    return Usage(job, stage, "m", 1, prompt, cached, completion)


def config(*words: str) -> Config:
    return load_config(["dummy", "execution.progress=false", *words])


def test_a_pilot_takes_every_stratum_in_proportion_and_by_hash() -> None:
    tasks: list[Stratum] = [("de", "open")] * 60 + [("ja", "open")] * 30 + [("ja", "math")] * 10
    rows = [(f"p{i}", stratum) for i, stratum in enumerate(tasks)]
    chosen = choose_pilot(rows, 10, seed=1)
    assert Counter(tasks[i] for i in chosen) == {("de", "open"): 6, ("ja", "open"): 3, ("ja", "math"): 1}
    assert chosen == sorted(chosen) and chosen == choose_pilot(rows, 10, seed=1)
    assert chosen != choose_pilot(rows, 10, seed=2)
    backwards = choose_pilot(rows[::-1], 10, seed=1)
    assert sorted(len(rows) - 1 - i for i in backwards) == chosen  # by content, not by position
    assert choose_pilot(rows[:3], 10, seed=1) == [0, 1, 2]


def test_weights_add_up_to_the_population() -> None:
    population: Counter[Stratum] = Counter({("de", "open"): 70, ("ja", "open"): 20, ("ko", "open"): 10})
    found = weights([("de", "open"), ("de", "open"), ("ja", "open"), ("ja", "open")], population)
    assert found == [37.5, 37.5, 12.5, 12.5]
    assert sum(found) == 100


def test_the_estimate_weighs_strata_and_audits_apart() -> None:
    population: Counter[Stratum] = Counter({("de", "open"): 30, ("ja", "open"): 10})
    rows = [
        PilotRow(("de", "open"), [used("generate:hedged", 10, 100, 4), used("audit", 50, 0, job="judge")]),
        PilotRow(("ja", "open"), [used("generate:hedged", 20, 300), used("audit", 70, 0, job="judge")]),
    ]
    costs = extrapolate(
        config(*PRICED), rows, population, {"generate:hedged": "generator", "audit": "judge"}, audited=4.0
    )
    made, audit = costs.stages
    assert (made.stage, made.requests, made.prompt_tokens, made.completion_tokens) == ("generate:hedged", 40, 500, 6000)
    assert (audit.stage, audit.prompt_tokens, audit.money) == ("audit", 480, None)
    assert made.money == pytest.approx((380 * 1 + 120 * 0.5 + 6000 * 4) / 1e6)
    assert (costs.rows, costs.pilot, costs.tokens) == (40, 2, 6980)
    assert costs.low is not None and costs.high is not None and costs.low < costs.tokens < costs.high
    assert Costs.from_json(costs.as_json()) == costs


def test_the_time_grows_with_the_rows_but_a_model_loads_once(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    done = {"seconds": 130.0, "busy_seconds": 60.0, "workers": 2, "engine": "judge", "stages": ["judge"]}
    run.write_json({"passes": {"judge-judge-2": done}}, "manifest.json")  # the name says nothing
    settings = config(*PRICED, "engines.judge.pool.size=4")
    (estimated,) = extrapolate_passes(settings, run, factor=10)
    assert estimated.seconds == 100 + 60 * 10 / 4
    assert estimated.engine_hours == pytest.approx(250 * 4 / 3600)
    assert estimated.money == pytest.approx(36 * 250 * 4 / 3600)
    (true,) = pass_costs(settings, run)
    assert (true.seconds, true.money) == (130, pytest.approx(36 * 130 * 4 / 3600))
    run.write_json({"passes": {"select-cpu": done | {"engine": ""}}}, "manifest.json")
    (estimated,) = extrapolate_passes(settings, run, factor=10, cpu_workers=3)
    assert (estimated.seconds, estimated.engine_hours) == (100 + 60 * 10 / 3, 0)


@pytest.mark.usefixtures("no_ray")
def test_adaptive_rounds_and_last_passes_are_charged_to_their_engines(tmp_path: Path) -> None:
    """A pass's name says neither its round nor whether it is the last one on its engine."""
    words = ["engines.generator.price={prompt: 1, completion: 4, hour: 36}", "engines.judge.price.hour=36"]
    words += ["sampling.n=6", "sampling.adaptive={by: best_of_n, first: 3, mean_n: 4, rounds: 2}"]
    words += ["engines.reward.price={prompt: 2, hour: 36}", "winrate.draws=50", f"out={tmp_path / 'run'}"]
    words += ["prompts.limit_clusters=4", *(f"selectors.{name}=null" for name in ("random", "mbr", "judge", "chops"))]
    settings = config(*words)
    assert main(["run", "dummy", "execution.progress=false", *words]) == 0
    run = RunFolder(str(tmp_path / "run"))
    costs = count_costs(settings, run, "games")
    named = {p.name: p for p in costs.passes}
    late = [name for name in named if name.startswith("generate-generator-")]
    assert late and all(named[name].engine_hours > 0 and named[name].money for name in late), named
    assert all(p.engine_hours > 0 for p in costs.passes if p.seconds), named
    stages = {s.stage: s for s in costs.stages}
    assert stages["generate:hedged:2"].engine == "generator" and stages["generate:hedged:2"].money
    assert stages["score:hedged:1"].engine == "reward" and stages["score:hedged:1"].money


def test_hours_count_towards_the_limit_on_money(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    ledger = Ledger(run, {"p": (PriceConfig(hour=3600 * 1000), 2)})
    ledger.update("p", 0, 0, 0)
    assert ledger.total()[1] > 0
    ledger.save()
    Ledger.transfer(other := RunFolder(str(tmp_path / "other")), "pilot", run)
    assert Ledger(other, {"q": (PriceConfig(), 1)}).total()[1] == pytest.approx(ledger.total()[1])


def test_the_pilot_has_the_same_prompts_numbered_anew(tmp_path: Path) -> None:
    run, pilot = run_with_prompts(tmp_path / "run", 20), RunFolder(str(tmp_path / "pilot"))
    write_pilot(run, pilot, 5, seed=1)
    rows = rows_of(pilot, "prompts", "prompt_id", "messages", "source")
    whole = {r["prompt_id"]: r for r in rows_of(run, "prompts", "prompt_id", "messages", "source")}
    assert [r["row_id"] for r in rows] == [0, 1, 2, 3, 4]
    assert all({**r, "row_id": 0} == {**whole[r["prompt_id"]], "row_id": 0} for r in rows)
    marker = pilot.marker("prompts")
    assert marker is not None and (marker["rows"], marker["fingerprint_hash"]) == (5, "test")


def test_a_system_is_charged_with_what_was_asked_for_its_sake() -> None:
    settings = config(*PRICED, "sampling.n=5")
    made = StageCost(200, 2000, 0, 50_000, "generate", "generate:hedged", engine="generator", money=0.202)
    asked = StageCost(300, 9000, 0, 1000, "select", "select:chops", engine="judge")  # 100 prompts
    stages = [made, asked, StageCost(800, 10**6, 0, 0, "judge", "judge")]
    one = SelectorCounts("hedged/sample", "hedged", "sample", n=100)
    chops = SelectorCounts("hedged/chops", "hedged", "chops", n=90, missing=10, fallbacks=10)
    costs = SystemCosts(settings)
    for i in range(100):
        pool = [Candidate("x", plan="hedged", num_tokens=100) for _ in range(5)]
        chosen = [Selection("hedged", "sample", 1, "x"), Selection("hedged", "chops", 2, "x")]
        usage = [Usage("select", "select:chops", "m", 3, 90, 0, 10)]
        costs.add(Row(i, f"p{i}", candidates=pool, selections=chosen, usage=usage))
    gains = {"hedged/chops": Gain("hedged/sample", "win-rate", 10.0, 2.0, 18.0, True)}
    gains |= {"hedged/sample": Gain("hedged/sample", "win-rate"), "gpt": gains["hedged/chops"]}
    sample, best = costs.finish(stages, [one, chops], gains, set())
    assert (sample.is_base, sample.tokens, sample.calls) == (True, 100, 0)
    assert (sample.accepted, sample.accepted_tokens) == (100, (1000 + 10_000) / 100)
    assert sample.accepted_money == pytest.approx((1000 * 1 + 10_000 * 4) / 1e6 / 100)
    assert (best.n_prompts, best.accepted, best.accepted_tokens) == (100, 80, (52_000 + 10_000) / 80)
    assert best.accepted_money == pytest.approx((2000 * 1 + 50_000 * 4) / 1e6 / 80)  # this judge is paid by the hour
    assert (best.tokens, best.calls) == (500 + 100, 3)
    assert (best.tokens_per_point, best.calls_per_point) == (50, pytest.approx(0.3))
    assert best.money_per_point == pytest.approx((0.202 - 0.041) / 100 / 10)
    unsure = {**gains, "hedged/chops": Gain("hedged/sample", "win-rate", 10.0, -2.0, 18.0)}
    for not_bought in (costs.finish(stages, [one, chops], unsure, set()), costs.finish(stages, [chops], gains, set())):
        assert not_bought[-1].gain == 10.0 and not_bought[-1].tokens_per_point is None
    assert costs.finish(stages, [one, chops], gains, {"hedged/chops"})[1].calls_per_point is None  # an upper bound


@pytest.mark.usefixtures("no_ray")
def test_run_prints_the_estimate_and_the_truth_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the dummy's 56 prompts 10 are the pilot; the second run knows its estimate and runs nothing."""
    words = [*PRICED, "execution.progress=false", "execution.pilot=10", "judge.audit=2", "winrate.draws=100"]
    words += ["selectors={random: null, likelihood: null, best_of_n: null, judge: null}", f"out={tmp_path / 'run'}"]
    assert main(["run", "dummy", *words]) == 0
    run = RunFolder(str(tmp_path / "run"))
    shown = capsys.readouterr().out
    assert "␊" not in shown
    estimated, true = (Costs.from_json(run.read_json("manifest.json")["costs"][k]) for k in ("estimate", "truth"))
    assert (estimated.pilot, estimated.rows, true.rows) == (10, 56, 56)
    assert {s.stage for s in true.stages} == {s.stage for s in estimated.stages}
    assert {s.stage for s in true.stages} == {"generate:hedged", "select:chops", "judge", "audit"}
    ratio = estimated.tokens / true.tokens
    print(f"estimate {estimated.tokens:,.0f} tokens, truth {true.tokens:,.0f}: {ratio:.2f}")
    assert 0.8 < ratio < 1.25
    assert {p.name for p in true.passes} == {p.name for p in estimated.passes} and true.money
    assert f"truth: {true.tokens:,.0f} tokens" in shown and "estimated from 10" in shown
    systems = {s["system"]: s for s in run.read_json("manifest.json")["costs"]["systems"]}
    assert systems["hedged/chops"]["accepted"] == 56
    tokens = [systems[f"hedged/{name}"]["accepted_tokens"] for name in ("chops", "mbr", "sample")]
    assert tokens == sorted(tokens, reverse=True) and len(set(tokens)) == 3

    usage = [u for r in rows_of(run, "games", "usage") for u in r["usage"]]
    assert true.tokens == sum(u["prompt_tokens"] + u["completion_tokens"] for u in usage)
    assert true.stages == count_costs(load_config(["dummy", *words]), run, "games").stages
    spent = run.read_json("work", "spent.json")
    assert spent["pilot"]["tokens"] > 0.5 * estimated.tokens * 10 / 56

    assert main(["estimate", "dummy", *words]) == 0
    assert f"estimate: {estimated.tokens:,.0f} tokens" in capsys.readouterr().out
    assert run.read_json("work", "spent.json") == spent
