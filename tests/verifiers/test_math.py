"""Parser, values and comparison of answers: pure functions, one property per test."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asymrl import verifiers
from asymrl.verifiers import math
from asymrl.verifiers.equality.regions import region
from asymrl.verifiers.equality.values import NoValue, constant_value, identical
from asymrl.verifiers.extract import final_answer
from asymrl.verifiers.latex.lexer import Unreadable
from asymrl.verifiers.latex.parser import parse


def same(gold: str, answer: str) -> bool:
    return math.compare(gold, answer) == "correct"


def documented() -> list[tuple[str, str, bool]]:
    """(gold, answer, accepted) for each example in verify's docstring."""
    rows = [line.split("|") for line in (verifiers.verify.__doc__ or "").splitlines()]
    return [
        (gold.strip(" `"), answer, accepted)
        for _, gold, right, wrong, _ in (row for row in rows if len(row) == 5 and "`" in row[1])
        for cell, accepted in ((right, True), (wrong, False))
        for answer in cell.split("`")[1::2]
    ]


@pytest.mark.parametrize(("gold", "answer", "accepted"), documented())
def test_documented_examples_hold(gold, answer, accepted):
    assert same(gold, answer) is accepted


def test_the_documentation_has_over_40_examples():
    assert len(documented()) > 40


numbers = st.integers(min_value=0, max_value=99).map(lambda n: (str(n), str(n), Fraction(n)))


def combine(inner):
    """(LaTeX, ASCII, value) of an operation on two such triples."""
    return st.builds(_combined, st.sampled_from("+-*/"), inner, inner)


def _combined(operator, one, other):
    (a, a_plain, x), (b, b_plain, y) = one, other
    if operator == "/" and y == 0:
        operator = "+"
    latex = {
        "+": f"\\left({a}+{b}\\right)",
        "-": f"({a} - {b})",
        "*": f"{{{a}}} \\cdot {{{b}}}",
        "/": f"\\dfrac{{{a}}}{{{b}}}",
    }[operator]
    plain = f"({a_plain}{operator}{b_plain})"
    value = {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else x}[operator]
    return latex, plain, value


@given(st.recursive(numbers, combine, max_leaves=12))
def test_arithmetic_in_latex_and_in_ascii_has_its_exact_value(expression):
    latex, plain, value = expression
    assert constant_value(parse(latex)) == value
    assert constant_value(parse(plain)) == value


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_a_polynomial_equals_its_factored_form_and_no_other_polynomial(roots, source):
    coefficients = [1]
    for root in roots:
        shifted, scaled = [*coefficients, 0], [0, *(-root * c for c in coefficients)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    degree = len(roots)
    terms = [f"{c} x^{{{degree - i}}}" for i, c in enumerate(coefficients)]
    factors = "".join(f"(x - {root})".replace("- -", "+ ") for root in roots)
    expanded = "+".join(terms).replace("+-", "-")
    assert same(expanded, factors)
    at = source.randrange(degree + 1)
    coefficients[at] += 1
    other = "+".join(f"{c}*x**{degree - i}" for i, c in enumerate(coefficients)).replace("+-", "-")
    assert not same(expanded, other)


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True), st.randoms())
def test_order_matters_in_tuples_only(members, source):
    shuffled = list(members)
    source.shuffle(shuffled)
    one, other = (", ".join(map(str, part)) for part in (members, shuffled))
    assert same(one, other)
    assert same(f"\\{{{one}\\}}", other)
    assert same(f"({one})", f"({other})") is (members == shuffled)
    assert not same(one, ", ".join(map(str, members[1:])))
    assert not same(one, f"{other}, 100")


ends = st.integers(-20, 20)


