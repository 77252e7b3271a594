"""The planner: cluster shapes and model sizes, impossible ones included; placement groups on pretend GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.config.sections import NodeGroup
from pipeline.core.errors import ConfigError
from pipeline.core.layers import Layer
from pipeline.engines import vllm
from pipeline.engines.base import EngineConfig, PoolConfig
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.engines.openai import OpenAIEngineConfig
from pipeline.engines.transformers import TransformersEngineConfig
from pipeline.engines.vllm import VLLMEngineConfig
from pipeline.execution.placement import plan, spell
from pipeline.execution.planning import place_passes
from pipeline.execution.schedule import Planned, Step
from pipeline.execution.spec import LayerSpec
from pipeline.tasks.measure import MeasureStage
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm.vllm_cpu, "is_cpu_build", lambda: False)


def engine(tp: int = 1, pp: int = 1, model: str = "m", **pool: Any) -> VLLMEngineConfig:
    return VLLMEngineConfig(model=model, tensor_parallel_size=tp, pipeline_parallel_size=pp, pool=PoolConfig(**pool))


def nodes(*shapes: tuple[int, float, float]) -> list[NodeGroup]:
    """(count, GPUs, CPUs) each."""
    return [NodeGroup(*shape) for shape in shapes]


DGX = nodes((1, 8, 96))
FITS: list[tuple[str, EngineConfig, list[NodeGroup], str]] = [
    ("laptop, dummy", DummyEngineConfig(model="d"), nodes((1, 0, 8)), "1 x d on CPUs"),
    (
        "laptop, 12 dummies of half a CPU",
        DummyEngineConfig(model="d", pool=PoolConfig(size=12)),
        nodes((1, 0, 8)),
        "12 x d on CPUs",
    ),
    ("one GPU, 8B", engine(), nodes((1, 1, 8)), "1 x m on 1 GPU"),
    ("half a GPU", engine(size=2, num_gpus=0.5), nodes((1, 1, 8)), "2 x m on 1 GPU"),
    ("three to a GPU", engine(size=6, num_gpus=0.33), nodes((1, 2, 8)), "6 x m on 1.98 GPUs"),
    ("a share on another node each", engine(size=4, num_gpus=0.5), nodes((2, 1, 8)), "4 x m on 2 GPUs"),
    ("8B on all of a node", engine(size=8), DGX, "8 x m on 8 GPUs"),
    ("111B, TP=4, four nodes of 4", engine(4, size=4), nodes((4, 4, 48)), "4 x m TP=4 on 16 GPUs"),
    ("111B, TP=4, two nodes of 8", engine(4, size=4), nodes((2, 8, 96)), "4 x m TP=4 on 16 GPUs"),
    ("32B, TP=2, GPUs and CPU nodes mixed", engine(2, size=3), nodes((3, 2, 16), (4, 0, 64)), "3 x m TP=2 on 6 GPUs"),
    ("uneven nodes", engine(2, size=4), nodes((1, 8, 64), (3, 1, 8)), "4 x m TP=2 on 8 GPUs"),
    ("PP inside a node", engine(2, 2), nodes((1, 4, 32)), "1 x m TP=2 PP=2 on 4 GPUs"),
    ("PP over two nodes", engine(8, 2), nodes((2, 8, 96)), "1 x m TP=8 PP=2 on 16 GPUs, each over several nodes"),
    ("TP over two nodes", engine(16), nodes((2, 8, 96)), "1 x m TP=16 on 16 GPUs, each over several nodes"),
    (
        "two engines over two nodes each",
        engine(4, 2, size=2),
        nodes((4, 4, 48)),
        "2 x m TP=4 PP=2 on 16 GPUs, each over several nodes",
    ),
    ("over nodes of one GPU", engine(1, 4), nodes((4, 1, 8)), "1 x m PP=4 on 4 GPUs, each over several nodes"),
    ("autoscaling, all may come", engine(min_size=2, max_size=8), nodes((8, 1, 8)), "2 to 8 x m on up to 8 GPUs"),
    (
        "autoscaling, capped by the cluster",
        engine(4, min_size=1, max_size=9),
        nodes((3, 4, 48)),
        "1 to 3 x m TP=4 on up to 12 GPUs",
    ),
    (
        "an endpoint needs no GPU",
        OpenAIEngineConfig(model="gpt", pool=PoolConfig(size=2)),
        nodes((1, 0, 4)),
        "2 x gpt on CPUs",
    ),
    ("transformers on a GPU", TransformersEngineConfig(model="r", device="cuda"), nodes((1, 2, 16)), "1 x r on 1 GPU"),
    (
        "transformers over 3 GPUs",
        TransformersEngineConfig(model="r", pool=PoolConfig(num_gpus=3)),
        DGX,
        "1 x r on 3 GPUs",
    ),
]
IMPOSSIBLE: list[tuple[str, EngineConfig, list[NodeGroup], str]] = [
    (
        "no GPU at all",
        engine(),
        nodes((4, 0, 64)),
        r"1 x 1 GPU and 0.5 CPUs do not fit on 4 nodes of 0 GPUs and 64 CPUs: not even one would",
    ),
    ("a larger pool", engine(size=9), DGX, r"8 would; set engines.x.pool.size=8"),
    ("TP=4 on nodes of 2, 3 GPUs in all", engine(4), nodes((1, 2, 16), (1, 1, 16)), r"not even one would"),
    ("two TP=4 on 6", engine(4, size=2), nodes((1, 6, 48)), r"1 would; set engines.x.pool.size=1"),
    ("TP=3 leaves GPUs unused", engine(3, size=3), nodes((1, 8, 64)), r"2 would"),
    ("three spread on two pairs", engine(4, 2, size=3), nodes((4, 4, 48)), r"2 would; set engines.x.pool.size=2"),
    (
        "transformers cannot span nodes",
        TransformersEngineConfig(model="r", pool=PoolConfig(num_gpus=4)),
        nodes((2, 2, 16)),
        r"kind transformers cannot span nodes",
    ),
    ("shares do not add up", engine(size=3, num_gpus=0.6), nodes((1, 2, 8)), r"2 would"),
    ("one and a half GPUs", engine(num_gpus=1.5), DGX, r"num_gpus=1.5: a share of one GPU, or a whole number"),
    ("num_gpus against TP", engine(4, num_gpus=1), DGX, r"num_gpus=1: .* is 4, so one actor needs 4 GPUs"),
    ("too few CPUs on the GPU node", engine(size=4, num_cpus=8), nodes((1, 8, 16), (1, 0, 64)), r"2 would"),
    (
        "no CPU left beside the pool",
        DummyEngineConfig(pool=PoolConfig(size=14)),
        nodes((1, 0, 8)),
        r"leave 1 of the 8 CPUs, and Ray's own work needs 2",
    ),
    ("two CPUs", DummyEngineConfig(), nodes((1, 0, 2)), r"leave 1.5 of the 2 CPUs"),
    ("at least five", engine(min_size=5, max_size=9), nodes((4, 1, 8)), r"5 x 1 GPU .* 4 would"),
    ("an empty cluster", DummyEngineConfig(), [], r"a cluster without nodes: not even one would.*ray.nodes"),
]


@pytest.mark.parametrize(("engine", "cluster", "words"), [c[1:] for c in FITS], ids=[c[0] for c in FITS])
def test_what_fits_is_spelt_out(engine: EngineConfig, cluster: list[NodeGroup], words: str) -> None:
    assert spell(plan({"x": engine}, cluster)) == words


@pytest.mark.parametrize(("engine", "cluster", "message"), [c[1:] for c in IMPOSSIBLE], ids=[c[0] for c in IMPOSSIBLE])
def test_what_does_not_fit_is_refused(engine: EngineConfig, cluster: list[NodeGroup], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        plan({"x": engine}, cluster)
    assert str(error.value).startswith("engines.x")


def test_pools_run_one_after_the_other_so_each_may_take_the_whole_cluster() -> None:
    engines = {"generator": engine(4, model="Command A", size=4), "reward": engine(model="reward", size=8)}
    places = plan(engines, nodes((2, 8, 96)))
    assert spell(places) == "4 x Command A TP=4 on 16 GPUs, then 8 x reward on 8 GPUs"


def test_tensor_parallelism_over_the_network_comes_with_advice() -> None:
    (place,) = plan({"x": engine(16)}, nodes((2, 8, 96)))
    assert "tensor_parallel_size=8 with pipeline_parallel_size=2" in place.advice
    (place,) = plan({"x": engine(8, 2)}, nodes((2, 8, 96)))
    assert place.advice == ""


def test_a_spread_engine_is_started_by_ray_and_gives_the_same_answers() -> None:
    before = engine(8, 2)
    after = before.spread()
    assert (before.is_spread(), after.is_spread()) == (False, True)
    assert after.engine_args["distributed_executor_backend"] == "ray"


def test_the_nodes_of_an_autoscaling_cluster_come_from_the_config() -> None:
    config = load_config(["dummy", "ray.nodes=[{count: 2, gpus: 8, cpus: 96}, {cpus: 16}]"])
    assert config.ray.nodes == nodes((2, 8, 96), (1, 0, 16))
    with pytest.raises(ConfigError, match="gpu"):
        load_config(["dummy", "ray.nodes=[{count: 2, gpu: 8}]"])


PRETEND = """
import ray, sys
from dataclasses import dataclass
from pipeline.engines.base import PoolConfig
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.execution.pool import Placing, nodes_up
from pipeline.execution.placement import plan
from tests.conftest import run_with_prompts
from tests.execution.test_passes import sample
from ray.cluster_utils import Cluster

