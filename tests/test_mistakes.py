"""What a person gets wrong in the first hour: exit code 2 in seconds, the key or path, and what to do."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.conftest import jsonl

FILE = "run dummy prompts.kind=file prompts.path="
MISTAKES = [
    ("run", "which config? [CONFIG ...] [key=value ...], as in: lemonpress run dummy"),
    ("runn dummy", "no job is called 'runn'; did you mean 'run'?"),
    ("run dumy", "did you mean 'dummy'?"),
    ("run nowhere.yaml", "nowhere.yaml: neither a config file, the name of a preset nor a run's folder"),
    ("export runs/none", "runs/none: neither a config file, the name of a preset nor a run's folder"),
    ("run bad.yaml", "bad.yaml: not valid YAML: mapping values are not allowed here line 2"),
    ("run list.yaml", "list.yaml: a config file must be a map of sections, not list"),
    ("run twice.yaml", "twice.yaml: not valid YAML: found twice: out line 2"),
    ("run p.jsonl", "for prompts: prompts.kind=file prompts.path=p.jsonl"),
    ("run dummy sampling.n=five", "sampling.n: must be a whole number, not 'five'"),
    ("run dummy sampling.n=2.5", "sampling.n: must be a whole number, not '2.5'"),
    ("run dummy sampling.temperature=hot", "sampling.temperature: must be a number, not 'hot'"),
    ("run dummy ray.worker_logs=maybe", "ray.worker_logs: must be true or false, not 'maybe'"),
    ("run dummy sampling.n=0", "sampling.n: must be at least 2, not 0"),
    ("run dummy sampling.temprature=1", "'sampling.temprature'; did you mean 'temperature'?"),
    ("run dummy sampling.temperature=-1", "0 has one answer only: use sampling.kind=greedy"),
    ("run dummy sampling.kind=hedge", "sampling.kind: unknown sampling plan 'hedge'; did you mean 'hedged'?"),
    ("run dummy temperature=0.3", "temperature is a key of sampling, plans.NAME"),
    ("run dummy selectors.mrb={}", "unknown selector 'mrb'; did you mean 'mbr'?"),
    ("run dummy selectors.mbr.utility=rouge", "selectors.mbr.utility: there is no 'rouge'; valid: bleu, chrf"),
    ("run dummy selectors.best_of_n.engine=rewards", "no engine is called 'rewards'; did you mean 'reward'?"),
    ("run dummy judge.opponent=gemini", "judge.opponent: no system is called 'gemini'; valid: best_of_n"),
    ("run dummy judge.engine=gpt", "judge.engine: no engine is called 'gpt'; valid: generator, judge, reward"),
    (
        "run dummy 'policy={default: {plan: hot, selector: mbr}}'",
        "policy.default.plan: no candidate set is called 'hot'",
    ),
    ("run dummy prompts=p.jsonl", "set prompts.kind=file prompts.path=p.jsonl"),
    ("run dummy prompts.kind=file", "prompts.path: set either path (a file, folder or glob) or paths"),
    (f"{FILE}nowhere.jsonl", "prompts.path: no such file: nowhere.jsonl"),
    (f"{FILE}broken.jsonl", "broken.jsonl, line 2: not valid JSON"),
    (f"{FILE}empty.jsonl", "the source has no prompt: its files are empty"),
    (
        f"{FILE}question.jsonl",
        "set prompts.columns.prompt (text) or prompts.columns.messages (conversations) to one of",
    ),
    (f"{FILE}p.jsonl prompts.columns.prompt=question", "prompts.columns.prompt: no column is called 'question'; valid"),
    (f"{FILE}p.jsonl prompts.columns.langauge=lang", "did you mean 'language'?"),
    ("run dummy prompts.languages=de", "prompts.languages: must be a list, not 'de'; as in prompts.languages=[de]"),
    ("run dummy prompts.languages=[xx]", "no prompt that the config keeps; languages found: de, en"),
    ("run dummy 'engines.generator={kind: vlm, model: m}'", "unknown engine 'vlm'; did you mean 'vllm'?"),
    ("run dummy 'engines.generator={kind: vllm}'", "engines.generator.model: missing; a model's name or path"),
    ("run dummy 'engines.generator={kind: vllm, model: cache:nothing}'", "scripts/demo_model.py prepares"),
    ("run dummy 'engines.generator={kind: openai, model: gpt}'", "the environment variable OPENAI_API_KEY is not set"),
    ("run dummy engines.judge.api_key=sk-abcdefghijklmnopqrstuvwxyz123456", "put it into an environment variable"),
    ("run dummy prompts.given={files:", "quote the whole word for the shell: 'prompts.given=...'"),
    ("run dummy prompts.given=answers", "prompts.given: must be a map, not 'answers'"),
    ("run dummy modules=[nothing_here]", "modules: cannot import 'nothing_here'"),
    ("run dummy execution.max_failed_rows=2", "execution.max_failed_rows: must be at least 0 and at most 1, not 2.0"),
    ("run dummy out=p.jsonl", "p.jsonl: is a file, and a run is a folder; name another with out=..."),
    ("run dummy ray.address=127.0.0.1:1", "ray.address: nothing answers at 127.0.0.1:1"),
    ("label", "prompts.path: missing; set prompts.path=..."),
    ("label prompts.path=p.jsonl", "prompts.given: which answers are there? set column, columns or files"),
    ("label prompts.path=p.jsonl prompts.given.column=answers", "no column is called 'answers'; valid: lang, prompt"),
    ("winrate games=none.csv out=r", "winrate.games: no such file: none.csv"),
    ("sweep dummy sweep.temperatures=[hot]", "sweep.temperatures[0]: must be a number, not 'hot'"),
    ("show runs/none x", "runs/none: no run's folder"),
    ("show runs/none", "show takes RUN PROMPT_ID, as in: lemonpress show"),
    ("errors runs/none", "no such run folder: runs/none"),
    ("verify runs/none", "no such run folder: runs/none"),
    ("table runs/none selections a.csv", "runs/none: no run's folder"),
    ("submit dummy", "no cluster: give --address http://HEAD:8265"),
    ("status runs/none", "no job of this run was submitted from here"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    jsonl(tmp_path / "p.jsonl", {"prompt": "a", "lang": "de"}, {"prompt": "b", "lang": "de"})
    jsonl(tmp_path / "question.jsonl", {"question": "a"})
    jsonl(tmp_path / "broken.jsonl", {"prompt": "a"}, '{"prompt": ')
    jsonl(tmp_path / "empty.jsonl")
    Path("bad.yaml").write_text("out: x\n  prompts: [\n")
    Path("list.yaml").write_text("- a\n")
    Path("twice.yaml").write_text("out: a\nout: b\n")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("line", "said"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_told_in_a_line(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.process_time()
    assert main(shlex.split(line)) == 2
    assert time.process_time() - started < 5
    err = capsys.readouterr().err
    assert said in err and err.startswith("lemonpress") and err.count("\n") == 1
