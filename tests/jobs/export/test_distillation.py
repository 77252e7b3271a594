"""The distillation example on the dummy engine: two teachers, votes, filters, exports, and ``datasets`` reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.core.folder import RunFolder
from tests.conftest import ROOT, rows_of

LANGUAGES = ("de", "en", "es", "fr")
QUESTIONS = 6
KEPT = ["export.language=false", "export.fallbacks=false"]
"""The dummy's words are in no language, and answer no question: every vote falls back."""
DUMMY = ["engines.teacher_a.kind=dummy", *KEPT, "execution.progress=false", "winrate.draws=100"]
"""What the teachers become without a model."""


@pytest.fixture
def mgsm(tmp_path: Path) -> Path:
    """A folder of files in MGSM's form."""
    folder = tmp_path / "mgsm"
    folder.mkdir()
    for language in LANGUAGES:
        lines = [f"({language}) {i} + {i} = ?\t{2 * i}\n" for i in range(QUESTIONS + 2)]
        (folder / f"mgsm_{language}.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.mark.usefixtures("no_ray", "own_datasets_cache")
def test_two_teachers_answers_become_data_that_loads(mgsm: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    out = f"out={tmp_path / 'run'}"
    paths = [f"prompts.paths.{language}={mgsm / f'mgsm_{language}.tsv'}" for language in LANGUAGES]
    words = [*paths, *DUMMY, f"prompts.limit_clusters={QUESTIONS}", out]
    assert main(["run", "distill-mgsm", *words]) == 0

    rows = rows_of(RunFolder(str(tmp_path / "run")), "selections", "cluster_id", "language", "candidates", "selections")
    assert Counter(r["language"] for r in rows) == dict.fromkeys(LANGUAGES, QUESTIONS)
    assert len({r["cluster_id"] for r in rows}) == QUESTIONS
    for row in rows:
        assert [(c["plan"], c["temperature"]) for c in row["candidates"]] == [
            ("teachers", t) for t in (0.3, 0.3, 0.8, 0.8)
        ]
        methods = {s["method"] for s in row["selections"] if s["text"]}
        assert methods == {"sample", "random", "likelihood", "mbr", "vote", "oracle"}

    assert main(["export", out, "export.fallbacks=true", "export.method=vote"]) == 2  # nothing but fallbacks
    for format, method in (("sft", "vote"), ("dpo", "mbr")):
        settings = [f"export.format={format}", f"export.method={method}", "export.splits={train: 0.5, test: 0.5}"]
        assert main(["export", out, *KEPT, *settings]) == 0
        loaded = load_dataset(str(tmp_path / "run" / "export" / format))
        numbers = {
            split: {(r.get("messages") or r["prompt"])[0]["content"].split()[1] for r in data}
            for split, data in loaded.items()
        }
        assert set(numbers) == {"train", "test"} and not numbers["train"] & numbers["test"]
        cut = "answer cut at the token limit"
        card = (tmp_path / "run" / "export" / format / "README.md").read_text(encoding="utf-8")
        assert f"**{sum(map(len, loaded.values()))} of {len(rows)} prompts" in card and f"| {cut} |" in card
        assert "| 0.3 |" in card and "**accuracy**" in card


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_script_runs_and_resumes(mgsm: Path, tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    shutil.copy(ROOT / "scripts" / "distill.sh", scripts)
    setup = (ROOT / "scripts" / "setup.sh").read_text()  # of which its function alone: the environment is this one
    function = setup[setup.index("out_of() {") : setup.rindex("\nsetup\n")]
    (scripts / "setup.sh").write_text(f"ROOT={ROOT}\n{function}")
    command = [str(scripts / "distill.sh"), str(mgsm), "small", *DUMMY, f"out={tmp_path / 'run'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    run, times = RunFolder(str(tmp_path / "run")), []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        times.append([os.stat(path).st_mtime_ns for path in run.files("selections")])
        assert "sft train:" in done.stdout and "  score_rejected: Value('float64')" in done.stdout
    assert "32 prompts in 8 clusters" in done.stdout and "(had been read before)" in done.stdout
    assert times[0] == times[1]  # nothing is sampled again