@dataclass
class Large(DummyEngineConfig):
    '''A dummy engine that asks for as many GPUs as a large model.'''
    kind = "dummy"
    def gpus(self): return 8.0
    def parallel(self): return 4, 2
    def can_spread(self): return True
    def is_spread(self): return True

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, "num_gpus": 4, "include_dashboard": False})
size = int(sys.argv[2])
for _ in range(2 * size - 1):
    cluster.add_node(num_cpus=2, num_gpus=4)
ray.init(address=cluster.address, log_to_driver=False)
engine = Large(model="large", pool=PoolConfig(size=size), latency=0.2)
(place,) = plan({"large": engine}, nodes_up())
print("plan:", place)
seen = []
release = Placing.release
def look(self):
    table = ray.util.placement_group_table()
    for group in self._groups:
        info = table[group.id.hex()]
        nodes = list(info["bundles_to_node_id"].values())
        seen.append((info["state"], len(nodes), sorted(nodes.count(n) for n in set(nodes))))
    release(self)
Placing.release = look
summary = sample(run_with_prompts(sys.argv[1], 40, shard_rows=4), engine)
for state, bundles, per_node in seen:
    print("group:", state, bundles, per_node)
import time
time.sleep(1)
print("left:", [g["state"] for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"])
print("rows:", summary.rows, summary.failed, "free GPUs:", ray.available_resources()["GPU"])
ray.shutdown(); cluster.shutdown()
"""


@pytest.mark.slow  # one engine over two nodes is in the submitted run of tests/jobs/test_submit.py
@pytest.mark.ray
@pytest.mark.parametrize("size", [1, 2])
def test_engines_over_several_nodes_get_a_placement_group_each_which_ends_with_the_pass(
    size: int, tmp_path: Path
) -> None:
    """Two raylets with 4 pretend GPUs each hold an engine of TP=4 x PP=2; afterwards all GPUs are free again."""
    command = [sys.executable, "-c", PRETEND, str(tmp_path / "run"), str(size)]
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert f"plan: {size} x large TP=4 PP=2 on {8 * size} GPUs, each over several nodes" in lines
    assert lines.count("group: CREATED 8 [4, 4]") == size
    assert "left: []" in lines
    assert f"rows: 40 0 free GPUs: {8.0 * size}" in lines


def test_passes_get_their_engines_as_the_cluster_can_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pool is capped, an engine is spread; what does not fit is refused before any pass."""
    monkeypatch.setattr("pipeline.execution.pool.nodes_up", lambda: nodes((2, 4, 8)))
    words = ["dummy", f"out={tmp_path}", "engines.generator={kind: vllm, model: m, pipeline_parallel_size: 2}"]
    words += ["engines.generator.tensor_parallel_size=4", "engines.judge.pool={min_size: 1, max_size: 99, num_cpus: 2}"]
    config = load_config([*words, "engines.reward={kind: vllm, runner: reward, model: r, pool: {size: 99}}"])

    def groups(*names: str) -> list[list[Planned]]:
        return [
            [Planned(LayerSpec(Layer("t", n, i, "run"), [], {}, n, config.engines[n]), [])] for i, n in enumerate(names)
        ]

    two = groups("generator", "judge")
    assert place_passes(config, two, "run") == [[two[0]], [two[1]]]
    generator, judge = (group[0].spec.engine for group in two)
    assert generator is not None and judge is not None
    assert generator.is_spread()
    assert judge.pool.max_size == 7  # 16 CPUs, two of them for what Ray does itself
    assert capsys.readouterr().out.startswith("placement (run): 1 x m TP=4 PP=2 on 8 GPUs, each over several nodes, ")
    with pytest.raises(ConfigError, match=r"engines\.reward\.pool: 99 x 1 GPU"):
        place_passes(config, groups("generator", "judge", "reward"), "run")
    monkeypatch.setattr("pipeline.execution.pool.nodes_up", lambda: pytest.fail("there is no cluster"))
    assert place_passes(config, [], "run") == []


def test_passes_side_by_side_are_those_that_fit_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(["dummy", f"out={tmp_path}", "execution.side_by_side=true"])
    names = ("generator", "reward", "judge")

    def beside(waits: str = "") -> list[int]:
        found = []
        for i, n in enumerate(names):
            step = Step("run", "t", n, MeasureStage(), {}, decide=(lambda *_: MeasureStage()) if n == waits else None)
            found.append([Planned(LayerSpec(Layer("t", n, i, "run"), [], {}, n, config.engines[n]), [step])])
        return [len(side) for side in place_passes(config, found, "run")]

    monkeypatch.setattr("pipeline.execution.pool.nodes_up", lambda: nodes((1, 0, 8)))
    assert beside() == [3]
    assert beside(waits="reward") == [1, 1, 1] or beside(waits="reward") == [1, 2]
    monkeypatch.setattr("pipeline.execution.pool.nodes_up", lambda: nodes((1, 0, 3)))
    assert beside() != [3]
