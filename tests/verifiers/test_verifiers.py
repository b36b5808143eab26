"""Extraction, the exact and math verifiers, and the registry, without processes."""

import subprocess
import sys
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asymrl.errors import UserError
from asymrl.verifiers import VERIFIERS, exact, make, math, unreadable
from asymrl.verifiers.extract import answer_tag, box_list, closing_answer, last_box


def boxed(answer: str) -> str:
    return f"So the answer is $\\boxed{{{answer}}}$."


def reason(verifier, gold: str, answer: str) -> str:
    return verifier.verify(gold, boxed(answer))[0]


balanced = st.recursive(
    st.text(alphabet="a1 $\n", max_size=5) | st.sampled_from([r"\{", r"\}", r"\frac", r"\\"]),
    lambda inner: st.builds(lambda a, b: f"{a}{{{b}}}", inner, inner),
    max_leaves=8,
)


@given(before=st.text(alphabet="a{}$ ", max_size=20), content=balanced, after=balanced)
def test_the_content_of_the_last_box_is_returned_unchanged(before, content, after):
    assert last_box(f"{before}\\boxed{{{content}}}{after}") == content


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\}}", r"\}"),
        (r"a \\\boxed{7}", "7"),  # a line break before the box
        (r"\boxed{x=\boxed{5}}", r"x=\boxed{5}"),
        (r"\boxed{3} and \boxed{\frac{1}{2}", "3"),
        (r"}}} {{{ \boxed{3}", "3"),
        (r"\boxed{}", ""),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed 7", None),
        ("no box", None),
        ("", None),
    ],
)
def test_the_last_balanced_box_is_the_answer(text, answer):
    assert last_box(text) == answer


def test_only_text_after_the_last_think_tag_counts():
    assert last_box(r"<think>\boxed{42}</think> I am not sure.") is None
    assert last_box(r"<think>\boxed{1}</think> \boxed{2}") == "2"
    assert last_box(r"a</think>\boxed{1} b</think>\boxed{2}") == "2"


@pytest.mark.parametrize("unit", ["{", "}", "\\", "\\boxed{", "\\boxed ", "{}", "\\{", "<think>"])
def test_long_hostile_text_takes_time_linear_in_its_length(unit):
    def seconds(length: int) -> float:
        text = unit * (length // len(unit)) + r"\boxed{7}"
        start = time.process_time()
        expected = None if unit == "<think>" else "7"
        assert last_box(text) == expected or unit == "\\"
        return time.process_time() - start

    assert seconds(300_000) < 60  # hours, were it quadratic


def test_extractors_for_other_policies_find_their_answers():
    assert box_list(r"so \boxed{1} and \boxed{2},\ \boxed{3}.") == "1, 2, 3"
    assert box_list(r"First \boxed{1}, but it is \boxed{2}") == "2"
    assert box_list("none") is None
    assert answer_tag("<answer>41</answer> <answer>42</answer>") == "42"
    assert answer_tag("<answer>42") is None
    assert closing_answer("Final Answer: The largest $n$ is 34.") == "34"
    assert closing_answer(r"So the final answer is \((1,2)\).") == "(1,2)"
    assert closing_answer("It is 34.") is None


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("0.5", "1/2"),
        ("1/2", r"\frac{1}{2}"),
        (r"\frac12", r"\dfrac{1}{2}"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}"),
        ("1000", "1,000"),
        ("1000", r"1{,}000"),
        ("1000", r"1,\!000"),
        ("7", "+7"),
        ("7", "007"),
        ("7", "7.0"),
        ("-7", "\u22127"),
        (".5", "0.50"),
        ("0", "-0"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\left(1, 2\right)", "(1,2)"),
        ("90", r"90^\circ"),
        ("3", "$3$."),
        (r"x^2 + 1", "x^2+1"),
    ],
)
def test_the_same_number_or_text_is_exactly_equal_both_ways(gold, answer):
    assert reason(exact, gold, answer) == reason(exact, answer, gold) == "correct"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1/3", "0.333333"),
        ("1", "0.9999999999999999999999"),
        ("7", "-7"),
        ("12", "1 2"),
        ("11/2", "1 1/2"),
        ("1000", "1,00"),
        ("1/0", "2/0"),
        ("x", "X"),
        ("(1,2)", "(2,1)"),
        ("", "x"),
    ],
)
def test_different_numbers_and_texts_are_wrong(gold, answer):
    assert reason(exact, gold, answer) == "wrong"


