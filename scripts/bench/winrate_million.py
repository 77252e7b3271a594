"""The win-rate job on one million games: its time and its memory, from the start of its process to the end.

    python scripts/bench/winrate_million.py

Two tables of a million games, in seven languages, both orders and with lengths: 144 systems on 498 questions (too many
systems for a comparison of all pairs), and 40 systems on 1,786 questions, whose 780 pairs are compared. The job is
``lemonpress winrate games=TABLE out=FOLDER``: it reads the table, and computes and writes all that it allows, with
10,000 draws. Goals: 30 s and 2 GiB. Exit code 1 when a table misses one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from side_by_side import Load, machine, table

LANGUAGES = ["en", "de", "es", "fr", "ja", "ru", "zh"]
GAMES = 1_000_000
QUESTIONS = (498, 1_786)
"""Of the two tables; how many systems played follows."""
SECONDS, GIB = 30, 2  # the goals
_JOB = """
import re, sys
from pathlib import Path
from pipeline.cli import main

code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])  # KiB; of this program alone
sys.exit(code)
"""


def make_games(questions: int) -> pa.Table:
    """A flat table of ``GAMES`` games against one opponent, whose questions differ in difficulty."""
    system, rest = np.divmod(np.arange(GAMES), questions * len(LANGUAGES) * 2)
    prompt, order = np.divmod(rest, 2)
    cluster, language = np.divmod(prompt, len(LANGUAGES))
    rng = np.random.default_rng(0)
    latent = rng.normal(size=questions)[cluster] + rng.normal(size=GAMES) + 0.01 * (system - system.max() / 2)
    lengths = rng.integers(50, 2_000, size=(2, GAMES))
    return pa.table(
        {
            "prompt_id": pa.array(np.char.add("p", prompt.astype(str))),
            "cluster_id": pa.array(np.char.add("q", cluster.astype(str))),
            "language": pa.array(np.array(LANGUAGES)[language]),
            "system": pa.array(np.char.add("s", system.astype(str))),
            "opponent": pa.array(["base"] * GAMES),
            "order": pa.array(np.array(["ab", "ba"])[order]),
            "score": pa.array(np.where(latent > 0.3, 1.0, np.where(latent > -0.3, 0.5, 0.0))),
            "length": pa.array(lengths[0]),
            "opponent_length": pa.array(lengths[1]),
        }
    )


def run(games: Path, out: Path) -> tuple[float, float]:
    """Wall time of the job's process in seconds, and its largest resident memory in GiB."""
    started = time.perf_counter()
    words = ["winrate", f"games={games}", f"out={out}"]
    done = subprocess.run([sys.executable, "-c", _JOB, *words], stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, int(done.stdout.split()[-1]) / 2**20


def main() -> int:
    print(machine())
    print(Load(), flush=True)
    lines = []
    for questions in QUESTIONS:
        with tempfile.TemporaryDirectory() as folder:
            path, out = Path(folder) / "games.parquet", Path(folder) / "out"
            games = make_games(questions)
            systems = len(games.column("system").unique())
            pq.write_table(games, path)
            del games
            seconds, gib = run(path, out)
            names = sorted(file.stem for file in out.glob("*.parquet"))
            rows = sum(pq.read_metadata(file).num_rows for file in out.glob("*.parquet"))
        lines.append({"systems": systems, "questions": questions, "s": seconds, "goal s": SECONDS})
        lines[-1] |= {"GiB": gib, "goal GiB": GIB, "rows": rows, "tables": ",".join(names)}
    print(table(lines))
    return int(any(float(line["s"]) > SECONDS or float(line["GiB"]) > GIB for line in lines))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
