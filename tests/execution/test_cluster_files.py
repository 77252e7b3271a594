"""The cluster files: as far as schemas and dry runs can check them without a cluster.

KubeRay's own schema could not be had here, so the fields of RayJob and RayCluster are compared with the names in its
API reference (v1.6); its pods and volumes are validated, strictly, against Kubernetes' schemas.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.config.load import load_config
from pipeline.config.sections import NodeGroup
from pipeline.engines import vllm
from pipeline.execution.placement import plan, spell
from pipeline.jobs import run
from tests.conftest import ROOT

CLUSTER = ROOT / "scripts" / "cluster"

# https://docs.ray.io/en/master/cluster/kubernetes/references/api.html
RAYJOB = """activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector
submitterConfig managedBy deletionStrategy entrypoint runtimeEnvYAML jobId submissionMode entrypointResources
entrypointNumCpus entrypointNumGpus ttlSecondsAfterFinished shutdownAfterJobFinishes suspend"""
RAYCLUSTER = """authOptions suspend managedBy autoscalerOptions headServiceAnnotations enableInTreeAutoscaling
gcsFaultToleranceOptions headGroupSpec rayVersion workerGroupSpecs"""
HEAD = "template headService enableIngress rayStartParams serviceType labels resources"
WORKERS = """suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds rayStartParams template scaleStrategy
numOfHosts labels resources"""
AUTOSCALER = "resources image imagePullPolicy securityContext idleTimeoutSeconds upscalingMode version env envFrom"


@pytest.fixture
def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text())
    return {d["kind"]: d for d in documents}


def known(item: dict[str, Any], names: str) -> None:
    assert set(item) <= set(names.split()), set(item) - set(names.split())


def groups(manifests: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = manifests["RayJob"]["spec"]["rayClusterSpec"]
    yield from [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_rayjob_holds_known_fields_only(manifests: dict[str, Any]) -> None:
    job = manifests["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    known(job, "apiVersion kind metadata spec")
    known(job["spec"], RAYJOB)
    cluster = job["spec"]["rayClusterSpec"]
    known(cluster, RAYCLUSTER)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    known(cluster["autoscalerOptions"], AUTOSCALER)
    known(cluster["headGroupSpec"], HEAD)
    for group in cluster["workerGroupSpecs"]:
        known(group, WORKERS)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups(manifests):
        assert all(isinstance(v, str) for v in group["rayStartParams"].values())
    assert {g["groupName"] for g in cluster["workerGroupSpecs"]} == {"gpu", "cpu"}


def test_its_pods_and_volumes_are_valid_kubernetes(manifests: dict[str, Any]) -> None:
    claim = manifests["PersistentVolumeClaim"]
    for group in groups(manifests):
        template = group["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template}
        kubernetes_validate.validate(pod, "1.31", strict=True)
        (container,) = template["spec"]["containers"]
        volumes = {v["name"] for v in template["spec"]["volumes"]}
        assert {m["name"] for m in container["volumeMounts"]} == volumes
        (shared,) = [v for v in template["spec"]["volumes"] if "persistentVolumeClaim" in v]
        assert shared["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    kubernetes_validate.validate(claim, "1.31", strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):  # the check sees a misspelt field
        pod["spec"]["containers"][0]["volumeMount"] = []
        kubernetes_validate.validate(pod, "1.31", strict=True)


def test_its_run_is_a_valid_one_that_its_nodes_can_hold(
    manifests: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setattr(vllm.vllm_cpu, "is_cpu_build", lambda: False)
    spec = manifests["RayJob"]["spec"]
    program, job, *words = shlex.split(spec["entrypoint"])
    assert (program, job) == ("lemonpress", "run")
    config = load_config(words)
    run.check(config)
    limits = [
        (g["maxReplicas"], g["template"]["spec"]["containers"][0]["resources"]["limits"])
        for g in spec["rayClusterSpec"]["workerGroupSpecs"]
    ]
    assert config.ray.nodes == [NodeGroup(n, float(r.get("nvidia.com/gpu", 0)), float(r["cpu"])) for n, r in limits]
    assert config.out.startswith("/shared/")
    words_of_plan = spell(plan({k: config.engines[k] for k in ("generator", "judge")}, config.ray.nodes))
    assert words_of_plan == (
        "4 x CohereLabs/c4ai-command-a-03-2025 TP=4 on 16 GPUs, then 1 x gpt-4o-2024-05-13 on CPUs"
    )


def test_the_ray_up_file_passes_rays_own_check() -> None:
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text())
    validate_config(config)
    assert config["head_node_type"] in config["available_node_types"]
    gpu = config["available_node_types"]["gpu"]
    assert gpu["max_workers"] <= config["max_workers"]
    assert "~/.ray/auth_token" in config["cluster_synced_files"]  # the workers need the head's token
    for command in [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]:
        assert "ray start" not in command or "RAY_AUTH_MODE=token" in command
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**config, "max_worker": 4})


STUBS = {
    "scontrol": 'printf "n1\\nn2\\nn3\\n"',
    "getent": 'echo "10.0.0.1 STREAM $2"',
    # srun runs its command here, without its own options
    "srun": 'while [[ "$1" == --* ]]; do echo "srun $1" >>"$LOG"; shift; done; exec "$@"',
    "ray": 'echo "ray $* token=${#RAY_AUTH_TOKEN} mode=$RAY_AUTH_MODE" >>"$LOG"; [ "$1" = status ] || exec sleep 60',
    "lemonpress": 'trap "echo stopped >>\\"$LOG\\"; exit 130" TERM; echo "lemonpress $* at $RAY_ADDRESS" >>"$LOG"; '
    '[ "${HOLD:-}" ] && { sleep 60 & wait; }; exit 3',
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Environment of a job on three nodes, with stand-ins for Slurm, Ray and Lemonpress that keep a log."""
    (tmp_path / "bin").mkdir()
    for name, body in STUBS.items():
        stub = tmp_path / "bin" / name
        stub.write_text(f"#!/usr/bin/env bash\n{body}\n")
        stub.chmod(0o755)
    fake = "def init(**options): pass\ndef nodes(): return [{'Alive': True}] * 3\n"
    (tmp_path / "ray.py").write_text(fake)
    slurm = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_SUBMIT_DIR": str(tmp_path)}
    slurm |= {"SLURM_CPUS_ON_NODE": "32", "SLURM_GPUS_ON_NODE": "4", "LOG": str(tmp_path / "log")}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, **slurm, "PATH": path, "PYTHONPATH": str(tmp_path), "LEMONPRESS_VENV": str(tmp_path)}


