"""What keeps untrusted texts harmless: secrets out of everything stored, control characters out of terminals, HTML and
Markdown out of the report.

The one place for all three; SECURITY.md says what is defended against and what is not. Every pattern takes time linear
in the text: a run of characters is matched once and whole, and what it is is decided by looking at it.
"""

from __future__ import annotations

import html
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, TextIO
from urllib.parse import quote

HIDDEN = "***"

_SHORTEST = 8  # characters; shorter values of environment variables are words, not keys
_LONGEST_SECRET = 4096
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:api_?key|access_?key|secret_?key|private_?key|subscription_?key|secret|password|passwd|passphrase|"
    r"passcode|pwd|credentials?|authorization|auth|cookie|"
    r"(?:hf|hub|api|auth|access|bearer|session|security|private|refresh|id)_?token)$|^token$"
)
_SECRET_VARIABLE = re.compile(
    r"(?:KEY|TOKEN|SECRET|(?:^|_)PASS|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|(?:^|_)PAT)(?:_ID|_?\d+)?$", re.IGNORECASE
)
_NOT_SECRET = re.compile(r"^(?:true|false|none|token|[\d.]+|/.*|~.*)$", re.IGNORECASE)  # switches, numbers, paths
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_HEADERS = (
    r"(?:proxy-)?authorization|set-cookie|cookie|[\w-]{0,40}(?:api|access|secret|private|subscription)[-_]?key"
    r"|[\w-]{0,40}(?:access|refresh|auth|id|private|security|session|bearer|api|hub|hf)[-_]?token|[\w-]{0,40}client[-_]?secret"
)
_WORDS = r"password|passwd|pwd|passphrase|secret"
_PATTERNS = (
    # user:password of a URL, up to the last @ that may end it; a port is none
    re.compile(r"(?<=://)[^\s/@:?#]{0,200}:(?!\d{1,5}(?:[/?#\s]|$))[^\s\"'<>]{1,200}(?=@)"),
    re.compile(r"(?i)(?<=\bbearer\s)\s{0,9}(?=[\w.~+/=-]*\d)[\w.~+/=-]{6,}"),
    # a header or a field, its value beside it, also in a list, as bytes, or in JSON inside JSON: x-api-key: ...,
    # "api_key": ["..."], 'api_key': b'...', \"api_key\": \"...\"
    re.compile(
        rf"""(?ix) (?: (?<![\w.-]) (?:{_HEADERS}) \\{{0,7}} ["']? [ \t]{{0,9}} [:=] | (?<=\.) (?:{_HEADERS}) = )
        [ \t]{{0,9}} [\[(]{{0,2}} (?: b(?=\\{{0,7}}["']) )? [\[("'\\]{{0,8}}
        (?: (?:bearer|basic|token) (?:\s|\\[nrt]){{1,9}} )? (?!\\) [^\s"',;}})\]*]{{1,4096}}"""
    ),
    re.compile(
        rf"""(?ix) (?<=["']) (?:{_WORDS}) \\{{0,7}} ["'] \s{{0,9}} : \s{{0,9}} [\[(]? (?: b(?=\\{{0,7}}["']) )?
        [\\"']{{0,8}} (?!\\) [^"',}})\]*]{{1,4096}}"""
    ),
    re.compile(rf"""(?i)(?<![\w-])(?:{_WORDS})=["']?[^\s"',;&}})\]*]{{1,4096}}"""),
    re.compile(r"(?i)(?<=[?&;])[\w.-]{0,40}(?:key|token|signature|secret|password|sig)=[^\s&\"'<>]+"),
    re.compile(
        r"(?<![A-Za-z0-9])(?:"
        r"(?:hf_|api_org_|gsk_|xai-|csk-|fw_|r8_|pplx-|nvapi-|tvly-|jina_|npm_|dckr_pat_|sk_live_|sk_test_|rk_live_)"
        r"[A-Za-z0-9]{16,}"
        r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|soat|ffct)-[\w-]{16,}"
        r"|(?:tgp_v1_|lsv2_pt_|lsv2_sk_|pcsk_|pypi-|wandb_v1_|dop_v1_|dapi|xox[abeoprs]-|xapp-|hvs\.|SG\.|ya29\.)[\w.-]{20,}"
        r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])|ABSK[A-Za-z0-9+/=]{40,}|AIza[\w-]{30,}|AQ\.[\w-]{30,}"
        r")"
    ),
    re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]{0,8192}(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?"),
)
# Whole runs of characters, which are keys only if they also look random.
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(?:sk|pk|rk)-[\w-]{16,}")  # OpenAI and others
_WEB_TOKEN = re.compile(r"(?<![A-Za-z0-9])eyJ[\w.-]{20,}")  # JSON web tokens

