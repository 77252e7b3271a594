"""Does memory stay flat? Peak private memory of driver and workers, for small and large inputs, fresh and resumed.

    python scripts/bench/memory.py [key=value ...] [--rows 100000 300000] [--runs fresh resumed]

Private memory is USS (pages that no other process maps) without the object store's pages. Peak over the run of the
driver, of the largest worker that hosts an engine, of the process that reads the prompts (in a fresh run), and of the
largest of Ray's other processes for reading, filtering and writing. Pages of program files count as private while no
other process maps them: when Ray's processes end before the driver, its USS grows by theirs. So the driver's own
memory, without pages of files, stands beside it. Exit code 1 when the USS of driver, workers or reader differs by 15%
or more between the four runs.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil
from driving import durable, kill, start, words, write_prompts

_ROLES = ("driver", "driver's own", "workers", "reader", "tasks")
_LIMITED = ("driver", "workers", "reader")  # Ray's own processes are not ours to limit
_RUNS = ("fresh", "resumed")
_EVERY = 10  # looks at driver, workers and reader for one at all processes: reading their maps takes time
_LIMIT = 0.15
_MIB = 2**20


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000])
    parser.add_argument("--runs", choices=_RUNS, nargs="+", default=_RUNS)
    parser.add_argument("words", nargs="*", metavar="key=value", help="more of the config")
    args = parser.parse_args()
    found: list[dict[str, float]] = []
    print(f"{'rows':>10}  {'run':8}" + "".join(f"{role + ' MiB':>18}" for role in _ROLES), flush=True)
    for rows in args.rows:
        for name in args.runs:
            with tempfile.TemporaryDirectory() as folder:
                peaks = measure(Path(folder), rows, name == "resumed", args.words)
            found.append(peaks)
            print(f"{rows:>10,}  {name:8}" + "".join(f"{peaks.get(r, 0):>18.0f}" for r in _ROLES), flush=True)
    known = {role: [f[role] for f in found if f.get(role)] for role in _ROLES}
    spreads = {role: max(values) / min(values) - 1 for role, values in known.items() if values}
    print("largest against smallest: " + ", ".join(f"{role} +{spread:.1%}" for role, spread in spreads.items()))
    return int(max(spreads[role] for role in _LIMITED if role in spreads) >= _LIMIT)


def measure(folder: Path, rows: int, resumed: bool, more: list[str]) -> dict[str, float]:
    """Peak private memory by role, in MiB; of the second attempt when the first is killed half-way."""
    prompts, out = folder / "prompts.jsonl", folder / "run"
    write_prompts(prompts, rows)
    config = words(prompts, out, more)
    if resumed:
        process = start(config)
        while durable(out) < rows / 2:
            if process.poll() is not None:
                raise SystemExit(f"the run ended (exit {process.returncode}) before it could be killed")
            time.sleep(0.5)
        kill(process)
    process = start(config)
    peaks = watch(process)
    if process.returncode != 0:
        raise SystemExit(f"the run failed with exit code {process.returncode}")
    return peaks


def watch(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Sample the processes of a run until it ends."""
    peaks: dict[str, float] = defaultdict(float)
    driver = psutil.Process(process.pid)
    busy: list[tuple[str, psutil.Process]] = []
    look = 0
    while process.poll() is None:
        if look % _EVERY == 0:
            busy = [(role, each) for each in _family(driver) if (role := _role(each, driver))]
        for role, each in busy:
            if role == "tasks" and look % _EVERY:
                continue
            try:
                uss, own = private(each)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            peaks[role] = max(peaks[role], uss / _MIB)
            if role == "driver":
                peaks["driver's own"] = max(peaks["driver's own"], own / _MIB)
        look += 1
        time.sleep(0.2)
    return dict(peaks)


def _family(driver: psutil.Process) -> list[psutil.Process]:
    try:
        return [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _role(process: psutil.Process, driver: psutil.Process) -> str | None:
    if process.pid == driver.pid:
        return "driver"
    try:
        title = " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    if "pipeline.prompts.apart" in title:
        return "reader"
    if not title.startswith("ray::"):
        return None
    return "workers" if "Worker)" in title else "tasks"


def private(process: psutil.Process) -> tuple[int, int]:
    """Bytes that only this process maps, and those of them that are no file's.

    Without the object store (shared memory that one process at a time maps).
    """
    maps = [m for m in process.memory_maps(grouped=True) if not m.path.startswith("/dev/shm")]
    own = sum(m.private_dirty for m in maps)
    return own + sum(m.private_clean for m in maps), own


if __name__ == "__main__":
    raise SystemExit(main())
