"""Reading games: every malformed row is refused by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError, UnfinishedTableError
from pipeline.core.folder import RunFolder
from pipeline.stats.games import INVALID, games_from_table, load_table_games
from tests.stats.tables import both_orders, flat, rows_of, run_games, winrates
from tests.tables import write_table

GOOD = both_orders({"en": [1.0, 0.5], "de": [0.0]})


def test_csv_jsonl_and_parquet_give_the_same_games(tmp_path: Path) -> None:
    table = flat([*GOOD, ("007", "en", "s", "o", "ab", None)])
    pq.write_table(table, tmp_path / "g.parquet")
    pacsv.write_csv(table, tmp_path / "g.csv")
    import json

    (tmp_path / "g.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    results = [winrates(load_table_games(str(tmp_path / f"g.{end}"))) for end in ("parquet", "csv", "jsonl")]
    assert results[0] == results[1] == results[2]
    assert rows_of(results[0], "language")["en"]["n_invalid"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("x", "en", "s", "o", "ab", 1.2), r"row 7 \(prompt_id 'x'.*outside 0\.\.1"),
        (("x", "en", "s", "o", "ab", -0.1), r"row 7 .*outside 0\.\.1"),
        (("x", "en", "s", "o", "ab", math.nan), r"row 7 .*NaN"),
        (("en0", "en", "s", "o", "ab", 1.0), r"row 7 .*listed twice"),
        (("x", "en", "s", "o", "AB", 1.0), r"row 7 .*order must be"),
        (("x", "en", "s", "s", "ab", 1.0), r"row 7 .*cannot play itself"),
        ((None, "en", "s", "o", "ab", 1.0), r"row 7 .*prompt_id is null"),
        (("x", "en", None, "o", "ab", 1.0), r"row 7 .*system is null"),
        (("x", "all", "s", "o", "ab", 1.0), r"row 7 .*cannot be called 'all'"),
    ],
)
def test_a_wrong_row_is_named(row: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        games_from_table(flat([*GOOD, row]))


def test_missing_column_names_the_nearest() -> None:
    table = flat(GOOD)
    with pytest.raises(InputError, match="no column 'score'; did you mean 'scores'"):
        games_from_table(table.rename_columns([*table.column_names[:-1], "scores"]))


def test_a_file_without_the_column_or_that_is_no_table(tmp_path: Path) -> None:
    pq.write_table(flat(GOOD).drop_columns(["order"]), tmp_path / "g.parquet")
    with pytest.raises(InputError, match="no column 'order'"):
        load_table_games(str(tmp_path / "g.parquet"))
    (tmp_path / "bad.parquet").write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        load_table_games(str(tmp_path / "bad.parquet"))
    with pytest.raises(InputError, match="no such file"):
        load_table_games(str(tmp_path / "absent.csv"))


def test_a_score_that_is_no_number_is_named(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("prompt_id,language,system,opponent,order,score\n1,en,s,o,ab,1\n2,en,s,o,ab,win\n")
    with pytest.raises(InputError, match="row 2: score must be a number, not 'win'"):
        load_table_games(str(tmp_path / "g.csv"))


def test_no_rows_is_an_error() -> None:
    with pytest.raises(InputError, match="no game"):
        games_from_table(flat([]))


def test_a_prompt_in_two_clusters_is_refused() -> None:
    table = flat(GOOD, cluster_id=["a", "b", "c", "c", "d", "d"])
    with pytest.raises(InputError, match=r"row 2 .*another cluster_id"):
        games_from_table(table)


def test_an_id_shared_by_languages_is_one_cluster_of_several_prompts() -> None:
    games = games_from_table(flat([("q1", lang, "s", "o", "ab", 1.0) for lang in ("en", "de", None)]))
    assert games.languages == ["de", "en", "und"]
    assert games.n_clusters == 1 and len(games.prompt_language) == 3


def test_codes_do_not_depend_on_the_order_of_rows() -> None:
    rows = [(f"p{i}", "en" if i % 3 else "de", "s", "o", o, (i % 5) / 4) for i in range(120) for o in ("ab", "ba")]
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert winrates(games_from_table(flat(rows))) == winrates(games_from_table(flat(shuffled)))


def test_a_verdict_wins_over_the_score_and_null_is_invalid() -> None:
    table = flat(
        [("a", "en", "s", "o", "ab", 0.52), ("a", "en", "s", "o", "ba", None)], verdict=pa.array(["tie", "invalid"])
    )
    assert games_from_table(table).outcome.tolist() == [0, INVALID]


def run_with_games(tmp_path: Path, games: list[list[dict[str, object]] | None], finished: bool = True) -> RunFolder:
    rows = [{"cluster_id": f"p{i}" if i else "q0", "language": "en", "games": g} for i, g in enumerate(games)]
    return write_table(RunFolder(str(tmp_path / "run")), "games", rows, finished=finished)


def game(order: str, score: float | None, verdict: str = "win") -> dict[str, object]:
    return {"system": "s", "opponent": "o", "judge": "j", "template": "t", "order": order, "score": score,
            "mass": 0.9, "verdict": verdict, "reason": "because"}  # fmt: skip


def test_a_run_streams_and_counts_rows_without_games_as_invalid(tmp_path: Path) -> None:
    rows = [[game("ab", 1.0), game("ba", 0.5, "tie")], [], None, [game("ab", 1.0)]]
    with pytest.raises(UnfinishedTableError):
        run_games(run_with_games(tmp_path, rows, finished=False))
    games = run_games(run_with_games(tmp_path, rows))
    assert games is not None
    assert games.score.tolist() == [1.0, 0.5, 1.0] and games.mass.tolist() == [0.9] * 3
    row = rows_of(winrates(games), "language")["en"]
    assert (row["n_prompts"], row["n_games"], row["n_invalid"], row["win_rate"]) == (1, 3, 3, 0.75)
    assert row["signature"].startswith("winrate|judge:j|template:t|orders:2|ties:half|scores:hard|boot:10000,cluster")


def test_a_run_without_any_game_has_none(tmp_path: Path) -> None:
    run = run_with_games(tmp_path, [[], None])
    assert run_games(run) is None
