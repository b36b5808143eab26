"""Regions, named values, equations and families: pairs that are the same or not."""

import pytest

from asymrl.verifiers import math
from asymrl.verifiers.equality.equations import linear_form
from asymrl.verifiers.equality.values import constant_value
from asymrl.verifiers.extract import final_answer
from asymrl.verifiers.latex.parser import parse


def same(gold: str, answer: str) -> bool:
    return math.compare(gold, answer) == "correct"


@pytest.mark.parametrize(
    ("expression", "slope", "start"),
    [("3-2x", -2, 3), ("(x+1)/2+x", 1.5, 0.5), ("-(4-x)*3", 3, -12), ("7", 0, 7)],
)
def test_slope_and_intercept_are_read_off_the_tree(expression, slope, start):
    form = linear_form(parse(expression), "x")
    assert form is not None
    assert tuple(map(constant_value, form)) == (slope, start)


@pytest.mark.parametrize("expression", [r"|x|", r"\lfloor x \rfloor", "x^2", "1/x", "x(x+1)-x^2"])
def test_expressions_that_are_not_linear_have_no_linear_form(expression):
    assert linear_form(parse(expression), "x") is None


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        # not linear
        ("x<5", "|x|<5"),
        ("x<5", "|x-1|<4"),
        ("x<5", r"\lfloor x \rfloor < 5"),
        ("x<5", r"\lceil x\rceil <5"),
        ("x^2<4", "x<4"),
        ("x>0", "x^2>0"),
        ("x>0", r"\ln x > 0"),
        (r"x\ge 0", r"\sqrt{x}\ge 0"),
        ("(0,1)", "0<x^2<1"),
        ("(0,1)", r"0<\sqrt x<1"),
        ("x^2>1", "x>1"),
        ("x^2+1>0", "x^2+2>0"),
        (r"(-\infty,0)", "x(x-4) < 0"),
        # several unknowns
        ("x>0, y>1", "x>1, y>0"),
        ("x>0, y>0", "x>0"),
        ("x>0, y>0", "xy>0"),
        ("x>0, y>0", "x>0, z>0"),
        ("x>0", "x>0, y>0"),
        ("x+y<1", "x<1, y<1"),
        ("0<x<1", "0<y<1"),
        ("f(x)>1", "g(x)>1"),
        ("(0,1)", "0<x+y<1"),
        ("(0,5)", "x>0, y<5"),
        ("(2,5)", "2<f(x)<5, x>0"),
        ("x<2 or x>3", "x<2 or y>3"),
        ("x<2 or y>3", "x<2, y>3"),
        ("x<2, y>3", "x<2 or y>3"),
        # heads and domains of set builders
        ("(0,1)", r"\{2x : 0<x<1\}"),
        ("(0,1)", r"\{-x : 0<x<1\}"),
        ("(0,1)", r"\{y : 0<x<1\}"),
        ("(0,1)", r"\{(x,y) : 0<x<1\}"),
        ("(0,1)", r"\{x \in \mathbb{Z} : 0<x<1\}"),
        (r"\{x : 0<x<1\}", r"\{x \in \mathbb{Z} : 0<x<1\}"),
        (r"\{x \in \mathbb{Z} : 0<x<3\}", "(0,3)"),
        # empty only because they are written badly
        ("(2,1)", r"(5,4)\cup(3,2)"),
        (r"\emptyset", "[2,1]"),
        ("2<x<1", "5<x<3"),
    ],
)
def test_a_different_region_is_not_accepted(gold, answer):
    assert not same(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("(-5,5)", "|x|<5"),
        (r"[-5,5]", r"|x|\le 5"),
        ("(-3,5)", "4 > |x-1|"),
        (r"(-\infty,-5)\cup(5,\infty)", "|x|>5"),
        (r"|x| \geq 2", r"x \le -2 \text{ or } x \ge 2"),
        ("(-2,2)", r"\{x : |x|<2\}"),
        ("x^2<4", "x^2-4<0"),
        ("x+y<1", "2x+2y<2"),
        ("x+y<1", "1-x-y>0"),
        ("a-1<x<a+1", "(a-1,a+1)"),
        (r"\{(x,y) : x+y=1\}", r"\{(x,y) : y+x=1\}"),
        (r"\{1,2\}", r"x\in\{1,2\}"),
    ],
)
def test_the_same_region_is_accepted(gold, answer):
    assert same(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("(1,2)", "y=1, x=2"),
        ("(1,2)", "x=1, x=2"),
        ("x=1,y=2", "2,1"),
        ("x=1,y=2", r"\{2,1\}"),
        ("y=2,x=1", "(2,1)"),
        ("a_3=2,a_{37}=19", "19,2"),
        ("AB=4,CD=5", "5,4"),
        ("x=1,2", "x=1, y=2"),
        ("y=x", "z=x"),
        ("1,000", "0,1"),
        ("0,1", "1,000"),
        ("1,050", "50, 1"),
        ("1000", "1, 000"),
        ("100, 200", "100200"),
        (r"\{\{1\},2\}", r"\{1,2\}"),
        ("1:2:3", "0:0:0"),
        ("0:1:2", "0:2:1"),
        ("4", r"\text{ratio } 3:4"),
    ],
)
def test_values_with_wrong_names_order_or_members_are_not_accepted(gold, answer):
    assert not same(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("(1,2)", "y=2, x=1"),
        ("(1,2,3)", "z=3, x=1, y=2"),
        ("5", "5=x"),
        ("5", r"\text{The answer is } 5"),
        ("5", r"\text{The minimum value is: } 5"),
        (r"x \in \{1,2\}", r"x=2 \text{ or } x=1"),
    ],
)
def test_named_values_are_accepted_in_any_order(gold, answer):
    assert same(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("y^2=x", r"\sqrt{x}"),
        ("x^2+y^2=1", r"\sqrt{1-x^2}"),
        ("x^2y=x", "xy=1"),
        ("PV=nRT", "P=nRT"),
        ("0=0", "x+y=1"),
        ("x(x-2)=0", "0"),
        ("5", "x(x-4)=5"),
        ("5", "a(b+c)=5"),
        ("3.14", r"x = \pi \approx 3.14"),
    ],
)
def test_an_equation_with_other_solutions_is_not_accepted(gold, answer):
    assert not same(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"k\pi", r"n\pi"),  # can be a formula in k
        (r"(n-2)\pi", r"(k-2)\pi"),
        (r"x=k\pi", r"x=t\pi"),
        (r"k\pi, k\in\mathbb{Z}", r"k\pi, n\in\mathbb{Z}"),
        (r"x=n\pi, n\in\mathbb{Z}", r"x=n\pi, y\in\mathbb{Z}"),
    ],
)
def test_a_different_name_is_not_accepted_unless_it_is_a_counter(gold, answer):
    assert not same(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"k\pi", r"n\pi, n\in\mathbb{Z}"),
        (r"x=k\pi, k\in\mathbb{Z}", r"n\pi"),
        (r"x=\frac{\pi}{4}+k\pi, k\in\mathbb{Z}", r"x=\frac{5\pi}{4}+k\pi, k\in\mathbb{Z}"),
        (r"x = 30^\circ + 360^\circ k", r"30^\circ + 360^\circ n"),
        (r"2^n, n\in\mathbb{N}", r"2^m, m\in\mathbb{N}"),
        (r"\{2k+1 : k\in\mathbb{Z}\}", r"\{2n-1 : n\in\mathbb{Z}\}"),
        (r"(k, k+1), k\in\mathbb{Z}", r"(n,n+1), n\in\mathbb{Z}"),
        (r"x = n\pi \text{ for } n\in\mathbb{Z}", r"x=k\pi, k\in\mathbb{Z}"),
    ],
)
def test_the_name_of_a_counter_does_not_matter(gold, answer):
    assert same(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"k\pi, k\in\mathbb{Z}", r"2k\pi, k\in\mathbb{Z}"),
        (r"k\pi, k\in\mathbb{Z}", r"k\pi, k\in\mathbb{N}"),
        (r"k\pi, k\in\mathbb{Z}", r"\frac{\pi}{2}+k\pi, k\in\mathbb{Z}"),
        (r"(k, k+1), k\in\mathbb{Z}", r"(n,n+2), n\in\mathbb{Z}"),
        (r"x=n\pi, y=n\pi+\pi, n\in\mathbb{Z}", r"x=n\pi, y=n\pi, n\in\mathbb{Z}"),
        (r"k\pi<x<k\pi+\pi, k\in\mathbb{Z}", r"k\pi<x<k\pi, k\in\mathbb{Z}"),
        (r"(n-2)\pi", r"n\pi"),
    ],
)
def test_a_different_family_is_not_accepted(gold, answer):
    assert not same(gold, answer)


def test_boxes_with_words_between_are_a_list_only_if_the_words_end_in_and():
    assert final_answer(r"\boxed{2} \text{ no, it is } \boxed{3}") == "3"
    assert final_answer(r"\boxed{2} \text{ for (a) and } \boxed{3}") == "2, 3"
