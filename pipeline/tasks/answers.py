r"""The final answer of a solution in any language: ``\boxed{}``, "Answer:", "the answer is", the last number."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from pipeline.tasks.numbers import Readings, is_working, leads, normalise, read

# "Answer" in the languages of the presets (MGSM, m-ArenaHard, WMT24++) and some more. Words before ";" stand alone
# between letters, those behind it may be part of a longer run: scripts without spaces, prefixes and endings.
_ANSWERS = (
    "answer answers antwort endantwort respuesta réponse reponse risposta resposta antwoord svar vastaus vastus "
    "atbilde atsakymas odpowiedź odpověď odpoveď odgovor válasz răspuns răspunsul cevap cevabı yanıt cavab "
    "jawaban jawabannya jawab jawapan sagot jibu impendulo ìdáhùn idahun amsa azịza jawaab valiny antwoord "
    "erantzuna freagra ateb tweġiba përgjigja javob ответ отговор відповідь адказ одговор жауап жооп ҷавоб "
    "хариулт απάντηση",
    "答 답 คำตอบ ຄຳຕອບ ຄໍາຕອບ ចម្លើយ အဖြေ సమాధానం జవాబు উত্তর उत्तर जवाब જવાબ ઉત્તર ਜਵਾਬ ਉੱਤਰ பதில் விடை ಉತ್ತರ ഉത്തരം "
    "පිළිතුර መልስ جواب پاسخ الإجابة الاجابة إجابة الجواب תשובה պատասխան პასუხი",
)
_PHRASES = r"đáp án|đáp số|câu trả lời|trả lời"
_IS_WORDS = (
    "is are equals ist lautet beträgt es son est sont è é ni är er on este jest to wynosi je adalah ialah là "
    "είναι равен равна равно это е є становить дорівнює",
    "= は 是 为 為 은 는 คือ ແມ່ນ គឺ হলো হল है છે ਹੈ ஆகும் هو هي است ہے הוא היא",
)
_LETTER = r"[^\W\d_]"


def _words(spaced: str, joined: str, more: str = "") -> str:
    alone, parts = ("|".join(map(re.escape, dict.fromkeys(words.split()))) for words in (spaced, joined))
    alone = f"{alone}|{more}" if more else alone
    return unicodedata.normalize("NFKC", rf"(?:(?<!{_LETTER})(?:{alone})(?!{_LETTER})|{parts})")


_WORD = _words(*_ANSWERS, _PHRASES)
_IS = rf"(?:{_words(*_IS_WORDS)}|(?<!\w)-(?!\w))"
_BOXED = re.compile(r"\\f?boxed\s*\{")
_MARKER = re.compile(rf"{_WORD}[^\n:=\d]{{0,30}}:|####", re.IGNORECASE)
_PHRASE = re.compile(rf"{_WORD}(?:[^\n:=\d]{{0,20}}?{_IS}|(?=[\s*$]{{0,5}}-?\d))", re.IGNORECASE)
_RESULT = re.compile(r"[=≈][\s*$(\\]*-?[\d.,]*\d[^\n=≈]{0,20}")
_ITEM = re.compile(r"[#*>\s-]*\(?(\d{1,2})(?:、|[.)][*\s]+)(?=\S)")
_STEP = re.compile(
    r"[#*>\s-]*(?:(?:step|schritt|paso|étape|etapa|passo|passaggio|stap|steg|trin|krok|bước|langkah|adım|hakbang|hatua|"
    r"шаг|крок|стъпка|βήμα|ধাপ|चरण|దశ|ขั้นตอนที่|ขั้นที่|단계|ステップ|手順|步骤|الخطوة|שלב|مرحله)\s*\d+|第\s*\d+\s*步|\d+\s*단계)"
    r"[^\n:.]{0,3}[:.)]?",
    re.IGNORECASE,
)
_SECTION = re.compile(r"[#*>\s-]*\(?[一二三四五六七八九十]{1,2}[、.)]")
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_SIGNED = re.compile(r"([\s*$]*)-\s+(?=[$\d])")

_MAX_CHARS = 8_000  # the final answer stands at the end
_MAX_MARKERS = 20
_MAX_ANSWER = 300


@dataclass(frozen=True)
class _Stated:
    """What follows a marker: the rest of its line (``inline``) or the next line that says anything; and all behind."""

    line: str
    inline: bool
    rest: str


def answer(text: str, language: str | None) -> Readings:
    r"""What the final answer of a text may be, most likely first; empty when there is none to read.

    The last of ``\boxed{}`` and of markers ("Answer:", ``####``) that a number follows. A marker that none follows is a
    heading: then the last phrase like "the answer is", then the last number of the text.

    Args:
        text: a whole solution, or a bare number.
        language: tag of the text.
    """
    text = normalise(text[-_MAX_CHARS:])
    places = [(m.end(), True) for m in _BOXED.finditer(text)] + [(m.end(), False) for m in _MARKER.finditer(text)]
    for place, boxed in sorted(places)[: -_MAX_MARKERS - 1 : -1]:
        readings = read(_signed(_inside(text, place)), language) if boxed else _marked(text, place, language)
        if readings:
            return readings
    for match in list(_PHRASE.finditer(text))[: -_MAX_MARKERS - 1 : -1]:
        stated = _behind(text, match.end())
        readings = read(_signed(stated.line), language, expected=_result(text[: match.start()], language))
        if readings:
            return readings
    return _last(text, max(places, default=(0, False)), language)


def _marked(text: str, place: int, language: str | None) -> Readings:
    """The number that a marker announces; empty where it is a heading."""
    stated = _behind(text, place)
    line = _signed(stated.line) if stated.inline else stated.line
    item = _ITEM.match(line)
    if item and (_has_item(stated.rest, int(item[1]) + 1) or _has_item(text[:place], int(item[1]) - 1)):
        return ()  # an item of a list
    if _STEP.match(line) or _SECTION.match(line):
        return ()
    found = read(line, language) if leads(line) else ()
    # The working begins with a number as well; its result is another one.
    return () if is_working(line) and (result := _result(stated.rest, language)) and result != found else found


def _has_item(text: str, number: int) -> bool:
    return number > 0 and re.search(rf"^[#*>\s-]*\(?{number}(?:、|[.)][*\s])", text, re.MULTILINE) is not None


def _last(text: str, marker: tuple[int, bool], language: str | None) -> Readings:
    """What the end of a text states, which its last marker may begin."""
    place, boxed = marker
    stated = _behind(text, place)
    if place and not any(c.isdigit() for c in stated.rest):
        return () if boxed else read(stated.line, language, expected=_result(text[:place], language))
    lines = [line for line in text.splitlines() if line.strip()]
    for i in range(len(lines) - 1, -1, -1):
        line = _STEP.sub("", lines[i][-_MAX_ANSWER:], count=1)
        item = _ITEM.match(line)
        line = line[item.end() :] if item else line
        bold = [m[1] for m in _BOLD.finditer(line) if leads(m[1])]
        expected = () if len(bold) == 1 else _result("\n".join(lines[max(i - 20, 0) : i]), language)
        readings = read(bold[0] if len(bold) == 1 else line, language, last=True, expected=expected)
        if readings:
            return readings
    return ()


def _result(text: str, language: str | None) -> Readings:
    """The result of a text's last calculation."""
    results = _RESULT.findall(text[-1000:])
    return read(results[-1], language) if results else ()


def _signed(line: str) -> str:
    """Make "- 5" -5: behind a marker it is no item of a list."""
    return _SIGNED.sub(r"\1-", line, count=1) if _SIGNED.match(line) else line


def _inside(text: str, start: int) -> str:
    """Up to the brace that closes the one before ``start``; to the end of the line when none does."""
    depth = 1
    for i, char in enumerate(text[start : start + _MAX_ANSWER], start):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[start:i]
    return text[start : start + _MAX_ANSWER].partition("\n")[0]


def _behind(text: str, place: int) -> _Stated:
    for i, line in enumerate(text[place:].splitlines(keepends=True)):
        if any(c.isalnum() for c in line):
            said = line.rstrip("\r\n")
            return _Stated(said[:_MAX_ANSWER], i == 0, text[place + len(said) :])
        place += len(line)
    return _Stated("", True, "")
