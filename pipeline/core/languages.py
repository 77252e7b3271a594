"""Languages: reading a tag, its base language and English name, and identifying what a text is written in.

Everything that asks about a language asks here: tags come as BCP 47 or ISO 639-3, with dashes or underscores, with or
without script and region (``ja-JP``, ``zh_CN``, ``deu``, ``zho_Hans``, ``fil_PH``). The codes are those of ISO 639-1,
of FLORES-200 and of the identifier (``languages.tsv``; source: ISO 639 and Unicode CLDR's English names).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

_T = TypeVar("_T")

_TAG = re.compile(
    r"(?P<language>[A-Za-z]{2,3})(?:-[A-Za-z]{3})?(?:-(?P<script>[A-Za-z]{4}))?(?:-(?P<region>[A-Za-z]{2}|\d{3}))?"
    r"(?:-(?:[A-Za-z0-9]{5,8}|\d[A-Za-z0-9]{3}))*(?:-[A-Za-z0-9](?:-[A-Za-z0-9]{2,8})+)*"
)
RESERVED = ("all", "macro")
"""What results call the rows over all languages: no prompt's language can be called so."""
_NO_LANGUAGE = frozenset({"und", "mul", "mis", "zxx"})


class Tag(NamedTuple):
    """A tag's parts: ``language`` is the shortest code of that language, ``script`` and ``region`` may be empty."""

    language: str
    script: str = ""
    region: str = ""


class _Codes(NamedTuple):
    aliases: Mapping[str, str]  # any code -> the shortest one
    macro: Mapping[str, str]  # nb -> no, yue -> zh
    scripts: Mapping[str, str]  # language -> the script that goes without saying
    names: Mapping[str, str]  # of languages (zh), scripts (Hans) and regions (CN)


@functools.cache
def _codes() -> _Codes:
    table = (files("pipeline.core") / "languages.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines()[1:]]
    return _Codes(
        {alias: code for code, aliases, *_ in rows for alias in (code, *aliases.split(",")) if alias},
        {code: macro for code, _, macro, *_ in rows if macro},
        {code: script for code, _, _, script, _ in rows if script},
        {code: name for code, *_, name in rows},
    )


@functools.lru_cache(maxsize=4096)
def parse(tag: str) -> Tag | None:
    """The parts of a tag; ``None`` for a text that is none. An unknown code of three letters is kept as it is."""
    match = _TAG.fullmatch(tag.strip().replace("_", "-"))
    if match is None:
        return None
    code, known = match["language"].lower(), _codes().aliases
    if code not in known and len(code) < 3:
        return None
    return Tag(known.get(code, code), (match["script"] or "").title(), (match["region"] or "").upper())


def is_language_tag(tag: str) -> bool:
    """Whether a text can be a tag: a code of ISO 639-1, or any three letters, and subtags behind it."""
    return parse(tag) is not None


def is_known(tag: str) -> bool:
    """Whether a text is a tag whose language has a name here, or stands for no language (``und``)."""
    found = parse(tag)
    return found is not None and (found.language in _codes().names or found.language in _NO_LANGUAGE)


@functools.lru_cache(maxsize=4096)
def base_language(tag: str | None) -> str | None:
    """The language of a tag in its shortest code, members of a macrolanguage folded: ``zh_CN``, ``cmn``, ``yue`` -> zh.

    ``None`` for no language. What is no tag is its own language, in lower case.
    """
    if not tag or not tag.strip():
        return None
    found = parse(tag)
    if found is None:
        return tag.strip().lower()
    code = found.language
    return None if code in _NO_LANGUAGE else _codes().macro.get(code, code)


def language_name(tag: str | None) -> str | None:
    """English name: ``Chinese (Simplified, China)`` for ``zh_Hans_CN``, ``German`` for ``deu_Latn``.

    The tag itself where no name is known; ``None`` for no language.
    """
    if base_language(tag) is None:
        return None
    assert tag is not None
    found, codes = parse(tag), _codes()
    if found is None or found.language not in codes.names:
        return tag
    script = found.script if found.script != codes.scripts.get(found.language) else ""
    more = [codes.names.get(part, part) for part in (script, found.region) if part]
    return codes.names[found.language] + (f" ({', '.join(more)})" if more else "")


def is_among(tag: str | None, tags: Iterable[str] | None) -> bool:
    """Whether a language is one of ``tags`` (by base language); ``None`` stands for all languages."""
    return tags is None or base_language(tag) in {base_language(t) for t in tags}


def by_language(values: Mapping[str, _T], tag: str | None) -> _T | None:
    """The value whose key is the tag's language, by base language; ``None`` where there is none."""
    return next((value for key, value in values.items() if base_language(key) == base_language(tag)), None)


_RELATIVES = {"bs": "sr", "hr": "sr", "sh": "sr", "ms": "id", "da": "no"}
"""Languages that the identifier cannot part in short texts (statistics.md); macrolanguages are folded before."""
_CLEARLY = 4
"""How many times as probable another language must be. ``scripts/bench/wrong_language.py`` measures it."""
_FEWEST = 15
"""Letters from which a language can be told; one of a script of syllables or words counts three."""
_NOTHING = 1e-6  # of the most probable language's probability: what adds nothing to any other
_LONGEST = 1000  # characters: half from the start, half from the end
_READ = 4000  # characters of each end that are looked at: what is code there is taken out before the cut to _LONGEST
_CODE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\\\[.{0,2000}?\\\]|\\\(.{0,2000}?\\\)|\\[A-Za-z]+|https?://\S+"
    r"|<[^<>\n]{1,200}>",
    re.DOTALL,
)


