"""Statistics of samples: by hand, and by simulation against what they claim."""

import json
import math
from itertools import combinations
from statistics import mean, stdev

import numpy as np
import pytest

from asymrl.evaluation import scores
from asymrl.evaluation.scores import Estimate, Sample


def sample(answer: str | None, *, correct: bool = False, tokens: int = 1, cut=False) -> Sample:
    none = answer is None
    return Sample(correct=correct, answer=answer, no_answer=none, truncated=cut, tokens=tokens)


def group(right: int, total: int) -> list[Sample]:
    """That many right ones among samples that all say something else."""
    return [sample(f"x_{i}", correct=i < right) for i in range(total)]


@pytest.mark.parametrize("correct", range(6))
@pytest.mark.parametrize("k", [1, 2, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(correct: int, k: int) -> None:
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
    found = scores.score("b", groups)
    assert (found.problems, found.samples, sorted(found.pass_at)) == (3, 4, [1, 2, 4])
    by_hand = {
        "avg": [0.5, 1.0, 0.25],
        "majority": [1, 1, 0],
        "truncated": [0.25, 0, 0],
        "no_answer": [0.25, 0, 0],
        "length": [1, 5, 1.5],
    }
    for name, of_problems in by_hand.items():
        one = getattr(found, name)
        assert one.value == pytest.approx(mean(of_problems)), name
        assert one.stderr == pytest.approx(stdev(of_problems) / 3**0.5), name
        assert one.freedom == 2
    assert found.pass_at[1].value == pytest.approx(found.avg.value)
    assert found.pass_at[2].value == pytest.approx(mean([5 / 6, 1, 1 / 2]))
    assert found.pass_at[2].stderr == pytest.approx(stdev([5 / 6, 1, 1 / 2]) / 3**0.5)
    assert found.pass_at[4].value == 1.0


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
    """Here 1 is right and - is no answer."""
    said = [None if a == "-" else a for a in answers.split()]
    found = scores.majority([sample(a, correct=a == "1") for a in said])
    assert found == pytest.approx(expected)


def test_right_answers_count_together_however_they_are_written() -> None:
    both = [sample("x+1", correct=True), sample("1+x", correct=True)]
    assert scores.majority([*both, sample("7"), sample("8")]) == 1.0


def test_the_mean_over_benchmarks_by_hand() -> None:
    parts = [
        Estimate(value=v, stderr=s, freedom=n) for v, s, n in ((0.5, 0.03, 29), (0.7, 0.04, 9))
    ]
    found = scores.over_benchmarks(parts)
    assert (found.value, found.stderr) == pytest.approx((0.6, 0.025))
    assert found.freedom == pytest.approx((9 + 16) ** 2 / (81 / 29 + 256 / 9))
    assert scores.over_benchmarks(parts[:1]) == parts[0]
    sure = Estimate(value=1.0, stderr=0.0, freedom=4)
    assert scores.interval(scores.over_benchmarks([sure, sure])) == (1.0, 1.0)


def test_one_problem_has_no_error_and_json_has_no_nan() -> None:
    found = scores.score("b", [group(1, 2)])
    assert math.isnan(found.avg.stderr) and all(map(math.isnan, scores.interval(found.avg)))
    flat = scores.flat(found)
    assert json.loads(json.dumps(flat, allow_nan=False)) == flat
    assert flat["avg"] == 0.5 and flat["stderr"] is None and flat["interval"] == [None, None]
    assert flat["pass_at"]["2"]["value"] == flat["pass_at_k"] == 1.0


def drawn(generator, problems: int, samples: int) -> np.ndarray:
    """(problems,): right ones among the samples of problems whose accuracy is Beta(0.6, 0.9)."""
    return generator.binomial(samples, generator.beta(0.6, 0.9, problems))


@pytest.mark.parametrize("problems", [30, 200])
def test_intervals_hold_the_truth_nearly_as_often_as_they_say(problems: int) -> None:
    generator, truth = np.random.default_rng(1), 0.6 / 1.5
    held, values, errors = [], [], []
    for _ in range(1500):
        one = scores.estimate((drawn(generator, problems, 10) / 10).tolist())
        low, high = scores.interval(one)
        held.append(low <= truth <= high)
        values.append(one.value)
        errors.append(one.stderr)
    assert 0.93 <= mean(held) <= 0.97
    assert mean(errors) == pytest.approx(stdev(values), rel=0.05)  # clustered, as it should be


def test_the_interval_of_the_mean_over_benchmarks_holds_too() -> None:
    generator, held = np.random.default_rng(2), []
    for _ in range(1000):
        parts = [
            scores.estimate((drawn(generator, n, k) / k).tolist())
            for n, k in ((500, 5), (30, 10), (30, 10), (40, 10), (675, 5))
        ]
        low, high = scores.interval(scores.over_benchmarks(parts))
        held.append(low <= 0.4 <= high)
    assert 0.93 <= mean(held) <= 0.97


@pytest.mark.parametrize(("shift", "problems"), [(0.0, 30), (0.1, 100)])
def test_bootstrap_intervals_hold_the_truth_nearly_as_often_as_they_say(shift, problems) -> None:
    generator, held = np.random.default_rng(3), []
    for _ in range(400):
        p = generator.uniform(0, 0.9, problems)
        pairs = generator.binomial(10, p + shift) / 10 - generator.binomial(10, p) / 10
        found, _ = scores.bootstrap({"b": pairs.tolist()})
        held.append(found["b"].low <= shift <= found["b"].high)
    assert 0.90 <= mean(held) <= 0.98


def test_the_bootstrap_of_a_mean_over_benchmarks_holds_and_seldom_sees_what_is_not_there() -> None:
    generator, held, said = np.random.default_rng(6), [], []
    for _ in range(300):
        pairs = {}
        for name, n, k in (("a", 200, 5), ("b", 40, 10), ("c", 40, 10)):
            p = generator.beta(0.6, 0.9, n)
            pairs[name] = (generator.binomial(k, p) / k - generator.binomial(k, p) / k).tolist()
        _, both = scores.bootstrap(pairs)
        held.append(both.low <= 0 <= both.high)
        said.append(scores.word(both) != "not distinguishable")
    assert 0.91 <= mean(held) <= 0.985 and mean(said) == pytest.approx(1 - mean(held))


def test_pass_at_k_is_unbiased_in_simulation() -> None:
    """Of problems with accuracy p drawn from Beta(0.6, 0.9): 1 - E (1 - p)^k."""
    generator, k = np.random.default_rng(7), 4
    p = generator.beta(0.6, 0.9, 20_000)
    found = [scores.pass_at_k(10, int(c), k) for c in generator.binomial(10, p)]
    truth = 1 - math.prod((0.9 + i) / (1.5 + i) for i in range(k))
    assert abs(mean(found) - truth) < 4 * stdev(found) / math.sqrt(len(found))


def test_pairing_is_what_makes_a_small_difference_visible() -> None:
    """Problems differ far more than models: of the same numbers in another order nothing shows."""
    hard = np.linspace(0, 0.9, 100)
    better, worse = hard + 0.05, hard
    paired, _ = scores.bootstrap({"b": (better - worse).tolist()})
    unpaired, _ = scores.bootstrap({"b": (better - worse[::-1]).tolist()})
    assert paired["b"].value == pytest.approx(unpaired["b"].value)
    assert scores.word(paired["b"]) == "higher"
    assert scores.word(unpaired["b"]) == "not distinguishable"


def test_a_bootstrap_is_the_same_each_time_and_whatever_is_beside_it() -> None:
    a, b = np.random.default_rng(4).normal(size=50).tolist(), [0.0, 0.5]
    alone, _ = scores.bootstrap({"a": a})
    beside, both = scores.bootstrap({"b": b, "a": a})
    assert alone["a"] == beside["a"]
    assert both.value == pytest.approx((mean(a) + mean(b)) / 2) and both.problems == 52


def test_words_by_hand() -> None:
    def said(*of_problems: float) -> str:
        return scores.word(scores.bootstrap({"b": of_problems})[0]["b"])

    assert said(0.1, 0.2, 0.1, 0.3) == "higher"
    assert said(-0.1, -0.2, -0.1, -0.3) == "lower"
    assert said(0.1, -0.2, 0.1, 0.0) == "not distinguishable"
    assert said(0.0, 0.0, 0.0) == "not distinguishable"
    assert said(0.3) == "not measured"


def test_the_bootstrap_agrees_with_scipys() -> None:
    from scipy import stats

    numbers = np.random.default_rng(0).normal(0.1, 1, 60)
    found, _ = scores.bootstrap({"b": numbers.tolist()})
    theirs = stats.bootstrap(
        (numbers,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert (found["b"].low, found["b"].high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


@pytest.mark.parametrize("problems", [3, 6, 10])
def test_few_problems_do_not_make_a_difference(problems: int) -> None:
    """Where there is none, one is said to be there in some 5% of cases, and not in 8% to 15%."""
    generator, said, held = np.random.default_rng(8), [], []
    for _ in range(400):
        p = generator.uniform(0, 0.9, problems)
        right, other = generator.binomial(10, p), generator.binomial(10, p)
        more = generator.binomial(10, p + 0.1)
        none, some = ((x - right) / 10 for x in (other, more))
        found, _ = scores.bootstrap({"none": none.tolist(), "some": some.tolist()})
        said.append(scores.word(found["none"]) != "not distinguishable")
        held.append(found["some"].low <= 0.1 <= found["some"].high)
    assert mean(said) <= 0.08 and mean(held) >= 0.92


def test_the_widening_by_hand() -> None:
    """t(.975) of 1 and 9 degrees of freedom is 12.706 and 2.262, z(.975) 1.95996."""
    assert scores.widening(2) == pytest.approx(math.sqrt(2) * 12.7062 / 1.95996, rel=1e-5)
    assert scores.widening(10) == pytest.approx(math.sqrt(10 / 9) * 2.262157 / 1.959964, rel=1e-5)
    assert scores.widening(10**6) == pytest.approx(1, abs=1e-5)
