"""Graded sums: golds, disjoint sets, and the spread of difficulty."""

from __future__ import annotations

import re

import pytest

from asymrl.config.load import load_config
from asymrl.pocket import DATA


def numbers(row: dict) -> tuple[int, int]:
    a, plus, b = row["problem"].split()
    assert plus == "+"
    return int(a), int(b)


@pytest.mark.parametrize(("name", "count"), [("sums_train", 1200), ("sums_heldout", 192)])
def test_every_gold_is_the_sum_and_every_id_is_unique(name: str, count: int) -> None:
    rows = list(DATA[name]())
    assert rows == list(DATA[name]())
    assert len({row["id"] for row in rows}) == len(rows) == count
    assert all(row["answer"] == str(sum(numbers(row))) for row in rows)


def test_training_and_heldout_share_no_unordered_pair() -> None:
    trained = {frozenset(numbers(row)) for row in DATA["sums_train"]()}
    heldout = [frozenset(numbers(row)) for row in DATA["sums_heldout"]()]
    assert len(set(heldout)) == len(heldout) and not trained & set(heldout)


def test_no_sum_of_the_prompt_is_asked() -> None:
    shown = re.findall(r"(\d+) \+ (\d+) =", load_config("smollm2_135m").data.user)
    assert len(shown) == 3
    asked = {frozenset(numbers(row)) for name in DATA if "sums_" in name for row in DATA[name]()}
    assert not asked & {frozenset(map(int, pair)) for pair in shown}


@pytest.mark.parametrize("name", ["sums_train", "sums_heldout"])
def test_a_third_of_the_sums_each_has_numbers_up_to_20_50_and_99(name: str) -> None:
    largest = [max(numbers(row)) for row in DATA[name]()]
    small, medium = (sum(n <= limit for n in largest) / len(largest) for limit in (20, 50))
    assert 1 / 3 <= small < 0.5 and 2 / 3 <= medium < 0.85 and 90 < max(largest) <= 99
