"""Words and letters that multiply the number before them: 70k, 2 billion, 2 लाख, 7 หมื่น."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from pipeline.core.languages import base_language

_LONG_SCALE = "ca cs da de es fi fr gl hr hu it nl no pl pt sk sl sr sv"
"""Where a billion is a million millions."""

# (factor, words, languages that they are for: empty = all). ``*`` stands for any ending. Short words that mean
# something else in other languages ("bin" is German, too) are kept to theirs.
_WORDS = (
    (10**2, "hundred सौ শত ร้อย", ""),
    (
        10**3,
        "thousand thousands tausend duizend tusen tusind mil mille mila tys* tisíc* ezer ribu nghìn ngàn elfu тыс* "
        "тисяч* хиляд* хиљад* χιλιάδες χίλια אלף אלפים ألف آلاف ہزار هزار ათას* हज़ार हजार হাজার ਹਜ਼ਾਰ હજાર వేలు వేల వెయ్యి "
        "ஆயிரம் ಸಾವಿರ ആയിരം พัน ພັນ ពាន់ ထောင်",
        "",
    ),
    (10**3, "bin", "tr"),
    (10**3, "min", "az"),
    (10**3, "mii", "ro"),
    (10**4, "หมื่น ໝື່ນ ម៉ឺន သောင်း", ""),
    (
        10**5,
        "lakh lakhs lac lacs laki लाख लक्ष লক্ষ লাখ ਲੱਖ લાખ లక్షలు లక్షల లక్ష லட்சம் ಲಕ್ಷ ലക്ഷം لاکھ แสน ແສນ သိန်း",
        "",
    ),
    (
        10**6,
        "million* millón* millon* milión* milion* milione* milioni miljon* miljoen* miljoon* milhão* milhões* milió* "
        "milyon* mio juta triệu миллион* мільйон* милион* млн "
        "εκατομμύρι* מיליון مليون ملايين میلیون ملین მილიონ* ล้าน ລ້ານ သန်း",
        "",
    ),
    (10**7, "crore crores करोड़ কোটি ਕਰੋੜ કરોડ కోట్లు కోటి கோடி ಕೋಟಿ കോടി کروڑ", ""),
    (
        10**9,
        "milliard* miljard* miliard* milyar* miliar* mrd mld bilhão* bilhões* bilioni tỷ tỉ миллиард* мільярд* "
        "милиард* млрд δισεκατομμύρι* अरब ارب مليار میلیارد מיליארד",
        "",
    ),
    (10**12, "billion* billón* billon* bilión* bilion* biljoen* biljon*", _LONG_SCALE),
    (10**9, "billion* bilion* bn", ""),
    (10**12, "trillion trillions trilhão* trilhões* triliun трлн триллион* трильйон*", ""),
)
_LETTERS = ((10**3, "[kK]"), (10**6, "M"), (10**9, "B"))  # only right behind the digits


def _pattern(words: str) -> str:
    """Longer words first. Scripts that put no spaces between words have no ends of words either."""
    found = sorted(unicodedata.normalize("NFKC", words).split(), key=len, reverse=True)
    ends = (r"\w{0,30}" if word.endswith("*") else "" if ord(word[0]) >= 0x900 else r"(?!\w)" for word in found)
    return "|".join(re.escape(word.rstrip("*")) + end for word, end in zip(found, ends, strict=True))


MULTIPLIER = (
    rf"(?:\s?(?i:{'|'.join(_pattern(words) for _, words, _ in _WORDS)})"
    rf"|(?-i:{'|'.join(letter for _, letter in _LETTERS)})(?!\w))"
)
"""Pattern of a multiplier behind a number, for normalised text."""

_KNOWN = [
    *((factor, re.compile(_pattern(words), re.IGNORECASE), languages.split()) for factor, words, languages in _WORDS),
    *((factor, re.compile(letter), []) for factor, letter in _LETTERS),
]


def factor_of(word: str, language: str | None) -> int:
    """What a match of :data:`MULTIPLIER` stands for in a language; 1 where the word is none there."""
    return _factor(word.strip(), base_language(language))


@lru_cache(maxsize=4096)  # texts of models have endless endings of "million*"
def _factor(word: str, language: str | None) -> int:
    for factor, pattern, languages in _KNOWN:
        if (not languages or language in languages) and pattern.fullmatch(word):
            return factor
    return 1
