"""Schedules: hand-computed values, bounds, resuming, and steering a simulation of Prop. 1."""

import inspect
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asymrl.algo.schedules import (
    SCHEDULES,
    StepStats,
    constant,
    cosine,
    entropy_steering,
    fade,
    linear,
    peak_tracking,
)

nan = math.nan
START = {"beta_pos": 0.5, "beta_neg": 0.5}
SETTINGS: dict[str, dict[str, float]] = {
    "constant": {},
    "linear": {"end_beta_pos": 0.9, "end_beta_neg": 0.4},
    "cosine": {"end_beta_pos": 0.9, "end_beta_neg": 0.4},
    "peak_tracking": {},
    "entropy_steering": {"entropy_low": 0.5, "entropy_high": 0.7},
    "fade": {},
}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def stats(
    step: int = 1,
    steps: int = 10,
    accuracy: Sequence[float] = (),
    kappa: float = nan,
    entropy: float = 1.0,
) -> StepStats:
    return StepStats(
        step=step,
        steps=steps,
        accuracy=tuple(accuracy),
        solved=sum(accuracy) / len(accuracy) if accuracy else nan,
        kappa=kappa,
        entropy=entropy,
    )


def follow(schedule: Callable, steps: int, start: Any = START, **settings: float) -> list[Any]:
    """The states of steps 1 to steps + 1."""
    states = [start]
    for step in range(1, steps + 1):
        states.append(schedule(states[-1], stats(step, steps), **settings))
    return states


def random_run(count: int) -> list[StepStats]:
    """Random accuracies, kappas (some nan) and entropies."""
    rng = random.Random(0)
    return [
        stats(
            step,
            count,
            [rng.randrange(9) / 8 for _ in range(6)],
            nan if step % 5 == 0 else rng.gauss(0.1, 0.05),
            1.0 - 0.01 * step + rng.gauss(0, 0.02),
        )
        for step in range(1, count + 1)
    ]


def betas(states: Sequence[Any], name: str = "beta_pos") -> list[float]:
    return [state[name] for state in states]


def test_constant_keeps_the_betas():
    assert follow(constant, 3)[-1] == START


def test_linear_by_hand():
    states = follow(
        linear, 5, {"beta_pos": 0.2, "beta_neg": 1.0}, end_beta_pos=1.0, end_beta_neg=0.6
    )
    assert betas(states[:5]) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], abs=1e-12)
    assert betas(states[:5], "beta_neg") == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6], abs=1e-12)


def test_cosine_by_hand():
    """f = (1 + cos(pi k / 4)) / 2 = 1, (2 + sqrt 2) / 4, 1/2, (2 - sqrt 2) / 4, 0."""
    states = follow(
        cosine, 5, {"beta_pos": 0.0, "beta_neg": 1.0}, end_beta_pos=1.0, end_beta_neg=0.0
    )
    expected = [0, 0.1464466094067262, 0.5, 0.8535533905932738, 1]
    assert betas(states[:5]) == pytest.approx(expected, abs=1e-12)
    assert betas(states[:5], "beta_neg") == pytest.approx([1 - x for x in expected], abs=1e-12)


@pytest.mark.parametrize("schedule", [linear, cosine])
@given(steps=st.integers(2, 40), pos=st.floats(0, 3), neg=st.floats(0, 3), data=st.data())
def test_linear_and_cosine_end_exactly_and_never_overshoot(schedule, steps, pos, neg, data):
    end_pos, end_neg = data.draw(st.floats(0, 3)), data.draw(st.floats(0, 3))
    start = {"beta_pos": pos, "beta_neg": neg}
    states = follow(schedule, steps, start, end_beta_pos=end_pos, end_beta_neg=end_neg)
    assert states[steps - 1] == {"beta_pos": end_pos, "beta_neg": end_neg}  # of step `steps`
    assert states[steps] == states[steps - 1]
    rising = betas(states) if end_pos >= pos else [-b for b in betas(states)]
    assert rising == sorted(rising)


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_a_run_of_one_step_and_a_finished_run_keep_their_betas(schedule):
    ends = {"end_beta_pos": 1.0, "end_beta_neg": 1.0}
    assert schedule(START, stats(1, 1), **ends) == START
    assert schedule(START, stats(12, 10), **ends) == START


