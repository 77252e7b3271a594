"""Selectors that ask a judge or a fusor: hit rates against closed forms, calls, brackets, fallbacks, templates."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.core.bounds import check_values
from pipeline.core.errors import ConfigError, EngineRequestError
from pipeline.core.row import Candidate, Row, Tokens
from pipeline.engines.base import Completion, Generation, Prompt, SamplingParams
from pipeline.engines.dummy import DummyEngine, DummyEngineConfig
from pipeline.engines.meter import Meter
from pipeline.judging.templates import load_template
from pipeline.judging.verdicts import Judge as Asked
from pipeline.selection.base import SELECTORS, Choice, Pool
from pipeline.selection.stage import SelectStage
from pipeline.tasks.base import Question
from tests.selection.test_selectors import Judge, choose, pool

N, M = 5, 3
PROMPTS = {"one_pass": 1000, "chops": 1000, "tournament": 1000, "mbr": 500, "xmbr": 400}
"""Enough to tell the right rate from that of a selector that asks once a pair or leaves the evidence out."""
MANY = 5000
"""Of the slow version, whose prompts are others."""
ACCURACY = 0.7
JUDGED: dict[str, dict[str, Any]] = {
    "one_pass": {},
    "chops": {},
    "tournament": {},
    "mbr": {"utility": "judge"},
    "xmbr": {},
}


def question(i: int) -> Pool:
    """Prompt i: N different candidates, the one at i modulo N better than the rest, and M pieces of evidence."""
    texts = [f"answer {k} to {i}" + (" is best" if k == i % N else "") for k in range(N)]
    candidates = [Candidate(text, plan="x") for text in texts]
    candidates += [Candidate(f"evidence {k} on {i}", plan="evidence", origin="evidence") for k in range(M)]
    row = Row(i, f"p{i}", language="en", messages=[{"role": "user", "content": f"Q {i}"}], candidates=candidates)
    return Pool(row, "x", row.plan("x"), run_seed=1)


def run(
    kind: str, prompts: int, first: int = MANY, without: frozenset[str] = frozenset(), **engine: Any
) -> list[tuple[Choice, int]]:
    """What a selector chooses for every prompt from ``first`` on, and the requests that its engine counted."""
    judge = DummyEngine(DummyEngineConfig(**engine))
    judge.capabilities -= without
    chosen = SELECTORS.get(kind)(engine="judge", **JUDGED.get(kind, {}))
    chosen.check(f"selectors.{kind}")

    async def all_prompts() -> list[tuple[Choice, int]]:
        results = []
        for i in range(first, first + prompts):
            meter = Meter(judge)
            choice = await chosen.select(dataclasses.replace(question(i), engine=meter))
            results.append((choice, meter.total.requests))
        return results

    return asyncio.run(all_prompts())


def hits(results: Sequence[tuple[Choice, int]]) -> int:
    return sum(choice.index == i % N for i, (choice, _) in enumerate(results))


def assert_rate(count: int, rate: float, prompts: int) -> None:
    """``count`` lies in the binomial distribution's central 99.9%."""
    low, high = binom.interval(0.999, prompts, rate)
    print(f"{count / prompts:.4f} observed, {rate:.4f} expected, {low / prompts:.4f} to {high / prompts:.4f} allowed")
    assert low <= count <= high


def knock_out_rate(p: float) -> float:
    """N=5: 2 of 5 candidates play the first round and need 3 wins, the others 2.

    A match is won by two right verdicts, or by the coin after one: p² + 2p(1 - p)/2 = p. So the best wins with
    (2/5)p³ + (3/5)p²; what the other candidates do among themselves does not matter.
    """
    return 0.4 * p**3 + 0.6 * p**2


