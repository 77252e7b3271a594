"""Prompt sources: Hugging Face data sets and local files become the ``prompts/`` table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.core.bounds import bounded
from pipeline.core.errors import InputError, ResumeError
from pipeline.core.hashing import digest
from pipeline.core.registry import Registry
from pipeline.prompts.report import ReadReport

if TYPE_CHECKING:  # the config imports this module, and nothing heavy may load with it
    from pipeline.core.folder import RunFolder
    from pipeline.prompts.piece import Piece

SOURCES: Registry[SourceConfig] = Registry("prompt source", ("pipeline.prompts.sources",))


@dataclass
class Columns:
    """Which source column holds what. ``null`` takes the column of the field's own name where it exists.

    Attributes:
        messages: conversation in the chat format (list of {role, content}, or its JSON text).
        prompt: plain text of one user turn; used when there is no ``messages`` column, or when this is set
            and ``messages`` is not.
        id: explicit prompt ids (repeats are refused); default ``prompt_id``, else derived from the content.
        cluster: prompts that are not independent share it; ``@row`` = the row's position in its file, so that
            parallel files of translations cluster by position; default ``cluster_id``, else the hash of the messages:
            copies of one prompt are one cluster.
        language: BCP 47 or ISO 639-3 tag (``ja``, ``zh_CN``, ``deu_Latn``); anything else is kept as it is, and the
            report of the reading warns.
        task: ``open``, ``math``, ``translation`` ...
        reference: the reference answer.
    """

    messages: str | None = None
    prompt: str | None = None
    id: str | None = None
    cluster: str | None = None
    language: str | None = None
    task: str | None = None
    reference: str | None = None


@dataclass
class Given:
    """Answers that exist already, as the candidate set ``name`` (origin ``given``): selected from without sampling.

    The files' answers come first, so that a candidate's position says which model it is of; then the column's, then
    those of ``columns``. Where a file or a column has no answer to a prompt, the candidate has no text and says so.

    Attributes:
        column: a source column that holds a list of answers: texts, or structs with ``text`` and optionally ``model``,
            ``logprob``, ``num_tokens``, ``finish_reason``, ``reasoning`` and ``language``. With ``group``: the column
            with the one answer of each row.
        columns: source columns that hold one answer each, which are named after them (as ``model``).
        group: the source has one row per answer, and rows with the same id in this column are answers to one prompt.
            The prompt and all that belongs to it are the first row's; columns ``model``, ``logprob``, ``num_tokens``,
            ``finish_reason`` and ``reasoning`` are the candidates' own.
        files: name of a model -> JSONL, Parquet, CSV or TSV file with one answer per prompt.
        id: the column of those files with the prompt's id; ``null`` = the name of the source's own id column.
        text: where in those files the answer's text is: a column, or a path into it such as
            ``messages.1.content.answer`` (list items count from 0). Without files: where in the column's structs.
        name: name of the candidate set, recorded as its plan.
    """

    column: str | None = None
    columns: list[str] = field(default_factory=list)
    group: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    id: str | None = None
    text: str = "text"
    name: str = "given"

    def __bool__(self) -> bool:
        """Whether any answers are given."""
        return bool(self.column or self.columns or self.files)


@dataclass
class SourceConfig:
    """What every source has in common.

    Attributes:
        columns: where to find what in the source.
        given: answers that come with the prompts.
        system: a system message to put before every prompt that has none.
        task: task of rows without a task column.
        language: language of rows without a language column.
        languages: keep only prompts in these languages (whatever their script or region); ``null`` keeps all.
        limit: keep the first so many prompts (after ``languages``).
        limit_clusters: keep the first so many clusters (after ``languages``).
        shard_rows: rows of a shard: what is stored as a whole, and done again at most after a crash; ``null`` follows
            from the input's size: 16 at first, 50 from 800 rows on, from 200,000 a four-thousandth, at most 5,000.
    """

    kind: ClassVar[str] = ""
    columns: Columns = field(default_factory=Columns)
    given: Given = field(default_factory=Given)
    system: str | None = None
    task: str = "open"
    language: str | None = None
    languages: list[str] | None = None
    limit: int | None = None
    limit_clusters: int | None = None
    shard_rows: int | None = bounded(None, ge=1)

    def given_sets(self) -> list[str]:
        """Names of the candidate sets that the source brings."""
        return [self.given.name] if self.given else []


@SOURCES.register("example")
@dataclass
class ExampleSource(SourceConfig):
    """Our own 8 questions, each in the paper's seven languages: 56 prompts in 8 clusters."""

    @property
    def file(self) -> str:
        """The file beside this module."""
        return "examples.jsonl"