def test_a_run_resumed_with_more_steps_continues_from_its_current_betas():
    """At step 3 of 5 beta is 0.5; extended to 9 steps, it reaches 1 in 6 more steps."""
    state = follow(
        linear, 5, {"beta_pos": 0.0, "beta_neg": 0.0}, end_beta_pos=1.0, end_beta_neg=0.0
    )[2]
    longer = linear(state, stats(3, 9), end_beta_pos=1.0, end_beta_neg=0.0)
    assert longer["beta_pos"] == pytest.approx(0.5 + 0.5 / 6, abs=1e-12)


def test_peaks_reach_the_quantiles_of_evenly_spread_accuracies():
    spread = [k / 1000 for k in range(1, 1000)]
    state = peak_tracking(START, stats(accuracy=spread), rate=1.0)
    assert state == pytest.approx({"beta_pos": 0.9, "beta_neg": 0.4}, abs=2e-3)
    eighths = [k / 8 for k in range(1, 8)] * 3
    state = peak_tracking(START, stats(accuracy=eighths), rate=1.0)
    assert state == pytest.approx({"beta_pos": 0.85, "beta_neg": 0.4125}, abs=1e-12)


def test_quantiles_interpolate_the_mid_distribution_function():
    """1/8 three times and 3/8 once: points (3/8, 1/8) and (7/8, 3/8); 0.5 is a quarter between."""
    accuracy = [1 / 8, 1 / 8, 1 / 8, 3 / 8]
    state = peak_tracking(
        START, stats(accuracy=accuracy), rate=1.0, quantile_pos=0.5, quantile_neg=1.0
    )
    assert state == pytest.approx({"beta_pos": 1 - 3 / 16, "beta_neg": 3 / 8}, abs=1e-12)


def test_peak_tracking_is_a_running_average():
    state = peak_tracking(START, stats(accuracy=[0.25]), rate=0.1)
    assert state == pytest.approx({"beta_pos": 0.525, "beta_neg": 0.475}, abs=1e-12)


@pytest.mark.parametrize("accuracy", [[], [0.0, 1.0, 1.0]])
def test_a_batch_without_mixed_groups_changes_nothing(accuracy):
    start = {"beta_pos": 1.7, "beta_neg": 0.2}
    assert peak_tracking(start, stats(accuracy=accuracy)) == start


def test_only_mixed_groups_count_in_a_quantile():
    mixed = [0.25, 0.5, 0.5]
    with_others = peak_tracking(START, stats(accuracy=[0.0, *mixed, 1.0, 1.0]))
    assert with_others == peak_tracking(START, stats(accuracy=mixed))


def test_peaks_follow_a_drifting_distribution():
    """Accuracies are around c, which rises from .2 to .8; after a lag both peaks are at c."""
    rng, state = random.Random(0), START
    for step in range(1, 401):
        c = 0.2 + 0.6 * min(1.0, step / 200)
        accuracy = [min(7, max(1, round(8 * rng.gauss(c, 0.1)))) / 8 for _ in range(32)]
        halves = {"quantile_pos": 0.5, "quantile_neg": 0.5}
        state = peak_tracking(state, stats(step, 400, accuracy), **halves)
        if step == 100:
            assert 1 - state["beta_pos"] == pytest.approx(0.47, abs=0.06)  # c = .5, .03 behind
    assert 1 - state["beta_pos"] == pytest.approx(0.8, abs=0.04)
    assert state["beta_neg"] == pytest.approx(0.8, abs=0.04)


accuracies = st.lists(st.integers(0, 8).map(lambda k: k / 8), max_size=12)


