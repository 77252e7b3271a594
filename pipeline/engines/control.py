"""Texts of data and models on their way into prompts: nothing in them is read as a control token or as a tag of ours.

Tokenizers read control tokens (``<|im_end|>``) wherever they stand, so that a text that spells one ends its turn and
opens another, as a user or as the model. :func:`defuse` is the one place where such spellings are broken. Texts without
one stay as they are, and raw prompts are left alone: there the tokens are the user's own.

Where the tokenizer is not known (an endpoint's, whatever reads a judge's prompt) :data:`COMMON` stands for it: the
tokens of ChatML, Llama, Mistral, Gemma, Command, DeepSeek, GLM, EXAONE and Seed, what tags thoughts and tool calls, and
the plain ones of sentencepiece, T5 and BERT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_TURNS = (
    *("<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<sop>", "<eop>", "<<SYS>>", "<</SYS>>"),
    *("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<start_of_audio>", "<end_of_audio>"),
    *("<BOS_TOKEN>", "<EOS_TOKEN>", "<EOP_TOKEN>", "<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>"),
    *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_CALLS]", "[/TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]", "[/TOOL_CONTENT]"),
    *("[MODEL_SETTINGS]", "[/MODEL_SETTINGS]", "[THINK]", "[/THINK]", "[ARGS]", "[CALL_ID]", "[IMG]", "[IMG_END]"),
    *("[gMASK]", "[BOS]", "[EOS]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "<EOT>", "<end_of_utterance>"),
    *("<seed:bos>", "<seed:eos>", "<unused#>", "<extra_id_#>", "<SPECIAL_#>", "[unused#]", "[UNUSED_TOKEN_#]"),
)
THOUGHTS = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad", "analysis")
"""Names of the tags around a model's thoughts."""
_TAGS = (  # honest texts hold them too: they are broken, and nobody is taken for an attacker because of them
    *(f"<{slash}{name}>" for name in THOUGHTS for slash in ("", "/")),
    *("<seed:think>", "</seed:think>", "<tool_call>", "</tool_call>"),
    *("<tool_response>", "</tool_response>", "<eot>", "<sep>", "<cls>", "<image>"),
)
_UNSEEN = (  # Unicode's Default_Ignorable_Code_Point: drawn as nothing
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*"
)
_FORMS = {"<": "[<\uff1c\ufe64]", ">": "[>\uff1e\ufe65]", "|": "[|\uff5c\u2223\u2502\uffe8\ufe31]", "/": "[/\uff0f]"}
_FORMS |= {"[": "[\\[\uff3b]", "]": "[\\]\uff3d]", "_": "[_\uff3f\u2581]", "#": r"\d{1,6}"}


def _pattern(name: str) -> str:
    return _UNSEEN.join(_FORMS.get(c, re.escape(c)) for c in name)


def _any_of(*names: str) -> re.Pattern[str]:
    """Any spelling of one of these tokens, also with unseen or full-width characters in it. O(length)."""
    word = rf"[\w\u2581{_UNSEEN[1:-2]}]"
    # <| begins <|im_end|>, <|eot_id|>, <｜User｜> and hundreds more
    one = [_pattern("<|") + rf"(?:{word}{{0,64}}{_pattern('|>')})?"]
    one.append(_pattern("[|") + rf"{word}{{1,64}}{_pattern('|]')}")  # EXAONE's
    return re.compile("|".join([*map(_pattern, names), *one]))


COMMON = _any_of(*_TURNS, *_TAGS)
"""Every spelling of a common control token, or its beginning; also with unseen or full-width characters in it."""
TURNS = _any_of(*_TURNS)
"""Those of :data:`COMMON` that honest texts hardly ever hold: what ends turns, not what tags thoughts."""

_PLAIN = (re.escape(name).replace(r"\#", r"\d{1,6}") for name in (*_TURNS, *_TAGS))
_EXACT = re.compile("|".join([*_PLAIN, "<[|\uff5c](?:[\\w\u2581]*[|\uff5c]>)?", r"\[\|\w+\|\]"]))
_HIDDEN = re.compile(_UNSEEN[:-1])  # some of them are letters
_JOINER = "\N{WORD JOINER}"
_SIGNS = {"<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", "[": "\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}"}
_SIGNS |= dict.fromkeys("\uff1c\ufe64", _SIGNS["<"]) | {"\uff3b": _SIGNS["["]}


def sign(token: str) -> str:
    """For texts that a judge reads: a sign of the same width in place of the first character."""
    return _SIGNS[token[0]] + token[1:]


def split(token: str) -> str:
    """For texts of a conversation: an unseen character behind the first one, and nobody sees a difference."""
    return token[0] + _JOINER + token[1:]


def split_or_sign(token: str) -> str:
    """:func:`split`, but a token in disguise begins with a sign instead: what reads through the disguise would read
    through the unseen character as well.
    """
    return split(token) if _EXACT.fullmatch(token) and not _HIDDEN.search(token) else sign(token)


def special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """The control tokens of a tokenizer of Hugging Face's kind.

    Its added tokens marked as special count, and of the others those that are common control tokens: ``</think>`` is
    not marked, and chat templates cut a turn at it.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {t.content for t in added if t.special or COMMON.fullmatch(t.content)}
    names |= set(getattr(tokenizer, "all_special_tokens", ()))
    longest_first = sorted((n for n in names if len(n) > 1), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def defuse(value: Any, tokens: re.Pattern[str], broken: Callable[[str], str]) -> Any:
    """``value`` with every match of ``tokens`` broken.

    Args:
        value: a text, or nested plain data: all texts in it, keys included, and those inside a tool call's
            ``arguments``, which are JSON text: servers parse them, which undoes ``\\u003c``.
        broken: what to write for a match.
    """
    if isinstance(value, str):
        return tokens.sub(lambda m: broken(m[0]), value)
    if isinstance(value, dict):
        safe = {defuse(k, tokens, broken): defuse(v, tokens, broken) for k, v in value.items()}
        if isinstance(safe.get("arguments"), str):
            safe["arguments"] = _in_json(safe["arguments"], tokens, broken)
        return safe
    return type(value)(defuse(v, tokens, broken) for v in value) if isinstance(value, list | tuple) else value


def _in_json(text: str, tokens: re.Pattern[str], broken: Callable[[str], str]) -> str:
    if "\\u" not in text:
        return text
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return text
    safe = defuse(held, tokens, broken)
    return text if safe == held else json.dumps(safe, ensure_ascii=False)