def test_the_slurm_script_starts_ray_on_every_node_and_ends_with_the_runs_code(slurm: dict[str, str]) -> None:
    command = ["bash", str(CLUSTER / "slurm.sh"), "m-arena-hard", "out=/shared/x y"]
    done = subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 3, done.stderr  # the run's, not Slurm's or Ray's
    log = Path(slurm["LOG"]).read_text().splitlines()
    starts = [line for line in log if line.startswith("ray start")]
    resources = "--num-cpus=32 --num-gpus=4 --disable-usage-stats --block token=64 mode=token"
    head = "ray start --head --port=22345 --node-ip-address=10.0.0.1 --include-dashboard=false"
    workers = f"ray start --address=10.0.0.1:22345 {resources}"
    assert sorted(starts) == [workers, workers, f"{head} {resources}"]
    assert sorted(line for line in log if "nodelist" in line) == [f"srun --nodelist=n{i}" for i in (1, 2, 3)]
    assert log[-1] == "lemonpress run m-arena-hard out=/shared/x y at 10.0.0.1:22345"


def test_the_slurm_script_passes_the_time_limits_signal_to_the_run(slurm: dict[str, str]) -> None:
    command = ["bash", str(CLUSTER / "slurm.sh"), "dummy"]
    process = subprocess.Popen(command, env={**slurm, "HOLD": "1"}, stderr=subprocess.PIPE, text=True)
    log = Path(slurm["LOG"])
    for _ in range(400):
        if log.exists() and "lemonpress run dummy" in log.read_text():
            break
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    process.terminate()
    assert process.wait(50) == 130
    assert log.read_text().splitlines()[-1] == "stopped"


def test_the_slurm_script_is_clean() -> None:
    script = str(CLUSTER / "slurm.sh")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    no_words = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert no_words.returncode == 2
    assert "usage" in no_words.stderr
