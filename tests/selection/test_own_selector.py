"""A user's own selector in a separate file, named in the config, on a real Ray worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.core.folder import RunFolder
from pipeline.jobs import generate, select
from tests.conftest import rows_of
from tests.inprocess import without_ray

SOURCE = '''
from dataclasses import dataclass
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("shortest")
@dataclass
class Shortest(Selector):
    """The candidate with the fewest characters, at least ``minimum``."""

    minimum: int = 1

    async def select(self, pool: Pool) -> Choice:
        lengths = [None if not c.text or len(c.text) < self.minimum else -float(len(c.text)) for c in pool.candidates]
        return self.best(pool, lengths)
'''


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_selector_of_ones_own_works_from_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_selectors.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)  # where the user stands; the workers have never heard of this folder
    words = ["dummy", "modules=[my_selectors]", "selectors.shortest.minimum=3", "prompts.limit_clusters=1"]
    words += [f"selectors.{name}=null" for name in ("best_of_n", "judge", "chops")]  # no pass that is not asked about
    config = load_config([*words, f"out={tmp_path / 'run'}", "execution.progress=false"])
    with without_ray():
        generate.run(config)
    select.run(config)
    for row in rows_of(RunFolder(config.out), "selections", "candidates", "selections", "errors"):
        (mine,) = [s for s in row["selections"] if s["method"] == "shortest"]
        assert len(mine["text"]) == min(len(c["text"]) for c in row["candidates"] if len(c["text"]) >= 3)
        assert row["errors"] == []
