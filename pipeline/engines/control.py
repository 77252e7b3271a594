"""Control tokens of common chat formats, as texts of data and models may spell them.

Where the tokenizer is not known (an endpoint's, whatever reads a judge's prompt) this list stands for it. It holds the
tokens of ChatML, Llama, Mistral, Gemma, Command, DeepSeek and GLM, and the plain ones of sentencepiece and BERT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_NAMES = (
    *("<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<sop>", "<eop>", "<<SYS>>", "<</SYS>>"),
    *("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<start_of_audio>", "<end_of_audio>"),
    *("<BOS_TOKEN>", "<EOS_TOKEN>", "<EOP_TOKEN>", "<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>"),
    *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_CALLS]", "[/TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]", "[/TOOL_CONTENT]"),
    *("[MODEL_SETTINGS]", "[/MODEL_SETTINGS]", "[THINK]", "[/THINK]", "[ARGS]", "[CALL_ID]", "[IMG]", "[IMG_END]"),
    *("[gMASK]", "[BOS]", "[EOS]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"),
)
_FAMILY = "<|"  # begins <|im_end|>, <|eot_id|>, <｜User｜> and hundreds more
_UNSEEN = (
    "[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]*"  # drawn as nothing
)
_FORMS = {"<": "[<\uff1c\ufe64]", ">": "[>\uff1e\ufe65]", "|": "[|\uff5c\u2223]", "/": "[/\uff0f]"}
_FORMS |= {"[": "[\\[\uff3b]", "]": "[\\]\uff3d]", "_": "[_\uff3f\u2581]"}


def _pattern(name: str) -> str:
    return _UNSEEN.join(_FORMS.get(c, re.escape(c)) for c in name)


COMMON = re.compile("|".join(map(_pattern, (*_NAMES, _FAMILY))))
"""Every spelling of a common control token, or its beginning; also with unseen or full-width characters in it."""

_EXACT = re.compile("|".join(re.escape(name) for name in (*_NAMES, _FAMILY, "<\uff5c")))
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
    return COMMON.sub(lambda m: _broken(m[0]) if _EXACT.fullmatch(m[0]) else SIGNS[m[0][0]] + m[0][1:], text)


def _broken(token: str) -> str:
    return token[0] + _JOINER + token[1:]


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
