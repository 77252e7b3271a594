"""What judging costs: verdicts read from label probabilities beside generated ones, and prompts that share a replica.

    python scripts/bench/judging.py [prompts=12] [config name, file or key=value ...]

The judge (``engines.judge``) answers the prompts itself, greedily; the audit's known-answer pairs of these answers
(truncated, shuffled, other digits, another language) are judged in both orders, as ``lemonpress judge`` does.

1. Verdicts from the probabilities of the labels after one prefill, beside verdicts generated as structured output:
   accuracy (wins of the undamaged answer, a tie counts half), invalid ones, tokens, cached share and time, each from an
   empty prefix cache, in two interleaved halves after a warm-up of both.
2. Two replicas: all requests about a row at one of them, beside requests dealt out in turn, in two halves like that.
   Both run at once, so that the cached share tells something here and the time on a small machine does not.

Only whole blocks of the prefix cache are shared (128 tokens on vLLM's CPU engine, 16 on GPUs). A last line of JSON
holds the numbers.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from side_by_side import Load, machine, own_words, ratio, table

from pipeline.config.config import Config
from pipeline.config.load import load_config
from pipeline.core.folder import RunFolder
from pipeline.core.row import Game, Row, Selection, row_from_dict
from pipeline.engines.base import Engine, LabelProbs, Prompt, SamplingParams
from pipeline.engines.meter import Meter
from pipeline.judging.audit import altered, find_donors
from pipeline.judging.games import ORDERS, Referee, Refereeing
from pipeline.judging.names import AUDIT, ORIGINAL
from pipeline.prompts.sources import read_prompts

SETTINGS = [
    "engines.judge.kind=vllm",
    "engines.judge.model=cache:SmolLM2-135M-Instruct",
    "engines.judge.max_model_len=2048",
    "engines.judge.max_num_seqs=64",
]
ANSWER_TOKENS = 128
T = TypeVar("T")


class Writes(Meter):
    """The judge without label probabilities: its verdicts are generated."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.capabilities = engine.capabilities - {"label_probs"}


class InTurn(Meter):
    """Deals requests out to several engines."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        super().__init__(engines[0])
        self._turn = itertools.cycle([Meter(engine) for engine in engines])
        self.meters = [next(self._turn) for _ in engines]

    async def label_probs(self, prompt: Prompt, labels: Sequence[str], prefill: str = "") -> LabelProbs:
        return await next(self._turn).label_probs(prompt, labels, prefill)


async def answer(engine: Engine, rows: Sequence[Row]) -> None:
    """Give every row an answer to be damaged."""

    async def one(row: Row) -> None:
        found = await engine.generate(row.messages, SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS))
        row.selections = [Selection("x", "greedy", 0, found.completions[0].text)]

    await asyncio.gather(*(one(row) for row in rows))


async def audit(engine: Any, row: Row, versions: dict[str, str]) -> list[Game]:
    """One row's known-answer games, with what the audit's stage would ask."""
    referee = Referee(Refereeing("judge"), engine, row)
    original = row.selections[0].text
    games = [
        referee.play(ORIGINAL, AUDIT + version, original, text, order)
        for version, text in versions.items()
        for order in ORDERS
    ]
    return await asyncio.gather(*games)


def told(games: Sequence[Game], meters: Sequence[Meter], seconds: float) -> dict[str, Any]:
    """One way's numbers."""
    valid = [g.score for g in games if g.score is not None]
    prompt, cached = (sum(getattr(m.total, name) for m in meters) for name in ("prompt", "cached"))
    return {
        "games": len(games),
        "invalid": len(games) - len(valid),
        "accuracy": statistics.fmean(valid) if valid else 0.0,
        "requests": sum(m.total.requests for m in meters),
        "prompt tokens": prompt,
        "cached": cached / prompt if prompt else 0.0,
        "new tokens": sum(m.total.completion for m in meters),
        "seconds": seconds,
        "s a game": seconds / max(len(games), 1),
    }


