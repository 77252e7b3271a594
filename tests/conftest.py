"""Shared fixtures: one Ray cluster a session, which subprocesses join; the real model's folder; small runs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Collection, Coroutine, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

from pipeline.cli import main
from pipeline.core.folder import RunFolder
from pipeline.core.remote import model_path
from pipeline.core.schema import prompts_schema, with_provenance
from pipeline.prompts.write import write_shards
from tests.endpoint import KEY, Endpoint

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For the S3-compatible server (s3_server), in Ray's workers too; and no test reaches a real account.
os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "hushhush", "AWS_DEFAULT_REGION": "us-east-1"}
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # of ten seconds: test_observe.py waits for them
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; several engines are up at once
# A busy machine is no fault of an example's: slow generation ends no test, pytest's own time limit does.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
T = TypeVar("T")
ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
"""Real prompts, answers and votes, where they lie beside the checkout."""


LEFT_OUT: Counter[str] = Counter()


GROUPS = ("ray", "engine", "finished", "whole")
"""Tests of a group run one after the other in one process, in which Ray, the engines or the run are started once: those
with the marker, or the fixture, of this name. Long groups first, so that the processes end together."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    groups = {item: next((group for group in GROUPS if _belongs(item, group)), "") for item in items}
    for item, group in groups.items():
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: (*GROUPS, "").index(groups[item]))


def _belongs(item: pytest.Item, group: str) -> bool:
    return item.get_closest_marker(group) is not None or group in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Texts with lone surrogates, which tests of odd texts log, would end the process that sends them."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_encodable(k): _encodable(v) for k, v in value.items()}
    return type(value)(map(_encodable, value)) if type(value) in (list, tuple) else value


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    LEFT_OUT.update(item.location[0] for item in items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(LEFT_OUT)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """With several processes each of them has left out the same tests."""
    LEFT_OUT.update(Counter(getattr(node, "workeroutput", {}).get("left_out", {})) - LEFT_OUT)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if LEFT_OUT:
        files = ", ".join(f"{name.removeprefix('tests/')} {n}" for name, n in sorted(LEFT_OUT.items()))
        terminalreporter.section(f"{LEFT_OUT.total()} tests were left out")
        terminalreporter.line(f"{files}\nThe slow ones: scripts/test.sh -m slow")


_loop = asyncio.new_event_loop()


def finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, always on one event loop: a new one takes longer than a selector."""
    return _loop.run_until_complete(work)


def rest_slow(cases: Iterable[tuple[Any, ...]], always: Collection[tuple[Any, ...]]) -> list[Any]:
    """Parameters of a test: of its cases those in ``always`` run in every run, the others with the slow tests."""
    return [pytest.param(*case, marks=[] if case in always else [pytest.mark.slow]) for case in cases]


def run_with_prompts(
    folder: Path,
    rows: int,
    text: str = "question {i}",
    languages: tuple[str, ...] = ("en", "de"),
    shard_rows: int | None = None,
) -> RunFolder:
    """A run folder whose ``prompts/`` table holds ``rows`` prompts; consecutive languages share a cluster."""
    run = RunFolder(str(folder))
    schema = with_provenance(prompts_schema(pa.struct([("row", pa.int64())])), {})
    items: list[dict[str, Any]] = [
        {
            "row_id": i,
            "prompt_id": f"p{i}",
            "cluster_id": f"c{i // len(languages)}",
            "task": "open",
            "language": languages[i % len(languages)],
            "messages": [{"role": "user", "content": text.format(i=i)}],
            "reference": None,
            "source": {"row": i},
            "usage": [],
            "errors": [],
        }
        for i in range(rows)
    ]
    sizes = write_shards(run, schema, [pa.Table.from_pylist(items, schema=schema)], shard_rows)
    run.complete("prompts", {"rows": rows, "sizes": sizes, "fingerprint_hash": "test", "fingerprint": {}})
    return run


def rows_of(run: RunFolder, table: str, *columns: str) -> list[dict[str, Any]]:
    """A finished table as dicts, by row_id."""
    return run.table(table, ["row_id", *columns]).to_pylist()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """``host:port`` of an S3-compatible server (moto's) on loopback."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One local Ray cluster for the session; returns its address, which is also in ``RAY_ADDRESS`` for subprocesses."""
    import ray

    from pipeline.config.sections import RayConfig
    from pipeline.execution.cluster import cluster

    saved = os.environ.pop("RAY_ADDRESS", None)
    # Workers do not look into the folder that the driver was started in, and tests have stages of their own.
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(ROOT), *filter(None, path)]))
    with cluster(RayConfig()):
        address = ray.get_runtime_context().gcs_address
        os.environ["RAY_ADDRESS"] = address
        yield address
    os.environ.pop("RAY_ADDRESS", None)
    if saved:
        os.environ["RAY_ADDRESS"] = saved


@pytest.fixture(scope="session")
def chat_model() -> str:
    """Folder of the real small chat model."""
    return _model("SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def reward_model() -> str:
    """Folder of the reward model (random head) on the same weights."""
    return _model("SmolLM2-135M-Reward")


def _model(name: str) -> str:
    path = model_path(f"cache:{name}")
    if not Path(path, "config.json").exists():
        pytest.fail(f"the real model {name} is missing: run scripts/demo_model.py (scripts/test.sh does)")
    return path


@dataclass(frozen=True)
class RealRun:
    """A finished run on real engines; to be read, or to be copied by who changes it."""

    folder: RunFolder
    words: list[str]


@pytest.fixture(scope="session")
def real_run(ray_cluster: str, chat_model: str, tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    """The demo made small, on vLLM and Ray: one engine writes and judges, and starts again for the audit."""
    out = tmp_path_factory.mktemp("real") / "run"
    words = ["run", "demo", f"out={out}", "sampling.n=3", "sampling.max_tokens=10", "prompts.languages=[en,ja]"]
    words += [f"selectors.{name}=null" for name in ("random", "best_of_n", "judge", "chops")]
    words += ["engines.generator.max_model_len=1024", "execution.progress=false"]
    assert main(words) == 0
    return RealRun(RunFolder(str(out)), words)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A scripted endpoint on loopback."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests' files out of the user's ``datasets`` cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "run"))


def jsonl(path: Path, *items: Any) -> str:
    """Write objects as JSON Lines; strings are written as they are."""
    path.write_text("".join((i if isinstance(i, str) else json.dumps(i)) + "\n" for i in items), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run (:mod:`tests.runs`), which no test may change."""
    from tests.runs import make_run

    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def finished_run(finished: Path, tmp_path: Path) -> RunFolder:
    """A copy of the finished run."""
    return RunFolder(str(shutil.copytree(finished, tmp_path / "run")))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run from prompts to report and replay table, which no test may change."""
    from tests.runs import make_whole

    return make_whole(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def no_ray() -> Iterator[None]:
    """Passes run in this process (:mod:`tests.inprocess`)."""
    from tests.inprocess import without_ray

    with without_ray():
        yield