@SOURCES.register("sentences")
@dataclass
class SentenceSource(ExampleSource):
    """Our own 16 sentences in eight languages, each with its English translation: 128 prompts in 16 clusters."""

    task: str = "translation"

    @property
    def file(self) -> str:
        """The file beside this module."""
        return "sentences.jsonl"


@SOURCES.register("file")
@dataclass
class FileSource(SourceConfig):
    """Local Parquet, JSONL, CSV or TSV files, read through ``datasets``.

    Attributes:
        path: a file, a folder or a glob.
        paths: language -> file, for parallel files; sets the rows' language.
        format: ``parquet``, ``jsonl``, ``csv`` or ``tsv``; ``null`` goes by the file's ending.
        header: names of the columns where a CSV/TSV file has no header line.
    """

    path: str | None = None
    paths: dict[str, str] = field(default_factory=dict)
    format: str | None = None
    header: list[str] | None = None


@SOURCES.register("hub")
@dataclass
class HubSource(SourceConfig):
    """A data set on the Hugging Face hub.

    Attributes:
        dataset: repository, such as ``CohereLabs/m-ArenaHard-v2.0``.
        names: its configurations (one per language in many multilingual sets); empty = the default one. Without a
            language column and ``language``, a name that is a language tag (``es``, ``zh-CN``) is its rows' language.
        split: split name.
        revision: branch, tag or commit.
    """

    dataset: str = ""
    names: list[str] = field(default_factory=list)
    split: str = "test"
    revision: str | None = None


@SOURCES.register("run")
@dataclass
class RunSource(SourceConfig):
    """Another run's finished table, all its columns kept: extend or select its candidates again in a new folder.

    Attributes:
        path: the other run's folder (or URI).
        table: ``candidates``, or ``prompts``, ``selections``, ``games``.
        sets: names of the candidate sets that the table brings; ``null`` = loading the config finds them in it. The
            stored config has them written out, so that it can be read when the other run is gone.
    """

    path: str | None = None
    table: str = "candidates"
    sets: list[str] | None = None

    def given_sets(self) -> list[str]:
        return self.sets or []

    def find_sets(self) -> None:
        """Look into the other run's table for the names of its sets, unless they are known."""
        if self.sets is None:
            from pipeline.prompts.from_run import Upstream

            self.sets = Upstream(self, Path()).candidate_sets()


_LARGE = 2**20  # bytes of local files: less is read before another process is up


def read_prompts(source: SourceConfig, run: RunFolder, base: Path | None = None, *, apart: bool = True) -> ReadReport:
    """Write the run's ``prompts/`` table, or return the stored report when it is finished already.

    A source that has grown is read again; when it still holds every prompt of the table, unchanged, the others are
    added under the row_ids that follow.

    The source is opened through the ``datasets`` library, which memory-maps it, and is gone over twice in batches:
    memory holds some 30 bytes a prompt and 16 a given answer, never the texts. Another run's table is copied.

    Args:
        source: where the prompts come from.
        run: the run's folder; a half-written ``prompts/`` in it is removed.
        base: folder that relative local paths start from; default: the working directory.
        apart: read large files in a process of its own (:mod:`pipeline.prompts.apart`).

    Raises:
        ConfigError: a key of ``prompts`` is wrong: no such file, column or data set.
        InputError: a file cannot be read, explicit ids repeat, or no prompt is left.
        ResumeError: the folder's prompts were read with another config, or from files that changed since, and are not
            the same any more.
    """
    from pipeline import __version__
    from pipeline.core.tables import give_back
    from pipeline.prompts import files as opening
    from pipeline.prompts.from_run import Upstream
    from pipeline.prompts.given import given_files
    from pipeline.prompts.write import write_table

    base = base or Path()
    files, answers = opening.local_files(source, base), given_files(source, base)
    upstream = Upstream(source, base) if isinstance(source, RunSource) else None
    paths = [*(path for path, _ in files), *answers.values()]
    states = [opening.file_state(source, path) for path in paths]
    if upstream:
        states.append(upstream.state())
    # Sets are found in the table, if they are not given; and a shard's size is nothing that prompts are read from.
    settings = {k: v for k, v in asdict(source).items() if k not in ("sets", "shard_rows")}
    fingerprint = {"source": {"kind": source.kind, **settings}, "files": states}
    provenance = {"lemonpress": __version__, "fingerprint": fingerprint}
    marker = run.marker("prompts")
    if marker is not None and "fingerprint" not in marker:
        raise InputError(f"{run.path('prompts')}: its completion marker does not say what was read")
    is_same = marker is not None and digest(marker["fingerprint"]) == digest(fingerprint)
    if apart and not is_same and sum(path.stat().st_size for path in paths) > _LARGE:
        from pipeline.prompts.apart import read_apart

        return read_apart(source, run, base)
    if marker is not None:
        if not is_same:
            if upstream:
                raise _another_source(marker, fingerprint, run)
            marker = _extend(source, opening.open_source(source, files), answers, run, provenance, marker)
        stored = marker["report"]
        pairs = [(row, first) for row, first in stored.pop("duplicates")]
        return ReadReport(**stored, duplicates=pairs, skipped=not marker.get("added", False))
    run.remove("prompts")
    if upstream:
        report, sizes = upstream.copy(run, provenance)
    else:
        report, sizes = write_table(source, opening.open_source(source, files), answers, run, provenance)
    give_back()
    run.complete("prompts", _record(report, sizes, fingerprint))
    return report