async def play(make: Any, rows: Sequence[Row], pairs: dict[int, dict[str, str]], engines: Sequence[Any]) -> Any:
    """All rows' games from empty caches; ``make`` gives the engine of a row and keeps the meters."""
    for engine in engines:
        await engine._llm.reset_prefix_cache()
    started = time.monotonic()
    meters: list[Meter] = []
    found = await asyncio.gather(*(audit(make(row, meters), row, pairs[row.row_id]) for row in rows))
    return told([g for games in found for g in games], meters, time.monotonic() - started)


def halves(ways: Mapping[str, T], rows: Sequence[Row]) -> Iterator[tuple[str, T, Sequence[Row]]]:
    """(name, way, rows) for two halves of the rows; another way begins in each."""
    for order, half in ((1, rows[::2]), (-1, rows[1::2])):
        for name, way in list(ways.items())[::order]:
            yield name, way, half


async def measure(config: Config) -> dict[str, Any]:
    """Both comparisons."""
    run = RunFolder(config.out)
    read_prompts(config.prompts, run)
    columns = ("row_id", "prompt_id", "cluster_id", "task", "language", "messages")
    rows = [row_from_dict(values) for values in run.iter_rows("prompts", columns)]
    engines: list[Any] = [config.engines["judge"].create() for _ in range(2)]
    await engines[0].start()
    print(f"{len(rows)} prompts; {machine()}\n{Load()}", flush=True)
    await answer(engines[0], rows)
    donors = find_donors(rows, "x/greedy", config.tasks)
    pairs = {r.row_id: altered(r.selections[0].text or "", donors[r.row_id], 1, r.prompt_id) for r in rows}
    for versions in pairs.values():
        versions.pop("identical")
    verdicts = await compare_verdicts(engines[0], rows, pairs)
    await engines[1].start()
    replicas = await compare_replicas(engines, rows, pairs)
    for engine in engines:
        await engine.stop()
    return {"verdicts": verdicts, "replicas": replicas}


async def compare_verdicts(engine: Engine, rows: Sequence[Row], pairs: dict[int, dict[str, str]]) -> Any:
    """Label probabilities beside structured output."""
    ways = {"label probabilities": Meter, "generated": Writes}

    def maker(kind: type[Meter]) -> Any:
        def make(row: Row, meters: list[Meter]) -> Meter:
            meters.append(kind(engine))
            return meters[-1]

        return make

    for kind in ways.values():  # structured output takes long to warm up
        await play(maker(kind), rows[:1], pairs, [engine])
    found: list[dict[str, Any]] = []
    for way, kind, chosen in halves(ways, rows):
        found.append({"verdicts": way, **await play(maker(kind), chosen, pairs, [engine])})
    print(table(found), flush=True)
    times = [[f["s a game"] for f in found if f["verdicts"] == way] for way in ("generated", "label probabilities")]
    print(f"seconds a game, generated to label probabilities: {ratio(*times)}")
    return found


async def compare_replicas(engines: Sequence[Any], rows: Sequence[Row], pairs: dict[int, dict[str, str]]) -> Any:
    """A row's requests at one replica beside scattered ones."""

    def one(row: Row, meters: list[Meter]) -> Meter:
        meters.append(Meter(engines[row.row_id // 2 % len(engines)]))
        return meters[-1]

    def any_of(row: Row, meters: list[Meter]) -> Meter:
        meters[:] = scattered.meters
        return scattered

    for engine in engines:  # the second one has done nothing yet
        await play(lambda row, meters, engine=engine: Meter(engine), rows[:1], pairs, [engine])
    ways, found = {"a row at one replica": one, "scattered": any_of}, []
    for name, make, chosen in halves(ways, rows):
        scattered = InTurn(engines)
        found.append({"requests": name, **await play(make, chosen, pairs, engines)})
    shown = [{k: row[k] for k in ("requests", "games", "prompt tokens", "cached", "seconds")} for row in found]
    print(table(shown))
    return found


def main(words: Sequence[str]) -> dict[str, Any]:
    """Take this script's own words apart from the config's."""
    own, rest = own_words(words, "prompts")
    with tempfile.TemporaryDirectory() as folder:
        limit = f"prompts.limit={own.get('prompts', 12)}"
        config = load_config([*SETTINGS, limit, *rest, f"out={Path(folder) / 'asked'}"])
        return asyncio.run(measure(config))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
