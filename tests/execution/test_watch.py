"""The thread that stops a pass does so, whatever cluster and storage do meanwhile. No Ray: its actors are fakes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipeline.config.sections import ExecutionConfig, LimitsConfig
from pipeline.core.folder import RunFolder
from pipeline.execution import watch
from pipeline.execution.control import Control, Ledger
from pipeline.execution.journal import JournalState
from pipeline.execution.progress import Counts


class FakePass:
    """One pool's journal and progress; ``ray.get`` gives what their methods return."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.busy = 0  # answers that come too late
        self.name = "p"
        self.journal = SimpleNamespace(
            drain=self.remote(lambda: self.said.append("drain")),
            refuse=self.remote(lambda why: self.said.append("refuse")),
            state=self.remote(JournalState),
        )
        self.stored: Callable[[], int] = lambda: 1
        self.progress = SimpleNamespace(
            read=self.remote(lambda: Counts(rows=1, stored=self.stored(), prompt_tokens=2, tokens=3))
        )
        monkeypatch.setattr(watch.ray, "get", self.get)
        monkeypatch.setattr(watch, "_INTERVAL", 0.01)
        monkeypatch.setattr(watch, "_PATIENCE", 0.01)

    def remote(self, method: Callable[..., Any]) -> Any:
        return SimpleNamespace(remote=lambda *given: lambda: method(*given))

    def get(self, refs: Any, timeout: float) -> Any:
        if self.busy:
            self.busy -= 1
            raise ray.exceptions.GetTimeoutError("not in time")
        return [ref() for ref in refs] if isinstance(refs, list) else refs()

    def start(self, folder: Path, **limits: float) -> tuple[watch.Watch, Control]:
        control = Control(LimitsConfig(**(limits or {"seconds": 0.1})), draining=True)  # type: ignore[arg-type]
        ledger = Ledger(RunFolder(str(folder)), {"p": (SimpleNamespace(of=lambda *_: 5.0, hour=0.0), 1)})
        thread = watch.Watch(control, [self], ledger, ExecutionConfig())
        thread.start()
        return thread, control


def test_a_late_answer_does_not_end_the_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakePass(monkeypatch)
    fake.busy = 3
    thread, control = fake.start(tmp_path)
    started = time.monotonic()
    thread.join(20)
    assert fake.said == ["drain", "refuse"] and time.monotonic() - started < 15
    assert "limits.seconds" in str(control.reason)


@pytest.mark.parametrize("limit", ["tokens", "money"])
def test_what_was_spent_stops_a_pass_which_stores_first_what_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    fake = FakePass(monkeypatch)
    looked: list[list[str]] = []

    def stored() -> int:
        looked.append(list(fake.said))
        return min(len(looked) - 1, 1)  # the row is stored a moment later

    fake.stored = stored
    thread, control = fake.start(tmp_path, **{limit: 5})
    thread.join(20)
    thread.finish()
    assert fake.said == ["drain", "refuse"] and ["drain"] in looked and f"limits.{limit}=5" in str(control.reason)
    assert RunFolder(str(tmp_path)).read_json("work", "spent.json")["p"] == {"tokens": 5, "money": 5.0}
