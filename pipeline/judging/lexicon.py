"""Words by which judges of many languages say which option they take, for :mod:`pipeline.judging.replies`.

Each is a piece of a regular expression, matched without regard to case on a text in NFKC. What stands between ``<>`` is
a whole word; the rest may have endings, or stand in a script that puts no spaces between words.
"""

from __future__ import annotations


def _either(words: str) -> str:
    """One alternative of all the words; ``<word>`` is a whole word."""
    found = [w.replace("_", r"\s+").replace("<", r"(?<!\w)").replace(">", r"(?!\w)") for w in words.split()]
    return "(?:" + "|".join(found) + ")"


ANSWER = _either(
    "<answers?> <options?> <choice> <response> <reply> <verdict> <decision> <candidate> <winner> <grade> "
    "<rating> <score> <antwort> <option> <wahl> <note> <réponse> <choix> <respuesta> <opción> <elección> "
    "<nota> <resposta> <opção> <risposta> <opzione> <scelta> <antwoord> <optie> <keuze> <svar> <svaret> "
    "<alternativ> <vastaus> <vaihtoehto> <răspuns(?:ul)?> <opțiunea> <odpowied[zź]> <opcja> <odpověď> "
    "<možnost> <válasz> <ответ> <вариант> <оценка> <відповідь> <варіант> <cevap> <yanıt> <seçenek> "
    "<câu_trả_lời> <đáp_án> <lựa_chọn> <jawaban> <opsi> <pilihan> <jibu> <chaguo> <απάντηση> <επιλογή> คำตอบ "
    "ตัวเลือก उत्तर विकल्प जवाब উত্তর বিকল্প సమాధానం பதில் إجابة جواب خيار پاسخ گزینه תשובה אפשרות 答案 "
    "选项 選項 回答 "
    "選択肢 答え 评分 分数 정답 답변 답 선택지"
)
"""Announces an option."""

CHOOSE = _either(
    "<choose> <pick> <select> <prefer> <go_with> <entscheide_mich_für> <vyhrává> <give> <rate> <vote_for> "
    "<wähle> <nehme> <bevorzuge> <choisis> <préfère> <elijo> <escojo> <prefiero> <escolho> <prefiro> <scelgo> "
    "<preferisco> <kies> <väljer> <vælger> <velger> <valitsen> <aleg> <выбираю> <обираю> <wybieram> <vybírám> "
    "<volím> <seçiyorum> <seçerim> <chọn> <memilih> <pilih> <nachagua> <επιλέγω> เลือก चुन বেছে أختار اخترت "
    "انتخاب בוחר 选 選 を選 선택"
)
"""Takes an option."""

CHOOSE_BEHIND = r"(?:を選|[를을]\s*선택|wählen|nehmen|चुन|seç|বেছে)"
"""Takes an option that stands before it."""

SURELY = r"(?:clearly|definitely|certainly|obviously|tie|i(?:['’]d|\s+would)\s+say|overall|so)"
SURELY_BEHIND = r"(?:for\s+sure|it\s+is|clearly|definitely|of\s+course)"
"""What may stand beside a label and say nothing else."""

BETTER = _either(
    "<besser> <bessere> <beste> <meilleure?> <mejor> <melhor> <miglior[ei]?> <beter> <bättre> <bäst> <bedre> "
    "<bedst> <best> <parempi> <paras> <mai_bun[ăa]?> <лучше> <лучший> <лучшая> <кращ\\w+> <ліпш\\w+> "
    "<lepsz\\w+> <najlepsz\\w+> <lepší> <nejlepší> <lepšia> <jobb> <daha_iyi> <tốt_hơn> <tốt_nhất> "
    "<lebih_baik> <terbaik> <bora> <καλύτερ\\w+> ดีกว่า ดีที่สุด बेहतर ভালো ভাল উত্তম మెరుగైన சிறந்த أفضل بهتر "
    "טובה_יותר טוב_יותר עדיפה 更好 更优 更優 较好 較好 最好 最佳 更佳 胜出 优于 優於 方が良 方がよ 方が優 "
    "方がい 優れて 더_좋 더_낫 더_나은 낫습니다 우수"
)
"""Praises an option, in other languages than English, whose patterns are narrower."""

EQUAL = _either(
    "<equally_good> <equally_as_good> <gleich_gut> <aussi_bonnes?> <igual_de_buen[ao]s> <igualmente_bo[na]s> "
    "<igualmente_buen[ao]s> <ugualmente_buon[ei]> <even_goed> <lika_bra> <одинаково_хорош\\w*> "
    "<однаково_хорош\\w*> <równie_dobre> <eşit_derecede_iyi> <tốt_như_nhau> <sama_baiknya> <sama_bagusnya> "
    "ดีเท่ากัน समान_रूप_से_अच्छे متساويت 一样好 一樣好 同样好 同樣好 同じくらい良 同程度 똑같이_좋 동등"
)
"""Says that there is nothing to choose."""