def _record(report: ReadReport, sizes: Sequence[int], fingerprint: dict[str, Any]) -> dict[str, Any]:
    from pipeline import __version__

    return {
        "rows": report.rows,
        "sizes": list(sizes),
        "fingerprint": fingerprint,
        "fingerprint_hash": digest(fingerprint),
        "lemonpress": __version__,
        "report": {k: v for k, v in asdict(report).items() if k != "skipped"},
    }


def _extend(
    source: SourceConfig,
    pieces: Sequence[Piece],
    answers: dict[str, Path],
    run: RunFolder,
    provenance: dict[str, Any],
    before: dict[str, Any],
) -> dict[str, Any]:
    """Read the source again, and add the prompts that the table lacks.

    Returns:
        The table's record, and whether prompts were ``added``; ``grown`` stays true once they were.

    Raises:
        ResumeError: a prompt of the table is missing now, or differs.
    """
    from pipeline.prompts.grown import new_row_ids, new_rows
    from pipeline.prompts.write import write_shards, write_table

    work = run.inside("work", "read")
    work.remove("prompts")
    report, sizes = write_table(source, pieces, answers, work, provenance)
    work.complete("prompts", _record(report, sizes, provenance["fingerprint"]))
    read = work.dataset("prompts")
    ids = new_row_ids(run.dataset("prompts"), read)
    if ids is None:
        run.remove("work", "read")
        raise _another_source(before, provenance["fingerprint"], run)
    report.duplicates = [(int(ids[row]), int(ids[first])) for row, first in report.duplicates]
    grown = report.rows > before["rows"]
    if grown:
        new = new_rows(read, ids, before["rows"])
        before = {**before, "sizes": write_shards(run, read.schema, new, source.shard_rows, before["sizes"])}
    record = {
        **_record(report, before["sizes"], provenance["fingerprint"]),
        "grown": grown or before.get("grown", False),
    }
    run.complete("prompts", record)
    run.remove("work", "read")
    return {**record, "added": grown}


def _another_source(marker: dict[str, Any], now: dict[str, Any], run: RunFolder) -> ResumeError:
    """Prompts of another config, or from files that changed, cannot be gone on with."""
    return ResumeError(
        f"{run.path('prompts')} was read from another source: {'; '.join(_differences(marker['fingerprint'], now))}; "
        "use a new folder (out=...), or the config and the files that this one was made with (more prompts may be "
        "added, but those that were read must stay as they were)"
    )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What differs between two fingerprints, in words."""
    for key in sorted({*before["source"], *now["source"]}):
        old, new = before["source"].get(key), now["source"].get(key)
        if old != new:
            yield f"prompts.{key} was {old!r}, now {new!r}"
    states = [{tuple(state) for state in side["files"]} for side in (before, now)]
    changed = sorted({str(state[0]) for state in states[0] ^ states[1]})
    if changed:
        yield f"files added, removed or changed: {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}"
