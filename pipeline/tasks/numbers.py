"""Numbers as people and models write them, in any script and any language's convention, as exact fractions.

Nothing here raises on any string. Everything takes time linear in the string's length; what reaches sympy
(:func:`_evaluate`) is at most 80 characters of a restricted, purely numerical LaTeX.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from fractions import Fraction
from threading import Lock

from pipeline.languages import base_language, parse

Readings = tuple[Fraction, ...]
"""What a written number may mean, most likely first; empty = unreadable. Only 1.234 and 1,234 ever have two."""

_MAX_DIGITS = 40  # of a numerator and a denominator; longer ones are noise, and int() refuses 4,300 digits

_DECIMAL_COMMA = frozenset({
    "af", "az", "be", "bg", "bs", "ca", "cs", "da", "de", "el", "es", "et", "eu", "fi", "fr", "gl", "hr", "hu", "hy",
    "id", "is", "it", "ka", "kk", "ky", "lb", "lt", "lv", "mk", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sq",
    "sr", "sv", "tr", "uk", "uz", "vi",
})  # fmt: skip
_DECIMAL_POINT = frozenset(
    ("es", region) for region in ("419", "DO", "GT", "HN", "MX", "NI", "PA", "PE", "PR", "SV", "US")
) | {("de", "CH"), ("de", "LI"), ("it", "CH")}

_SAME = str.maketrans({**dict.fromkeys("−–—‐‑", "-"), **dict.fromkeys("’‘ʼ′٬", "'"), "⁄": "/", "∕": "/"})
_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴-⁹]+")
_MIXED_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")

_LATEX = (
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\{,\}"), "'"),  # 1{,}000: always a thousands separator
    (re.compile(r"\\!|\*\*|__|`|\\(?=[$%])|\\(?:left|right)(?![A-Za-z])|\^\s*\{?\\circ\}?"), ""),
    (re.compile(r"\\[()\[\],;: ]"), " "),
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"(?<=\d)\s*(?=\\frac\s*\{?\d)"), " "),  # 2\frac12 is a mixed number
    (re.compile(r"\\frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}"), r"\1/\2"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\1/\2"),
    (re.compile(r"-\$\s?"), "-"),
    (re.compile(r"[$\s]+"), " "),  # a currency sign or a formula's bound
)

_HAN_DIGITS = {c: i for i, c in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2, "兩": 2}
_HAN_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "萬": 10**4, "億": 10**8, "亿": 10**8}
_HAN_DIGIT = f"[{''.join(_HAN_DIGITS)}]"
_HAN_UNIT = r"(?:[十百万萬億亿]|千(?![克米瓦卡]))"  # 千克 is a kilogram
_PLAIN = r"\d+(?:[.,'٫]\d+)*"
_HAN_PART = re.compile(rf"{_PLAIN}|{_HAN_DIGIT}+|{_HAN_UNIT}")
_HAN = re.compile(rf"(?:{_HAN_DIGIT}|{_HAN_UNIT}){{1,30}}")

_TOKEN = re.compile(
    rf"""
    (?: (?<![A-Za-z0-9_^]) (?<!\^\{{) | (?<=USD|EUR|CNY|RMB|INR) | (?<=US|Rs) )
    (?P<sign> (?<![0-9A-Za-zÀ-ӿ)]) - )?
    (?:
        (?P<han> {_PLAIN} \s? {_HAN_UNIT} (?: {_PLAIN} | {_HAN_DIGIT} | {_HAN_UNIT} ){{0,20}} )
      | (?: (?P<whole> \d{{1,12}} ) [ ] )? (?P<num> \d{{1,40}} ) \s?/\s? (?P<den> \d{{1,40}} ) (?!\d)
      | (?P<body> \d{{1,3}} (?:[ ]\d{{3}})+ (?!\d) (?:[.,]\d+)? | {_PLAIN} | (?<!\w)\.\d+ )
        (?: [eE] (?P<exp> [+-]?\d{{1,2}} ) (?!\w) )?
        (?: \s? (?: (?P<e3> thousand | tausend | mille | mil | тыс\w* )
                  | (?P<e6> mill?i?[oó]n\w* | миллион\w* | млн ) ) (?!\w) )?
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)

_MARKED = re.compile(r"(\d{1,3}(?:[ ']\d{3})+)(?:[.,](\d+))?")
_GROUPED = re.compile(r"\d{1,3}(?:[.,]\d{3})+|\d{1,2}(?:[.,]\d{2})+[.,]\d{3}")  # 1,000,000 and 10,00,000
_OPERATION = re.compile(r"\\(?:sqrt|pi|frac|times|cdot|div)|[√π^]|\d\s*[*×÷·+]\s*[\d\\]")
_UNIT_AT_END = re.compile(r"(?:(?<![\\A-Za-z])[A-Za-z]{1,12})?[\s.%]*$")
# The lookarounds leave one way only to split a string into parts: no backtracking. No power of a power, no power of
# a bracket and short numbers keep every term small.
_NUMERIC = re.compile(
    r"(?:(?<!\d)\d{1,15}(?:\.\d{1,15})?(?!\d)|\\(?:frac|sqrt|pi|times|cdot|div)(?![A-Za-z])|[-+()\[\]{}\s]"
    r"|(?<=\d)\^(?:\{-?\d{1,2}\}|\d(?!\d))(?!\s*\^))+"
)
_JUXTAPOSED = re.compile(r"[\d)]\s*\(|\d\s+\d")  # "18 (9 x 2)" is an answer with a remark, not a product
_MAX_LATEX, _MAX_DEPTH = 80, 5  # the parser's time grows with nesting: 0.4 s at 8 levels, minutes at 40
_OPERATORS = {"×": r"\times ", "·": r"\cdot ", "*": r"\cdot ", "÷": r"\div ", "π": r"\pi "}
_lock = Lock()  # the parser's generated code shares caches between threads


def decimal_comma(tag: str | None) -> bool:
    """Whether the language writes 3,14 (else 3.14). Source: Unicode CLDR, decimal separators."""
    found = parse(tag) if tag else None
    return base_language(tag) in _DECIMAL_COMMA and not (found and (found.language, found.region) in _DECIMAL_POINT)


def normalise(text: str) -> str:
    """One spelling for the same characters: NFKC, ASCII digits (any script), ``-``, ``'`` and ``$`` (any currency)."""
    if text.isascii():
        return text
    text = _MIXED_VULGAR.sub(" ", text)
    text = _SUPERSCRIPT.sub(lambda m: "^{" + unicodedata.normalize("NFKC", m[0]) + "}", text)
    return "".join(map(_character, unicodedata.normalize("NFKC", text).translate(_SAME)))


def _character(char: str) -> str:
    if char.isascii():
        return char
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.decimal(char))
    return {"Sc": "$", "Cf": ""}.get(category, char)