def is_language(text: str, tag: str | None) -> bool | None:
    """Whether ``text`` is in the language ``tag``: ``False`` where another one is clearly more probable.

    The question is the same for right and for wrong answers; a doubtful text counts as right. Close relatives are one
    (Bosnian, Croatian, Serbian; Danish, Norwegian; Indonesian, Malay; Filipino, Tagalog). Scripts and regions are not
    looked at. ``None`` where it cannot be told: too few letters beside code and formulas, no language asked for, or one
    that the identifier does not know.
    """
    wanted = _folded(base_language(tag))
    if wanted is None or wanted not in _known():
        return None
    found = _probabilities(text)
    if found is None:
        return None
    return max((p for language, p in found if language != wanted), default=0.0) <= _CLEARLY * dict(found).get(
        wanted, 0.0
    )


def identify(text: str) -> str | None:
    """Base language of a text, close relatives as one of them; ``None`` where no language is clearly the first."""
    found = _probabilities(text) or ()
    if not found or (len(found) > 1 and found[0][1] <= _CLEARLY * found[1][1]):
        return None
    return found[0][0]


def _probabilities(text: str) -> tuple[tuple[str, float], ...] | None:
    """(language, probability), the most probable first; of a long text by its two ends."""
    if len(text) > 2 * _READ:  # a block of code that is open where one end is cut is so where the other begins
        joint = " ``` " if text.count("```", _READ, -_READ) % 2 else " "
        text = f"{text[:_READ]}{joint}{text[-_READ:]}"
    prose = " ".join(_CODE.sub(" ", text).split())
    if len(prose) > _LONGEST:
        prose = f"{prose[: _LONGEST // 2]} {prose[-_LONGEST // 2 :]}"
    return _ranked(prose) if _has_enough(prose) else None


def _has_enough(prose: str) -> bool:
    letters = 0
    for c in prose:
        if c.isalpha():
            letters += 3 if 0x900 <= ord(c) < 0x1E00 or ord(c) >= 0x2E80 else 1
            if letters >= _FEWEST:
                return True
    return False


@functools.lru_cache(maxsize=2048)  # a candidate is looked at by every selector and every metric of a pass
def _ranked(prose: str) -> tuple[tuple[str, float], ...]:
    sums: dict[str, float] = {}
    labels = _labels()
    least = 0.0
    for label, probability in _identifier().rank(prose):  # the most probable first, which may be no language
        if probability < least:
            break
        language = labels[label]
        if language is not None:
            least = least or probability * _NOTHING
            sums[language] = sums.get(language, 0.0) + float(probability)
    first = max(sums.values(), default=0.0)  # what is far behind it need not be kept
    return tuple(sorted(((k, p) for k, p in sums.items() if p * 2 * _CLEARLY >= first), key=lambda item: -item[1]))


def _folded(language: str | None) -> str | None:
    return None if language is None else _RELATIVES.get(language, language)


@functools.cache
def _labels() -> Mapping[str, str | None]:
    """What the identifier can name -> the language that it is counted as."""
    return {label: _folded(base_language(label)) for label in _identifier().labels}


@functools.cache
def _known() -> frozenset[str | None]:
    return frozenset(_labels().values())


@functools.cache
def _identifier() -> Any:
    """langid.py's naive Bayes over byte n-grams, retrained on 139 languages: pure Python, its model in the package.

    Source: Lui and Baldwin 2012; py3langid 0.4. Some 0.5 ms a text. ``scripts/bench/wrong_language.py`` has what other
    identifiers do.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
