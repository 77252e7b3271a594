"""The judge's audit: known-answer pairs are what they claim to be, and judges of known ability are graded as such."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.core.row import Answer, Row, Selection
from pipeline.engines.dummy import DummyEngine, DummyEngineConfig
from pipeline.judging.audit import AuditStage, altered, choose_rows, find_donors, original_answer
from pipeline.stats.audit import audit_rows
from pipeline.stats.clusters import Bootstrap
from pipeline.stats.games import Games, games_from_table
from pipeline.tasks.translation import Translation
from tests.conftest import finish

ENGLISH = "Take three eggs first, then beat them well with sugar, and bake it all until the end, 7 minutes."
GERMAN = "Nimm zuerst drei Eier, schlage sie gut mit Zucker auf und backe alles bis zum Schluss, ganze Minuten lang."


def prompt(i: int, language: str = "en", text: str | None = ENGLISH, **more: Any) -> Row:
    answered = [] if text is None else [Selection("hedged", "sample", 0, text)]
    asked = [{"role": "user", "content": f"How, {i}?"}]
    return Row(i, f"{i}-{language}", f"c{i}", "open", language, asked, **more, selections=answered)


def play(rows: list[Row], **judge: Any) -> Games:
    """The audit's games of a dummy judge, as the statistics read them."""
    donors = {row.row_id: GERMAN for row in rows}
    stage = AuditStage("j", opponent="hedged/sample", donors=donors)
    engine = DummyEngine(DummyEngineConfig(model="j", **judge))
    for row in rows:
        finish(stage(row, engine))
    flat = [
        {"prompt_id": r.prompt_id, "cluster_id": r.cluster_id, "language": r.language, **vars(g)}
        for r in rows
        for g in r.games
    ]
    return games_from_table(pa.Table.from_pylist(flat))


def graded(games: Games, version: str = "altered", language: str = "all") -> dict[str, Any]:
    rows = [vars(row) for row in audit_rows(games, Bootstrap())]
    (found,) = [r for r in rows if (r["version"], r["language"]) == (version, language)]
    return found


def test_every_version_differs_as_it_says() -> None:
    found = altered(ENGLISH, GERMAN, 1, "p")
    assert list(found) == ["identical", "truncated", "numbers", "shuffled", "language"]
    assert found["identical"] == ENGLISH and found["language"] == GERMAN
    assert ENGLISH.startswith(found["truncated"]) and len(found["truncated"]) <= len(ENGLISH) / 2
    assert found["numbers"] != ENGLISH and found["numbers"].replace(found["numbers"][-10], "7") == ENGLISH
    assert found["shuffled"] != ENGLISH and sorted(found["shuffled"].split()) == sorted(ENGLISH.split())
    assert altered(ENGLISH, GERMAN, 1, "p") == found
    assert altered(ENGLISH, GERMAN, 2, "p")["shuffled"] != found["shuffled"]


def test_versions_that_cannot_be_made_are_left_out() -> None:
    assert list(altered("Yes.", None)) == ["identical"]
    japanese = altered("卵を三つ割り、砂糖とよく混ぜて、最後に１２分焼きます。", None)
    assert list(japanese) == ["identical", "truncated", "numbers", "shuffled"]
    assert "１２" not in japanese["numbers"] and "分焼" in japanese["numbers"]  # digits of the same script
    assert sorted(japanese["shuffled"]) == sorted("卵を三つ割り、砂糖とよく混ぜて、最後に１２分焼きます。")


@pytest.mark.parametrize(
    ("judge", "grade", "identical"),
    [
        ({"accuracy": 1.0, "best": r"the end, 7 minutes\."}, "able", "able"),
        ({"accuracy": 0.5, "best": r"the end, 7 minutes\."}, "chance", "able"),
        ({"accuracy": 0.0, "best": r"the end, 7 minutes\."}, "misled", "able"),
        ({"always": "first"}, "chance", "misled"),
    ],
)
def test_judges_of_known_ability_are_graded_as_such(judge: dict[str, Any], grade: str, identical: str) -> None:
    games = play([prompt(i) for i in range(120)], **judge)
    found, order = graded(games), graded(games, "identical")
    assert (found["grade"], order["grade"]) == (grade, identical)
    assert found["n_prompts"] == found["n_clusters"] == 120 and found["n_invalid"] == 0
    assert found["ci_low"] <= found["sensitivity"] <= found["ci_high"]
    assert "audit|judge:j" in found["signature"]
    if "always" in judge:
        assert (found["sensitivity"], found["first_share"], order["first_share"]) == (0.5, 1.0, 1.0)
    elif judge["accuracy"] == 1:
        assert found["sensitivity"] == 1.0 and found["ci_low"] < 1.0
        assert found["first_share"] == 0.5  # no order effect: it prefers the better one in either order