_CONTROLS = {c: chr(0x2400 + c) for c in range(32) if chr(c) not in "\t\n"} | {127: "\u2421"}
_CONTROLS |= {
    c: f"⟦U+{c:04X}⟧"
    for c in (
        *range(0x80, 0xA0),  # C1: some terminals obey U+009B as they obey ESC [
        *(0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),  # directions
        *(0x2028, 0x2029),  # line ends
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180E, 0x2060, *range(0x2061, 0x2065)),  # unseen
        *(*range(0x206A, 0x2070), 0x3164, 0xFEFF, 0xFFA0, *range(0xFFF0, 0xFFFC), *range(0x1BCA0, 0x1BCA4)),
        *(*range(0x1D173, 0x1D17B), *range(0xE0000, 0xE0100), *range(0xE01F0, 0xE1000)),
        *range(0xD800, 0xE000),  # halves of characters, which nothing can print
    )
}
_IN_LINES = _CONTROLS | {9: "\u2409", 10: "\u240a", 13: "\u240d", 0x200B: "⟦U+200B⟧"}
_IN_JSON = re.compile("[" + "".join(map(re.escape, map(chr, (c for c in _CONTROLS if c >= 127)))) + "]")
_MIRRORED = ("R", "AL", "AN")  # classes of characters that are written from right to left
_ISOLATE, _END = "\u2068", "\u2069"


# -------------------------------------------------------------------------------------------------------------- secrets

_named_secret: set[str] = set()


def holds_secret(variable: str | None) -> None:
    """Count an environment variable among the secrets of this process, whatever its name: a config says that it is."""
    if variable:
        _named_secret.add(variable)


def redact(text: str, limit: int | None = None) -> str:
    """``text`` with ``***`` in place of secrets: credentials in URLs and headers, well-known forms of keys, and the
    values of this process's environment variables that are named like secrets. O(length).

    Args:
        limit: keep so many characters at most. The text is cut before it is looked through, far enough behind them that
            no half of a secret is kept, which nothing would recognise.
    """
    if limit is not None and len(text) > limit + 2 * _LONGEST_SECRET:
        text = text[: limit + 2 * _LONGEST_SECRET]
        shown = _redacted(text)
        # What replaces secrets is shorter, so the rough end may have moved up to here.
        return shown[: min(limit, max(0, len(shown) - _LONGEST_SECRET))]
    return _redacted(text)[:limit]


def _redacted(text: str) -> str:
    for secret in _environment_secrets():
        text = text.replace(secret, HIDDEN)
    for pattern in _PATTERNS:
        text = pattern.sub(HIDDEN, text)
    text = _TOKEN.sub(lambda m: HIDDEN if _is_random(m[0]) else m[0], text)
    return _WEB_TOKEN.sub(lambda m: HIDDEN if m[0].rstrip(".").count(".") >= 2 else m[0], text)


def _is_random(token: str) -> bool:
    """Whether words with hyphens are a key: digits and capitals, or a long part with digits."""
    if not any(c.isdigit() for c in token):
        return False
    return any(c.isupper() for c in token) or any(_is_long(part) for part in re.split("[-_]", token))


def _is_long(part: str) -> bool:
    return len(part) >= 16 and any(c.isdigit() for c in part)


def _environment_secrets() -> list[str]:
    """Longest first: one may be part of another. In the spellings that URLs and JSON have for them, too."""
    values = {
        value
        for name, value in os.environ.items()
        if (name in _named_secret and len(value) >= 4)
        or (_SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST and not _NOT_SECRET.match(value))
    }
    spelt = {form for value in values for form in (value, quote(value, safe=""), json.dumps(value)[1:-1])}
    return sorted(spelt, key=len, reverse=True)


def redact_all(value: Any) -> Any:
    """Nested plain data with every text redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(k) if isinstance(k, str) else k: redact_all(v) for k, v in value.items()}
    return [redact_all(v) for v in value] if isinstance(value, list | tuple) else value


def is_variable_name(text: str) -> bool:
    """Whether a text can be the *name* of an environment variable, and is not a key that was pasted in its place."""
    if not _VARIABLE.fullmatch(text) or redact(text) != text:
        return False
    return not any(_is_long(part) or len(part) >= 32 for part in text.split("_"))


def find_secrets(value: Any, key: str = "") -> Iterator[str]:
    """Full keys under which nested plain data holds a secret: by the key's name, or by the value's form.

    What stands under a secret's name is one whether it is a text, a number or a list of them. Headers are also written
    as pairs: ``[x-api-key, ...]`` and ``{name: x-api-key, value: ...}``.
    """
    if isinstance(value, Mapping):
        named = next((value[n] for n in ("name", "key", "header") if isinstance(value.get(n), str)), "")
        for name, item in value.items():
            full = f"{key}.{redact(str(name))}" if key else redact(str(name))
            names_one = _names_secret(str(name)) or (name == "value" and _names_secret(named))
            if redact(str(name)) != str(name) or (names_one and _says_something(item)):
                yield full
            else:
                yield from find_secrets(item, full)
    elif isinstance(value, list | tuple):
        if len(value) == 2 and isinstance(value[0], str) and _names_secret(value[0]) and _says_something(value[1]):
            yield f"{key}[1]"
            return
        for i, item in enumerate(value):
            yield from find_secrets(item, f"{key}[{i}]")
    elif isinstance(value, str) and redact(value) != value:
        yield key


def _names_secret(name: str) -> bool:
    """``x-api-key``, ``apiKey`` and ``API KEY`` are ``api_key``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return _SECRET_NAME.search(re.sub(r"[-. ]+", "_", words).lower()) is not None