def read(line: str, language: str | None, last: bool = False) -> Readings:
    """The number that a normalised line states as its result.

    After the last equals sign where there is one; the leading number of what remains, else its last one. A
    calculation or a LaTeX term is evaluated by math-verify. Units, currencies and the percent sign are dropped.

    Args:
        language: BCP 47 tag that decides what 1.234 and 1,234 mean.
        last: always take the last number.
    """
    for pattern, replacement in _LATEX:
        line = pattern.sub(replacement, line)
    result = re.split(r"[=≈]", line)[-1]
    line = result if any(c.isdigit() or c in _HAN_DIGITS for c in result) else line
    if _OPERATION.search(line):
        value = _evaluate(line)
        if value is not None:
            return _bounded(value)
    found = list(_TOKEN.finditer(line))
    if found:
        return _readings(_pick(line, found, last), language)
    if last:
        return ()
    line = line.replace("百分之", "")  # "per cent"
    runs = list(_HAN.finditer(line))
    # A single 一 is an article, or part of a word (一共); it is an answer only when it leads and nothing else does.
    spelled = [m for m in runs if len(m[0]) > 1] or [m for m in runs if _leads(line, m)]
    return _bounded(_han(_pick(line, spelled, last)[0])) if spelled else ()


def same(gold: Fraction, value: Fraction) -> bool:
    """Equality: exact between integers, else math-verify's (six decimals, so that 0.333333 is 1/3)."""
    if gold == value:
        return True
    if gold.denominator == value.denominator == 1:
        return False
    try:
        import math_verify
        import sympy
    except ImportError:
        return abs(gold - value) < Fraction(1, 10**6)
    _quiet()
    a, b = (sympy.Float(sympy.Rational(x.numerator, x.denominator), 30) for x in (gold, value))
    return bool(math_verify.verify(a, b, timeout_seconds=None))


def _pick(line: str, found: list[re.Match[str]], last: bool) -> re.Match[str]:
    return found[0] if not last and _leads(line, found[0]) else found[-1]


def _leads(line: str, match: re.Match[str]) -> bool:
    return not any(c.isalnum() for c in line[: match.start()])


