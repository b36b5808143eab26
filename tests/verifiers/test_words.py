"""Words around a number, congruences, and closing sentences: what leaves an answer as it is."""

import pytest

from asymrl.verifiers import math
from asymrl.verifiers.extract import closing_answer


def same(gold: str, answer: str) -> bool:
    return math.compare(gold, answer) == "correct"


@pytest.mark.parametrize(
    "words",
    [
        "at least", "at most", "and over", "upwards", "or so", "minimum", "exclusive", "excluded",
        "or fewer", "and change", "k", "M", "fifths", "hundredths", "dozen", "bn", "fails",
        "is false", "is impossible", "rejected", "negative", "+", "approximately", "is too small",
        "less one", "does not work", "if lucky", "and all odd squares", "together with zero",
    ],
)  # fmt: skip
def test_words_that_bound_scale_or_deny_a_number_change_it(words):
    assert not same("35", rf"35\text{{{words}}}")
    assert not same("35", rf"35\text{{ {words}}}")
    assert not same(r"\$35", rf"\$35 \text{{ {words}}}")


@pytest.mark.parametrize(
    "words",
    ["pupils", "ways", "in total", "red marbles", "children", "cm of rope", "(as required)",
     "is the answer", "per person", "square units", "sheep"],
)  # fmt: skip
def test_words_that_say_what_is_counted_do_not(words):
    assert same("35", rf"35\text{{ {words}}}")
    assert same(rf"35\text{{ {words}}}", "35")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("4700000", r"4.7\text{ million}"),
        (r"\$3 \text{ thousand}", r"\$3{,}000"),
        ("9000", r"9\text{k}"),
        ("0.07", r"7 \text{ hundredths}"),
        ("36", "3 dozen"),
        (r"2 \text{ million dollars}", "2000000"),
    ],
)
def test_words_that_scale_a_number_multiply_it(gold, answer):
    assert same(gold, answer)
    assert same(answer, gold)


@pytest.mark.parametrize(
    "answer",
    [r"t \equiv 4 \pmod 9", "9k+4", "t=9j-5", r"9m+4, m\in\mathbb{Z}", r"t \equiv 13 \pmod{9}",
     r"t \bmod 9 = 4", r"4 \pmod 9", r"t \equiv -5 \pmod 9", r"\{9k+4 : k \in \mathbb{Z}\}"],
)  # fmt: skip
def test_a_congruence_is_the_class_of_its_integers(answer):
    assert same(r"t \equiv 4 \pmod 9", answer)


@pytest.mark.parametrize(
    "answer",
    ["4", "t=4", r"t \equiv 5 \pmod 9", r"t \equiv 4 \pmod{18}", r"u \equiv 4 \pmod 9", "9k+5",
     r"t \equiv 4, 5 \pmod 9", "t=9t+4", r"t \equiv 4 \pmod 9, t \equiv 1 \pmod 5"],
)  # fmt: skip
def test_a_congruence_is_not_one_of_its_members_nor_another_class(answer):
    assert not same(r"t \equiv 4 \pmod 9", answer)


def test_several_residues_are_one_class():
    assert same(r"x \equiv 2, 6 \pmod 8", r"x \equiv \pm 2 \pmod 8")
    assert same(r"x \equiv 2, 6 \pmod 8", r"x \equiv 2 \pmod 4")
    assert not same(r"x \equiv 2, 6 \pmod 8", r"x \equiv 2 \pmod 8")
    assert same("t = 9k+4", r"t \equiv 4 \pmod 9")


@pytest.mark.parametrize(
    "text",
    [
        "The answer is certainly not 35.",
        "So the answer is at most 35.",
        "The answer is 34 or 35.",
        "The answer is 35, which is wrong.",
        "The answer is between 30 and 35.",
        "The answer is 35 thousand.",
        "The answer is never $35$!",
    ],
)
def test_a_closing_sentence_that_denies_or_bounds_its_number_gives_none(text):
    assert closing_answer(text) is None
    assert math.verify("35", text, unboxed=True)[0] == "no_answer"


def test_a_closing_sentence_that_states_its_number_gives_it():
    assert closing_answer("The answer is $35$, so we are done. I did not check it.") == "35"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{mg}{2}", r"\frac{gm}{2}"),
        (r"\rho mg", r"\rho g m"),
        (r"\frac{mL^2}{3}", r"\frac13 L^2 m"),
        ("kg", r"g \cdot k"),
        ("3km", "3mk"),
        ("5 km", r"5 \text{ km}"),
        ("5km", "5"),
    ],
)
def test_letters_of_a_unit_are_a_product_where_they_can_be_one(gold, answer):
    assert same(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("3mg", "3"), (r"\rho mg", r"\rho"), (r"\frac12 mL^2", r"\frac12"), ("3mg", "mg")],
)
def test_a_product_is_not_a_number_with_a_unit(gold, answer):
    assert not same(gold, answer)
