"""What keeps untrusted texts harmless: secrets out of everything stored, control characters out of terminals.

The one place for both; SECURITY.md says what is defended against and what is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "***"

_SHORTEST = 8  # characters; shorter values of environment variables are words, not keys
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:api_?key|access_?key|secret_?key|private_?key|secret|password|passwd|passphrase|credentials?|"
    r"authorization|auth|(?:hf|hub|api|auth|access|bearer|session|refresh|id)_token)$|^token$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:_ID)?$", re.IGNORECASE)
_NOT_SECRET = re.compile(r"^(?:true|false|none|token|[\d.]+|/.*|~.*)$", re.IGNORECASE)  # switches, numbers, paths
_PATTERNS = (
    re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"),  # user:password of a URL
    re.compile(r"(?i)(?<=\bbearer )(?=[\w.~+/=-]*\d)[\w.~+/=-]{6,}"),
    re.compile(r"""(?i)\bauthorization["']?\s*[:=]\s*["']?(?:(?:bearer|basic|token)\s+)?[^\s"',}*]+"""),
    re.compile(r"(?i)(?<=[?&;])(?:[\w.-]*(?:key|token|signature|secret|password|sig))=[^\s&\"'<>]+"),
    re.compile(
        r"""(?ix)(?<=["']) (?: (?:x-)?(?:api|access|secret)[-_]?key | password | secret
            | (?:access|refresh|auth|id)_token ) ["']\s*:\s*["'][^"']+"""
    ),
    re.compile(r"\b(?:sk|pk|rk)-(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{16,}"),  # OpenAI and others
    re.compile(r"\bhf_[A-Za-z0-9]{16,}"),
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\bAIza[\w-]{30,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"),  # a JSON web token
)
_CONTROLS = {c: chr(0x2400 + c) for c in range(32) if chr(c) not in "\t\n"} | {127: "\u2421"}
_CONTROLS |= {c: f"⟦U+{c:04X}⟧" for c in range(0x80, 0xA0)}  # C1: some terminals obey U+009B as they obey ESC [
_CONTROLS |= {
    c: f"⟦U+{c:04X}⟧" for c in (0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def redact(text: str) -> str:
    """``text`` with ``***`` in place of secrets: credentials in URLs and headers, well-known forms of keys, and the
    values of this process's environment variables that are named like secrets.
    """
    for secret in _environment_secrets():
        text = text.replace(secret, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    return text


def _environment_secrets() -> list[str]:
    """Longest first: one may be part of another."""
    values = {
        value
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST and not _NOT_SECRET.match(value)
    }
    return sorted(values, key=len, reverse=True)


def find_secrets(value: Any, key: str = "") -> Iterator[str]:
    """Full keys under which nested plain data holds a secret: by the key's name, or by the value's form."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            full = f"{key}.{name}" if key else str(name)
            if isinstance(item, str) and item and _SECRET_NAME.search(str(name)):
                yield full
            else:
                yield from find_secrets(item, full)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from find_secrets(item, f"{key}[{i}]")
    elif isinstance(value, str) and redact(value) != value:
        yield key


def visible(text: str) -> str:
    """``text`` as a terminal may show it: control characters and overrides of the writing direction become signs.

    Line breaks and tabs stay.
    """
    return text.replace("\r\n", "\n").translate(_CONTROLS)