def _readings(token: re.Match[str], language: str | None) -> Readings:
    if len(token[0]) > 3 * _MAX_DIGITS:
        return ()
    sign = -1 if token["sign"] else 1
    if token["han"]:
        value = _han(token["han"])
        return _bounded(None if value is None else sign * value)
    if token["den"]:
        if int(token["den"]) == 0:
            return ()
        return _bounded(sign * (int(token["whole"] or 0) + Fraction(int(token["num"]), int(token["den"]))))
    scale = sign * Fraction(10) ** (int(token["exp"] or 0) + (3 if token["e3"] else 6 if token["e6"] else 0))
    return _bounded(*(scale * Fraction(numeral) for numeral in _plain(token["body"], language)))


def _bounded(*values: Fraction | None) -> Readings:
    limit: int = 10**_MAX_DIGITS
    return tuple(v for v in values if v is not None and abs(v.numerator) < limit and v.denominator < limit)


def _plain(body: str, language: str | None) -> list[str]:
    """The numerals (ASCII digits, decimal point) that ``body`` may stand for, most likely first."""
    whole, arabic, fraction = body.partition("٫")
    if arabic:
        digits = re.sub("[.,']", "", whole)
        return [f"{digits}.{fraction}"] if fraction.isdigit() else []
    if " " in body or "'" in body:
        match = _MARKED.fullmatch(body)
        return [re.sub("[ ']", "", match[1]) + f".{match[2] or 0}"] if match else []
    marks = [c for c in body if c in ".,"]
    if not marks:
        return [body]
    whole, fraction = body.rsplit(marks[-1], 1)
    if len(marks) > 1:
        if marks[-1] in marks[:-1]:
            return [re.sub("[.,]", "", body)] if _GROUPED.fullmatch(body) and len(set(marks)) == 1 else []
        return [re.sub("[.,]", "", whole) + f".{fraction}"] if _GROUPED.fullmatch(whole) else []
    decimal, grouped = f"{whole}.{fraction}", whole + fraction
    if len(fraction) != 3 or len(whole) > 3 or whole[:1] in ("", "0"):
        return [decimal]
    if not decimal_comma(language):
        return [grouped] if marks[0] == "," else [decimal]
    # Models mix the English convention into these languages, so both readings stand. A decimal does not end in 0.
    return [grouped, decimal] if marks[0] == "." or fraction.endswith("0") else [decimal, grouped]


def _han(written: str) -> Fraction | None:
    """Value of a numeral with Chinese characters: 十八, 三百五十, 二〇二四, 8万5千, 1.5億."""
    total = section = Fraction(0)
    current: Fraction | None = None
    for part in _HAN_PART.findall(written):
        unit = _HAN_UNITS.get(part)
        if unit is None:
            numerals = _plain(part, None) if part[0].isascii() else ["".join(str(_HAN_DIGITS[c]) for c in part)]
            if current is not None or not numerals:
                return None
            current = Fraction(numerals[0])
        elif unit < 10**4:
            section += (Fraction(1) if current is None else current) * unit
            current = None
        else:
            below = section + (current or Fraction(0))
            total = total + below * unit if below else (total or Fraction(1)) * unit
            section, current = Fraction(0), None
    return total + section + (current or Fraction(0))


def _evaluate(line: str) -> Fraction | None:
    """Value of a numerical term by math-verify's parser and sympy; ``None`` when it is not one.

    math-verify's time limits are signals, which only a main thread may set: the input is restricted instead.
    """
    if len(line) > 2 * _MAX_LATEX:
        return None
    latex = re.sub(r"√\s*(\d+)", r"\\sqrt{\1}", _UNIT_AT_END.sub("", line)).strip()
    latex = "".join(_OPERATORS.get(c, c) for c in latex)
    if (
        len(latex) > _MAX_LATEX
        or not _NUMERIC.fullmatch(latex)
        or _JUXTAPOSED.search(latex)
        or _depth(latex) > _MAX_DEPTH
    ):
        return None
    try:
        import math_verify
    except ImportError:
        return None
    _quiet()
    try:
        with _lock:
            parsed = math_verify.parse(f"${latex}$", [math_verify.LatexExtractionConfig()], parsing_timeout=None)
        value = parsed[0].doit()
        if value.is_Rational:
            return Fraction(int(value.p), int(value.q))
        # Twelve significant digits: \sqrt{2} and 2/\sqrt{2} are one answer.
        return Fraction(f"{float(value.evalf(20)):.12g}")
    except Exception:  # untrusted text: whatever sympy says of it, it is not a number
        return None


def _depth(latex: str) -> int:
    depth = deepest = 0
    for char in latex:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _quiet() -> None:
    # It warns once that its time limits are off, which is on purpose here.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
