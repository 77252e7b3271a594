"""Numbers as people and models write them, in any script and any language's convention, as exact fractions.

Nothing here raises on any string. Everything takes time linear in the string's length; what reaches sympy
(:func:`_evaluate`) is at most 80 characters of a restricted, purely numerical LaTeX.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from fractions import Fraction
from itertools import accumulate
from threading import Lock

from pipeline.core.languages import base_language, parse
from pipeline.tasks.multipliers import MULTIPLIER, factor_of

Readings = tuple[Fraction, ...]
"""What a written number may mean, most likely first; empty = unreadable. Only 1.234 and 1,234 ever have two."""

_MAX_READ = 10_000  # characters: 50 µs a number
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
_ITEM_SIGN = re.compile("[①-⑳]|[0-9]\ufe0f?\u20e3")  # ① and keycaps begin the items of lists
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
    (re.compile(r"(?<=\d) ?[xX] ?(?=\d)"), "×"),
    (re.compile(r"(?<=\d) ?\^ ?(-?\d{2,3})(?!\d)"), r"^{\1}"),  # LaTeX would raise to the first digit only
    (re.compile(r"(?<=[=≈]) ?- (?=\d)"), "-"),
)

_HAN_DIGITS = {c: i for i, c in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2, "兩": 2}
_HAN_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "萬": 10**4, "億": 10**8, "亿": 10**8, "兆": 10**12} | {
    "십": 10, "백": 100, "천": 1000, "만": 10**4, "억": 10**8, "조": 10**12,
}  # fmt: skip
_HAN_DIGIT = f"[{''.join(_HAN_DIGITS)}]"
# 千克 is a kilogram, 3조각 are three pieces, 2만큼 is "as much as two".
_HAN_UNIT = r"(?:[十百万萬億亿兆십백천억]|千(?![克米瓦卡])|만(?!큼)|조(?!각))"
_PLAIN = r"\d+(?:[.,'٫]\d+)*"
_HAN_PART = re.compile(rf"{_PLAIN}|{_HAN_DIGIT}+|{_HAN_UNIT}")
_HAN = re.compile(r"(?:[〇一二三四五六七八九零两兩十百万萬億亿兆]|千(?![克米瓦卡])){1,30}")
_COUNTED = rf"(?:{_PLAIN}|{_HAN.pattern})"
_HAN_POINT = re.compile(
    rf"({_HAN.pattern})[点點・]({_HAN_DIGIT}{{1,12}})(?![{''.join(_HAN_DIGITS)}十百分钟鐘半刻時时])"
)
_PARTS = re.compile(rf"(?:({_COUNTED})又)?({_COUNTED})\s?(?:分之|分の|분의)\s?({_COUNTED})")
_PREFIXED = re.compile(r"\b(elfu|laki|milioni|bilioni)\s+(\d[\d.,]*\d|\d)", re.IGNORECASE)  # Swahili: elfu 70

_JOINED = rf"""(?P<han> {_PLAIN} \s? {_HAN_UNIT}
    (?: \s? {_PLAIN} \s? {_HAN_UNIT} | {_PLAIN} | {_HAN_DIGIT} | {_HAN_UNIT} ){{0,20}} )"""
_BODY = rf"(?P<body> \d{{1,3}} (?:[ ]\d{{3}})+ (?!\d) (?:[.,]\d+)? | {_PLAIN} | (?<!\w)\.\d+ )"
_UNIT = rf"(?: (?P<unit> {MULTIPLIER} ) (?P<more> (?: \s? {_PLAIN} {MULTIPLIER} ){{0,4}} ) )?"
_TOKEN = re.compile(
    rf"""
    (?: (?<![A-Za-z0-9_^]) (?<!\^\{{) | (?<=USD|EUR|CNY|RMB|INR) | (?<=US|Rs) )
    (?P<sign> (?<![0-9A-Za-zÀ-ӿ)]) - )?
    (?:
        {_JOINED}
      | (?: (?P<whole> \d{{1,12}} ) [ ] )? (?P<num> \d{{1,40}} ) \s?/\s? (?P<den> \d{{1,40}} ) (?!\d)
      | {_BODY} (?: [eE] (?P<exp> [+-]?\d{{1,2}} ) (?!\w) )? {_UNIT}
    )
    """,
    re.VERBOSE,
)
_WRITTEN = re.compile(rf"{_JOINED} | {_BODY} {_UNIT}", re.VERBOSE)  # 3/4 and 12/05 are two numbers, 10-15 too
_CURRENCY = re.compile(r"(?:\b(?:[A-Z]{2,3}|R|Rs|Rp|Ksh|KSh|TSh|Sh|Tk|kr|Kč|zł|Ft|lei)\.?)\s?$")

_PRICE_BEFORE = re.compile(
    r"(?:\b(?:at|à|zu je|für je|je|po|по|kwa kila|giá)|@|每[^\d\s,，。]{0,3}|あたり|당|ละ|tanesi|প্রতি\w*|प्रति)\s?$",
    re.IGNORECASE,
)
_PRICE_AFTER = re.compile(
    r"\s?(?:[^\W\d_]+\s){0,2}?(?:each|apiece|a piece|chacune?s?|pièce|l'unité|cada|c/u|ciascun[oa]|l'un[oa]|das Stück"
    r"|pro Stück|per stuk|кажд\w+|за штуку|kila moja|mỗi|প্রতিটি|ずつ|씩)(?!\w)",
    re.IGNORECASE,
)
_MARKED = re.compile(r"(\d{1,3}(?:[ ']\d{3})+)(?:[.,](\d+))?")
_GROUPED = re.compile(r"\d{1,3}(?:[.,]\d{3})+|\d{1,2}(?:[.,]\d{2})+[.,]\d{3}")  # 1,000,000 and 10,00,000
_PART = re.compile(rf"({_PLAIN})({MULTIPLIER})")
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
    text = _MIXED_VULGAR.sub(" ", _ITEM_SIGN.sub(lambda m: f"{unicodedata.numeric(m[0][0]):g}. ", text))
    text = _SUPERSCRIPT.sub(lambda m: "^{" + unicodedata.normalize("NFKC", m[0]) + "}", text)
    return "".join(map(_character, unicodedata.normalize("NFKC", text).translate(_SAME)))


def _character(char: str) -> str:
    if char.isascii():
        return char
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.decimal(char))
    return {"Sc": "$", "Cf": ""}.get(category, char)


def clean(line: str) -> str:
    """A normalised line without markup, its fractions and decimals in words written with digits."""
    for pattern, replacement in _LATEX:
        line = pattern.sub(replacement, line)
    if not line.isascii():
        line = _HAN_POINT.sub(lambda m: f"{_digits(m[1])}.{''.join(str(_HAN_DIGITS[c]) for c in m[2])}", line)
        line = _PARTS.sub(_part, line)
    return _PREFIXED.sub(r"\2 \1", line)


def read(line: str, language: str | None, last: bool = False, expected: Readings = ()) -> Readings:
    """The number that a normalised line states as its result.

    What stands at its beginning, unless that is the first number of a calculation; else what follows the last equals
    sign; of several numbers of a sentence the one that was ``expected``, else the last one that is no price of a piece.
    A calculation or a LaTeX term is evaluated by math-verify. Units, currencies and the percent sign are dropped.

    Args:
        language: tag that decides what 1.234 and 1,234 mean.
        last: the line is only the last with a number: what stands at its beginning is no answer for that.
        expected: the result of the calculation before the line.
    """
    line = clean(line)
    found = list(_TOKEN.finditer(line))
    if found and not last and _leads(line, found[0]) and not _is_calculation(line, found):
        return _readings(found[0], language)
    result = re.split(r"[=≈]", line)[-1]
    if any(c.isdigit() or c in _HAN_DIGITS for c in result):
        line = result
    if _OPERATION.search(line):
        value = _evaluate(line)
        if value is not None:
            return _bounded(value)
    found = list(_TOKEN.finditer(line))
    if found:
        if not last and _leads(line, found[0]):
            return _readings(found[0], language)
        return _answering(line, found, language, expected)
    if last:
        return ()
    line = line.replace("百分之", "")  # "per cent"
    runs = list(_HAN.finditer(line))
    # A single 一 is an article, or part of a word (一共); it is an answer only when it leads and nothing else does.
    spelled = [m for m in runs if len(m[0]) > 1] or [m for m in runs if _leads(line, m)]
    if not spelled:
        return ()
    return _bounded(_han((spelled[0] if _leads(line, spelled[0]) else spelled[-1])[0]))


def leads(line: str) -> bool:
    """Whether a number leads what a normalised line says; before it may stand a currency, or "x =" and the like."""
    line = clean(line)
    head, sign, result = line.partition("=")
    if sign and not any(c.isdigit() for c in head):
        line = result
    found = _TOKEN.search(line) or _HAN.search(line)
    return (found is not None and _leads(line, found)) or bool(re.match(r"[\s({\[-]*(?:\\(?:sqrt|frac|pi)|√|π)", line))


def is_working(line: str) -> bool:
    """Whether a normalised line is a calculation, or says more than a number and its unit."""
    line = clean(line)
    found = list(_TOKEN.finditer(line))
    return bool(found) and (_is_calculation(line, found) or len(line[found[0].end() :].partition("(")[0].split()) > 1)


def written(text: str, language: str | None) -> list[Fraction | str]:
    """Every number that the first 10,000 characters of a text write with digits, of any script, without its sign.

    Of two readings (1.234 in German) the larger one. What cannot be read (12.05.2020) is itself.
    """
    found: list[Fraction | str] = []
    for token in _WRITTEN.finditer(clean(normalise(text[:_MAX_READ]))):
        readings = _bounded(_han(token["han"])) if token["han"] else _scaled(token, 0, language)
        found.append(max(readings, default=token[0]))
    return found


def _is_calculation(line: str, found: list[re.Match[str]]) -> bool:
    """Whether an operator, or an equals sign, joins the first number to the next, at most two words between."""
    between = line[found[0].end() : found[1].start() + (1 if found[1]["sign"] else 0)] if len(found) > 1 else ""
    follows = re.match(r"\s?[\^√π(]|\s?\\", line[found[0].end() :])
    if found[0]["unit"] is None and follows and not _JUXTAPOSED.search(line):
        return True
    return bool(re.search(r"[-+*/×÷·=≈]|\\(?:times|cdot|div)", between)) and len(re.findall(r"[^\W\d_]+", between)) <= 3


def _answering(line: str, found: list[re.Match[str]], language: str | None, expected: Readings) -> Readings:
    """Of a sentence's numbers the one that answers."""
    values = [(token, _readings(token, language)) for token in found]
    known = [readings for _, readings in values if expected and expected[0] in readings]
    if known:
        return known[-1]
    kept = [readings for token, readings in values if not _is_price(line, token)]
    return (kept or [readings for _, readings in values])[-1]


def _is_price(line: str, token: re.Match[str]) -> bool:
    """Whether a number says what one of several pieces costs: "at $2 each"."""
    return bool(_PRICE_BEFORE.search(line[max(token.start() - 24, 0) : token.start()])) or bool(
        _PRICE_AFTER.match(line[token.end() : token.end() + 32])
    )


def _part(match: re.Match[str]) -> str:
    """四分之三 -> 3/4; 百分之二十 stays, as the per cent sign is dropped."""
    if match[2] == "百":
        return match[0]
    whole, den, num = ("" if g is None else _digits(g) for g in match.groups())
    if not all(part.isdigit() for part in (den, num, whole or "0")):
        return match[0]
    return f" {whole} {num}/{den} " if whole else f" {num}/{den} "


def _digits(written: str) -> str:
    """A numeral with digits or with Chinese characters, as digits; empty when it cannot be read."""
    value = Fraction(written) if written.isdecimal() and written.isascii() else _han(written)
    return "" if value is None else str(value)


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


def _leads(line: str, match: re.Match[str]) -> bool:
    before = _CURRENCY.sub("", line[: match.start()])
    return not any(c.isalnum() for c in before)


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
    return tuple(sign * value for value in _scaled(token, int(token["exp"] or 0), language))


def _scaled(token: re.Match[str], exponent: int, language: str | None) -> Readings:
    """A number of digits, times what its exponent and its multiplier say."""
    if len(token["body"]) > 3 * _MAX_DIGITS:
        return ()
    scale = Fraction(10) ** exponent * factor_of(token["unit"] or "", language)
    rest = _parts(token["more"] or "", language)
    return _bounded(*(scale * Fraction(numeral) + rest for numeral in _plain(token["body"], language)))


def _parts(written: str, language: str | None) -> Fraction:
    """Sum of what follows a first number and its multiplier: "20 হাজার" of "1 লক্ষ 20 হাজার"."""
    total = Fraction(0)
    for body, unit in _PART.findall(written):
        numerals = _plain(body, language)
        total += Fraction(numerals[0]) * factor_of(unit, language) if numerals else 0
    return total


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
    if len(latex) > _MAX_LATEX or not _NUMERIC.fullmatch(latex) or _JUXTAPOSED.search(latex):
        return None
    if max(accumulate((c in "([{") - (c in ")]}") for c in latex), default=0) > _MAX_DEPTH:
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


def _quiet() -> None:
    # It warns once that its time limits are off, which is on purpose here.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
