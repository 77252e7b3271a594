"""``label``: candidate sets that exist already are scored and selected from, and the labels written beside them."""

from __future__ import annotations

from pipeline import __version__
from pipeline.config.config import Config, to_dict
from pipeline.core.errors import ConfigError, TooManyFailedRows, nearest
from pipeline.core.folder import RunFolder
from pipeline.core.safety import say
from pipeline.jobs import select
from pipeline.jobs.job import session, update_manifest
from pipeline.jobs.label.columns import check_names, label_fields
from pipeline.prompts.sources import RunSource


def run(config: Config) -> None:
    """Select from given answers, and write the input's rows with their labels.

    Rows in = rows out, in the input's order, with its columns' names and Arrow types. A row that failed has nulls and
    its reason in ``PREFIX_error``.

    Raises:
        ConfigError: something is sampled, no answers are given, or a new column's name is taken.
        TooManyFailedRows: at the end; the labels are written.
    """
    method = check(config)
    from pipeline.jobs.label.joining import join_rows
    from pipeline.jobs.label.labels import Labels
    from pipeline.jobs.label.original import original_parts
    from pipeline.jobs.label.write import targets, write_labels

    source, settings, folder = config.prompts, config.label, RunFolder(config.out)
    parts = original_parts(source)
    fields = label_fields(settings.prefix, source.given.group is not None)
    for part in parts:
        check_names(fields, part.schema.names, part.name)
    targets(settings, folder, parts)
    failure: TooManyFailedRows | None = None
    with session(config, folder):
        try:
            select.run(config)
        except TooManyFailedRows as error:
            failure = error
        provenance: dict[str, object] = {"lemonpress": __version__, "pass": "label", "method": method}
        provenance["selector"] = _selector(config, method)
        labels = Labels(folder, source.given.name, method)
        join = join_rows(source, [part.piece for part in parts], folder)
        written = write_labels(parts, join, labels, settings, folder, method, provenance)
        entry = {"rows": written.rows, "unlabelled": written.unlabelled, "method": method, "path": written.path}
        update_manifest(folder, {"labels": entry})
    columns = ", ".join(field.name for field in fields)
    say(f"labels by {method}: {written.rows:,} rows, {written.unlabelled:,} of them with an error, in {written.path}")
    say(f"new columns: {columns}")
    if failure is not None:
        raise failure


def check(config: Config) -> str:
    """The selector whose choices are the labels.

    Raises:
        ConfigError: the config is no labelling.
    """
    source = config.prompts
    if isinstance(source, RunSource):
        raise ConfigError("prompts.kind: label writes beside a user's own files; for a run's table use select")
    if not source.given:
        raise ConfigError("prompts.given: which answers are there? set column, columns or files")
    if config.all_plans():
        raise ConfigError("sampling: label samples nothing; use run (or generate and select)")
    if config.policy:
        raise ConfigError("policy: label writes one selector's choices; set label.method")
    for name in ("languages", "limit_clusters"):
        if getattr(source, name) is not None:
            raise ConfigError(f"prompts.{name}: cannot be used with label, which writes every row of the input")
    method, known = config.label.method, list(config.selectors)
    if method is None and len(known) == 1:
        return known[0]
    if method is None:
        raise ConfigError(f"label.method: which selector's choices are the labels? one of: {', '.join(known)}")
    if method not in known:
        raise ConfigError(f"label.method: no selector is called {method!r}{nearest(method, known)}")
    if source.given.name not in config.sets_of(method):
        raise ConfigError(f"selectors.{method}.plans: leaves out the given answers ({source.given.name!r})")
    return method


def _selector(config: Config, method: str) -> dict[str, object]:
    chosen: dict[str, object] = to_dict(config.selectors[method])
    engine = config.selectors[method].engine
    return chosen | ({"model": config.engines[engine].identity()} if engine else {})