@given(
    runs=st.lists(accuracies, min_size=1, max_size=6),
    start=st.floats(0, 1),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_peak_tracking_stays_within_0_and_1(runs, start, shares):
    state: Any = {"beta_pos": start, "beta_neg": start}
    names = ("quantile_pos", "quantile_neg", "rate")
    for accuracy in runs:
        state = peak_tracking(state, stats(accuracy=accuracy), **dict(zip(names, shares)))  # noqa: B905
        assert 0 <= state["beta_pos"] <= 1 and 0 <= state["beta_neg"] <= 1


BAND = {"entropy_low": 0.5, "entropy_high": 0.7}


def simulate(
    kappa: float, trend: float, start: float, eta: float, noise: float = 0.01
) -> tuple[list[float], list[Any]]:
    """Proposition 1, simulated: entropy <- entropy + eta (trend + (b+ - b-) kappa) + noise."""
    rng = random.Random(1)
    entropy, state, entropies, states = start, START, [], []
    for step in range(1, 401):
        step_stats = stats(step, 400, (), rng.gauss(kappa, 0.05), entropy)
        state = entropy_steering(state, step_stats, **BAND)
        entropies.append(entropy)
        states.append(state)
        lean = state["beta_pos"] - state["beta_neg"]
        entropy = max(0.0, entropy + eta * (trend + lean * kappa) + rng.gauss(0, noise))
    return entropies, states


@pytest.mark.parametrize("kappa", [0.1, -0.1])
@pytest.mark.parametrize("trend", [-0.05, 0.0, 0.05])
@pytest.mark.parametrize("start", [0.2, 1.0])
@pytest.mark.parametrize("eta", [0.2, 1.0])
def test_steering_reaches_the_band_and_stays_for_both_signs_of_kappa(kappa, trend, start, eta):
    entropies, _ = simulate(kappa, trend, start, eta)
    assert all(0.5 <= entropy <= 0.7 for entropy in entropies[150:])


def test_without_steering_the_simulation_leaves_the_band():
    entropy = 0.6
    for _ in range(400):
        entropy = max(0.0, entropy + 0.2 * -0.05)
    assert entropy == 0


def test_a_kappa_that_is_pure_noise_hardly_moves_the_betas():
    _, clear = simulate(0.1, 0.0, 2.0, eta=0.0, noise=0.0)
    _, other = simulate(-0.1, 0.0, 2.0, eta=0.0, noise=0.0)
    _, unclear = simulate(0.0, 0.0, 2.0, eta=0.0, noise=0.0)
    assert betas(clear)[60] == 0 and betas(clear, "beta_neg")[60] == 1
    assert betas(other)[60] == 1 and betas(other, "beta_neg")[60] == 0
    assert abs(betas(unclear)[60] - 0.5) < 0.1


def test_steering_toward_the_band_by_hand():
    """kappas .1, .3: mean .2, variance .01, weights 1/2, so z^2 = 4 and trust = 1 - 1/4 at
    clear = 1. Entropy stays at 1: target (0.65 - 1) / 10 = -.035, push max(-1, -.035 x 10 / .2)."""
    state = entropy_steering(START, stats(1, kappa=0.1), **BAND, clear=1.0)
    assert (state["beta_pos"], state["beta_neg"]) == (0.5, 0.5)  # one kappa has no variance
    state = entropy_steering(state, stats(2, kappa=0.3), **BAND, clear=1.0)
    assert state["beta_pos"] == pytest.approx(0.5 - 0.05 * 0.75, abs=1e-12)
    assert state["beta_neg"] == pytest.approx(0.5 + 0.05 * 0.75, abs=1e-12)


def test_steering_against_a_drift_inside_the_band_by_hand():
    """Trust 3/4 as above; changes 0 and -.002, mean -.001: push .001 x 10 / .2 = .05."""
    state: Any = START
    for kappa, entropy in ((0.1, 0.6), (0.3, 0.6), (nan, 0.598)):
        state = entropy_steering(state, stats(kappa=kappa, entropy=entropy), **BAND, clear=1.0)
    assert state["beta_pos"] == pytest.approx(0.5 + 0.05 * 0.05 * 0.75, abs=1e-12)
    assert state["beta_neg"] == pytest.approx(0.5 - 0.05 * 0.05 * 0.75, abs=1e-12)


def test_a_negative_kappa_reverses_the_moves():
    for sign, expected in ((1, [0.45, 0.55]), (-1, [0.55, 0.45])):
        state = entropy_steering(START, stats(1, kappa=sign * 0.2), **BAND)
        state = entropy_steering(state, stats(2, kappa=sign * 0.2), **BAND)
        assert [state["beta_pos"], state["beta_neg"]] == pytest.approx(expected, abs=1e-12)


def test_constant_entropy_inside_the_band_moves_nothing():
    state: Any = START
    for step in range(1, 9):
        state = entropy_steering(state, stats(step, kappa=0.1, entropy=0.55), **BAND)
    assert (state["beta_pos"], state["beta_neg"]) == (0.5, 0.5)


@pytest.mark.parametrize("none", [nan, math.inf])
def test_without_a_finite_kappa_or_entropy_nothing_moves(none: float):
    state: Any = START
    for step in range(1, 5):
        state = entropy_steering(state, stats(step, kappa=none), **BAND)
    assert (state["beta_pos"], state["beta_neg"]) == (0.5, 0.5)
    assert entropy_steering(state, stats(5, kappa=1.0, entropy=none), **BAND) == state


@given(
    kappas=st.lists(st.one_of(st.just(nan), st.floats(-5, 5)), min_size=1, max_size=12),
    entropies=st.lists(st.floats(0, 12), min_size=12, max_size=12),
    start=st.floats(0, 0.8),
)
def test_steering_stays_within_its_bounds(kappas, entropies, start):
    state: Any = {"beta_pos": start, "beta_neg": start}
    for kappa, entropy in zip(kappas, entropies, strict=False):
        settings = {**BAND, "max_beta": 0.8, "max_move": 0.1}
        new = entropy_steering(state, stats(kappa=kappa, entropy=entropy), **settings)
        for name in START:
            assert 0 <= new[name] <= 0.8
            assert abs(new[name] - state[name]) <= 0.1 + 1e-12
        state = new


def test_fade_by_hand():
    """rate 1/2. p 1/2, H 1: alpha 1.5, H* 1/2. p 9/10, H 0.2: p^ .7, H^ .6; p 0, H 0: p^ .35,
    H^ .3, so delta = .8."""
    state = fade({"alpha": 3.0, "delta": 1.0}, stats(accuracy=[0.0, 1.0], entropy=1.0), rate=0.5)
    assert (state["alpha"], state["delta"], state["entropy_target"]) == (1.5, 1.0, 0.5)
    state = fade(state, stats(accuracy=[0.9], entropy=0.2), rate=0.5)
    assert (state["alpha"], state["delta"]) == (1.0, 1.0)  # 1.5 x .3 / .7 is below 1
    state = fade(state, stats(accuracy=[0.0], entropy=0.0), rate=0.5)
    assert state["alpha"] == pytest.approx(1.5 * 0.65 / 0.35) and state["delta"] == 0.8
    minus = fade({}, stats(accuracy=[0.5], entropy=1.0), sign="minus")
    assert minus["delta"] == 0.5  # 1 - (1 - 1/2)
    assert fade(state, stats(accuracy=[], entropy=0.0)) == state
    unsolved = fade({}, stats(accuracy=[0.0], entropy=9.0))
    assert (unsolved["alpha"], unsolved["delta"]) == (3.0, 1.0)


@every_schedule
def test_a_resumed_run_has_the_states_of_an_uninterrupted_run(name):
    """The state goes through JSON, as in a checkpoint."""
    run, schedule = random_run(20), SCHEDULES[name]
    state: Any = START
    for step_stats in run[:9]:
        state = schedule(state, step_stats, **SETTINGS[name])
    saved = json.loads(json.dumps(state))
    for step_stats in run[9:]:
        state = schedule(state, step_stats, **SETTINGS[name])
    for step_stats in run[9:]:
        saved = schedule(saved, step_stats, **SETTINGS[name])
    assert saved == state


@every_schedule
def test_states_are_finite_floats_and_are_not_mutated(name):
    state: Any = START
    for step_stats in random_run(12):
        before = dict(state)
        new = SCHEDULES[name](state, step_stats, **SETTINGS[name])
        assert state == before
        assert new.keys() >= START.keys()
        assert all(isinstance(n, float) and math.isfinite(n) for n in new.values())
        state = new


@every_schedule
def test_schedules_are_listed_by_name_and_take_keyword_only_floats_or_choices(name):
    assert SCHEDULES[name].__name__ == name
    state, second, *others = inspect.signature(SCHEDULES[name]).parameters.values()
    assert (state.name, second.name) == ("state", "stats")
    assert all(p.kind is p.KEYWORD_ONLY for p in others)
    assert all(p.annotation is float or get_origin(p.annotation) is Literal for p in others)
