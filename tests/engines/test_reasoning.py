"""Reasoning is kept apart from the answer."""

from __future__ import annotations

import pytest

from pipeline.engines.text import split_reasoning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris.", (None, "Paris.")),
        ("  Paris.\n", (None, "  Paris.\n")),
        ("<think>France?</think>Paris.", ("France?", "Paris.")),
        ("\n<think>\nFrance?\n</think>\n\nParis.\n", ("France?", "Paris.\n")),
        ("France?\n</think>\n\nParis.", ("France?", "Paris.")),  # the template opened the block
        ("<think>France? Its capital", ("France? Its capital", "")),  # cut off
        ("<think>\n\n</think>\n\nParis.", (None, "Paris.")),  # thinking off
        ("<think>a</think>b</think>c", ("a", "b</think>c")),
        ("Write <think>x</think> around it.", (None, "Write <think>x</think> around it.")),
        ("The tag `</think>` ends it.", (None, "The tag `</think>` ends it.")),  # only quoted
        ('It says "</think>".\n</think>\nParis.', ('It says "</think>".', "Paris.")),
        ("So:\n```\na\n</think>\n```\nParis.", (None, "So:\n```\na\n</think>\n```\nParis.")),
        ("<think>Is it `</think>`? Yes.</think>Paris.", ("Is it `</think>`? Yes.", "Paris.")),
        ("<think>In ```code</think>Paris ```x```", ("In ```code", "Paris ```x```")),  # nothing else closes it
        ("</think>Paris.", (None, "Paris.")),
        ("", (None, "")),
    ],
)
def test_split(text: str, expected: tuple[str | None, str]) -> None:
    assert split_reasoning(text) == expected


def test_a_block_opened_by_the_prompt_and_cut_off_is_all_reasoning() -> None:
    assert split_reasoning("France? Its", opened=True) == ("France? Its", "")
    assert split_reasoning("France?</think>Paris.", opened=True) == ("France?", "Paris.")


def test_other_tags() -> None:
    assert split_reasoning("[T]a[/T] b", start="[T]", end="[/T]") == ("a", "b")
