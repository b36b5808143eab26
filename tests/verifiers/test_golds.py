"""Golds as data sets have them: what is read as the answer, and what is no answer."""

import pytest

from asymrl.verifiers import exact, math
from asymrl.verifiers.golds import has_several_boxes, read_gold


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("17", "17"),
        ('["17"]', "17"),
        ("['B']", "B"),
        ('["3", "8"]', "3, 8"),
        (r'["\\sqrt{5}"]', r"\sqrt{5}"),
        (r'["\sqrt{5}"]', r"\sqrt{5}"),
        ("#### 17", "17"),
        ("half of 34 is <<34/2=17>>17\n#### 17", "17"),
        (r"\\sqrt{5}", r"\sqrt{5}"),
        (r"\\{3, 8\\}", r"\{3, 8\}"),
        (r"\\begin{pmatrix} a \\\\ b \\end{pmatrix}", r"\begin{pmatrix} a \\ b \end{pmatrix}"),
        (r"\begin{pmatrix} ax \\ by \end{pmatrix}", r"\begin{pmatrix} ax \\ by \end{pmatrix}"),
        (r"Adding up, we get $x=\boxed{17}$.", "17"),
        (r"The roots are $\boxed{3}$ and $\boxed{8}$.", "3, 8"),
        (r"\boxed{17}, written in a \boxed{}", "17"),
        ("It follows that the answer is $17$.", "17"),
        ("<answer>17</answer>", "17"),
        ("[3, 8)", "[3, 8)"),
    ],
)
def test_the_answer_in_a_gold_is_found(gold, answer):
    assert read_gold(gold) == answer
    assert math.verify(gold, rf"so \boxed{{{answer}}}")[0] == "correct"
    assert exact.verify(gold, rf"so \boxed{{{answer}}}")[0] == "correct"
    assert math.verify(gold, r"so \boxed{18}")[0] == "wrong"


def test_a_solution_with_different_boxes_in_different_places_has_no_gold():
    gold = r"First $\boxed{5}$ remain. One is added, which gives $\boxed{6}$."
    assert has_several_boxes(gold)
    assert read_gold(gold) is None
    assert not math.is_valid_gold(gold) and not exact.is_valid_gold(gold)
    assert math.verify(gold, r"\boxed{6}")[0] == "unparseable"
    assert not has_several_boxes(r"\boxed{6} as said: \boxed{ 6 }")


def test_a_sentence_without_a_number_to_find_is_no_gold():
    assert not math.is_valid_gold("They walk to the lake and back again until all of them are home")
    assert math.is_valid_gold("to the lake and back")


def test_an_answer_with_doubled_backslashes_is_read():
    assert math.verify(r"\frac{3}{8}", r"\boxed{\\frac{3}{8}}")[0] == "correct"
    assert math.verify(r"\frac{3}{8}", r"\boxed{\\frac{8}{3}}")[0] == "wrong"


def test_an_empty_box_after_the_answer_does_not_replace_it():
    assert math.verify("17", r"\boxed{17}, in \boxed{} as asked")[0] == "correct"
    assert math.verify("17", r"\boxed{18}, in \boxed{...} as asked")[0] == "wrong"
    assert math.verify("17", r"in \boxed{} as asked: 17")[0] == "no_answer"
