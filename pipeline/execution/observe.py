"""What a run tells about itself: histograms of its rows, metrics for Ray's exporter, and its log.

Nothing here runs per row but additions to counters; the rest happens twice a second or once a job.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.core.folder import RunFolder
from pipeline.core.safety import json_text, redact, redact_all

_PER_DOUBLING = 16
QUANTILES = (0.5, 0.9, 0.99)


@dataclass
class Histogram:
    """Counts of non-negative numbers on a logarithmic scale, 16 buckets a doubling: a quantile is within 2.2%.

    Memory is that of the buckets in use (some hundred at most), however many numbers were added; two of them merge
    into what one that saw all numbers would hold.

    Attributes:
        buckets: bucket -> count; bucket b holds (2^((b-1)/16), 2^(b/16)].
        zeros: numbers that were 0 (or less).
    """

    buckets: Counter[int] = field(default_factory=Counter)
    zeros: int = 0

    def add(self, value: float) -> None:
        """Count one number."""
        if value > 0:
            self.buckets[math.ceil(_PER_DOUBLING * math.log2(value))] += 1
        else:
            self.zeros += 1

    def merge(self, other: Histogram) -> None:
        """Add another one's counts."""
        self.buckets.update(other.buckets)
        self.zeros += other.zeros

    def quantiles(self) -> dict[str, float]:
        """``p50``, ``p90`` and ``p99`` (the bucket's geometric middle, 4 digits); empty when nothing was added."""
        total = self.zeros + self.buckets.total()
        found: dict[str, float] = {}
        for q in QUANTILES if total else ():
            rank, seen, value = math.ceil(q * total), self.zeros, 0.0
            for bucket in sorted(self.buckets):
                if seen >= rank:
                    break
                seen += self.buckets[bucket]
                value = 2 ** ((bucket - 0.5) / _PER_DOUBLING)
            found[f"p{100 * q:.0f}"] = float(f"{value:.4g}")
        return found

    def to_json(self) -> dict[str, Any]:
        """For a JSON file; :meth:`from_json` reads it."""
        return {"buckets": {str(b): n for b, n in sorted(self.buckets.items())}, "zeros": self.zeros}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Histogram:
        """The histogram of :meth:`to_json`; ``None`` is an empty one."""
        data = data or {}
        return cls(Counter({int(b): n for b, n in data.get("buckets", {}).items()}), data.get("zeros", 0))


class RayMetrics:
    """One worker's metrics, which Ray exports for Prometheus under these names, tagged with run and pass.

    ``lemonpress_rows`` (counter, by ``outcome``: ``ok``, ``failed``), ``lemonpress_tokens`` (counter, by ``kind``:
    ``prompt``, ``cached``, ``completion``), ``lemonpress_rows_in_flight`` (gauge: the engine's queue and what it works
    on, a worker) and ``lemonpress_cached_share`` (gauge: of the prompt tokens since the last report, a worker).
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        from ray.util.metrics import Counter, Gauge

        keys = ("run", "pass")
        self._rows = Counter("lemonpress_rows", "Rows that ended.", (*keys, "outcome"))
        self._tokens = Counter("lemonpress_tokens", "Tokens of engine requests.", (*keys, "kind"))
        self._in_flight = Gauge("lemonpress_rows_in_flight", "Rows at the engine.", (*keys, "worker"))
        self._cached = Gauge("lemonpress_cached_share", "Share of prompt tokens from the cache.", (*keys, "worker"))
        tags = {"run": labels.get("run", ""), "pass": labels.get("pass", "")}
        for metric in (self._rows, self._tokens):
            metric.set_default_tags(tags)
        for gauge in (self._in_flight, self._cached):
            gauge.set_default_tags({**tags, "worker": labels.get("worker", "")})

    def report(self, ok: int, failed: int, prompt: int, cached: int, completion: int, in_flight: int) -> None:
        """Add what happened since the last report."""
        for counter, name, counts in (
            (self._rows, "outcome", {"ok": ok, "failed": failed}),
            (self._tokens, "kind", {"prompt": prompt, "cached": cached, "completion": completion}),
        ):
            for value, count in counts.items():
                if count:
                    counter.inc(count, {name: value})
        self._in_flight.set(in_flight)
        if prompt:
            self._cached.set(cached / prompt)


class JsonLines(logging.Handler):
    """Writes each record as one line of JSON: ``time`` (UTC), ``level``, ``logger``, ``message``, then its fields.

    Fields come from ``extra={"fields": {...}}``, such as ``row_id`` and ``prompt_id``. Secrets are redacted.
    """

    def __init__(self, stream: Any, common: Mapping[str, Any]) -> None:
        super().__init__(logging.INFO)
        self._stream = stream
        self._common = dict(common)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line: dict[str, Any] = {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(),
                "logger": record.name,
                **self._common,
                "message": record.getMessage(),
                **getattr(record, "fields", {}),
            }
            if record.exc_info and record.exc_info[1] is not None:
                line["error"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            text = json_text(redact_all(line), indent=None, default=lambda value: redact(str(value)))
            self._stream.write((text + "\n").encode("utf-8", "replace"))
            self._stream.flush()
        except Exception:
            self.handleError(record)  # logging's own way: a full disk must not end the job here


@contextmanager
def job_log(run: RunFolder, job: str, run_id: str) -> Iterator[str]:
    """Log this attempt of a job as JSON lines into ``logs/JOB-ATTEMPT.jsonl`` of the run's folder; yields that path.

    What the loggers ``pipeline`` and ``lemonpress`` say from level info on. On an object store, which cannot append,
    the file appears when the job ends.
    """
    import pyarrow.fs as pafs

    folder = run.make("logs")
    known = run.fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    attempts = (i.base_name.removeprefix(f"{job}-").removesuffix(".jsonl") for i in known)
    attempt = 1 + max((int(a) for a in attempts if a.isdigit()), default=0)
    path = run.path("logs", f"{job}-{attempt}.jsonl")
    loggers = [logging.getLogger(name) for name in ("pipeline", "lemonpress")]
    levels = [logger.level for logger in loggers]
    stream = run.fs.open_output_stream(path)
    handler = JsonLines(stream, {"run": run_id, "job": job, "attempt": attempt})
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(min(logging.INFO, logger.level or logging.INFO))
    try:
        yield path
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        with suppress(OSError):  # a full disk: what the job did counts
            stream.close()
