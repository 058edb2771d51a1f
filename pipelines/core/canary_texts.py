"""The fixed texts whose vectors every process must reproduce.

Only ever append: a version keeps vectors of the texts that stood here when it was created, and
compares that many. All written for this purpose.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CANARIES", "CANARY_TEXTS", "Canary"]


class Canary(NamedTuple):
    """A text, and what it is there to catch."""

    kind: str
    text: str


def _long(count: int) -> str:
    """Sentences that differ, so that a model which reads more or fewer of them says so."""
    places = ("harbour", "orchard", "quarry", "lighthouse", "tram depot", "greenhouse", "mill")
    things = ("a ladder", "two buckets", "the ledger", "some rope", "an old map")
    ends = (
        "and the weather held until evening.",
        "but nobody remembered who had asked for it!",
        "which took longer than planned; still, it was done.",
        "so the report was closed under item {number}.",
    )
    return " ".join(
        f"On day {number} the crew carried {things[number % 5]} to the {places[number % 7]}, "
        + ends[number % 4].format(number=number)
        for number in range(1, count + 1)
    )


CANARIES: tuple[Canary, ...] = (
    Canary("short", "hello"),
    Canary("short", "Rain."),
    Canary("short", "cheap flights"),
    Canary("short", "why is my bread so dense"),
    Canary("question", "How do I give a spare key to a neighbour while I am away for the summer?"),
    Canary("question", "Which of the two pumps has to be vented first, and for how long?"),
    Canary("sentence", "The museum moved its collection of tide clocks to the northern wing."),
    Canary("sentence", "Our cat refuses every door that she did not open herself."),
    Canary("sentence", "Glucose uptake rose in treated cells, whereas controls showed no change."),
    Canary("sentence", "Either party may end this agreement with ninety days' written notice."),
    Canary("negation", "The valve was not closed."),
    Canary("negation", "The valve was closed."),
    Canary("case", "THE VALVE WAS CLOSED."),
    Canary("case", "iPad, eBay, McCoy and LaTeX walk into a NASA bar"),
    Canary(
        "paragraph",
        "A sourdough starter is a small ecosystem. Flour and water feed wild yeast and bacteria; "
        "the yeast lifts the dough, the bacteria give it its taste. Kept warm it grows within "
        "hours, kept cold it waits for days. Most failures come from impatience.",
    ),
    Canary(
        "paragraph",
        "To replace the filter, switch the unit off and wait for the green light to go out. Turn "
        "the cap to the left, lift the cartridge straight up, and wipe the seal. Do not use oil. "
        "Write the date on the new cartridge before you put it in.",
    ),
    Canary("long", _long(40)),
    Canary("long", _long(90)),
    Canary("long without spaces", "transfer-of-records/" * 120),
    Canary("long word", "un" + "re" * 200 + "liable"),
    Canary("German", "Der Fährmann wußte längst, dass die Brücke über den Fluss größer würde."),
    Canary("French", "L'été, où naît la forêt, ça sent déjà le thym et l'œillet."),
    Canary("Turkish", "İstanbul'un ışıkları ılık bir akşamda şehri süslüyordu."),
    Canary("Polish", "Zażółcone liście gęsto pokryły łąkę nad źródłem."),
    Canary("Vietnamese", "Những chiếc thuyền nhỏ trở về bến trước khi trời tối."),
    Canary("Greek", "Το παλιό ρολόι της πλατείας σταμάτησε πάλι στις δώδεκα."),
    Canary("Russian", "Сосед починил велосипед и поехал на рынок за яблоками."),
    Canary("Hebrew", "החלון נשאר פתוח כל הלילה."),
    Canary("Arabic", "وصل القطار متأخراً بسبب الضباب."),
    Canary("Hindi", "बारिश के बाद आँगन में मिट्टी की ख़ुशबू फैल गई।"),
    Canary("Thai", "ร้านหนังสือเล็กๆ ปิดตอนห้าโมงเย็น"),
    Canary("Chinese", "图书馆旁边的小路通向一座旧磨坊。"),
    Canary("Japanese", "駅前のパン屋は、毎朝五時に窓を開ける。"),
    Canary("Korean", "할머니는 마당에서 고추를 말리고 계셨다."),
    Canary("emoji", "Ship it! 🚀🎉 (but test first 🧪👩🏽‍🔬, ok? 👍🏿 🇨🇭)"),
    Canary("combining", "Cafe\u0301 nai\u0308ve re\u0301sume\u0301 vs. Café naïve résumé"),
    Canary("combining", "Z\u0351\u0343\u0350a\u0316\u0317l\u0334\u0335g\u0361o\u035c text"),
    Canary("full width", "ＡＢＣ １２３ ﬁne ﬂow ½ ² ℃ № ﷽"),
    Canary("invisible", "zero\u200bwidth\u200djoiner\ufeff soft\u00adhyphen no\u00a0break"),
    Canary("direction", "left \u202bright-to-left\u202c left again \u2066isolated\u2069"),
    Canary("control", "bell\x07 escape\x1b[31mred\x1b[0m form\x0cfeed"),
    Canary("code", "def area(w: float, h: float) -> float:\n    return w * h  # metres\n"),
    Canary("code", "SELECT name, COUNT(*) FROM visits WHERE day >= '2031-04-05' GROUP BY 1;"),
    Canary("markup", "<p class='note'>5 &lt; 7 &amp; <b>bold</b></p>\n\n# Title\n- [x] done"),
    Canary("data", '{"id": 42, "tags": ["a", "b"], "ratio": 0.125, "next": null}'),
    Canary("address", "Write to ops+night@depot.example or see https://depot.example/a?b=1&c=%20"),
    Canary("numbers", "1234567890"),
    Canary("numbers", "3.14159 -0.001 1e-9 6,02·10²³ 0x1F 17:45 2029-02-28 $1,299.00 45%"),
    Canary("numbers", "The invoice is for 317 pallets, not 371."),
    Canary("punctuation", "?!...;:--()[]{}<>«»„“‘’/\\|@#$%^&*_+=~`"),
    Canary("punctuation", "."),
    Canary("whitespace", "  two  spaces\tand a tab\r\nand\n\n\nlines   "),
    Canary("blank", ""),
    Canary("blank", "   \n\t "),
    Canary("repeated", "echo echo echo echo echo echo echo echo echo echo echo echo"),
    Canary("special tokens", "[CLS] [SEP] [MASK] [PAD] <s> </s> <|endoftext|> ##ing"),
)

CANARY_TEXTS: tuple[str, ...] = tuple(canary.text for canary in CANARIES)