def mbr_rate(p: float) -> float:
    """Exact: all outcomes of the N(N-1)/2 pairs of two verdicts each; a coin decides every verdict between two others.

    Points are won verdicts: the utilities' sums times 2.
    """
    best_pair = [(1 - p) ** 2, 2 * p * (1 - p), p**2]  # 0, 1 or 2 verdicts won by the best
    other_pair = [0.25, 0.5, 0.25]
    pairs = list(itertools.combinations(range(N - 1), 2))
    among: Counter[tuple[int, ...]] = Counter()
    for outcome in itertools.product(range(3), repeat=len(pairs)):
        points = [0] * (N - 1)
        for (a, b), won in zip(pairs, outcome, strict=True):
            points[a] += won
            points[b] += 2 - won
        among[tuple(points)] += float(np.prod([other_pair[won] for won in outcome]))  # type: ignore[assignment]
    total = 0.0
    for wins in itertools.product(range(3), repeat=N - 1):
        chance = float(np.prod([best_pair[won] for won in wins]))
        for points, weight in among.items():
            others = [own + 2 - won for own, won in zip(points, wins, strict=True)]
            if sum(wins) >= max(others):
                total += chance * weight / (1 + others.count(sum(wins)))
    return total


def xmbr_rate(p: float, draws: int = 100_000) -> float:
    """Simulated verdict by verdict: candidate 0 is the best, the columns after N are the evidence."""
    rng = np.random.default_rng(5)
    points = np.zeros((draws, N))
    for a in range(N):
        for b in range(a + 1, N + M):
            for _ in range(2):
                won = rng.random(draws) < (p if a == 0 else 0.5)
                points[:, a] += won
                if b < N:
                    points[:, b] += ~won
    top = points == points.max(axis=1, keepdims=True)
    return float((top[:, 0] / top.sum(axis=1)).mean())


def test_the_references_agree_where_they_can_be_worked_out() -> None:
    for rate in (knock_out_rate, mbr_rate, lambda p: xmbr_rate(p, 1000)):
        assert rate(1.0) == pytest.approx(1.0)
    assert mbr_rate(0.5) == pytest.approx(1 / N)  # all candidates alike
    assert xmbr_rate(0.5) == pytest.approx(1 / N, abs=0.005)
    assert knock_out_rate(0.5) == pytest.approx(1 / N)


RATES: dict[str, Any] = {
    "one_pass": lambda p: p,
    "chops": lambda p: p,
    "tournament": knock_out_rate,
    "mbr": mbr_rate,
    "xmbr": xmbr_rate,
}


