"""``show``: everything known about one prompt, from finished tables and from what a running pass has written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.core.errors import InputError, nearest
from pipeline.core.folder import RunFolder
from pipeline.core.layers import TABLES, Layer, lay, read_layers
from pipeline.core.reading import Table, shard_name
from pipeline.core.row import Row, Score, row_from_dict
from pipeline.core.safety import json_text, line, visible
from pipeline.core.schema import COLUMNS

_FEW = 5_000  # ids kept for the nearest one's name


def run(folder: str, prompt_id: str) -> None:
    """Print one prompt with its candidates, scores, selections, games, cost and errors.

    Args:
        folder: the run's folder (path or URI).
        prompt_id: of the prompt.

    Raises:
        InputError: there is no such run, or no such prompt in it; the message names the nearest id.
    """
    for told in describe(RunFolder(folder), prompt_id):
        print(told)  # safe by :func:`describe`


def describe(run: RunFolder, prompt_id: str) -> Iterator[str]:
    """The lines that :func:`run` prints; control characters of texts are signs in them.

    Raises:
        InputError: as :func:`run`.
    """
    row, state = find(run, prompt_id)
    yield line("prompt {} (row {}, cluster {})", row.prompt_id, row.row_id, row.cluster_id)
    yield line("language {}, task {}; found in {}", row.language or "-", row.task, state)
    for message in row.messages:
        yield from _text(line("[{}]", message.get("role")), message.get("content") or message.get("tool_calls"))
    if row.reference is not None:
        yield from _text("reference", row.reference)
    for plan in dict.fromkeys(c.plan for c in row.candidates):
        yield from _candidates(row, plan)
    for selection in row.selections:
        chosen = "nothing" if selection.index is None else f"candidate {selection.index}"
        text = selection.text if selection.index == -1 else None
        what = "a new text" if selection.index == -1 else chosen
        yield from _text(line("selection {}: {}, score {}", selection.system, what, _number(selection.score)), text)
        if selection.detail:
            yield line("    {}", selection.detail)
    for answer in row.answers:
        yield from _text(line("answer of {}", answer.system), answer.text)
    for game in row.games:
        names = (game.system, game.opponent, game.order, game.judge, game.template)
        said = (game.verdict, _number(game.score), _number(game.mass))
        shown = line("game {} against {} ({}), judge {}, {}: {}, score {}, label mass {}", *names, *said)
        yield line("{}; {}", shown, game.reason) if game.reason else shown
    for u in row.usage:
        tokens = (u.requests, u.prompt_tokens, u.cached_tokens, u.completion_tokens)
        form = "cost of {}/{} on {}: {} requests, {} prompt tokens ({} cached), {} new"
        yield line(form, u.job, u.stage, u.model, *tokens)
    for e in row.errors:
        yield line("error in {}/{}: {}: {}", e.job, e.stage, e.kind, e.message)


def find(run: RunFolder, prompt_id: str) -> tuple[Row, str]:
    """The prompt's row with what all layers hold of it, finished or not, and where it was found.

    Raises:
        InputError: there is no such run or prompt.
    """
    if run.marker("prompts") is None:
        raise InputError(f"{run.name}: no run's folder: its prompts are not there")
    prompts, seen = run.dataset("prompts"), set[str]()
    for number in range(prompts.shards):
        ids = prompts.shard(number, ["prompt_id"]).column("prompt_id").to_pylist()
        if prompt_id in ids:
            layers = read_layers(run)
            whole = Table(run, (run.marker("prompts") or {})["sizes"], lay(layers), run.name)
            row = whole.shard(number, list(COLUMNS)).slice(ids.index(prompt_id), 1).to_pylist()[0]
            return row_from_dict(row), ", ".join(_places(run, layers, number))
        if len(seen) < _FEW:
            seen.update(ids)
    raise InputError(f"{run.name}: no prompt has the id {prompt_id!r}{nearest(prompt_id, seen)}")


def _places(run: RunFolder, layers: Sequence[Layer], number: int) -> Iterator[str]:
    yield "prompts"
    for table in TABLES[1:]:
        if any(each.table == table and run.exists(table, each.name, shard_name(number)) for each in layers):
            yield table if run.marker(table) is not None else f"{table} (its job has not finished)"


def _candidates(row: Row, plan: str) -> Iterator[str]:
    scores = [s for s in row.scores if s.plan == plan]
    chosen = [s for s in row.selections if s.plan == plan]
    for i, c in enumerate(row.plan(plan)):
        facts = [c.origin, c.model, c.language, c.finish_reason]
        facts += [None if c.temperature is None else f"temperature {c.temperature:g}"]
        facts += [None if c.seed is None else f"seed {c.seed}", f"{c.num_tokens} tokens" if c.num_tokens else None]
        facts += [None if c.logprob is None else f"logprob {c.logprob:.4g}"]
        facts += [f"{s.scorer} {_number(_value(s, i))}" for s in scores]
        told = [line("{}", f) for f in facts if f]
        title = line("candidate {} of {}: ", i, plan) + ", ".join(told)
        by = ", ".join(line("{}", s.method) for s in chosen if s.index == i)
        yield from _text(title + (f"; chosen by {by}" if by else ""), c.text)
        if c.reasoning:
            yield from _text("    reasoning", c.reasoning)
        if c.error:
            yield line("    error: {}", c.error)


def _value(score: Score, i: int) -> float | None:
    return score.values[i] if i < len(score.values) else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(title: str, text: Any) -> Iterator[str]:
    """A safe title, and the text indented below it: no text can pass for a line of ours."""
    yield title
    if text is not None:
        shown = text if isinstance(text, str) else json_text(text, indent=None)
        yield from ("    | " + line for line in visible(shown).split("\n"))
