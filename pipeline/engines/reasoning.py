"""Keeps a model's thinking apart from its answer, for engines whose server or tokenizer does not."""

from __future__ import annotations

_QUOTES = frozenset("`'\"“”„‘’«»「」")


def split_reasoning(
    text: str, start: str = "<think>", end: str = "</think>", opened: bool = False
) -> tuple[str | None, str]:
    """Split generated text into (reasoning, answer).

    - The start tag may be missing: many chat templates open the block in the prompt, so the text begins inside it.
    - A block that is never closed (cut off while thinking) is all reasoning, and the answer is empty.
    - Tags that follow other text are part of the answer, e.g. one that explains them.
    - A closing tag that is only quoted closes nothing: in quotation marks or backticks of its own, or in a block of
      code. Where nothing else closes a block that was opened, the first tag does.

    Args:
        text: what the model generated.
        opened: the prompt is known to end with the start tag, so a text without any tag was cut off while thinking.

    Returns:
        The reasoning without its tags and surrounding white space (``None`` when there is none), and the answer:
        unchanged when ``text`` has no reasoning block, else without the white space that followed the block.
    """
    place = _closing(text, end)
    if place < 0 and (opened or text.lstrip().startswith(start)):
        place = text.find(end)
    closed = place >= 0
    reasoning, answer = (text[:place], text[place + len(end) :]) if closed else (text, "")
    if reasoning.lstrip().startswith(start):
        reasoning = reasoning.lstrip().removeprefix(start)
    elif not opened and (not closed or start in reasoning):
        return None, text
    return reasoning.strip() or None, answer.lstrip()


def _closing(text: str, end: str) -> int:
    """Where the first closing tag stands that is not quoted; -1 for none. O(length)."""
    place, before, fences, last = text.find(end), 0, 0, text.rfind("```")
    while place >= 0:
        fences, before = fences + text.count("```", before, place), place
        behind = place + len(end)
        around = {text[max(place - 1, 0) : place], text[behind : behind + 1]}
        if not (around <= _QUOTES or (fences % 2 and last > place)):
            return place
        place = text.find(end, behind)
    return -1