@pytest.mark.parametrize("kind", RATES)
def test_hit_rate_of_a_judge_with_known_accuracy(kind: str) -> None:
    results = run(kind, PROMPTS[kind], accuracy=ACCURACY, best="is best")
    assert_rate(hits(results), RATES[kind](ACCURACY), PROMPTS[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", RATES)
def test_hit_rate_over_many_prompts(kind: str) -> None:
    assert_rate(hits(run(kind, MANY, first=0, accuracy=ACCURACY, best="is best")), RATES[kind](ACCURACY), MANY)


@pytest.mark.parametrize("kind", JUDGED)
def test_a_perfect_judge_always_hits(kind: str) -> None:
    assert hits(run(kind, 60, accuracy=1.0, best="is best")) == 60


@pytest.mark.parametrize("kind", ["one_pass", "chops"])
def test_one_pass_with_a_judge_that_says_first_chooses_every_index_alike(kind: str) -> None:
    counts = Counter(choice.index for choice, _ in run(kind, PROMPTS[kind], always="first"))
    assert set(counts) == set(range(N))
    for count in counts.values():
        assert_rate(count, 1 / N, PROMPTS[kind])


@pytest.mark.parametrize("kind", ["mbr", "xmbr", "tournament"])
def test_both_orders_with_a_judge_that_says_first_are_ties_only(kind: str) -> None:
    results = run(kind, 100, always="first")
    for choice, _ in results:
        if kind == "tournament":
            matches = choice.detail["matches"]
            assert [(m["utility"], m["coin"]) for m in matches] == [(0.5, "tie")] * (N - 1)
        else:
            assert choice.values == [0.5] * N
    for count in Counter(choice.index for choice, _ in results).values():
        assert_rate(count, 1 / N, 100)


@pytest.mark.parametrize(
    ("kind", "calls"),
    [
        ("best_of_n", 5),
        ("judge", 5),
        ("mbr", 20),
        ("xmbr", 50),
        ("chops", 2),
        ("one_pass", 1),
        ("tournament", 8),
        ("fusion", 1),
    ],
)
def test_calls_that_the_engine_counts(kind: str, calls: int) -> None:
    assert [requests for _, requests in run(kind, 20)] == [calls] * 20


@pytest.mark.parametrize("kind", JUDGED)
def test_structured_output_decides_as_label_probabilities_do(kind: str) -> None:
    judge = {"accuracy": ACCURACY, "best": "is best"}
    by_probability = run(kind, 40, **judge)
    by_text = run(kind, 40, without=frozenset({"label_probs"}), **judge)
    assert [(c.index, c.values, r) for c, r in by_text] == [(c.index, c.values, r) for c, r in by_probability]


class Writer(DummyEngine):
    """An engine that can only write, and writes what a test says: ``rule(prompt text) -> text``."""

    def __init__(self, rule: Any) -> None:
        super().__init__(DummyEngineConfig(model="test"))
        self.capabilities = frozenset({"generate"})
        self.rule = rule
        self.seen: list[tuple[str, SamplingParams]] = []

    async def generate(self, prompt: Prompt, params: SamplingParams) -> Generation:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        self.seen.append((text, params))
        return Generation([Completion(self.rule(text), "stop", 3)], Tokens())


@pytest.mark.parametrize(
    ("said", "label"), [("B", "B"), (" (B).", "B"), ("Both", None), ("Both, A and B", None), ("", None), ("D", None)]
)
def test_words_that_name_no_label_are_invalid(said: str, label: str | None) -> None:
    engine = Writer(lambda text: said)
    template = load_template("pairwise_selection")
    turns = [{"role": "user", "content": "Q"}]
    judge = Asked(engine, Question(turns))
    result = asyncio.run(judge.verdict(template, template.labels, answer_a="one", answer_b="two"))
    assert [name for name, p in result.probs.items() if p] == ([label] if label else [])
    params = engine.seen[0][1]
    assert (params.choice, params.temperature, params.n) == (("A", "B", "C"), 0.0, 1)
    assert params.max_tokens == 32


def test_a_duplicate_pair_costs_nothing() -> None:
    def calls(kind: str, texts: list[str], evidence: Sequence[str] = ()) -> int:
        meter = Meter(DummyEngine(DummyEngineConfig(accuracy=1.0, best="best")))
        p = pool(texts, engine=meter)
        p.row.candidates = [*p.candidates, *(Candidate(t, plan="evidence", origin="evidence") for t in evidence)]
        choose(kind, p, engine="judge", **JUDGED.get(kind, {}))
        return meter.total.requests

    same = ["same"] * 5
    assert [calls(kind, same) for kind in (*JUDGED, "fusion")] == [0] * 6
    assert calls("mbr", ["a", "a", "best"]) == 2  # one distinct pair
    assert calls("mbr", ["a", "a", "b", "c", "best"]) == 12
    assert calls("xmbr", ["a", "best"], ["best", "z", "z"]) == 6  # a-best, a-z, best-z
    assert calls("best_of_n", same) == calls("judge", same) == 1


def test_a_repeated_text_supports_itself_in_judged_mbr() -> None:
    engine = Judge(lambda text, labels: [0.0, 0.0, 1.0])  # every verdict is a tie
    assert choose("mbr", pool(["a", "a", "b"], engine=engine), utility="judge").values == [0.5, 0.5, 0.5]
    engine = Judge(lambda text, labels: [float("<answer_a>\nb" in text), float("<answer_b>\nb" in text), 0.0])
    assert choose("mbr", pool(["a", "a", "b"], engine=engine), utility="judge").values == [0.25, 0.25, 1.0]


def test_a_pair_with_an_invalid_verdict_is_a_tie() -> None:
    def rule(text: str, labels: Sequence[str]) -> list[float]:
        if "<answer_a>\nbest" in text and "<answer_b>\nodd" in text:
            return [0.1, 0.1, 0.1]
        return [float("<answer_a>\nbest" in text), float("<answer_b>\nbest" in text), 0.6]

    choice = choose("mbr", pool(["odd", "best", "c"], engine=Judge(rule)), utility="judge")
    assert choice.values == [0.5, 0.75, 0.25]  # odd ties with c, and its defeat by best cannot be read
    assert (choice.index, choice.detail) == (1, {"verdicts": 6, "invalid": 1})


def test_one_readable_win_does_not_beat_three_in_four() -> None:
    """``lucky`` wins its one readable game, ``good`` three of four with one that cannot be read."""

    def rule(text: str, labels: Sequence[str]) -> list[float]:
        first, second = (text.split(f"<answer_{x}>\n")[1].split("\n")[0] for x in "ab")
        if "lucky" in (first, second) and "bad" not in (first, second):
            return [0.1, 0.1, 0.1]
        strength = ["bad", "c", "d", "good", "lucky"]
        first_wins = strength.index(first) > strength.index(second)
        return [float(first_wins), float(not first_wins), 0.0]

    for kind in ("mbr", "xmbr"):
        engine = Judge(rule)
        choice = choose(kind, pool(["lucky", "good", "bad", "c", "d"], engine=engine), engine="judge", **JUDGED[kind])
        assert choice.values == [0.625, 0.875, 0.0, 0.375, 0.625]
        assert choice.index == 1


def test_one_pass_and_chops_show_the_same_orders_and_an_empty_checklist_is_said() -> None:
    for permutations in (1, 7):
        for i in range(20):
            p = pool(list("abcde"), engine=DummyEngine(DummyEngineConfig()), prompt=f"p{i}")
            both = [choose(kind, p, permutations=permutations).detail for kind in ("one_pass", "chops")]
            assert [q["order"] for q in both[0]["permutations"]] == [q["order"] for q in both[1]["permutations"]]
    silent = Writer(lambda text: "A" if "Which answer is the best" in text else " \n")
    detail = choose("chops", pool(["a", "b"], engine=silent)).detail
    assert detail["without"] == "the checklist is empty" and "by the checklist" not in silent.seen[-1][0]
    assert "without" not in choose("one_pass", pool(["a", "b"], engine=silent)).detail


@pytest.mark.parametrize("kind", JUDGED)
def test_unreadable_verdicts_are_counted_and_fall_back_to_greedy(kind: str) -> None:
    class Refusing(Judge):
        async def label_probs(self, prompt: Prompt, labels: Sequence[str], prefill: str = "") -> Any:
            raise EngineRequestError("too long")

    silent = Judge(lambda text, labels: [0.01] * len(labels))
    for engine, error in ((silent, None), (Refusing(None), "too long")):
        choice = choose(kind, pool(["one", "two", "three"], greedy=1, engine=engine), engine="judge", **JUDGED[kind])
        assert choice.index == 1
        assert choice.detail["fallback"]
        assert choice.detail["invalid"] == choice.detail["verdicts"] > 0
        assert choice.detail.get("failure") == error


def test_xmbr_never_returns_evidence() -> None:
    """The evidence is better than every candidate, and lies in the very plan that is selected from."""
    engine = DummyEngine(DummyEngineConfig(accuracy=1.0, best="evidence"))
    p = pool(["evidence one", "two", "evidence three", "four"], engine=engine)
    p.candidates[0].origin = p.candidates[2].origin = "evidence"
    p.row.candidates = [*p.candidates, Candidate("evidence five", plan="z", origin="evidence")]
    for config in ({"evidence": "x"}, {"evidence": "z"}, {"evidence": "x", "utility": "chrf"}):
        choice = choose("xmbr", p, engine="judge", **config)
        assert choice.index in (1, 3)
        assert choice.detail["evidence"] == (2 if config["evidence"] == "x" else 1)
        assert choice.values is not None
        assert [v is None for v in choice.values] == [True, False, True, False]


def test_xmbr_lets_evidence_decide_and_is_mbr_without_it() -> None:
    candidates = ["alike one", "alike two", "the sun is hot"]
    p = pool(candidates)
    assert choose("xmbr", p, utility="chrf").detail == {"evidence": 0, "without": "there is no evidence"}
    assert choose("xmbr", p, utility="chrf").values == choose("mbr", p).values
    p.row.candidates += [Candidate("the sun is hot!", plan="evidence", origin="evidence")] * 3
    choice = choose("xmbr", p, utility="chrf")
    assert (choice.index, choice.detail) == (2, {"evidence": 3})
    assert choose("mbr", p).index != 2


def test_xmbr_tells_the_judge_about_languages_only_where_they_differ() -> None:
    engine = Judge(lambda text, labels: [0.0, 0.0, 1.0])
    p = pool(["one", "two"], engine=engine)
    p.row.candidates = [*p.candidates, Candidate("drei", plan="evidence", origin="evidence")]
    choose("xmbr", p, engine="judge")
    across = [text for text in engine.prompts if "drei" in text]
    assert (len(engine.prompts), len(across)) == (6, 4)
    assert all("different languages" in text and "Weigh the content" in text for text in across)
    assert not any("different languages" in text for text in engine.prompts if text not in across)


def test_calls_about_one_prompt_share_their_beginning() -> None:
    """Every template of a selector begins alike; comparisons are asked grouped by the answer that stands first."""
    values = {"answer": "one", "answer_a": "one", "answer_b": "two", "answers": [("A", "one")], "language": None}
    names = ("checklist", "one_pass", "pairwise_selection", "crosslingual", "fusion", "pointwise")
    turns = [{"role": "user", "content": "Q"}]
    texts = {n: load_template(n).render(turns, **values, checklist="")[0]["content"] for n in names}
    assert len({text.split("</question>")[0] for text in texts.values()}) == 1
    pair = [texts[n].split("</answer_b>")[0] for n in ("pairwise_selection", "crosslingual")]
    assert pair[0] == pair[1]

    engine = Judge(lambda text, labels: [0.0, 0.0, 1.0])
    choose("mbr", pool(["p", "q", "r", "s", "t"], engine=engine), utility="judge")
    first = [text.split("<answer_a>\n")[1][0] for text in engine.prompts]
    assert first == [letter for letter in "pqrst" for _ in range(4)]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 11, 16, 17])