NOT = _either(
    "<not> n't <cannot> <neither> <nor> <never> <no> <none> <without> <nicht> <kein\\w*> <weder> <keineswegs> "
    "<niet> <geen> <ne> <pas> n'est <aucune?> <ninguna?> <nada> <não> <nenhuma?> <non> <nessuna?> <né> <inte> "
    "<ikke> <ei> <nu> <не> <ни> <нет> <ні> <немає> <nie> <není> <nem> <değil> <hiç\\w*> <không> <chẳng> "
    "<tidak> <bukan> <hapana> <si> <δεν> <όχι> ไม่ नहीं না নয় కాదు இல்லை <لا> ليس <لم> <لن> نیست נמ? <לא> אינ "
    "不 没 沒 无 無 未 ない ません 않 없 아니 못"
)
"""Turns a statement round."""

IF = _either(
    "<if> <unless> <depend\\w*> <whether> <either> <maybe> <perhaps> <might> <could> <should> <may> <unclear> "
    "<unsure> <hard_to> <first_thought> <wenn> <falls> <ob> <hängt> <vielleicht> <könnte> <quizás?> <podría> "
    "<peut-être> <pourrait> <talvez> <poderia> <forse> <se> <misschien> <kanske> <если> <зависит> <возможно> <якщо> "
    "<jeśli> <może> <pokud> <eğer> <belki> <nếu> <có_thể> <jika> <mungkin> <αν> <ίσως> ถ้า อาจ अगर शायद যদি إذا ربما "
    "اگر <אם> 如果 取决 也许 可能 かもしれ 場合 만약 경우"
)
"""Hedges a statement."""

BUT = _either(
    "<but> <however> <yet> <nevertheless> <aber> <jedoch> <doch> <pero> <sin_embargo> <mais> <cependant> <mas> "
    "<porém> <ma> <però> <maar> <men> <но> <однако> <але> <ale> <ama> <fakat> <nhưng> <tetapi> <tapi> <lakini> "
    "<αλλά> แต่ लेकिन কিন্তু لكن اما_ <אבל> 但是 但 不过 しかし ですが が、 けど 지만 하지만"
)
"""Turns from one option to the other: what comes behind it is meant."""

THOUGH = _either(
    "<although> <though> <while> <whereas> <obwohl> <während> <aunque> <mientras> <bien_que> <alors_que> <embora> "
    "<enquanto> <sebbene> <mentre> <hoewel> <terwijl> <хотя> <хоча> <choć> <mặc_dù> <meskipun> แม้ यद्यपि 虽然 雖然 尽管"
)
"""Begins what is said beside the point."""

REFUSAL = _either(
    "i_can['’]?t i_cannot i_am_unable i['’]m_unable unable_to not_able_to i_don['’]t_know <sorry> as_an_ai "
    "hard_to_say kann_ich_nicht ich_kann_das_nicht tut_mir_leid lo_siento <no_puedo> désolé je_ne_peux "
    "<desculpe> não_posso mi_dispiace <non_posso> <извините> не_могу вибачте не_можу przepraszam nie_mogę "
    "üzgünüm xin_lỗi maaf ขออภัย क्षमा عذر متأسف أستطيع מצטער 抱歉 无法 無法 申し訳 できません 言えません "
    "죄송 수_없습니다"
)
"""A judge that does not judge."""

THAN = _either(
    "<than> <over> <als> <que> <di> <che> <dan> <än> <end> <enn> <чем> <ніж> <niż> <než> <mint> <hơn> "
    "<daripada> <dibanding\\w*> <kuliko> <από> กว่า من از 比"
)
"""Before the option that is compared with."""

THAN_AFTER = r"(?:より|보다|에\s*비해|\s*से\s|\s*(?:এর|র)\s*চেয়ে|'?(?:dan|den)(?!\w))"
"""Behind the option that is compared with."""

COPULAS = "is|was|wins|ist|es|est|é|è|jest|je|är|er|on|to|hat|beats"
"""Verbs after which a capital at a sentence's beginning is a label and no article (A is better, A resposta ...)."""

BETTER_ENGLISH = (
    r"(?:is|was|seems|looks|are|'s|’s)?\s*(?:(?:clearly|slightly|much|far|the|a|overall|definitely|simply|somewhat|"
    r"significantly|marginally|more|my|still|certainly|considerably|indeed|therefore|thus|just|to\s+be)\s+){0,4}"
    r"(?:better|best|superior|preferable|stronger|preferred|winner|wins|won)"
    r"(?=\s*(?:$|[,:)—–-]|than|because|since|as|for|overall|here|in|and|answer|option|choice|one|response|candidate|by|on|of|"
    r"due|with))"
)
BETTER_ENGLISH_BEFORE = (
    r"(?:better|best|superior|preferable|stronger|preferred|correct|right|winning)\s+"
    r"(?:(?:answer|option|choice|one|response|candidate|of\s+the\s+two)\s+){0,2}is\s+(?:clearly\s+|definitely\s+)?"
    r"(?:(?:answer|option|response|candidate|choice)\s+)?\(?"
)
