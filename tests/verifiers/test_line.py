"""The line verifier: the first line of a response is the answer."""

import pytest

from asymrl.verifiers import make
from asymrl.verifiers.line import is_valid_gold, verify


@pytest.mark.parametrize(
    ("text", "reason", "answer"),
    [
        (" 62\n", "correct", "62"),
        ("62", "correct", "62"),
        (" 62 \n8 + 8 = 16", "correct", "62"),
        (" 62.", "wrong", "62."),
        (" 062", "wrong", "062"),
        (" 6 2", "wrong", "6 2"),
        ("-62", "wrong", "-62"),
        ("The answer is 62", "wrong", "The answer is 62"),
        ("\\boxed{62}", "wrong", "\\boxed{62}"),
        ("\n62", "no_answer", None),
        ("", "no_answer", None),
        ("  ", "no_answer", None),
    ],
)
def test_only_the_first_line_counts(text: str, reason: str, answer: str | None) -> None:
    assert verify("62", text) == (reason, answer)


def test_a_gold_of_several_lines_or_of_none_cannot_be_the_answer() -> None:
    assert all(map(is_valid_gold, ["62", " 62 ", "two words"]))
    assert not any(map(is_valid_gold, ["", "  ", "6\n2"]))


def test_it_is_a_verifier_by_name() -> None:
    with make("line") as verifier:
        assert verifier.submit("7", " 7\n").result().reward == 1
        assert verifier.submit("7", " 8\n").result().reward == 0
    with make("line", unboxed=True, thinking=True, tolerance=0.5) as verifier:
        assert verifier.submit("7", " 8\n").result().reward == 0