def test_the_bracket_is_the_documented_one(n: int) -> None:
    """The best of n wins every match it plays; how many that are follows from its place in the bracket."""
    rounds = n.bit_length() - 1
    first_round = 2 * (n - 2**rounds)
    needed: Counter[int] = Counter()
    for i in range(60):
        engine = DummyEngine(DummyEngineConfig(accuracy=1.0, best="best"))
        choice = choose("tournament", pool(["best", *map(str, range(n - 1))], engine=engine, prompt=f"p{i}"))
        matches = choice.detail["matches"]
        assert choice.index == 0
        assert len(matches) == n - 1
        lost = [i for m in matches for i in m["pair"] if i != m["winner"]]
        assert sorted([*lost, 0]) == list(range(n))  # everyone but the winner loses exactly once
        needed[sum(0 in m["pair"] for m in matches)] += 1
    assert set(needed) <= {rounds, rounds + 1}
    if first_round == 0:
        assert set(needed) == {rounds}


def test_a_match_without_a_readable_verdict_goes_to_the_coin() -> None:
    def rule(text: str, labels: Sequence[str]) -> list[float]:
        if "broken" in text:
            return [0.1, 0.1, 0.1]
        return [float("<answer_a>\nbest" in text), float("<answer_b>\nbest" in text), 0.6]

    winners = Counter()
    for i in range(60):
        p = pool(["broken", "best", "c"], engine=Judge(rule), prompt=f"p{i}")
        choice = choose("tournament", p)
        for match in choice.detail["matches"]:
            broken = 0 in match["pair"]
            assert match.get("coin") == ("unreadable verdict" if broken else None)
            assert (match["utility"] is None) == broken
            if broken:
                winners[match["winner"] == 0] += 1
        assert choose("tournament", p) == choice  # seeded
    assert min(winners[True], winners[False]) > 10


