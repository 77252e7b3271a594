"""Whether a replay chooses as the run did, and how long a new selector takes.

    python scripts/bench/replay.py RUN [table=PATH]

Makes the run's replay table, replays its own selectors on whole candidate sets (MBR, votes and all others that need no
engine must agree on 100% of the prompts), then compares a selector that the run has never seen, and prints the seconds
of both. The run is only read; the table lies in a temporary folder unless a path is given.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from pipeline.jobs.replay import job as replay

SELECTOR = '''
from dataclasses import dataclass
from pipeline.selection.base import Choice, Pool, Selector, selector


@selector("median_length")
@dataclass
class MedianLength(Selector):
    """The candidate whose length is nearest to the median length."""

    async def select(self, pool: Pool) -> Choice:
        lengths = sorted(len(c.text or "") for c in pool.candidates)
        middle = lengths[len(lengths) // 2]
        return self.best(pool, [-abs(len(c.text or "") - middle) for c in pool.candidates])
'''


def main(run: str, table: str) -> int:
    """Print both comparisons and a line of JSON; the exit code is 1 unless every choice agrees."""
    with tempfile.TemporaryDirectory() as folder:
        path = table or str(Path(folder, "replay.parquet"))
        started = time.monotonic()
        own = replay.run(run, [f"replay.table={path}", "replay.n=[]", "selectors.vote={kind: majority_vote}"])
        first = time.monotonic() - started
        agreement = {
            f"{r['plan']}/{r['selector']}": r["agreement"] for r in own.to_pylist() if r["agreement"] is not None
        }
        Path(folder, "median_length.py").write_text(SELECTOR, encoding="utf-8")
        sys.path.insert(0, folder)
        started = time.monotonic()
        replay.run(path, ["modules=[median_length]", "selectors.median_length={}"])
        second = time.monotonic() - started
    result = {"agreement": agreement, "first_seconds": round(first, 1), "new_selector_seconds": round(second, 1)}
    print(json.dumps(result, sort_keys=True))
    return 0 if agreement and min(agreement.values()) == 1.0 else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    wanted = [word.removeprefix("table=") for word in sys.argv[2:] if word.startswith("table=")]
    raise SystemExit(main(sys.argv[1], wanted[0] if wanted else ""))