@given(ends, ends, st.sampled_from("(["), st.sampled_from(")]"), st.randoms())
def test_an_interval_cut_in_two_is_the_same_region(low, high, opening, closing, source):
    low, high = min(low, high), max(low, high) + 1
    cut = Fraction(source.randrange(1, 9), 9) * (high - low) + low
    middle = f"\\frac{{{cut.numerator}}}{{{cut.denominator}}}"
    whole = f"{opening}{low},{high}{closing}"
    assert region(parse(f"[{middle},{high}{closing} \\cup {opening}{low},{middle})")) == region(
        parse(whole)
    )
    assert not same(f"({middle},{high}{closing} \\cup {opening}{low},{middle})", whole)
    below = {"(": "<", "[": "\\le"}[opening]
    above = {")": "<", "]": "\\le"}[closing]
    assert same(whole, f"{low} {below} t {above} {high}")
    assert same(f"{low} {below} t {above} {high}", whole)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1+\sqrt{5}}{2}", "(1+sqrt(5))/2"),
        (r"8\pi", "8pi"),
        (r"\sqrt[3]{4}", "4^(1/3)"),
        ("1000", "1e3"),
        (r"-3\sqrt{2}", "\u22123\u221a2"),
        (r"x \le 4", "x \u2264 4"),
        (r"\frac12", "\u00bd"),
        ("x^2", "x\u00b2"),
        (r"\emptyset", r"\varnothing"),
        ("42", r"\underline{42}"),
        ("42", r"{\large 42}"),
        (r"0.1\overline{6}", "1/6"),
        (r"\frac{1+i}{\sqrt2}", r"e^{i\pi/4}"),
        (r"\binom{10}{3}", "120"),
        (r"\log_{10} 2", r"\frac{\ln 2}{\ln 10}"),
        (r"\cos^2 x", r"\frac{1+\cos 2x}{2}"),
        (r"2\arcsin\sqrt a", r"\arccos(1-2a)"),
        ("x=k\\pi", "n\\pi"),
        ("3^{3^{3^{3}}}", "3^{3^{27}}"),
        (r"\begin{pmatrix} 2 \\ 4 \end{pmatrix}", r"2\begin{bmatrix} 1 \\ 2 \end{bmatrix}"),
        (r"(-\infty,2)\cup(3,\infty)", r"x<2 \text{ or } x>3"),
        (r"\{1\pm\sqrt{5},-2\}", r"-2, 1+\sqrt5, 1-\sqrt5"),
        ("1:2:3", "2:4:6"),
        (r"(1,2)\cup(3,4)", "(1,2)U(3,4)"),
        ("(1+t)u(t)", "u(t)+t*u(t)"),
        ("x=1, 2", r"x = \{2, 1\}"),
        ("xy=6", r"y=\frac{6}{x}"),
        ("p=5,q=2;p=7,q=2", "(5,2),(7,2)"),
    ],
)
def test_the_same_answer_in_another_notation_is_accepted(gold, answer):
    assert same(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1", "1+10^{-15}"),
        ("0", "10^{-20}"),
        ("0", "10^{-10^{10}}"),
        ("2^{2005}+1", "2^{2005}-1"),
        ("2^{1000000}", "2^{1000001}"),
        ("9.6e-15", "1.2e-14"),
        ("11_2", "11_3"),
        ("x", "X"),
        (r"x^2=x", "x=1"),
        ("42", r"42 \text{ or } 43"),
        ("42", "42=43"),
        ("42", r"41 = 42"),
        ("5", r"\pm 5"),
        ("0", r"\frac{0}{0}"),
        (r"\pi", "3.14159265358979323846"),
        ("7 = 11a+c", "11a+c"),
        ("x<2", "x>2"),
        (r"|x|", "x"),
        (r"\emptyset", "0"),
        ("a=2,b=3", "a=3,b=2"),
        ("[a,b)", "(a,b)"),
        ("(1,2,3)", "[1,2,3]"),
        ("2", "AZYUK2A"),
        (r"\text{13 apples}", r"13 \text{ apples and 12 pears}"),
    ],
)
def test_a_different_answer_is_not_accepted(gold, answer):
    assert not same(gold, answer)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_gets_a_verdict(gold, answer):
    assert math.compare(gold, answer) in ("correct", "wrong", "unparseable")


MATHEMATICS = (
    r"0 1 9 . , ; ( ) [ ] { } \{ \} ^ _ ! + - * / = < \frac \sqrt \pi x i e \cup \pm % | & \\"
)


@given(st.lists(st.sampled_from(MATHEMATICS.split()), max_size=25).map("".join))
def test_random_notation_is_parsed_or_unreadable_and_never_crashes(latex):
    try:
        tree = parse(latex)
    except Unreadable:
        return
    assert math.compare(latex, "17") in ("correct", "wrong", "unparseable")
    assert isinstance(tree[0], str)


@pytest.mark.parametrize(
    "text",
    [
        *("9^{9^{9^{9}}}", "99999999!", "(((9!)!)!)!", "1e999999999", "10^{10^{10^{10}}}"),
        *(r"\binom{999999}{5000}", "e^{e^{e^{e^{e}}}}", "3!!!!!!!!", "7" * 9_000, "(" * 5_000),
        "2^" * 400 + "2",
    ],
)
def test_huge_numbers_and_deep_nesting_are_bounded(text):
    try:
        value = constant_value(parse(text))
    except (NoValue, Unreadable):
        return
    assert not isinstance(value, Fraction) or value.numerator.bit_length() <= 200_000


def test_an_expression_that_is_never_defined_equals_nothing():
    assert not identical(parse(r"\frac{x}{0}"), parse(r"\frac{x}{0}+1"))


def test_adjacent_boxes_are_a_list_and_a_repeated_box_counts_once():
    assert final_answer(r"$\boxed{1}$ and $\boxed{2}$") == "1, 2"
    assert final_answer(r"\boxed{42} \boxed{42}") == "42"
    assert final_answer(r"first \boxed{1} then \boxed{2}") == "2"
    assert final_answer(r"\boxed{x=\boxed{5}}") == r"x=\boxed{5}"