def test_permutations_vote_and_rotate() -> None:
    """With R = N every candidate stands once in every place; the checklist is written once."""
    said = {"one": 0.4, "two": 0.9}

    def rule(text: str, labels: Sequence[str]) -> list[float]:
        # names "one" where it stands first, else "two": one vote against two
        one = text.index("\none") < min(text.index("\ntwo"), text.index("\nthree"))
        name = "one" if one else "two"
        return [said[name] + 0.2 if f"<answer_{label}>\n{name}" in text else 0.01 for label in labels]

    engine = Judge(rule)
    meter = Meter(engine)
    choice = choose("chops", pool(["one", "two", "three"], engine=meter), engine="judge", permutations=3)
    shown = choice.detail["permutations"]
    assert sorted(p["order"][0] for p in shown) == [0, 1, 2]
    assert Counter(p["pick"] for p in shown) == {1: 2, 0: 1}
    assert (choice.index, choice.values) == (1, pytest.approx([1 / 3, 2 / 3, 0.0]))
    assert (choice.detail["verdicts"], choice.detail["invalid"], meter.total.requests) == (3, 0, 1 + 3)
    assert all(choice.detail["checklist"] in text for text in engine.prompts)
    one_pass = Meter(Judge(rule))
    choose("one_pass", pool(["one", "two", "three"], engine=one_pass), engine="judge", permutations=4)
    assert one_pass.total.requests == 4


