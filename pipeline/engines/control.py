"""Control tokens of common chat formats, as texts of data and models may spell them.

Where the tokenizer is not known (an endpoint's, whatever reads a judge's prompt) this list stands for it. It holds the
tokens of ChatML, Llama, Mistral, Gemma, Command, DeepSeek, GLM, EXAONE and Seed, what tags thoughts and tool calls,
and the plain ones of sentencepiece, T5 and BERT.
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
SIGNS = {"<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", "[": "\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}"}
"""What stands for the first character of a token in a text that is shown to a judge."""
SIGNS |= dict.fromkeys("\uff1c\ufe64", SIGNS["<"]) | {"\uff3b": SIGNS["["]}


def show(text: str) -> str:
    """``text`` with a sign of the same width in place of the first character of every control token."""
    return COMMON.sub(lambda m: SIGNS[m[0][0]] + m[0][1:], text)


def split(text: str) -> str:
    """``text`` in which an unseen character breaks every control token; one in disguise begins with a sign instead,
    because what reads through the disguise would read through that character as well.
    """
    return COMMON.sub(lambda m: _broken(m[0]), text)


def _broken(token: str) -> str:
    plain = _EXACT.fullmatch(token) and not _HIDDEN.search(token)
    return token[0] + _JOINER + token[1:] if plain else SIGNS[token[0]] + token[1:]


def in_all_texts(value: Any, defuse: Callable[[str], str]) -> Any:
    """``defuse`` on every text of nested plain data: keys, values, and the texts inside a tool call's ``arguments``,
    which are JSON text: servers parse them, which undoes ``\\u003c``.
    """
    if isinstance(value, str):
        return defuse(value)
    if isinstance(value, dict):
        safe = {defuse(k) if isinstance(k, str) else k: in_all_texts(v, defuse) for k, v in value.items()}
        if isinstance(safe.get("arguments"), str):
            safe["arguments"] = _in_json(safe["arguments"], defuse)
        return safe
    return [in_all_texts(v, defuse) for v in value] if isinstance(value, list) else value


def _in_json(text: str, defuse: Callable[[str], str]) -> str:
    if "\\u" not in text:
        return text
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return text
    safe = in_all_texts(held, defuse)
    return text if safe == held else json.dumps(safe, ensure_ascii=False)
