"""Solutions whose answer stands somewhere else than behind a plain marker, in many languages."""

from __future__ import annotations

import pytest

from pipeline.core.row import Row
from pipeline.tasks.math import Math

MATH = Math()

# (language, heading, what a step says, last sentence with {}): every solution answers 18.
HEADINGS = [
    ("en", "Answer:", "Janet's ducks lay 16 eggs per day, and she eats 3", "She makes ${} every day at the market."),
    ("en", "**Step-by-Step Answer:**", "16 eggs are laid, 3 eaten and 4 baked", "So Janet earns **${}** per day."),
    ("en", "### Final Answer:", "First the eggs that are left: 16 - 3 - 4 = 9", "Therefore the total is {} dollars"),
    ("en", "Answer:", "Subtract the 3 eggs that she eats", "Janet makes ${} by selling her eggs at $2 each."),
    ("de", "Antwort:", "Janets Enten legen 16 Eier am Tag", "Sie verdient also {} Dollar am Tag."),
    (
        "de",
        "**Schritt-für-Schritt-Antwort:**",
        "Sie isst 3 Eier und backt mit 4",
        "Janet verdient {} $, zu je 2 $ das Ei.",
    ),
    ("es", "Respuesta:", "Los patos de Janet ponen 16 huevos", "Por lo tanto, Janet gana {} dólares al día."),
    (
        "es",
        "**Respuesta paso a paso:**",
        "Ella come 3 huevos y usa 4",
        "Janet gana ${} al vender sus huevos a $2 cada uno.",
    ),
    ("fr", "Réponse :", "Les canes de Janet pondent 16 œufs", "Elle gagne donc {} $ par jour."),
    ("fr", "**Réponse détaillée :**", "Elle mange 3 œufs", "Janet gagne {} $ en vendant ses œufs à 2 $ chacun."),
    ("it", "Risposta:", "Le anatre di Janet depongono 16 uova", "Quindi Janet guadagna {} dollari al giorno."),
    ("pt", "Resposta:", "Os patos de Janet põem 16 ovos", "Portanto, Janet ganha {} dólares por dia."),
    ("nl", "Antwoord:", "De eenden van Janet leggen 16 eieren", "Ze verdient dus {} dollar per dag."),
    ("sv", "Svar:", "Janets ankor lägger 16 ägg om dagen", "Hon tjänar alltså {} dollar om dagen."),
    ("pl", "Odpowiedź:", "Kaczki Janet znoszą 16 jaj dziennie", "Janet zarabia więc {} dolarów dziennie."),
    ("cs", "Odpověď:", "Kachny Janet snesou 16 vajec denně", "Janet tedy vydělá {} dolarů denně."),
    ("ro", "Răspuns:", "Rațele lui Janet fac 16 ouă pe zi", "Janet câștigă {} dolari pe zi."),
    ("hu", "Válasz:", "Janet kacsái 16 tojást tojnak naponta", "Janet tehát napi {} dollárt keres."),
    ("fi", "Vastaus:", "Janetin ankat munivat 16 munaa päivässä", "Janet ansaitsee siis {} dollaria päivässä."),
    ("tr", "Cevap:", "Janet'in ördekleri günde 16 yumurta yumurtlar", "Janet günde {} dolar kazanır."),
    ("id", "Jawaban:", "Bebek Janet bertelur 16 butir per hari", "Jadi Janet mendapat {} dolar per hari."),
    ("vi", "Đáp án:", "Vịt của Janet đẻ 16 quả trứng mỗi ngày", "Vậy Janet kiếm được {} đô la mỗi ngày."),
    ("sw", "Jibu:", "Bata wa Janet hutaga mayai 16 kwa siku", "Kwa hiyo Janet hupata dola {} kila siku."),
    ("ru", "Ответ:", "Утки Джанет несут 16 яиц в день", "Значит, Джанет зарабатывает {} долларов в день."),
    ("ru", "**Пошаговый ответ:**", "Она съедает 3 яйца", "Джанет зарабатывает {} $, продавая яйца по 2 $."),
    ("uk", "Відповідь:", "Качки Джанет несуть 16 яєць на день", "Отже, Джанет заробляє {} доларів на день."),
    ("bg", "Отговор:", "Патиците на Джанет снасят 16 яйца", "Джанет печели {} долара на ден."),
    ("el", "Απάντηση:", "Οι πάπιες της Τζάνετ κάνουν 16 αυγά", "Άρα η Τζάνετ κερδίζει {} δολάρια την ημέρα."),
    ("ja", "解答：", "ジャネットのアヒルは1日に16個の卵を産みます", "したがって、ジャネットは毎日{}ドルを稼ぎます。"),
    ("ja", "**ステップごとの解答：**", "彼女は3個食べます", "彼女は1個あたり2ドルで売り、毎日{}ドルを稼ぎます。"),
    ("zh", "解答：", "珍妮特的鸭子每天下16个蛋", "因此，她每天赚{}美元。"),
    ("zh", "**逐步解答：**", "她吃掉3个蛋", "所以珍妮特每天能赚{}美元，每个2美元。"),
    ("ko", "답:", "자넷의 오리는 하루에 16개의 알을 낳습니다", "따라서 자넷은 매일 {}달러를 법니다."),
    ("ko", "단계별 풀이와 답:", "3개를 먹습니다", "자넷은 알을 개당 2달러에 팔아 매일 {}달러를 법니다."),
    ("th", "คำตอบ:", "เป็ดของเจเน็ตออกไข่วันละ 16 ฟอง", "ดังนั้นเจเน็ตได้เงินวันละ {} ดอลลาร์"),
    ("bn", "উত্তর:", "জ্যানেটের হাঁসগুলি দিনে 16টি ডিম পাড়ে", "তাই জ্যানেট প্রতিদিন {} ডলার আয় করেন।"),
    ("hi", "उत्तर:", "जेनेट की बत्तखें रोज़ 16 अंडे देती हैं", "इसलिए जेनेट रोज़ {} डॉलर कमाती है।"),
    ("te", "సమాధానం:", "జానెట్ బాతులు రోజుకు 16 గుడ్లు పెడతాయి", "కాబట్టి జానెట్ రోజుకు {} డాలర్లు సంపాదిస్తుంది."),
    ("ta", "பதில்:", "ஜேனட்டின் வாத்துகள் 16 முட்டைகள் இடுகின்றன", "எனவே ஜேனட் {} டாலர் சம்பாதிக்கிறார்."),
    ("ar", "الإجابة:", "تضع بطات جانيت 16 بيضة يوميا", "إذن تكسب جانيت {} دولارا في اليوم."),
    ("fa", "پاسخ:", "اردک‌های جنت روزی 16 تخم می‌گذارند", "پس جنت روزی {} دلار درمی‌آورد."),
    ("he", "תשובה:", "הברווזים של ג'נט מטילים 16 ביצים", "לכן ג'נט מרוויחה {} דולר ביום."),
    ("ur", "جواب:", "جینٹ کی بطخیں روز 16 انڈے دیتی ہیں", "چنانچہ جینٹ روزانہ {} ڈالر کماتی ہے۔"),
]