def test_permutations_tie_by_hash_and_unreadable_ones_have_no_vote() -> None:
    first = Judge(lambda text, labels: [1.0] + [0.0] * (len(labels) - 1))
    tied = Counter(
        choose("one_pass", pool(["a", "b", "c"], engine=first, prompt=f"p{i}"), permutations=3).index for i in range(90)
    )
    assert min(tied[i] for i in range(3)) > 15

    half = Judge(lambda text, labels: [float("<answer_A>\na" in text), *[0.0] * (len(labels) - 1)])
    choice = choose("one_pass", pool(["a", "b", "c"], greedy=2, engine=half), permutations=3)
    assert (choice.index, choice.score) == (0, 1.0)
    assert (choice.detail["verdicts"], choice.detail["invalid"]) == (3, 2)
    assert "fallback" not in choice.detail


def test_equal_texts_share_their_votes() -> None:
    engine = Judge(lambda text, labels: [1.0] + [0.0] * (len(labels) - 1))
    choice = choose("one_pass", pool(["a", "b", "a"], engine=engine), permutations=3)
    assert choice.values == pytest.approx([2 / 3, 1 / 3, 2 / 3])
    assert choice.index in (0, 2)


def test_fusion_writes_a_new_answer_and_asks_to_discard_the_worst() -> None:
    engine = Writer(lambda text: "  a fused answer\n")
    p = pool(["one", "two </answer_1> <answer_9>", "three"], engine=engine)
    p.row.language = "ja-JP"
    choice = choose("fusion", p, engine="fusor", max_tokens=77)
    assert (choice.index, choice.text) == (-1, "a fused answer")
    assert (choice.detail["finish_reason"], choice.detail["num_tokens"]) == ("stop", 3)
    text, params = engine.seen[0]
    assert "discard the worst parts" in text
    assert "best parts of all of them" in text
    assert "Write it in Japanese" in text
    assert (params.temperature, params.max_tokens, params.seed) == (0.0, 77, None)
    for place, index in enumerate(choice.detail["order"], 1):
        assert f"<answer_{place}>\n{(p.candidates[index].text or '').split(' ')[0]}" in text
    assert text.count("</answer_1>") == 1
    assert "<answer_9>" not in text
    p.row.language = None
    choose("fusion", p, engine="fusor", temperature=0.3)
    text, params = engine.seen[1]
    assert "Write it in the language that the question asks for" in text
    assert params.seed is not None


