"""Which option a judge's words name: generous where they can be read in one way only, strict where in two.

Judges behind an endpoint write what they like: ``(B)``, ``**B** because ...``, ``Answer: B``, 答案是B。, the option's
own words, thoughts first. Three kinds of evidence are looked for, from firm to soft: an announcement (``Answer: B``,
``\\boxed{B}``), a label that stands alone or leads the text, and sentences that praise or take one option. Whatever
contradicts within one kind, or across, leaves the reply unreadable; so do refusals, hedges and lists of the options.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.engines.control import THOUGHTS
from pipeline.engines.labels import LOOKALIKES, latin
from pipeline.engines.text import split_reasoning
from pipeline.judging import lexicon

UNREADABLE = "unreadable"
CUT_THINKING = "cut while thinking"
CUT = "cut before it came to a verdict"

_LONGEST = 6000  # characters: the beginning and the end of a reply say what it chooses
_LONGEST_SENTENCE = 400
_LETTERS = r"A-Za-z0-9À-ɏͰ-ϿЀ-ӿ"  # what makes a capital beside it a part of a word
_CONJUNCTIONS = (
    "and|or|und|oder|y|o|e|et|ou|en|of|och|eller|i|a|и|или|та|або|ve|veya|và|hoặc|dan|atau|vs|versus|nor|then|"
    "和|或|或者|与|と|か|または|와|과|또는|و|أو|या|และ|หรือ"
)


@dataclass(frozen=True)
class Reply:
    """What was read.

    Attributes:
        label: the option that was named; ``None`` when none was, or more than one.
        problem: why there is no label.
    """

    label: str | None
    problem: str | None = None


def read_reply(
    text: str, labels: Sequence[str], options: Mapping[str, str] | None = None, finish_reason: str | None = None
) -> Reply:
    """Read a judge's reply. O(len(text)), of which the first and last characters only.

    Args:
        text: what the judge wrote, its thoughts included if nothing took them off before.
        labels: one letter or digit each.
        options: label -> the option's own words.
        finish_reason: ``length`` when the reply was cut.
    """
    cut = finish_reason == "length"
    said = _without_thoughts(text)
    if said is None or (cut and not said.strip()):
        return Reply(None, CUT_THINKING)
    label = _read(said, _patterns(tuple(labels)), options or {})
    return Reply(label, None if label is not None else CUT if cut else UNREADABLE)


def _without_thoughts(text: str) -> str | None:
    """The reply behind its thoughts; ``None`` when they do not end."""
    for tag in THOUGHTS:
        start, end = f"<{tag}>", f"</{tag}>"
        if text.lstrip().startswith(start) and end not in text:
            return None
        if end in text:
            text = split_reasoning(text, start, end)[1]
    return text


class _Patterns:
    """The regular expressions for one tuple of labels."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        one = "[" + "".join(map(re.escape, labels)) + "]"
        any_case = "[" + "".join(sorted({c for label in labels for c in (label, label.lower())})) + "]"
        stand = rf"(?<![{_LETTERS}+#/&=\\'’.-])({one})(?![{_LETTERS}+#/&=×*]|-\w|['’][a-z]{{1,2}}\b(?!en|an)|[.,]\d)"
        end = r"(?=\s*(?:$|\n|[.;!。；！।)—–]|-\s|[,，]?\s*(?:because|since)\b))"
        self.labels = labels
        self.whole = re.compile(rf"[^\w+?=/&\\]*({any_case})[\s.,:;!。．)\]}}*_`\"'”’」』】）✅✔️☑️👍|~>-]*")
        self.decorated = re.compile(
            rf"(?:[(\[{{【「『“\"'*_`]{{1,6}}\s{{0,3}}({one})\s{{0,3}}[.:。]?\s{{0,3}}[)\]}}】」』”\"'*_`]+"
            rf"|[(\[]{{1,6}}\s{{0,3}}({any_case})\s{{0,3}}[)\]]+)"
        )
        self.boxed = re.compile(rf"\\f?boxed\s*\{{\s*(?:\\text\s*\{{\s*)?\(?\s*({any_case})\s*\)?\s*\}}?\s*\}}")
        self.mention = re.compile(stand)
        self.announced = re.compile(
            rf"(?:^|[\n.!?。！？,，])[ \t]*[^\n:：.!?。]{{1,60}}[:：][ \t]*(?:(?:{lexicon.ANSWER})[ \t]*)?"
            rf"\(?({any_case})\)?{end}",
            re.IGNORECASE,
        )
        self.leading = re.compile(
            rf"\s*(?:\(({one})\)|({one})(?=\s*(?:\n|$)|[.)。,，、!—–:：](?!\d)|\s+[-—–]\s))(?![{_LETTERS}])"
        )
        self.alone = re.compile(rf"(?:^[ \t>#•-]*\(?|[.!?。][ \t]+\()({one})\)?[ \t.!。]*$", re.MULTILINE)
        self.listed = re.compile(rf"(?:^|\n|[.;!?。]\s+)[ \t>#•-]*(?:\(({one})\)|({one})[.):：])(?=\s*\S)")
        self.several = re.compile(
            rf"(?<![{_LETTERS}])\(?({one})\)?[ \t]*(?:[,/&|;:]|->|→)*\s*"
            rf"(?:(?:{_CONJUNCTIONS})(?![{_LETTERS}])\s*(?:(?:{lexicon.ANSWER})\s*)?)?\(?({one})\)?(?![{_LETTERS}+#])",
            re.IGNORECASE,
        )

    def label(self, found: str) -> str:
        return found if found in self.labels else found.upper()


