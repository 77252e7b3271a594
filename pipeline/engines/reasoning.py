"""Keeps a model's thinking apart from its answer, for engines whose server or tokenizer does not."""

from __future__ import annotations


def split_reasoning(
    text: str, start: str = "<think>", end: str = "</think>", opened: bool = False
) -> tuple[str | None, str]:
    """Split generated text into (reasoning, answer).

    - The start tag may be missing: many chat templates open the block in the prompt, so the text begins inside it.
    - A block that is never closed (cut off while thinking) is all reasoning, and the answer is empty.
    - Tags that follow other text are part of the answer, e.g. one that explains them.

    Args:
        text: what the model generated.
        opened: the prompt is known to end with the start tag, so a text without any tag was cut off while thinking.

    Returns:
        The reasoning without its tags and surrounding white space (``None`` when there is none), and the answer:
        unchanged when ``text`` has no reasoning block, else without the white space that followed the block.
    """
    reasoning, closed, answer = text.partition(end)
    if reasoning.lstrip().startswith(start):
        reasoning = reasoning.lstrip().removeprefix(start)
    elif not opened and (not closed or start in reasoning):
        return None, text
    return reasoning.strip() or None, answer.lstrip()
