"""Small files of a stranger's run that are not what they should be end in one line, and in no traceback."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.core.errors import InputError
from pipeline.core.folder import MARKER, RunFolder
from pipeline.core.schema import with_provenance
from pipeline.jobs.replay.table import SCHEMA, ReplayTable


@pytest.mark.parametrize(
    "marker",
    [
        *({}, [1], "x", 3, {"rows": "1"}, {"rows": -1}, {"rows": None}, {"rows": 1, "sizes": [-1]}),
        *({"rows": 1, name: 7} for name in ("fingerprint", "fingerprint_hash", "files", "report", "sizes", "passes")),
        *({"rows": 1, name: "x"} for name in ("sizes", "layers", "passes")),
    ],
)
def test_a_marker_of_another_shape_is_refused(marker: Any, tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    run.write_text(json.dumps(marker), "candidates", MARKER)
    with pytest.raises(InputError, match="no record of a finished table"):
        run.marker("candidates")


@pytest.mark.parametrize("manifest", [[1], "x", 1, {"engines": [1]}, {"engines": {"a": 1}}, {"tables": "x"}])
def test_a_manifest_of_another_shape_is_refused(manifest: Any, tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    assert run.manifest() == {}
    run.write_text(json.dumps(manifest), "manifest.json")
    with pytest.raises(InputError, match="no manifest"):
        run.manifest()


@pytest.mark.parametrize("provenance", [{}, {"config": "seed: 1"}, {"config": 3, "source": {}}, {"source": {}}])
def test_a_replay_table_without_its_config_is_none(provenance: dict[str, Any], tmp_path: Path) -> None:
    schema = with_provenance(SCHEMA, {"pass": "replay", **provenance})
    pq.write_table(pa.Table.from_pylist([], schema), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no replay table"):
        ReplayTable(RunFolder(str(tmp_path)), "t.parquet")


def test_what_nobody_foresaw_is_one_redacted_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_DEAR_KEY", "hush-hush-hush")

    def fail(*_: object) -> None:
        raise KeyError("a hush-hush-hush\nsecond line")

    monkeypatch.setattr(cli, "_command", fail)
    monkeypatch.setattr(cli, "leave_folder_out", lambda: None)
    monkeypatch.setattr(sys, "argv", ["lemonpress", "verify", "somewhere"])
    assert cli.main() == 1
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "LEMONPRESS_TRACEBACK=1" in said and "hush-hush" not in said
    monkeypatch.setenv("LEMONPRESS_TRACEBACK", "1")
    with pytest.raises(KeyError):
        cli.main()


def test_ray_unpickles_no_metadata_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"
    monkeypatch.setenv(name, "1")
    import pipeline.execution

    importlib.reload(pipeline.execution)
    assert os.environ[name] == "0"