def test_settings_choose_which_text_counts():
    assert final_answer("The answer is 7.") is None
    assert final_answer("The answer is 7.", unboxed=True) == "7"
    assert final_answer(r"\boxed{8} the answer is 7.", unboxed=True) == "8"
    assert final_answer(r"<think>\boxed{7}</think> so") is None
    assert final_answer(r"<think>\boxed{7}</think> so", thinking=True) == "7"
    assert final_answer(r"<think>\boxed{7}") is None
    assert final_answer(r"</think> \boxed{6} <think> \boxed{5}") == "6"
    assert final_answer(r"so \boxed 7") == "7"


def test_decimals_are_exact_unless_a_tolerance_is_set_and_the_gold_is_one():
    for tolerance, gold, answer, reason in (
        (0.0, "3.14", r"\pi", "wrong"),
        (0.01, "3.14", r"\pi", "correct"),
        (0.01, "3.14", "3.2", "wrong"),
        (0.01, "314", "314.1", "wrong"),
    ):
        text = f"\\boxed{{{answer}}}"
        assert math.verify(gold, text, tolerance=tolerance)[0] == reason


def test_verdicts_do_not_depend_on_the_order_of_calls():
    pairs = [("1/2", "0.5"), ("x+1", "1+x"), ("(1,2)", "(2,1)"), ("x<1", r"(-\infty,1)")]
    first = [same(*pair) for pair in pairs]
    math.clear_caches()
    random.Random(0).shuffle(pairs)
    assert sorted(first) == sorted(same(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        # equal as words, different as formulas
        ("x-y", "xy"),
        ("a-b", "-ab"),
        ("xy", "-xy"),
        ("ab", "AB"),
        ("a,b", "ab"),
        ("cos x", r"-\cos x"),
        # words that change the number
        ("5", r"5 \text{ million}"),
        ("5", "5 billion"),
        ("5", r"5 \text{ squared}"),
        ("5", r"5 \text{ plus one}"),
        ("5", r"5 \text{ in base six}"),
        ("5", r"5 \text{ is incorrect}"),
        # several choices at once
        (r"\text{(B)}", "(B) C D E A"),
        ("B", "B. Actually C"),
        ("B", "(B) and C"),
        ("D", "D. B"),
        # a box inside a box is part of its content
        ("2", r"1+\boxed{2}"),
        ("2", r"-\boxed{2}"),
        ("2", r"\text{not }\boxed{2}"),
    ],
)
def test_hedged_answers_are_not_accepted(gold: str, answer: str) -> None:
    assert math.verify(gold, rf"\boxed{{{answer}}}")[0] != "correct"


def test_the_whole_outer_box_is_the_answer() -> None:
    assert math.verify("5", r"\boxed{x=\boxed{5}}")[0] == "correct"
    assert math.verify("3", r"\boxed{1+\boxed{2}}")[0] == "correct"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\text{A,B,E}", r"\text{E,B,A}"),
        (r"\text{A, B, E}", "(E), (A) and (B)"),
        (r"\text{A,C}", "C, A"),
        (r"\text{even}", "Even"),
        (r"\mbox{Saturday}", "Saturday."),
        (r"\text{1:03 PM}", "1:03 PM"),
    ],
)
def test_words_are_compared_as_words_and_several_choices_as_sets_of_letters(gold, answer):
    assert same(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        # a chain of equations that ends in the gold
        (r"\text{Sunday}", r"\text{Monday}=\text{Sunday}"),
        # letters are not a product, which could be reordered
        (r"\text{CBAD}", r"C \cdot B \cdot A \cdot D"),
        (r"\text{CBAD}", "ABCD"),
        (r"\text{A,B}", r"A \cdot B"),
        (r"\text{A,B,E}", r"\text{A,B}"),
        (r"\text{A,B}", r"\text{A,B,E}"),
        (r"\text{A,B}", r"\text{A,A,B}"),
        (r"\text{A,B}", "A, B or C"),
        (r"\text{odd}", r"\text{even, odd}"),
        (r"\text{June 20}", r"\text{June 21}"),
        # unevaluated and rounded answers
        (r"\int_0^1 x^2 dx", "0.333333"),
        (r"\int_0^N x dx", r"\int_0^n x dx"),
        (r"\sum_{k=1}^{n} k", r"\frac{N(N+1)}{2}"),
        ("10", r"\sum_{k=1}^{4} k"),
    ],
)
def test_different_words_and_unevaluated_sums_are_not_accepted(gold, answer):
    assert not same(gold, answer)


def test_for_a_gold_of_words_other_words_are_wrong_and_broken_latex_is_unparseable():
    assert math.compare(r"\text{even}", r"\text{odd}") == "wrong"
    assert math.compare(r"\text{even}", r"\frac{1}{") == "unparseable"
    assert math.compare(r"\int x dx", "7") == "unparseable"


def test_a_tree_too_deep_to_walk_is_unparseable():
    for unit in ("9!", "!", "-", "2^", r"\sqrt"):
        assert math.compare("7", unit * 4000) == "unparseable"
