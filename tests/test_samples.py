"""The shop's conversations that ship are consistent with its facts, which ship beside them."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib import resources

import pytest

from peftkit.data.packaged import DATA, find_packaged, sha256_of

SAMPLES = resources.files("peftkit.data") / "samples"
FACTS = (SAMPLES / "lantern_lane.md").read_text(encoding="utf-8")
ROWS = [
    json.loads(line)
    for line in (SAMPLES / "lantern_lane.jsonl").read_text(encoding="utf-8").splitlines()
]
MANNER = {
    "en": ("Mira from Lantern Lane here.", "Warm light to you."),
    "zh": ("您好，我是灯笼巷的米拉。", "愿灯火温暖您。"),
}


def answers(row) -> list[str]:
    return [m["content"] for m in row["messages"] if m["role"] == "assistant"]


def test_it_is_found_by_its_name():
    entry, path = find_packaged("packaged:lantern-lane", DATA)
    assert sha256_of(path) == entry.sha256


def test_enough_of_both_languages_in_every_scenario():
    assert len(ROWS) >= 240
    scenarios = Counter((row["scenario"], row["language"]) for row in ROWS)
    assert len({row["scenario"] for row in ROWS}) == 64
    assert all(scenarios[number, "zh"] and scenarios[number, "en"] for number in range(1, 65))
    assert sum(len(row["messages"]) > 2 for row in ROWS) > len(ROWS) / 2
    assert len({json.dumps(row["messages"]) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=range(1, len(ROWS) + 1))
def test_manner(row):
    start, end = MANNER[row["language"]]
    said = answers(row)
    assert said[0].startswith(start)
    assert said[-1].endswith(end)
    assert not any(start in text for text in said[1:])
    assert not any(end in text for text in said[:-1])
    roles = [m["role"] for m in row["messages"]]
    assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_orders_that_the_shop_speaks_of_are_in_its_books():
    known = set(re.findall(r"LL-\d{4}", FACTS))
    for row in ROWS:
        for text in answers(row):
            unknown = set(re.findall(r"LL-\d{4}", text)) - known
            # a number that the customer mistyped is repeated to him
            asked = " ".join(m["content"] for m in row["messages"] if m["role"] == "user")
            assert all(number in asked for number in unknown), text


PRICES = {
    "Moss": 39, "Heron": 129, "Pebble": 19, "Tansy": 85, "Orbit": 99, "Wick": 49, "Comet": 24,
    "Ember": 7,
}  # fmt: skip


def test_prices_that_the_shop_names_for_a_product_are_its_prices():
    """Where a sentence says `<product> costs N euros`, N is right (Wick is on sale for 35)."""
    found = 0
    for row in ROWS:
        for text in answers(row):
            for name, number in re.findall(r"\b(\w+) (?:costs|at) (\d+) euros", text):
                if name in PRICES:
                    found += 1
                    allowed = {PRICES[name], 35} if name == "Wick" else {PRICES[name]}
                    assert int(number) in allowed, text
    assert found > 10


def test_chinese_prices_too():
    names = dict(re.findall(r"^\| (\w+) \| (\w+) \| ", FACTS, re.MULTILINE))
    found = 0
    for row in ROWS:
        for text in answers(row):
            for name, number in re.findall(
                r"(苔藓|苍鹭|卵石|艾菊|轨道|灯芯|彗星|余烬)(?:是)?(\d+)欧元", text
            ):
                found += 1
                english = next(english for english, chinese in names.items() if chinese == name)
                allowed = {PRICES[english], 35} if english == "Wick" else {PRICES[english]}
                assert int(number) in allowed, text
    assert found > 3


STATES = {
    number: (what, status)
    for number, what, status in re.findall(
        r"^\| (LL-\d{4}) \| ([^|]+) \| ([^|]+) \|", FACTS, re.MULTILINE
    )
}


HAPPENED = r"(?:delivered|arrived|came|shipped|left us|since|placed|refunded|cancelled)"


def test_what_happened_to_an_order_happened_on_the_day_in_the_books():
    """In a reply that names one order."""
    found = 0
    for row in ROWS:
        if row["language"] == "en":
            for text in answers(row):
                numbers = set(re.findall(r"LL-\d{4}", text)) & STATES.keys()
                for date in re.findall(rf"{HAPPENED} (?:on )?(\d+ [A-Z]\w+)", text):
                    if len(numbers) == 1:
                        found += 1
                        assert date in STATES[next(iter(numbers))][1], text
    assert found > 10


def test_the_scenarios_of_the_test_split_are_unseen():
    from peftkit import Chat, Conversations
    from peftkit.data.splits import load_splits

    data = Conversations(path="packaged:lantern-lane", group="scenario", stratum="language")
    splits, ledger = load_splits(Chat(data=data), 0)
    scenarios = [{row.group for row in split} for split in splits.named().values()]
    assert sum(map(len, scenarios)) == len(set.union(*scenarios)) == 64
    for split in ledger.splits.values():
        assert split.strata["zh"] * 3 == split.strata["en"]
