"""Selectors that ask a real engine: all get answers, and calls about one prompt share its prefix in the cache."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.core.row import Candidate, Row
from pipeline.engines.base import LabelProbs, Prompt
from pipeline.engines.meter import Meter
from pipeline.selection.base import SELECTORS, Choice, Pool
from tests.engines.runner import Runner

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

BLOCK = 128  # tokens in a KV block of vLLM's CPU engine; only whole blocks are shared
WORDS = ["river", "stone", "light", "winter", "morning", "garden", "letter", "window", "bridge", "silver", "forest"]


class Recorder(Meter):
    """A meter that also keeps every judge prompt as tokens, in the order in which they were asked."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.prompts: list[list[int]] = []

    async def label_probs(self, prompt: Prompt, labels: Sequence[str], prefill: str = "") -> LabelProbs:
        inner: Any = self._engine
        self.prompts.append([*inner._prompt_ids(prompt), *inner._tokenizer.encode(prefill, add_special_tokens=False)])
        return await super().label_probs(prompt, labels, prefill)


def possible(prompts: list[list[int]]) -> int:
    """Tokens in whole blocks that an earlier prompt has computed already."""
    seen: set[tuple[int, ...]] = set()
    total = 0
    for ids in prompts:
        blocks = [tuple(ids[: end + BLOCK]) for end in range(0, len(ids) - BLOCK, BLOCK)]  # the last token is computed
        for block in blocks:
            if block not in seen:
                break
            total += BLOCK
        seen.update(tuple(ids[: end + BLOCK]) for end in range(0, len(ids) - BLOCK + 1, BLOCK))
    return total


@pytest.mark.parametrize("kind", ["mbr", "xmbr", "tournament"])
def test_judge_calls_share_the_question(chat: Runner, kind: str) -> None:
    rng = random.Random(kind)

    def text(words: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(words))

    row = Row(0, kind, language="en", messages=[{"role": "user", "content": f"Continue this story: {text(330)}"}])
    assert len(chat.engine._prompt_ids(row.messages)) >= 300
    row.candidates = [Candidate(text(25), plan="x") for _ in range(3)]
    row.candidates.append(Candidate(text(25), plan="evidence", origin="evidence"))
    recorder = Recorder(chat.engine)
    pool = Pool(row, "x", row.plan("x"), 1, recorder)
    options = {"engine": "judge"} | ({"utility": "judge"} if kind == "mbr" else {})

    async def choose() -> Choice:
        return await SELECTORS.get(kind)(**options).select(pool)

    choice = chat(choose())
    assert choice.index is not None
    calls = {"mbr": 6, "xmbr": 12, "tournament": 4}[kind]
    assert recorder.total.requests == calls
    allowed = possible(recorder.prompts)
    share, best = recorder.total.cached / recorder.total.prompt, allowed / recorder.total.prompt
    print(f"{kind}: {calls} calls, {recorder.total.prompt} tokens, cached {share:.1%}, whole blocks allow {best:.1%}")
    assert recorder.total.cached >= 0.9 * allowed


@pytest.mark.parametrize(("kind", "calls"), [("judge", 3), ("one_pass", 1), ("chops", 2), ("fusion", 1)])
def test_a_real_model_can_be_asked_in_every_way(chat: Runner, kind: str, calls: int) -> None:
    row = Row(0, kind, language="en", messages=[{"role": "user", "content": "What is the capital of France?"}])
    row.candidates = [Candidate(text, plan="x") for text in ("Paris.", "It is Paris, on the Seine.", "I do not know.")]
    meter = Meter(chat.engine)
    limits = {"chops": {"checklist_tokens": 12}, "fusion": {"max_tokens": 12}}.get(kind, {})
    choice = chat(SELECTORS.get(kind)(engine="judge", **limits).select(Pool(row, "x", row.plan("x"), 1, meter)))
    assert meter.total.requests == calls and meter.total.prompt > 0
    assert choice.text if kind == "fusion" else choice.index is not None
    assert "failure" not in choice.detail and "fallback" not in choice.detail
