"""Scores of samples: by hand, and in simulation."""

import json
import math
from itertools import combinations
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest

from asymrl.evaluation import scores

Row = dict[str, Any]


def sample(answer: str | None, *, correct: bool = False, tokens: int = 1, cut=False) -> Row:
    """The fields of a row of <benchmark>.jsonl that are scored."""
    reason = "correct" if correct else "no_answer" if answer is None else "wrong"
    fields = {"answer": answer, "reason": reason, "truncated": cut, "tokens": tokens}
    return {"problem_id": "1", **fields}


def group(right: int, total: int) -> list[Row]:
    """`right` correct samples, all answers different."""
    return [sample(f"x_{i}", correct=i < right) for i in range(total)]


@pytest.mark.parametrize("correct", range(6))
@pytest.mark.parametrize("k", [1, 2, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(correct: int, k: int) -> None:
    samples = [1] * correct + [0] * (5 - correct)
    shares = [max(subset) for subset in combinations(samples, k)]
    assert scores.pass_at_k(5, correct, k) == pytest.approx(mean(shares))


def test_k_runs_over_powers_of_two_and_all_samples() -> None:
    assert scores.ks(1) == [1]
    assert scores.ks(8) == [1, 2, 4, 8]
    assert scores.ks(10) == [1, 2, 4, 8, 10]


def test_every_number_by_hand() -> None:
    groups = [
        [sample("1", correct=True), sample("1", correct=True), sample("2"), sample(None, cut=True)],
        [sample("1", correct=True, tokens=5)] * 4,
        [sample("3", tokens=3), sample("3.0"), sample("4"), sample("1", correct=True)],
    ]
    result = scores.score_benchmark("b", [row for rows in groups for row in rows], 4)
    assert (result.problems, result.samples, sorted(result.pass_at)) == (3, 4, [1, 2, 4])
    by_hand = {
        "avg": [0.5, 1.0, 0.25],
        "majority": [1, 1, 0],
        "truncated": [0.25, 0, 0],
        "no_answer": [0.25, 0, 0],
        "length": [1, 5, 1.5],
    }
    for name, of_problems in by_hand.items():
        one = getattr(result, name)
        assert one.value == pytest.approx(mean(of_problems)), name
        assert one.stderr == pytest.approx(stdev(of_problems) / 3**0.5), name
        assert one.df == 2
    assert result.pass_at[1].value == pytest.approx(result.avg.value)
    assert result.pass_at[2].value == pytest.approx(mean([5 / 6, 1, 1 / 2]))
    assert result.pass_at[2].stderr == pytest.approx(stdev([5 / 6, 1, 1 / 2]) / 3**0.5)
    assert result.pass_at[4].value == 1.0


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("1 1 2", 1.0),
        ("1 2 2", 0.0),
        ("1 2", 1 / 2),
        ("1 2 3", 1 / 3),
        ("2 3", 0.0),
        ("1 - -", 1.0),
        ("- -", 0.0),
        ("1 1 1/2 0.5 .50", 0.0),  # one wrong number, however it is written
        (r"1 \frac{x}{2} \dfrac{x}{2}", 0.0),
        ("1 1 x 1x x1", 1.0),
    ],
)
def test_majority_is_the_expectation_over_the_most_frequent(answers: str, expected: float) -> None:
    """1 is correct, - is no answer."""
    parsed = [None if a == "-" else a for a in answers.split()]
    result = scores.majority([sample(a, correct=a == "1") for a in parsed])
    assert result == pytest.approx(expected)


def test_correct_answers_count_as_one_however_they_are_written() -> None:
    both = [sample("x+1", correct=True), sample("1+x", correct=True)]
    assert scores.majority([*both, sample("7"), sample("8")]) == 1.0


def test_one_problem_has_no_error_and_json_has_no_nan() -> None:
    result = scores.score_benchmark("b", group(1, 2), 2)
    assert math.isnan(result.avg.stderr) and all(map(math.isnan, result.avg.interval()))
    entry = scores.summary_of(result)
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert entry["avg"] == 0.5 and entry["stderr"] is None and entry["interval"] == [None, None]
    assert entry["pass_at"]["2"]["value"] == entry["pass_at_k"] == 1.0


def test_pass_at_k_is_unbiased_in_simulation() -> None:
    """For problems with accuracy p from Beta(0.6, 0.9): 1 - E (1 - p)^k."""
    generator, k = np.random.default_rng(7), 4
    p = generator.beta(0.6, 0.9, 20_000)
    result = [scores.pass_at_k(10, int(c), k) for c in generator.binomial(10, p)]
    truth = 1 - math.prod((0.9 + i) / (1.5 + i) for i in range(k))
    assert abs(mean(result) - truth) < 4 * stdev(result) / math.sqrt(len(result))
