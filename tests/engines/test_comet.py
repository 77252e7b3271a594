"""The engine that runs COMET in a Python of its own: its process, batches and faults; and the real library."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import venv
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError, EngineDead, EngineRequestError
from pipeline.engines.base import Engine
from pipeline.engines.comet import SERVER, CometEngine, CometEngineConfig, comet_python

FAKE = """
import os
def load_from_checkpoint(path):
    assert open(path).read() == "weights", "not a checkpoint"
    print("the library prints to standard output")
    return Model()
class Model:
    def predict(self, samples, batch_size, gpus, progress_bar, num_workers):
        print("so does every call", len(samples))
        if any(s["mt"] == "die" for s in samples):
            os._exit(7)
        if any(s["mt"] == "too long" for s in samples):
            raise ValueError("sequence of 600 tokens")
        values = {"above": 1.5, "below": -0.5, "nan": float("nan")}
        return {"scores": [values.get(s["mt"], len(s["mt"]) / 10 + (s["mt"] == s["ref"]) / 2) for s in samples]}
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with stand-ins for unbabel-comet and torch: the real ones cannot be installed beside our packages."""
    folder = tmp_path_factory.mktemp("comet")
    venv.create(folder, with_pip=False)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    (site / "comet.py").write_text(FAKE)
    (site / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    return str(folder / "bin" / "python")


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model.ckpt").write_text("weights")
    return str(tmp_path)


def run(config: CometEngineConfig, work: Callable[[Engine], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        engine = config.create()
        await engine.start()
        try:
            return await work(engine)
        finally:
            await engine.stop()

    return asyncio.run(main())


async def ask(engine: Engine, *texts: str) -> list[Any]:
    calls = (engine.quality("fuente", text, "source") for text in texts)
    found = await asyncio.gather(*calls, return_exceptions=True)
    return [f if isinstance(f, BaseException) else f.value for f in found]


def test_scores_come_back_in_order_and_one_bad_text_fails_alone(python: str, model: str) -> None:
    config = CometEngineConfig(model=model, python=python, batch_size=1)
    texts = ["a", "source", "too long", "日本", "nan", "above", "below"]
    first, same, long, japanese, nan, above, below = run(config, lambda e: ask(e, *texts))
    assert (first, same, japanese) == (0.1, pytest.approx(1.0), 0.2)
    assert (above, below) == (1.0, 0.0)
    assert isinstance(long, EngineRequestError) and str(long) == "ValueError: sequence of 600 tokens"
    assert isinstance(nan, EngineRequestError)


def test_a_dead_process_is_a_dead_engine(python: str, model: str) -> None:
    async def work(engine: Engine) -> list[Any]:
        return [*await ask(engine, "a"), *await ask(engine, "die", "b"), *await ask(engine, "c")]

    alive, *dead = run(CometEngineConfig(model=model, python=python), work)
    assert alive == 0.1 and len(dead) == 3 and all(isinstance(d, EngineDead) for d in dead)
    assert "exit code 7" in str(dead[0])


def test_the_process_ends_with_its_engine(python: str, model: str) -> None:
    async def work(engine: Engine) -> Any:
        assert isinstance(engine, CometEngine) and isinstance(engine, Engine)
        return engine._child

    assert run(CometEngineConfig(model=model, python=python), work).poll() is not None


def test_the_process_ends_when_its_worker_is_gone(python: str, model: str) -> None:
    command = [python, "-I", str(SERVER), model, "", "4"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    assert json.loads(child.stdout.readline()) == {"ready": True}
    child.stdin.close()  # what a killed worker leaves behind
    assert child.wait(timeout=60) == 0


def test_what_cannot_be_loaded_is_a_config_error(python: str, model: str, tmp_path: Path) -> None:
    Path(model, "checkpoints", "model.ckpt").write_text("other")
    with pytest.raises(ConfigError, match="cannot be loaded: AssertionError: not a checkpoint"):
        run(CometEngineConfig(model=model, python=python), ask)
    nowhere = CometEngineConfig(model=model, python=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"scripts/comet\.sh"):
        run(nowhere, ask)
    with pytest.raises(ConfigError, match=r"engines\.x\.python: .*none is no Python with unbabel-comet"):
        nowhere.ready("engines.x")
    with pytest.raises(ConfigError, match=r"engines\.x\.python"):
        CometEngineConfig(model=model, python=sys.executable).ready("engines.x")  # unbabel-comet is not in ours
    CometEngineConfig(model=model, python=python).ready("engines.x")
    with pytest.raises(ConfigError, match=r"engines\.x\.model"):
        check_values(CometEngineConfig(), "engines.x")


REFERENCE = """
import json, sys
from comet import load_from_checkpoint
model = load_from_checkpoint(sys.argv[1] + "/checkpoints/model.ckpt")
print(json.dumps(model.predict(json.load(open(sys.argv[2])), batch_size=1, gpus=0, progress_bar=False)["scores"]))
"""


@pytest.mark.slow
def test_a_real_xcomet_gives_the_librarys_own_numbers(tmp_path: Path) -> None:
    """A tiny XCOMET with random weights, made and scored by unbabel-comet 2.2.7 in its own environment."""
    python = comet_python()
    if not os.access(python, os.X_OK):
        pytest.skip("COMET's environment is missing: run scripts/comet.sh")
    maker = Path(__file__).with_name("make_xcomet.py")
    subprocess.run([python, "-I", str(maker), str(tmp_path)], check=True)
    pairs = [
        ("Hola mundo", "Hello world", "Hello, world"),
        ("Dos", "two two " * 9, "Two"),
        ("日本語", "Japan", "Japanese"),
    ]
    pairs += [(f"uno {i}", f"one {i * 7}", f"number {i}") for i in range(20)]
    samples = [{"src": s, "mt": t, "ref": r} for s, t, r in pairs]
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    command = [python, "-I", "-c", REFERENCE, str(tmp_path), str(tmp_path / "samples.json")]
    expected = json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])

    async def work(engine: Engine) -> list[float]:
        return [q.value for q in await asyncio.gather(*(engine.quality(*pair) for pair in pairs))]

    found = run(CometEngineConfig(model=str(tmp_path), batch_size=4), work)
    assert found == pytest.approx([min(max(e, 0.0), 1.0) for e in expected], abs=1e-5)
    assert len({round(e, 4) for e in expected}) > 10  # the test can tell them apart