def test_languages_are_graded_by_themselves() -> None:
    """A judge that can tell English answers, and is blind in German."""
    rows = [prompt(i) for i in range(60)] + [prompt(60 + i, "de", GERMAN) for i in range(60)]
    games = play(rows, accuracy=1.0, best=r"the end, 7 minutes\.")
    assert graded(games, language="en")["grade"] == "able"
    assert graded(games, language="de")["grade"] == "chance"


def test_few_clusters_decide_nothing() -> None:
    games = play([prompt(i) for i in range(5)], accuracy=1.0, best=r"the end, 7 minutes\.")
    assert graded(games)["grade"] == "unknown"


def test_only_chosen_rows_are_audited() -> None:
    stage = AuditStage("j", opponent="hedged/sample", donors={1: None})
    engine = DummyEngine(DummyEngineConfig(model="j"))
    chosen, other, silent = prompt(1), prompt(2), prompt(1, text=None)
    for row in (chosen, other, silent):
        finish(stage(row, engine))
    assert {g.opponent for g in chosen.games} == {
        f"audit:{v}" for v in ("identical", "truncated", "numbers", "shuffled")
    }
    assert other.games == [] and silent.games == []


def test_rows_are_chosen_by_cluster_so_that_translations_go_together() -> None:
    rows = [(10 * c + i, f"c{c}", language) for c in range(50) for i, language in enumerate(("en", "de", None))]
    chosen = choose_rows(rows, 4, seed=1)
    assert len(chosen) == 12
    assert len({row_id // 10 for row_id in chosen}) == 4  # the same four questions in each language
    assert chosen == choose_rows(reversed(rows), 4, seed=1) != choose_rows(rows, 4, seed=2)


def test_donors_are_answers_in_another_language() -> None:
    rows = [prompt(1), prompt(1, "de", GERMAN), prompt(2)]
    rows[1].row_id, rows[2].row_id = 11, 2
    donors = find_donors(rows, "hedged/sample", {})
    assert donors == {1: GERMAN, 11: ENGLISH, 2: GERMAN}  # row 2 has no translation: another question's answer
    assert find_donors([prompt(1)], "hedged/sample", {}) == {1: None}
    task = Translation(source_language="es", target_language="en")
    spanish = Row(3, "s", "s", "translation", "es", [{"role": "user", "content": "Tres huevos"}], reference=ENGLISH)
    assert find_donors([spanish], "x", {"translation": task}) == {3: "Tres huevos"}  # the source is no translation


def test_an_answer_in_the_wrong_language_is_compared_with_nothing() -> None:
    """The model answers everything in English: no version is a wrong language beside a right one."""
    all_english = [prompt(1, "en", ENGLISH), prompt(1, "de", f"Then, {ENGLISH}"), prompt(1, "ja", f"Now, {ENGLISH}")]
    for i, row in enumerate(all_english):
        row.row_id = i
    assert find_donors(all_english, "hedged/sample", {}) == {0: None, 1: None, 2: None}
    all_english.append(prompt(1, "fr", GERMAN))  # in the wrong language as well, but it is another one
    all_english[3].row_id = 3
    assert find_donors(all_english, "hedged/sample", {}) == {0: GERMAN, 1: None, 2: None, 3: None}


def test_an_able_judge_is_not_graded_down_for_a_model_that_answers_in_english_only() -> None:
    rows = [prompt(i, language) for i in range(40) for language in ("en", "de")]
    for i, row in enumerate(rows):
        row.row_id = i
        row.selections[0].text = f"Cake number {i}: {ENGLISH}"
    stage = AuditStage("j", opponent="hedged/sample", donors=find_donors(rows, "hedged/sample", {}))
    engine = DummyEngine(
        DummyEngineConfig(model="j", accuracy=1.0, best=r"Cake number \d+: Take.*the end, 7 minutes\.")
    )
    for row in rows:
        finish(stage(row, engine))
    assert not [g for row in rows for g in row.games if g.opponent == "audit:language"]
    assert [g for row in rows for g in row.games]


def test_the_original_is_a_reference_that_can_be_read() -> None:
    assert original_answer(prompt(1, reference=GERMAN), "hedged/sample") == GERMAN
    assert original_answer(prompt(1, reference="42"), "hedged/sample") == ENGLISH
    outside = prompt(1, answers=[Answer("gpt", "Outside.")])
    assert original_answer(outside, "gpt") == "Outside."
    assert original_answer(outside, "nobody") == ENGLISH