def test_fusion_shuffles_by_prompt() -> None:
    engine = Writer(lambda text: "x")
    orders = {
        tuple(choose("fusion", pool(list("abcde"), engine=engine, prompt=f"p{i}")).detail["order"]) for i in range(20)
    }
    assert len(orders) > 10


def test_a_fusor_that_fails_or_says_nothing_falls_back_to_greedy() -> None:
    def fail(text: str) -> str:
        raise EngineRequestError("too long")

    for rule, why in ((fail, "the fusor failed: too long"), (lambda text: " \n", "the fusor's answer is empty")):
        choice = choose("fusion", pool(["a", "b", "c"], greedy=2, engine=Writer(rule)))
        assert (choice.index, choice.text, choice.detail["fallback"]) == (2, None, why)


def test_the_stage_stores_a_fused_text() -> None:
    p = pool(["a", "b"])
    stage = SelectStage("fuse", SELECTORS.get("fusion")(engine="fusor"), ("x",), 1)
    row = asyncio.run(stage(p.row, Writer(lambda text: "new")))
    assert [(s.index, s.text) for s in row.selections] == [(-1, "new")]


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("mbr", {"utility": "judge"}, r"s\.engine: mbr needs an engine that can label_probs or generate"),
        ("mbr", {"utility": "embedding"}, r"s\.engine: mbr needs an engine that can embed"),
        ("mbr", {"utility": "chrff"}, r"s\.utility: there is no 'chrff'; did you mean 'chrf'"),
        ("mbr", {"template": "pointwise"}, r"s\.template: pointwise needs three \[labels\]"),
        ("xmbr", {}, r"s\.engine: xmbr needs"),
        ("xmbr", {"engine": "j", "crosslingual_template": "nope"}, r"s\.crosslingual_template: no judge template"),
        ("tournament", {"engine": "j", "template": "fusion"}, r"s\.template: fusion needs three"),
        ("one_pass", {}, r"s\.engine: one_pass needs an engine that can label_probs or generate"),
        ("chops", {"engine": "j", "permutations": 0}, r"s\.permutations: must be at least 1"),
        ("fusion", {"engine": "j", "temperature": -1.0}, r"s\.temperature: must be at least 0"),
        ("fusion", {"engine": "j", "max_tokens": 0}, r"s\.max_tokens: must be at least 1"),
    ],
)
def test_contradictory_settings_are_refused(kind: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_values(SELECTORS.get(kind)(**config), "s")


def test_template_hashes_are_named_for_the_methods_that_use_them() -> None:
    assert set(SELECTORS.get("xmbr")().templates()) == {"pairwise_selection", "crosslingual"}
    assert set(SELECTORS.get("chops")().templates()) == {"one_pass", "checklist"}
    assert set(SELECTORS.get("one_pass")().templates()) == {"one_pass"}
    assert SELECTORS.get("mbr")().templates() == SELECTORS.get("xmbr")(utility="chrf").templates() == {}


def test_the_dummy_judge_refuses_contradictions() -> None:
    for config in ({"accuracy": 0.5}, {"accuracy": 1.5, "best": "x"}):
        with pytest.raises(ConfigError, match=r"e\.accuracy"):
            check_values(DummyEngineConfig(**config), "e")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"e\.always"):
        check_values(DummyEngineConfig(always="last"), "e")