SHAPES = {
    "list": "{heading}\n\n1. {step}.\n2. 16 - 3 - 4 = 9\n3. 9 * 2 = {{}}\n\n{last}",
    "prose": "{heading} {step}.\nX: 16 - 3 - 4 = 9.\n9 × 2 = ${{}}\n{last}",
    "bullets": "{heading}\n- {step}\n- 16 - 3 - 4 = 9\n- 9 x 2 = {{}}\n\n{last}",
    "calculation": "{heading}\n16 - 3 - 4 = 9\n9 * 2 = {{}}\n\n{last}",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("language", "heading", "step", "last"), HEADINGS, ids=range(len(HEADINGS)))
def test_a_heading_is_no_answer(language: str, heading: str, step: str, last: str, shape: str) -> None:
    solution = SHAPES[shape].format(heading=heading, step=step, last=last).replace("{}", "18")
    row = Row(0, "p", task="math", language=language)
    assert MATH.canonicalise(solution, row) == "18", solution
    assert MATH.verify(solution, "18", row) == 1.0 and MATH.verify(solution, "9", row) == 0.0


CASES = [
    # a heading, then the phrase
    ("en", "Step-by-Step Answer:\n1. 9 eggs are left.\n2. So the answer is 18.\nShe could buy 4 books.", "18"),
    ("en", "Answer:\nWe first find that 9 eggs are left.\nThe answer is 18 because 9 * 2 = 18, for 3 friends.", "18"),
    ("de", "Antwort:\n1. Es bleiben 9 Eier.\n2. Die Antwort lautet 18.\n", "18"),
    ("zh", "解答：\n1. 还剩9个蛋。\n2. 所以答案是18。\n她卖了9个蛋。", "18"),
    ("en", "#### Step 1: eggs left\n16 - 7 = 9\n#### Step 2: money\n9 * 2 = 18\nShe makes $18.", "18"),
    ("en", "#### 1. The eggs that are left\n16 - 7 = 9\n#### 2. The money\n9 * 2 = 18\nShe makes $18.", "18"),
    ("en", "Answer: 18\nCheck: 18 / 2 = 9", "18"),
    ("zh", "解答：\n一、先算剩下的鸡蛋：9个。\n二、每天赚18美元。", "18"),
    ("zh", "解答：\n①还剩9个蛋。\n②每天赚18美元。", "18"),
    ("ja", "解答：\n1️⃣ 残りは9個です。\n2️⃣ 毎日18ドルです。", "18"),
    ("en", "Answer:\n(1) She keeps 7 eggs.\n(2) She makes 18 dollars.", "18"),
    ("ko", "답:\n1단계: 남은 알은 9개입니다.\n2단계: 매일 18달러입니다.", "18"),
    ("zh", "解答：\n第1步：还剩9个蛋。\n第2步：每天赚18美元。", "18"),
    ("en", "Answer: 18 dollars because 16 - 3 - 4 = 9 and 9 eggs are sold", "18"),
    ("en", "Answer: 16 eggs - 3 eggs - 4 eggs = 9 eggs", "9"),
    ("en", "There are 3 ducks.\n9 * 2 = 18\n3. Thus, Janet makes $18 a day from 9 eggs.", "18"),
    ("en", "Step 1: 9 eggs.\nStep 2: She makes **$18** from the 9 eggs.", "18"),
    ("en", "Janet makes $18 by selling her eggs at $2 each", "18"),
    ("en", "Answer: Janet makes $18 by selling her eggs at $2 each.", "18"),
    ("en", "The answer is that Janet makes $18 by selling her eggs at $2 each.", "18"),
    # multipliers
    ("en", "Answer: 70k", "70000"),
    ("en", "Answer: $70K", "70000"),
    ("en", "Answer: 70 km", "70"),
    ("en", "Answer: 70 kg", "70"),
    ("en", "Answer: 100m", "100"),
    ("en", "Answer: $1.5M", "1500000"),
    ("en", "Answer: 2 billion", "2000000000"),
    ("en", "Answer: 2bn", "2000000000"),
    ("de", "Antwort: 2 Milliarden", "2000000000"),
    ("de", "Antwort: 2 Billionen", "2000000000000"),
    ("de", "Antwort: 2,5 Mio. Euro", "2500000"),
    ("de", "Antwort: 18 bin ich", "18"),
    ("fr", "Réponse : 70 mille", "70000"),
    ("es", "Respuesta: 3 millones", "3000000"),
    ("pt", "Resposta: 2 bilhões", "2000000000"),
    ("pl", "Odpowiedź: 70 tys. zł", "70000"),
    ("ru", "Ответ: 2 млрд", "2000000000"),
    ("uk", "Відповідь: 70 тисяч", "70000"),
    ("tr", "Cevap: 70 bin lira", "70000"),
    ("id", "Jawaban: 70 ribu rupiah", "70000"),
    ("vi", "Đáp án: 70 nghìn đồng", "70000"),
    ("sw", "Jibu: elfu 70", "70000"),
    ("ko", "답: 7만", "70000"),
    ("ko", "정답: 1만 5천원", "15000"),
    ("ko", "답: 1억 2천만 원", "120000000"),
    ("ko", "답: 3조각", "3"),
    ("ja", "答え: 1万 5千円", "15000"),
    ("hi", "उत्तर: 2 लाख", "200000"),
    ("hi", "उत्तर: 3 करोड़ रुपये", "30000000"),
    ("bn", "উত্তর: ১ লক্ষ", "100000"),
    ("bn", "উত্তর: ১ লক্ষ ২০ হাজার টাকা", "120000"),
    ("te", "సమాధానం: 2 లక్షలు", "200000"),
    ("ta", "பதில்: 5 ஆயிரம்", "5000"),
    ("th", "คำตอบ: 7 หมื่น", "70000"),
    ("th", "คำตอบคือ 7 แสน 5 หมื่นบาท", "750000"),
    ("ar", "الإجابة: 70 ألف", "70000"),
    ("fa", "پاسخ: ۲ میلیون", "2000000"),
    ("el", "Απάντηση: 70 χιλιάδες", "70000"),
    # numerals
    ("zh", "答案：二十三点五", "47/2"),
    ("zh", "答案：零点二五", "1/4"),
    ("zh", "答案：四分之三", "3/4"),
    ("zh", "答案：一又四分之三", "7/4"),
    ("zh", "答案：百分之二十", "20"),
    ("zh", "答案：十二点", "12"),
    ("ja", "答え：四分の三", "3/4"),
    ("ja", "答え：4分の3", "3/4"),
    ("ko", "답: 4분의 3", "3/4"),
    ("en", "Answer: - 5", "-5"),
    ("en", "The answer is - 5.", "-5"),
    ("en", "5 - 10 = - 5", "-5"),
    ("en", r"\boxed{- 5}", "-5"),
    ("en", "Answer:\n- 18 eggs", "18"),
    ("ru", "Ответ — 2,5 кг.", "5/2"),
    ("en", "Answer: 2^10", "1024"),
    ("en", "Answer: 2x3", "6"),
    ("en", "Answer: 2 x 3 = 6 eggs", "6"),
    # markers of more languages
    ("nl", "Antwoord: 18 euro, van 9 eieren", "18"),
    ("pl", "Odpowiedź to 18, z 9 jaj", "18"),
    ("tr", "Cevap: 18 (9 × 2)", "18"),
    ("id", "Jawabannya adalah: 18 dari 9 telur", "18"),
    ("vi", "Câu trả lời là 18 từ 9 quả trứng", "18"),
    ("he", "התשובה היא 18 מתוך 9", "18"),
    ("el", "Η απάντηση είναι 18 από 9", "18"),
    ("hi", "उत्तर 18 है, 9 अंडों से", "18"),
    ("ta", "விடை: 18, 9 இலிருந்து", "18"),
    ("zu", "Impendulo: 18, ku-9", "18"),
]


@pytest.mark.parametrize(("language", "text", "expected"), CASES, ids=range(len(CASES)))
def test_the_number_that_answers(language: str, text: str, expected: str) -> None:
    assert MATH.canonicalise(text, Row(0, "p", task="math", language=language)) == expected