@given(st.integers(), st.integers(min_value=1), st.booleans())
def test_a_fraction_is_read_exactly(over, under, latex):
    text = f"\\frac{{{over}}}{{{under}}}" if latex else f"{over}/{under}"
    assert exact.number(text) == Fraction(over, under)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_a_decimal_is_read_exactly(decimal):
    assert exact.number(f"{decimal:f}") == Fraction(decimal)
    assert exact.number(f"{decimal:,f}") == Fraction(decimal)


def test_very_long_numbers_are_compared_as_text():
    long = "7" * 100_000
    assert exact.number(long) is None
    assert reason(exact, long, long) == "correct"
    assert reason(exact, long, long + "7") == "wrong"


@pytest.mark.parametrize(
    "text", ["", "7", r"\boxed{}", r"\boxed{\text{ }}", r"<think>\boxed{7}</think>"]
)
@pytest.mark.parametrize("verifier", [exact, math])
def test_a_response_without_a_box_has_no_answer(verifier, text):
    assert verifier.verify("7", text)[0] == "no_answer"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        ("x^2+2x+1", "(x+1)^2"),
        (r"\{1,2,3\}", r"\{3,1,2\}"),
        ("5", "x=5"),
        ("15", r"15\text{ cm}"),
        ("(0,1)", "0<x<1"),
        (r"\frac\pi2", r"\pi/2"),
        ("0.1", r"10\%"),
    ],
)
def test_the_same_mathematics_in_other_notation_is_correct(gold, answer):
    assert reason(math, gold, answer) == "correct"


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("(1,2)", "(2,1)"),
        ("x+1", "x-1"),
        ("[0,1)", "(0,1)"),
        ("5", "6"),
        ("0.0000001", "0.0000002"),
        (r"\frac{1}{3}", "0.333333"),
        (r"\sqrt{2}", r"\sqrt{3}"),
    ],
)
def test_different_mathematics_is_wrong(gold, answer):
    assert reason(math, gold, answer) == "wrong"


def test_a_gold_that_does_not_parse_is_correct_only_as_text():
    gold = r"\begin{pmatrix} 1 & \phantom"
    assert not math.is_valid_gold(gold)
    assert math.trees(gold) == ()
    assert reason(math, gold, r"\begin{pmatrix} 1") == "unparseable"
    assert math.verify(r"\frac{1}{", boxed("7"))[0] == "unparseable"
    assert reason(math, r"\oint!", r"\oint !") == "correct"


def test_an_unknown_verifier_raises_with_the_valid_names():
    valid = "exact, line, math, math_verify"
    with pytest.raises(UserError, match=f"'maths' is unknown; valid are: {valid}"):
        make("maths")
    assert {"exact", "math", "math_verify"} <= VERIFIERS.keys()


def test_the_exact_verifier_answers_at_once_and_parses_every_gold_except_empty_ones():
    with make("exact") as verifier:
        future = verifier.submit("7", boxed("7"))
        assert future.done()
        assert future.result().reason == "correct"
        assert future.result().reward == 1
    with make("exact") as verifier:
        assert unreadable(verifier, ["7", "", "word", "$$"]) == [1, 3]


def test_importing_the_package_loads_no_heavy_library():
    code = "import asymrl.verifiers, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "transformers", "vllm", "deepspeed", "accelerate", "wandb", "sympy"}
    assert not heavy & set(loaded)