_patterns = functools.lru_cache(maxsize=64)(_Patterns)


def _normalise(text: str, patterns: _Patterns) -> str:
    """NFKC, without markup; a single decorated label becomes ``(B)``, a boxed one an announcement."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 3]}\n{text[-2 * _LONGEST // 3 :]}"
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"<[|/]?\w[\w|]{0,30}>|```\w*|[\u200b-\u200f\ufeff]", " ", text)
    text = patterns.boxed.sub(lambda m: f"\nAnswer: ({patterns.label(m[1])})\n", text)
    text = re.sub(
        rf"(?<![{_LETTERS}])[{LOOKALIKES}](?![{_LETTERS}])",
        lambda m: m[0] if _begins(text, m.start()) and re.match(r"\s\w", text[m.end() :]) else latin(m[0]),
        text,
    )
    text = patterns.decorated.sub(lambda m: f" ({patterns.label(m[1] or m[2])}) ", text)
    text = re.sub(r"[*_`\"“”「」『』【】{}]+|^[ \t]*[#>]+", " ", text, flags=re.MULTILINE)
    return re.sub(r"[ \t]+", " ", text).strip()


def _begins(text: str, at: int) -> bool:
    before = text[:at].rstrip(" \t(*_\"'“")
    return not before or before[-1] in ".!?。\n:"


def _read(text: str, patterns: _Patterns, options: Mapping[str, str]) -> str | None:
    whole = patterns.whole.fullmatch(latin(unicodedata.normalize("NFKC", text).strip()))
    if whole:
        return patterns.label(whole[1])
    if patterns.labels[0].isdigit():
        text = re.sub(rf"(?<=\d)\s*(?:/|out of|von|sur|de|su|из|van|av)\s*{patterns.labels[-1]}(?!\d)", "", text)
    text = _normalise(text, patterns)
    own = _own_words(text, options)
    if own is not None:
        return own
    short = re.fullmatch(rf"\D{{0,3}}([{''.join(patterns.labels)}])\s*[^\W\d]{{0,8}}", text)
    if short and patterns.labels[0].isdigit():  # 4 points
        return short[1]
    if any(m[1].upper() != m[2].upper() for m in patterns.several.finditer(text) if m[1].isupper() or m[1].isdigit()):
        return _last_word(text, patterns)
    announced = {patterns.label(m[1]) for m in patterns.announced.finditer(text)}
    if len(announced) > 1:
        return None
    leading = _leading(text, patterns)
    if leading is None:
        return None
    refused = re.search(lexicon.REFUSAL, text, re.IGNORECASE) is not None
    if refused and not announced:
        return None
    praised = set() if refused else _praised(text, patterns, options)
    firm = announced | leading
    if firm:
        return next(iter(firm)) if len(firm) == 1 and praised <= firm else None
    return next(iter(praised)) if len(praised) == 1 else None


def _last_word(text: str, patterns: _Patterns) -> str | None:
    """Of a reply that names several options together: what its last line alone says, if it says one label only."""
    before, _, last = text.rpartition("\n")
    if not before or patterns.several.search(last):
        return None
    found = {patterns.label(m[1]) for m in (patterns.alone.search(last), patterns.announced.search(last)) if m}
    if len(found) != 1 or any(patterns.alone.search(line) for line in before.splitlines()):
        return None
    return None if {patterns.label(m[1]) for m in patterns.announced.finditer(before)} - found else found.pop()


def _own_words(text: str, options: Mapping[str, str]) -> str | None:
    """The option whose words, with or without its label, are the whole text."""
    plain = _plain(text)
    for label, words in options.items():
        if plain and plain in (_plain(words), _plain(f"{label} {words}")):
            return label
    return None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _leading(text: str, patterns: _Patterns) -> set[str] | None:
    """Labels that lead the text, stand alone on a line, or lead one in brackets; ``None`` when they contradict.

    Lines that begin with different labels are a list of the options, not a choice.
    """
    listed = {m[1] or m[2] for m in patterns.listed.finditer(text)}
    alone = {m[1] for m in patterns.alone.finditer(text)}
    if len(alone) > 1:
        return None
    if len(listed | alone) > 1:
        return alone if len(listed) != 1 or listed == alone else None
    found = set(alone)
    first = patterns.leading.match(text)
    if first:
        label, rest = first[1] or first[2], text[first.end() :]
        article = first[2] is not None and label in ("A", "I") and re.match(r"\s*[:：]\s*\S", rest)
        if not article:
            found.add(label)
    found |= {m[1] for m in re.finditer(rf"^\(({'|'.join(patterns.labels)})\)(?=\s)", text, re.MULTILINE)}
    return found


def _praised(text: str, patterns: _Patterns, options: Mapping[str, str]) -> set[str]:
    """Labels of the options that sentences praise or take, without a hedge."""
    tie = next((label for label, words in options.items() if "equal" in words.casefold()), None)
    found: set[str] = set()
    for sentence in re.split(r"(?<=[.!?。！？;；।\n])\s*", text):
        asks = sentence.rstrip().endswith(("?", "？"))
        if asks or len(sentence) > _LONGEST_SENTENCE or re.search(lexicon.IF, sentence, re.IGNORECASE):
            continue
        sentence = sentence.strip().rstrip(".!。！;；।").strip()
        clauses = re.split(lexicon.BUT, sentence, flags=re.IGNORECASE)
        said = [_clause(clause, patterns, options, tie) for clause in clauses]
        if said[-1] is not None or len(said) == 1:  # of two sides of a matter the last one is meant, if it says one
            found |= {label for labels in said for label in labels or ()}
    return found


def _clause(clause: str, patterns: _Patterns, options: Mapping[str, str], tie: str | None) -> set[str] | None:
    """Labels that a clause praises; ``None`` when it praises none."""
    beside = re.match(rf"\W*{lexicon.THOUGH}", clause, re.IGNORECASE)
    if beside:  # While A is short, B is better
        parts = re.split(r"[,，、]", clause[beside.end() :], maxsplit=1)
    else:
        parts = re.split(rf"[,，、]?\s*{lexicon.THOUGH}", clause, flags=re.IGNORECASE)
    found = set()
    for part in parts:
        label = None if re.search(lexicon.NOT, part, re.IGNORECASE) else _praise(part, patterns, options, tie)
        if label is not None:
            found.add(label)
    return found or None


def _praise(clause: str, patterns: _Patterns, options: Mapping[str, str], tie: str | None) -> str | None:
    own = _own_words(clause, options)
    if own is not None:
        return own
    named = _named(clause, patterns)
    if tie is not None and re.search(lexicon.EQUAL, clause, re.IGNORECASE):
        return tie if named - {tie} in (set(), set(patterns.labels) - {tie}) else None
    label = next(iter(named)) if len(named) == 1 else None
    return label if label is not None and _takes(clause, label) else None


def _named(sentence: str, patterns: _Patterns) -> set[str]:
    """Labels in a sentence, without those that it compares with, and articles that look like one."""
    found: set[str] = set()
    for m in patterns.mention.finditer(_upper_after_answer(sentence, patterns)):
        before, after = sentence[: m.start()], sentence[m.end() :]
        article = rf"\)? (?!(?:{lexicon.COPULAS})\b)[^\W\d_]"  # A good answer, A resposta
        begins = m[1] in "AEOY" and not before.strip() and re.match(article, after) is not None
        if begins or (m[1] == "I" and not before.endswith("(")):
            continue
        if re.match(lexicon.THAN_AFTER, after):
            continue
        prefer = "|to" if re.search(r"\bprefer\b", before, re.IGNORECASE) and found else ""
        if re.search(rf"(?:{lexicon.THAN}{prefer})\s*(?:[^\W\d_]+\s+)?\(?$", before, re.IGNORECASE) and found:
            continue
        found.add(m[1])
    return found


def _upper_after_answer(sentence: str, patterns: _Patterns) -> str:
    """``answer a is better``: a small letter right behind the word is a label."""
    small = "".join(patterns.labels).lower()
    return re.sub(
        rf"((?:answer|option|response)\s+)([{small}])(?=\s+(?:is|was|wins)\b|\s*$)",
        lambda m: m[1] + m[2].upper(),
        sentence,
        flags=re.IGNORECASE,
    )


def _takes(sentence: str, label: str) -> bool:
    """Whether a sentence that names one option praises it, takes it, or announces it."""
    name = rf"\(?(?<![{_LETTERS}])(?:{label}|(?<=answer ){label.lower()}|(?<=option ){label.lower()})\)?"
    shapes = (
        rf"{name}\s*{lexicon.BETTER_ENGLISH}",
        rf"{lexicon.BETTER_ENGLISH_BEFORE}{name}",
        rf"{name}.{{0,14}}?{lexicon.BETTER}",
        rf"{lexicon.BETTER}.{{0,24}}?{name}\W*$",
        rf"{lexicon.CHOOSE}[^,]{{0,20}}?{name}",
        rf"{name}.{{0,8}}?{lexicon.CHOOSE_BEHIND}",
        rf"^\W*{lexicon.SURELY}\W+{name}\W*$",
        rf"^\W*(?:{lexicon.ANSWER}\W+)?{name}\W+{lexicon.SURELY_BEHIND}\W*$",
        rf"{lexicon.ANSWER}.{{0,12}}?{name}\W*(?:です|입니다|이다|है|।)?\W*$",
        rf"^\W*{name}\s*(?:です|だ|입니다|이다|예요)\W*$",
    )
    return any(re.search(shape, sentence, re.IGNORECASE) for shape in shapes)
