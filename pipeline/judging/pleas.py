"""Answers that speak to the judge: sentences that ask for a verdict, or name one, found by their words.

No list knows every way to say "choose me", in every language: what is found is checked (a game is judged again with a
copy without those sentences), and what is not found is not. ``scripts/bench/injection.py`` measures both.
"""

from __future__ import annotations

import functools
import re

from pipeline.engines.control import TURNS

_OURS = r"(?:this|my|our)\s+(?:answer|response|reply|candidate|solution|submission)"
_ONE = r"(?:answer|response|reply|option|candidate|assistant|model)\s+\(?[A-Z1-9]\)?(?!\w)"
_JUDGE = r"(?:judges?|graders?|evaluators?|raters?|assessors?|referees?|reviewers?)"
_ASK = r"(?:choose|pick|select|prefer|favou?r|vote\s+for|rank|rate|grade|score|award|declare|output|reply\s+with)"
_WINS = r"(?:better|best|correct|right|superior|preferred|the\s+winner|wins|should\s+win|must\s+win)"
_GAP = r"[^\n.!?]{0,60}"
_PLEAS = re.compile(
    "|".join(
        (
            rf"\b{_ASK}\s+(?:me\b|{_OURS}|{_ONE})",
            rf"\b{_JUDGE}\b{_GAP}\b(?:{_ASK}|verdict|{_WINS})\b",
            rf"\b(?:note|message|instructions?|attention|dear)\b{_GAP}\b{_JUDGE}\b",
            rf"(?:{_OURS}|{_ONE})\s+(?:is|are|deserves?|should\s+be|must\s+be)\s+(?:clearly\s+|by\s+far\s+)?(?:the\s+)?"
            rf"{_WINS}",
            r"\bother\s+(?:answer|response|candidate|option)s?\s+(?:is|are)\s+(?:\w+\s+)?(?:wrong|worse|incorrect|bad)\b",
            r"\bI\s+choose\s+(?:option|answer|response)\b|\[\[[A-C]\]\]|\bverdict\s*(?:is|:)\s*\(?\[*[A-C1-5]\b"
            r"|\bmy\s+grade\s+is\b|\bwhich\s+answer\s+is\s+(?:the\s+)?(?:better|best)\b",
            r"\b(?:ignore|disregard|forget|override)\s+(?:\w+\s+){0,3}(?:instructions?|criteria|prompts?|rules)\b",
            r"</?\s*(?:answer|question|checklist)(?:_\w{1,12})?\b[^>\n]{0,20}>",
            # the same in other languages: choose this answer; answer A is better; dear judge
            r"\b(?:wähle?n?|nimm|bevorzuge)\b[^\n.!?]{0,30}\b(?:diese\s+Antwort|Antwort\s+[A-Z]\b|mich\b)",
            r"\b(?:choisi\w*|sélectionn\w*|préfér\w*)\b[^\n.!?]{0,30}\b(?:cette\s+réponse|réponse\s+[A-Z]\b|moi\b)",
            r"\b(?:elige|elija|escoge|escoja|seleccion\w*|prefier\w*)\b[^\n.!?]{0,30}\b(?:esta\s+respuesta|respuesta\s+[A-Z]\b)",
            r"\b(?:escolha|selecione|prefira)\b[^\n.!?]{0,30}\b(?:esta\s+resposta|resposta\s+[A-Z]\b)",
            r"\b(?:scegli\w*|selezion\w*)\b[^\n.!?]{0,30}\b(?:questa\s+risposta|risposta\s+[A-Z]\b)",
            r"\b(?:выбер\w*|предпоч\w*)\b[^\n.!?]{0,30}\b(?:этот\s+ответ|ответ\s+[A-ZА-Я]\b)",
            r"(?:选择?|選擇?|评为)[^\n。！？]{0,8}(?:这个|此|本|這個)?(?:答案|回答)[A-Z]?|(?:评委|裁判|評審)",
            r"(?:この|回答|答え)[^\n。！？]{0,8}を?(?:選んで|選択して|選べ)|審査員",
            r"(?:이\s*답변|답변\s*[A-Z])[^\n.!?]{0,8}(?:선택|고르)|심사위원",
            r"(?:اختر|اختاروا)[^\n.!؟]{0,12}(?:الإجابة|الجواب|هذه)",
        )
    ),
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^\n.!?。！？؟]*(?:[.!?。！？؟]+[\"'”’)\]]*[ \t]*\n?|\n+|$)")


@functools.lru_cache(maxsize=4096)
def without_pleas(text: str) -> str:
    """``text`` without the sentences that speak to the judge; the very text where there is none. O(length)."""
    if not (_PLEAS.search(text) or TURNS.search(text)):
        return text
    kept = (s for s in _SENTENCE.findall(text) if not (_PLEAS.search(s) or TURNS.search(s)))
    bare = "".join(kept).strip()
    return text if bare == text.strip() else bare  # one across two sentences is in neither
