"""One notion of language: tags, names, base languages, and what a text is written in."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pipeline.core.folder import RunFolder
from pipeline.core.languages import base_language, identify, is_among, is_known, is_language, language_name
from pipeline.core.row import Answer, Candidate, Row
from pipeline.judging.templates import load_template
from pipeline.prompts.sources import FileSource, read_prompts
from pipeline.sampling.evidence import Evidence
from pipeline.selection.base import Pool
from pipeline.selection.mbr import MBR
from pipeline.tasks import task_for
from pipeline.tasks.measure import LANGUAGE, METRIC, MeasureStage
from pipeline.tasks.numbers import decimal_comma
from pipeline.tasks.translation import Translation
from pipeline.tasks.utilities import bleu_matrix
from tests.conftest import DATA

TAGS = (  # of WMT24++, then of m-ArenaHard
    "ar_EG ar_SA bg_BG bn_IN ca_ES cs_CZ da_DK de_DE el_GR es_MX et_EE fa_IR fi_FI fil_PH fr_CA fr_FR gu_IN he_IL "
    "hi_IN hr_HR hu_HU id_ID is_IS it_IT ja_JP kn_IN ko_KR lt_LT lv_LV ml_IN mr_IN nl_NL no_NO pa_IN pl_PL pt_BR pt_PT "
    "ro_RO ru_RU sk_SK sl_SI sr_RS sv_SE sw_KE sw_TZ ta_IN te_IN th_TH tr_TR uk_UA ur_PK vi_VN zh_CN zh_TW zu_ZA "
    "ar zh cs nl en fr de el he hi id it ja ko fa pl pt ro ru es tr uk vi"
)


@pytest.mark.parametrize(
    ("tag", "base", "name"),
    [
        ("zh_CN", "zh", "Chinese (China)"),
        ("zh-Hant-TW", "zh", "Chinese (Traditional, Taiwan)"),
        ("zho_Hans", "zh", "Chinese (Simplified)"),
        ("cmn", "zh", "Chinese"),
        ("yue", "zh", "Cantonese"),
        ("ja-JP", "ja", "Japanese (Japan)"),
        ("deu", "de", "German"),
        ("ger", "de", "German"),
        ("deu_Latn", "de", "German"),
        ("DE-ch-1996", "de", "German (Switzerland)"),
        ("fil_PH", "fil", "Filipino (Philippines)"),
        ("tl", "fil", "Tagalog"),
        ("is", "is", "Icelandic"),
        ("kan_Knda", "kn", "Kannada"),
        ("nb", "no", "Norwegian Bokmål"),
        ("iw", "he", "Hebrew"),
        ("in", "id", "Indonesian"),
        ("arb", "ar", "Arabic"),
        ("swh", "sw", "Swahili"),
        ("sr_Latn", "sr", "Serbian (Latin)"),
        ("es-419", "es", "Spanish (Latin America)"),
        ("und", None, None),
        (None, None, None),
        ("", None, None),
        ("tlh", "tlh", "tlh"),
        ("klingonisch", "klingonisch", "klingonisch"),
        ("en-de_DE", "en-de_de", "en-de_DE"),
    ],
)
def test_a_tag_in_any_form_has_one_base_language_and_a_name(
    tag: str | None, base: str | None, name: str | None
) -> None:
    assert (base_language(tag), language_name(tag)) == (base, name)


def test_every_code_of_the_presets_has_a_name_and_unknown_ones_do_not() -> None:
    for tag in TAGS.split():
        name = language_name(tag)
        assert is_known(tag) and name and name[0].isupper() and len(name) > 3 and "_" not in name, tag
    assert not any(is_known(tag) for tag in ("xx", "klingonisch", "5", "tlh", "en-de_DE", "german"))


def test_every_user_of_a_language_reads_tags_alike(tmp_path: Path) -> None:
    text = str(
        Translation(source_language="en").instruct([{"role": "user", "content": "x"}], Row(0, "p", language="zh_CN"))
    )
    assert "into Chinese" in text and "zh_CN" not in text
    perfect, part = "今天天气很好我们去公园", ["今天天气很好我们去学校"]
    for tag in ("zh_CN", "zho_Hans", "cmn"):  # else a sentence without spaces is one word
        assert bleu_matrix([perfect], part, tag) == bleu_matrix([perfect], part, "zh") != bleu_matrix([perfect], part)
    assert (
        bleu_matrix([perfect], part, "jpn")
        == bleu_matrix([perfect], part, "ja_JP")
        == bleu_matrix([perfect], part, "ja")
    )
    assert (
        decimal_comma("deu") and decimal_comma("nb_NO") and not decimal_comma("de_CH") and not decimal_comma("spa_MX")
    )
    (tmp_path / "own.txt").write_text("[user]\nenglish")
    (tmp_path / "own.ja.txt").write_text("[user]\njapanese")
    for tag, wanted in (("ja_JP", "japanese"), ("jpn", "japanese"), ("zh", "english")):
        assert load_template(str(tmp_path / "own.txt"), tag).user == wanted
    evidence = Evidence(languages={"default": "en", "eng": "zh", "zh_CN": "ja"})
    asked = [Row(0, "p", language=tag) for tag in ("en_GB", "zho", "de")]
    assert [evidence.answer_language(task_for(row, {}), row) for row in asked] == ["zh", "ja", "en"]
    assert is_among("zho_Hans", ["zh-TW"]) and not is_among("zh", ["ja"])


def test_bleu_as_a_utility_splits_words_in_the_language_of_the_answer() -> None:
    texts = ["今天天气很好", "今天天气不好", "明天下雨了吗"]
    row = Row(0, "p", task="translation", language="en", messages=[{"role": "user", "content": "Fine weather."}])
    pool = Pool(
        row,
        "plan",
        [Candidate(text=t, plan="plan", origin="sample") for t in texts],
        1,
        tasks={"translation": Translation(target_language="zh_CN")},
    )
    values = asyncio.run(MBR(utility="bleu").select(pool)).values
    assert (
        values is not None and values[0] and values[0] > 20
    )  # as words of an English text they have nothing in common


def test_reading_prompts_says_unknown_codes_and_keeps_a_language_in_all_its_forms(tmp_path: Path) -> None:
    tags = ["zh_CN", "zho_Hant", "tlh", "is", "xx", "fil_PH"]
    lines = [json.dumps({"prompt": f"question {i}", "language": tag}) for i, tag in enumerate(tags)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    said = "\n".join(read_prompts(FileSource(path=str(tmp_path / "p.jsonl")), RunFolder(str(tmp_path / "all"))).lines())
    (line,) = [text for text in said.splitlines() if "unknown languages" in text]
    assert "'tlh' (1), 'xx' (1):" in line and "zh_CN" not in line and "fil" not in line
    kept = read_prompts(FileSource(path=str(tmp_path / "p.jsonl"), languages=["zh"]), RunFolder(str(tmp_path / "zh")))
    assert kept.languages == {"zh_CN": 1, "zho_Hant": 1}


def test_a_language_that_the_identifier_does_not_know_has_no_rate() -> None:
    for text in ("Rain is water that falls from the clouds.", "Ang ulan mao ang tubig nga mahulog gikan sa panganod."):
        assert is_language(text, "ceb") is None  # the identifier does not know Cebuano: no rate
        assert is_language(text, "und") is None


@pytest.mark.parametrize(
    ("text", "fits", "other"),
    [
        ("Kiša je voda koja pada iz oblaka na zemlju.", ("hr", "bs", "sr_Latn"), "sl"),
        ("Hujan adalah air yang jatuh dari awan ke bumi.", ("id", "ms", "zsm"), "tl"),
        ("Regn er vand, der falder fra skyerne ned på jorden.", ("da", "no", "nb", "nn_NO"), "sv"),
        ("Ang ulan ay tubig na bumabagsak mula sa mga ulap.", ("fil", "tl", "fil_PH"), "id"),
        ("Mvua ni maji yanayodondoka kutoka mawinguni hadi ardhini.", ("sw", "swh", "sw_KE"), "zu"),
        ("Imvula ingamanzi awela phansi evela emafini.", ("zu", "zu_ZA"), "sw"),
    ],
)
def test_relatives_are_one_language(text: str, fits: tuple[str, ...], other: str) -> None:
    assert [is_language(text, tag) for tag in fits] == [True] * len(fits)
    assert is_language(text, other) is False and is_language(text, "en") is False


def test_code_and_formulas_do_not_make_an_answer_english() -> None:
    code = "\n```python\nfor item in reversed(list_of_things):\n    print('the next item is', item)\n```\n"
    assert is_language("So dreht man die Liste um:" + code * 4, "de") is True
    assert is_language(code, "de") is None and identify(code) is None


def test_of_a_long_text_the_two_ends_are_read() -> None:
    german = "So dreht man die Liste um, damit der letzte Eintrag vorne steht. "
    code = "```python\n" + "print('the next item is', item, 'and the last one follows')\n" * 500 + "```\n"
    assert is_language(german + code + german, "de") is True  # the code runs across both cuts
    assert identify("\\[" * 50_000 + german * 3) == "de"


SWAHILI = [
    "Roger ana mipira 5 ya tenisi.",
    "Ananunua makopo 2 zaidi ya mipira.",
    "Kila kopo lina mipira 3 ya tenisi.",
    "Je, ana mipira mingapi sasa?",
    "Jason alikuwa na pipi 20 kisha akampa Denny.",
    "Kulikuwa na miti 15 shambani leo asubuhi.",
    "Sasa Jason ana pipi 12 tu mfukoni.",
    "Wafanyakazi walipanda miti mingine leo.",
    "Alinunua bangili tano kwa dola tatu kila moja.",
    "Shawn alipata vinyago viwili kutoka kwa mama.",
]
ENGLISH = ["Roger has five tennis balls at home.", "He buys two more cans of tennis balls today."]


def rate(language: str, answers: list[str]) -> float:
    """The published rate: of those that can be told."""
    row = Row(0, "p", language=language, messages=[{"role": "user", "content": "?"}])
    row.answers = [Answer(str(i), text) for i, text in enumerate(answers)]
    measured = asyncio.run(MeasureStage()(row, None))
    values = [s.values[0] for s in measured.scores if s.scorer == METRIC + LANGUAGE]
    told = [v for v in values if v is not None]
    assert len(told) >= 0.98 * len(values)
    return 1 - sum(told) / len(told)


def test_the_wrong_language_rate_is_that_of_a_known_mix() -> None:
    assert rate("sw", SWAHILI) == 0
    assert rate("sw", [*SWAHILI[:8], *ENGLISH]) == pytest.approx(0.2)


@pytest.mark.skipif(not (DATA / "mgsm").is_dir(), reason="no MGSM files")
@pytest.mark.parametrize("language", ["de", "es", "fr", "ja", "ru", "zh"])
def test_the_wrong_language_rate_of_mgsm_with_english_put_in(language: str) -> None:
    own, english = (
        [line.rpartition("\t")[0] for line in (DATA / "mgsm" / f"mgsm_{name}.tsv").read_text("utf-8").splitlines()[:60]]
        for name in (language, "en")
    )
    for wrong in (0, 3, 12):
        assert rate(language, english[:wrong] + own[wrong:]) == pytest.approx(wrong / 60)
