"""Decisions of adaptive N: what further candidates gain, and how a budget is dealt out. No Ray, no engine."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.load import load_config
from pipeline.core.columns import Floats
from pipeline.core.errors import ConfigError
from pipeline.core.folder import RunFolder
from pipeline.core.row import Candidate, Row, Score
from pipeline.core.units import Made
from pipeline.engines.dummy import DummyEngineConfig
from pipeline.engines.meter import Meter
from pipeline.jobs import generate
from pipeline.jobs.adaptive import numbers_hold
from pipeline.sampling.adaptive.accounts import Account, LanguageAccount, _count_candidates, _Failed, account
from pipeline.sampling.adaptive.decide import Decision, Lengths, State, concave, deal_out, decide, lengths
from pipeline.sampling.adaptive.rewards import reward_gains
from pipeline.sampling.adaptive.stages import ScoreStage
from pipeline.sampling.adaptive.votes import counts_of, vote_gains
from pipeline.sampling.plans import Adaptive
from pipeline.selection.stage import SCORER, SelectStage, known_values
from tests.tables import write_table

NAN = float("nan")


def state(scores: Floats, tokens: float | Floats = 10.0) -> State:
    there = np.full(scores.shape, tokens) if isinstance(tokens, float) else tokens
    return State(scores, there, np.isfinite(there), np.isfinite(there).sum(axis=1))


def gains_of(scores: Floats, drawn: Floats, most: int, first: int, highest: float = np.inf) -> Floats:
    """Where lengths tell nothing."""
    return reward_gains(scores, drawn, most, first, np.full(len(scores), 10.0), highest)


def deal(scores: Floats, cost: float | Floats = 10.0, votes: bool = False, **settings: Any) -> Decision:
    return decide(Adaptive("x", **{"first": 4, "mean_n": 8.0, **settings}), 16, votes, state(scores, cost), 1)


LAWS = {
    "normal": lambda rng: rng.normal(size=(1200, 12)),
    "outliers above": lambda rng: rng.exponential(size=(1200, 12)),
    "outliers below": lambda rng: -rng.exponential(size=(1200, 12)),
}


@pytest.mark.parametrize("law", LAWS)
def test_what_the_next_candidate_is_expected_to_gain_is_what_it_gains(law: str) -> None:
    """Prompts with a law each: in every third of the batch by what was expected; several more are in order."""
    rng = np.random.default_rng(2)
    spread = np.exp(rng.normal(0, 0.7, (1200, 1)))
    scores = rng.normal(0, 5, (1200, 1)) + spread * LAWS[law](rng)
    for count in (4, 8):
        seen, best = scores[:, :count], scores[:, :count].max(axis=1)
        expected = gains_of(seen, seen, 4, count)
        for more, allowed in ((1, 0.35), (4, 0.6)) if law != "outliers above" else ((1, 0.5),):
            real = scores[:, : count + more].max(axis=1) - best
            for part in np.array_split(np.argsort(expected[:, more - 1]), 3):
                assert expected[part, more - 1].mean() == pytest.approx(real[part].mean(), rel=allowed)


def test_the_level_at_which_scores_end_is_learned() -> None:
    """Scores end at 1: prompts near it have next to nothing to gain, whatever their spread shows."""
    rng = np.random.default_rng(8)
    chance = rng.uniform(0.3, 0.97, (800, 1))
    scores = np.minimum(chance + rng.exponential(0.15, (800, 12)) - 0.15, 1.0)
    seen = scores[:, :6]
    expected = gains_of(seen, seen, 1, 6)[:, 0]
    high = seen.max(axis=1) > np.quantile(seen.max(axis=1), 0.7)
    assert expected[high].mean() < 0.5 * expected[~high].mean()


def test_what_lengths_tell_is_learned() -> None:
    """Short answers have three times the spread, of which few candidates show little."""
    rng = np.random.default_rng(8)
    short = rng.random(800) < 0.5
    scores = rng.normal(0, 12, (800, 1)) + np.where(short, 3.0, 1.0)[:, None] * rng.normal(size=(800, 6))
    lengths = np.where(short, 10.0, 40.0) * np.exp(rng.normal(0, 0.2, 800))
    for seen in (scores[:, :3], scores):
        told, untold = reward_gains(seen, seen, 1, 3, lengths)[:, 0], gains_of(seen, seen, 1, 3)[:, 0]
        assert told[short].mean() / told[~short].mean() > 1.5 * untold[short].mean() / untold[~short].mean()


def test_nobody_gains_more_than_is_left_below_the_highest_score() -> None:
    """A prompt that has it already gets nothing, and teaches nothing about the others."""
    rng = np.random.default_rng(8)
    seen = np.minimum(rng.normal(0.6, 0.3, (300, 6)), 1.0)
    done = seen.max(axis=1) == 1.0
    assert 50 < done.sum() < 250
    gains = gains_of(seen, seen, 5, 6, highest=1.0)
    assert not gains[done].any() and (gains[~done] > 0).all()
    assert (gains <= 1.0 - seen.max(axis=1)[:, None]).all()
    assert gains_of(seen, seen, 5, 6)[done].all()  # nobody said that scores end there
    made = decide(Adaptive("x", first=6, mean_n=8.0), 16, False, state(seen), 1, highest=1.0)
    assert not made.more[done].any() and made.more[~done].any()


def test_degenerate_scores_are_no_error_and_get_nothing() -> None:
    equal = np.full((3, 4), 2.0)
    assert not gains_of(equal, equal, 5, 4).any()  # nobody's scores differ
    none = np.full((2, 4), NAN)
    assert not gains_of(none, none, 5, 4).any()
    assert gains_of(np.empty((0, 0)), np.empty((0, 0)), 3, 4).shape == (0, 3)
    mixed = np.array([[1.0, NAN, NAN, NAN], [NAN] * 4, [1, 2, 3, 4], [5, 5, 5, 5], [0, np.inf, 1, 2]])
    gains = gains_of(mixed, mixed, 6, 4)
    assert np.isfinite(gains).all() and not gains[1].any()
    assert gains[0, 0] > 0 and gains[2, 0] > gains[3, 0]  # one score: what is usual; four equal ones: next to nothing
    assert (np.diff(gains, axis=1, prepend=0) >= 0).all()


def test_a_prompt_whose_candidates_failed_keeps_nobody_from_learning() -> None:
    rng = np.random.default_rng(9)
    seen = 5 * rng.normal(size=(200, 6))
    whole = gains_of(seen, seen, 3, 6)
    seen[0, 1:] = NAN
    assert gains_of(seen, seen, 3, 6)[1:] == pytest.approx(whole[1:], rel=0.1)
    assert deal(seen, first=6).gain == pytest.approx(deal(seen[1:], first=6).gain, rel=0.1)


def test_tokens_of_rows_that_failed_half_way_are_in_the_account() -> None:
    """Also where a stage has several entries of usage; what candidates cost themselves is not lost."""
    rows = [
        {"used": [("generate:x", 5), ("generate:x", 2)], "sizes": [7], "failed": []},
        {"used": [("generate:x", 4), ("generate:x:2", 6), ("judge", 9)], "sizes": [4], "failed": ["generate:x:2"]},
    ]
    batch = pa.RecordBatch.from_pylist(
        [
            {
                "row_id": i,
                "language": "de" if i else None,
                "candidates": [{"plan": "x", "num_tokens": n} for n in row["sizes"]],
                "usage": [{"stage": s, "completion_tokens": n} for s, n in row["used"]],
                "errors": [{"stage": s} for s in row["failed"]],
            }
            for i, row in enumerate(rows)
        ]
    )
    accounts = [Account(), Account()]
    languages: defaultdict[str, LanguageAccount] = defaultdict(LanguageAccount)
    tokens, lost, sizes, failed = _count_candidates([batch], "x", "x", accounts, languages)
    assert languages == {"": LanguageAccount(1, 1, 7), "de": LanguageAccount(1, 1, 4)}
    assert (tokens, lost, sizes) == (11, 6, {1: 2})
    assert [each.tokens for each in accounts] == [11, 6]
    assert failed == {1: _Failed(1, {2})}


def test_an_account_adds_up_whatever_became_of_a_round(tmp_path: Path) -> None:
    """Of rows that fail in a round, some have its candidates (all refused), some do not (time was up)."""
    run = RunFolder(str(tmp_path))
    made, refused, late = [4, 4], [4, None, None], [4]
    rows = [
        {
            "row_id": i,
            "language": ("de", "ja", "de")[i],
            "candidates": [{"plan": "x", "num_tokens": n} for n in sizes],
            "usage": [
                {"stage": "generate:x", "completion_tokens": 4},
                {"stage": "generate:x:2", "completion_tokens": spent},
            ],
            "errors": [{"stage": "generate:x:2"}] if spent != 4 else [],
        }
        for i, (sizes, spent) in enumerate(((made, 4), (refused, 0), (late, 6)))
    ]
    write_table(run, "candidates", rows)
    meta = {"layer": "x", "plan": "x", "round": 2, "budgets": {"de": 20.0, "ja": 10.0}, "expected": 20.0}
    decision = pa.table({"row_id": [0, 1, 2], "candidates": [1, 1, 1], "tokens": [4, 4, 4], "more": [1, 2, 2]})
    decision = decision.append_column("language", [["de", "ja", "de"]]).append_column("gain", [[0.5, 0.25, 1.0]])
    run.make("adaptive")
    pq.write_table(
        decision.replace_schema_metadata({"adaptive": json.dumps(meta)}), run.path("adaptive", "x-2.parquet")
    )
    found = account(run, "x", "x", Adaptive("y", 1, 2.0))
    assert [(each.prompts, each.candidates, each.tokens) for each in found.rounds] == [(3, 3, 12), (2, 3, 10)]
    assert found.adds_up and found.lost == 6 and found.sizes == {1: 1, 2: 1, 3: 1} and found.budget == 30
    assert found.languages == {"de": LanguageAccount(2, 3, 12, 1.5), "ja": LanguageAccount(1, 3, 4, 0.25)}


def test_a_greedy_answer_above_all_samples_leaves_less_to_gain() -> None:
    rng = np.random.default_rng(3)
    drawn = np.concatenate([np.full((50, 1), NAN), rng.normal(size=(50, 4))], axis=1)
    scores = drawn.copy()
    scores[:, 0] = 5.0
    assert (gains_of(scores, drawn, 3, 4) < gains_of(drawn, drawn, 3, 4)).all()


def test_counts_come_from_the_votes_alone() -> None:
    assert counts_of([3.0, 3.0, 3.0, 2.0, 2.0, NAN, 1.0, 1.0]) == (3, 2, 1, 1)
    assert counts_of([2.0, 2.0, 2.0, 2.0]) == (2, 2)
    assert counts_of([NAN, NAN]) == () == counts_of([])


def test_the_leaders_posterior_grows_with_its_lead_and_settled_prompts_stop() -> None:
    counts = [(4,), (3, 1), (2, 2), (2, 1, 1), (1, 1, 1, 1), ()]
    sure, gains = vote_gains(counts * 20, 8)
    assert sure[0] > sure[1] > sure[2] > sure[4] > 0 == sure[5]
    assert sure[2] <= 0.55  # two leaders: one of them at random
    assert gains[0, -1] < gains[1, -1] < gains[2, -1] and not gains[5].any()
    assert (np.diff(gains, axis=1) >= 0).all() and (sure[:, None] + gains <= 1).all()
    easy = vote_gains([(4,)] * 100 + [(3, 1)], 8)[1]
    hard = vote_gains([(1, 1, 1, 1)] * 100 + [(3, 1)], 8)[1]
    assert easy[-1, -1] != hard[-1, -1]  # what the batch is like counts


def test_the_posterior_of_the_leader_is_calibrated() -> None:
    """Votes from laws of the assumed kind: of leaders that are sure to p, a share p is the true mode."""
    rng = np.random.default_rng(4)
    laws = np.array([rng.dirichlet(np.full(40, c / 40)) for c in np.exp(rng.uniform(-1, 3, 1500))])
    draws = np.array([rng.choice(40, size=6, p=p) for p in laws])
    counts, right = [], []
    for row, law in zip(draws, laws, strict=True):
        answers, times = np.unique(row, return_counts=True)
        counts.append(tuple(sorted((int(t) for t in times), reverse=True)))
        best = answers[times == times.max()]
        right.append(np.mean(best == law.argmax()))
    sure = vote_gains(counts, 1)[0]
    for part in np.array_split(np.argsort(sure), 3):
        assert sure[part].mean() == pytest.approx(np.mean(np.array(right)[part]), abs=0.06)


def test_lengths_are_drawn_towards_the_batch() -> None:
    rng = np.random.default_rng(5)
    true = rng.uniform(20, 80, (200, 1))
    tokens = true + rng.normal(0, 10, (200, 3))
    tokens[0] = NAN
    found = lengths(tokens)
    own = np.nanmean(tokens[1:], axis=1)
    assert ((found.mean[1:] - own) ** 2).mean() < 5 and found.mean[0] == pytest.approx(own.mean())
    errors = [np.abs(x - true[1:, 0]).mean() for x in (found.mean[1:], own)]
    assert errors[0] < errors[1]
    assert found.spread == pytest.approx(100, rel=0.2)
    assert (lengths(np.full((2, 2), NAN)).mean == 1).all()


def test_curves_become_concave() -> None:
    curves = np.array([[0.0, 0.0, 0.3, 0.3], [0.4, 0.5, 0.55, 0.56], [0.0, 0.0, 0.0, 0.0]])
    expected = np.array([[0.1, 0.2, 0.3, 0.3], [0.4, 0.5, 0.55, 0.56], [0.0, 0.0, 0.0, 0.0]])
    assert concave(curves) == pytest.approx(expected)
    assert concave(np.empty((2, 0))).shape == (2, 0)


def test_the_budget_is_kept_and_goes_where_it_gains_most() -> None:
    rng = np.random.default_rng(6)
    gains = np.cumsum(np.sort(rng.random((40, 6)), axis=1)[:, ::-1], axis=1)
    cost = rng.uniform(5, 50, 40)
    exact = Lengths(cost, np.zeros(40), 0.0)
    room = np.full(40, 6)
    before = np.zeros(40, np.int64)
    for budget in (0.0, 3.0, 200.0, 1500.0, 1e9):
        more = deal_out(gains, room, exact, budget)
        assert (more * cost).sum() <= budget and (more >= before).all()  # more tokens: nobody gets fewer
        before = more
    assert (before == 6).all()
    more = deal_out(gains, room, exact, 1500.0)
    steps = np.diff(gains, axis=1, prepend=0) / cost[:, None]
    taken = np.arange(6) < more[:, None]
    assert steps[taken].min() >= steps[~taken].max() and 1500 - (more * cost).sum() <= cost.max()
    assert deal_out(gains, np.zeros(40, np.int64), exact, 1e9).sum() == 0
    assert (deal_out(gains, room, exact, 1e9, least=0.5) == (np.diff(gains, axis=1, prepend=0) > 0.5).sum(axis=1)).all()
    unsure = Lengths(cost, np.full(40, 9.0), 100.0)
    assert (deal_out(gains, room, unsure, 1500.0) * cost).sum() < 1500 - 100  # kept back for answers that are longer


def test_a_prompt_is_not_given_what_only_candidates_beyond_its_room_would_gain() -> None:
    gains = np.array([[0.0, 1.0], [0.3, 0.4]])
    one = Lengths(np.ones(2), np.zeros(2), 0.0)
    assert deal_out(gains, np.array([1, 2]), one, 1.0).tolist() == [0, 1]
    assert deal_out(gains, np.array([2, 2]), one, 1.0).tolist() == [1, 0]


def test_a_tie_between_prompts_is_shared_evenly() -> None:
    """Equal prompts get equally many, but for what is left over."""
    scores = np.tile([1.0, 2.0, 3.0, 4.0], (10, 1))
    more = deal(scores, mean_n=7.5).more
    assert more.max() - more.min() <= 1 and more.sum() == 35


def test_decisions_keep_to_the_cap_and_to_prompts_that_were_asked() -> None:
    scores = np.array([[1.0, 2, 3, 9], [NAN] * 4, [1, 1, 1, 1], [0, 5, 1, 2]])
    tokens = np.full((4, 4), 10.0)
    tokens[1] = NAN
    made = deal(scores, tokens, mean_n=16.0)
    assert (made.more <= 12).all() and made.more[1] == 0 and made.spent == 120
    assert made.budget == pytest.approx(16 * 10 * 3)
    assert deal(scores, tokens, mean_n=None, tokens=100.0).budget == 300
    assert deal(np.array([[2.0, 2.0, 2.0, 2.0]]), votes=True).more[0] < deal(scores, tokens).more.sum()
    empty = deal(np.empty((0, 0)))
    assert empty.more.size == 0 and empty.spent == 0


def test_within_languages_the_dear_ones_get_as_many_candidates_at_the_same_law() -> None:
    """By gain per token a language whose answers are three times as long is starved, though it gains as much."""
    rng = np.random.default_rng(8)
    scores = rng.normal(size=(400, 16))
    language = ["ta" if i % 2 else "en" for i in range(400)]
    tokens = np.where(np.array(language)[:, None] == "ta", 30.0, 10.0) * np.ones((400, 16))

    def played(fair: str | None) -> dict[str, float]:
        settings = Adaptive("x", 4, 8.0, None, 3, fair)
        count, budgets = np.full(400, 4), None
        for done in (1, 2):
            seen = np.arange(16) < count[:, None]
            now = State(np.where(seen, scores, NAN), np.where(seen, tokens, NAN), seen, count, language)
            made = decide(settings, 16, False, now, done, budgets)
            budgets, count = made.budgets, count + made.more
        assert made.budget == pytest.approx(400 * 8 * 20)
        assert (count @ tokens[:, 0]) <= made.budget
        return {name: float(count[np.array(language) == name].mean()) for name in ("en", "ta")}

    starved, fair = played(None), played("language")
    assert starved["en"] > 1.5 * starved["ta"]
    assert fair["en"] == pytest.approx(8.0, abs=0.3) and fair["ta"] == pytest.approx(8.0, abs=0.3)
    with_tokens = deal(scores[:, :4], tokens[:, :4], mean_n=None, tokens=160.0, fair="language")  # without languages
    assert with_tokens.budgets == {"": pytest.approx(400 * 160)}


def test_later_rounds_go_on_with_the_first_ones_budget() -> None:
    rng = np.random.default_rng(7)
    scores, tokens = rng.normal(size=(60, 12)), np.full((60, 12), 10.0)
    settings = Adaptive("x", 4, 8.0, None, 4)
    count, budgets, drawn = np.full(60, 4), None, []
    for done in (1, 2, 3):
        seen = np.arange(12) < count[:, None]
        now = State(np.where(seen, scores, NAN), np.where(seen, tokens, NAN), seen, count)
        made = decide(settings, 12, False, now, done, budgets)
        budgets, count = made.budgets, count + made.more
        drawn.append(int(made.more.sum()))
    assert made.budget == 60 * 8 * 10 and 60 * 8 - 5 <= count.sum() <= 60 * 8
    assert all(70 <= n <= 90 for n in drawn)  # a third of the rest each


@pytest.mark.parametrize("kind", ["best_of_n", "judge"])
def test_what_was_asked_between_two_rounds_is_not_asked_again(kind: str) -> None:
    row = Row(0, "p", messages=[{"role": "user", "content": "q"}])
    row.candidates = [Candidate(text=text, plan="s") for text in ("a", "b", "b", "c", "a")]
    row.scores = [Score(SCORER + "best", "s", [7.0, None])]
    engine = Meter(DummyEngineConfig(model="d").create())
    selector = load_config(["dummy", f"selectors={{best: {{kind: {kind}, engine: judge}}}}"]).selectors["best"]
    after = asyncio.run(SelectStage("best", selector, ("s",), 1, known=frozenset({"s"}))(row, engine))
    (values,) = (s.values for s in after.scores if s.scorer == "best")
    assert values[0] == values[4] == 7.0 and engine.total.requests == 2  # b and c
    asyncio.run(ScoreStage("x", "s", 2, "best", selector, 1)(after, engine))
    assert known_values(after, "s", SCORER + "best") == {"a": 7.0, "b": values[1], "c": values[3]} and values[1] != 7.0
    assert engine.total.requests == 4
    asyncio.run(ScoreStage("x", "s", 3, "best", selector, 1)(after, engine))
    assert engine.total.requests == 4 and known_values(after, "s", SCORER + "other") == {}


def test_numbers_of_another_reward_model_are_asked_for_again() -> None:
    words = ["dummy", "out=/nowhere", "sampling={kind: single, n: 8, adaptive: {by: best_of_n, first: 3, mean_n: 5}}"]
    config = load_config(words)
    made = Made(step.made() for step in generate.steps(config))
    assert {"generate:single:2", "score:single:1"} <= made.units.keys()
    assert numbers_hold(config, "best_of_n", made, "single")
    assert numbers_hold(load_config([*words, "selectors.best_of_n.plans=[single]"]), "best_of_n", made, "single")
    for other in ("engines.reward.model=other", "selectors.best_of_n.origins=[sample]"):
        assert not numbers_hold(load_config([*words, other]), "best_of_n", made, "single")
        assert numbers_hold(load_config([*words, other]), "best_of_n", Made(), "single")  # not made yet


def test_off_by_default_nothing_of_it_is_in_a_runs_units() -> None:
    (step,) = generate.steps(load_config(["dummy", "out=/nowhere"]))
    assert step.stage.name == "generate:hedged" and step.decide is None and "adaptive" not in step.settings["plan"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{by: best, mean_n: 8}", r"sampling.adaptive.by: no selector is called 'best'.*best_of_n"),
        ("{by: mbr, mean_n: 8}", "adaptive.by: mbr does not say what further candidates are worth"),
        ("{by: best_of_n}", "set one of sampling.adaptive.mean_n and sampling.adaptive.tokens"),
        ("{by: best_of_n, mean_n: 8, tokens: 9}", "set one of"),
        ("{by: best_of_n, mean_n: 8, fair: task}", "sampling.adaptive.fair: there is no 'task'; valid: language"),
        ("{by: best_of_n, mean_n: 3}", r"mean_n: from sampling.adaptive.first to n \(4 to 16\), not 3"),
        ("{by: best_of_n, mean_n: 8, first: 16}", r"first: from 2 to less than the plan's n \(16\), not 16"),
        ("{by: best_of_n, mean_n: 8, first: 2}", "first: at least 3 with a hedged plan"),
        ("{by: best_of_n, mean_n: 8, rounds: 1}", "rounds: must be at least 2, not 1"),
        ("{by: best_of_n, mean_n: 8, round: 3}", r"sampling.adaptive.round'.*rounds"),
        ("{by: best_of_n, tokens: 0}", "tokens: must be more than 0"),
        ("{by: best_of_n, mean_n: 8, min_gain: -1}", "min_gain: must be at least 0"),
    ],
)
def test_what_the_config_refuses(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(["dummy", "sampling.n=16", f"sampling.adaptive={words}"])


def test_sets_and_plans_that_cannot_be_drawn_in_rounds_are_refused() -> None:
    on = "adaptive: {by: best_of_n, mean_n: 5}"
    with pytest.raises(ConfigError, match="only plans of kind single and hedged can, not mixed"):
        load_config(["dummy", f"plans.m={{kind: mixed, n: 9, {on}}}"])
    with pytest.raises(ConfigError, match="candidate set 'hedged' is filled by others as well"):
        load_config(["dummy", f"plans.m={{kind: single, n: 9, candidate_set: hedged, {on}}}"])
    with pytest.raises(ConfigError, match="'best_of_n' is not applied to 'm'"):
        load_config(["dummy", "selectors.best_of_n.plans=[hedged]", f"plans.m={{kind: single, n: 9, {on}}}"])