def _says_something(value: Any) -> bool:
    """Whether there is any text or number in it: switches and empty values are no secrets."""
    if isinstance(value, Mapping):
        return any(_says_something(v) for v in value.values())
    if isinstance(value, list | tuple):
        return any(_says_something(v) for v in value)
    return value is not None and not isinstance(value, bool) and value != ""


# -------------------------------------------------------------------------------------------------------------- showing


def visible(text: str) -> str:
    """``text`` as a terminal may show it: control characters, overrides of the writing direction and characters that
    nobody sees become signs.

    Line breaks and tabs stay.
    """
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def one_line(text: Any) -> str:
    """:func:`visible`, with signs for line breaks, tabs and U+200B as well: no name or id can begin a line of its own,
    or look like another one.
    """
    return str(text).replace("\r\n", "\n").translate(_IN_LINES)


class Line(str):
    """A line that is safe to print as it is: made by :func:`line`."""


def isolated(text: Any) -> str:
    """A name or a text as a part of one line: where it is written from right to left, it does not draw the numbers and
    words behind it along. A :class:`Line` stays as it is.
    """
    if isinstance(text, Line):
        return text
    shown = one_line(text)
    if shown.isascii() or not any(unicodedata.bidirectional(c) in _MIRRORED for c in shown):
        return shown
    return f"{_ISOLATE}{shown}{_END}"


def line(form: str, *values: Any) -> Line:
    """``form.format(*values)`` as one line of ours, in which every value is a part that stays apart (:func:`isolated`).

    Args:
        form: our own words, with ``{}`` for the values.
        values: names and texts of others; numbers.
    """
    return Line(form.format(*map(isolated, values)))


def say(*lines: Any, file: TextIO | None = None, flush: bool = False) -> None:
    """Print lines of ours, into which names and texts of others may have been put: each stays one line."""
    for text in lines:
        print(text if isinstance(text, Line) else one_line(text), file=file or sys.stdout, flush=flush)


def indented(text: str) -> str:
    """:func:`visible`, with all lines but the first behind a bar: none of them passes for a line of ours."""
    return visible(text).replace("\n", "\n    | ")


def say_error(text: str) -> None:
    """Print a message on standard error."""
    print(indented(text), file=sys.stderr)


def json_text(value: Any, indent: int | None = 1, default: Any = None) -> str:
    """JSON as people read it on a terminal: letters as they are, what could act or hide as ``\\u`` escapes, which mean
    the same.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=default)
    return _IN_JSON.sub(lambda m: json.dumps(m[0])[1:-1], text)


# ------------------------------------------------------------------------------------------------------------ on a page

_LONGEST_SHOWN = 20_000  # characters of one text on the page; the table keeps all of it
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~&$@:])")
_ISOLATED = re.compile("⟦U\\+2068⟧([^⟦]*)⟦U\\+2069⟧")
_LINK = re.compile(r"(?i)(?<![a-z0-9])www(?=\.)|[a-z]{2,12}(?=\\?://)|(?<!\\)(?=\\?@(?:\\?[\w-])+\.)")


def page_text(text: Any) -> str:
    """A text as it can be shown: control characters become visible signs, very long texts are cut (and say so)."""
    cut = str(text)[: _LONGEST_SHOWN + 1] if len(str(text)) > 2 * _LONGEST_SHOWN else str(text)
    shown = str(on_page(cut))
    if len(shown) > _LONGEST_SHOWN:
        return f"{shown[:_LONGEST_SHOWN]}… [{len(str(text)) - _LONGEST_SHOWN:,} more characters in the table]"
    return shown


def on_page(value: Any) -> Any:
    """Every plain string on its way into a template passes here; Markup has been through it.

    Names that are isolated (:func:`isolated`) stay so: an isolate orders nothing but what it holds.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return _ISOLATED.sub("\u2068\\1\u2069", visible(value))


def escape_markdown(text: Any) -> str:
    """One line of plain text for running Markdown or a table's cell.

    Forges make links of bare addresses (``https://``, ``www.``, ``a@b.c``), some of them after all escapes are undone:
    ``<wbr>``, which shows nothing, splits these words.
    """
    plain = _apart(" ".join(page_text(text).split()))
    escaped = _SPECIAL.sub(r"\\\1", plain).replace("\\<", "&lt;").replace("\\>", "&gt;").replace("\\&", "&amp;")
    return _LINK.sub(lambda m: f"{m[0]}<wbr>", escaped)


def escape_line(text: Any) -> str:
    """One line inside an HTML tag, where Markdown's own escapes do not work."""
    return _LINK.sub(lambda m: f"{m[0]}<wbr>", html.escape(_apart(" ".join(page_text(text).split()))))


def _apart(text: str) -> str:
    """Isolated as a whole, unless parts of it are."""
    return text if _ISOLATE in text else isolated(text)


def fence(text: Any) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    shown = page_text(text)
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{ticks}text\n{shown}\n{ticks}"
