"""Truncated importance sampling: hand-computed weights, and what they do to a gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asymrl.algo.loss import LEVELS, importance_weights

POLICY = torch.tensor([-1.0, -2.0, -3.0, -0.5, -0.5])
ENGINE = torch.tensor([-1.5, -1.0, -3.0, -3.5, -0.4])
ROW = torch.tensor([0, 0, 0, 1, 1])


def weights(level: str, cap: float = 2.0) -> list[float]:
    return importance_weights(POLICY, ENGINE, ROW, level=level, cap=cap).tolist()


def test_token_weights_are_capped_ratios_of_single_tokens() -> None:
    assert weights("token") == pytest.approx([math.exp(0.5), math.exp(-1), 1, 2, math.exp(-0.1)])
    assert weights("token", cap=1.0) == pytest.approx([1, math.exp(-1), 1, 1, math.exp(-0.1)])


def test_sequence_weights_are_one_capped_ratio_a_response() -> None:
    first = math.exp(0.5 - 1 + 0)
    assert weights("sequence") == pytest.approx([first] * 3 + [2] * 2)
    assert weights("sequence", cap=100.0) == pytest.approx([first] * 3 + [math.exp(2.9)] * 2)


def test_off_is_one_everywhere() -> None:
    assert weights("off") == [1.0] * 5


@pytest.mark.parametrize("level", LEVELS)
def test_no_tokens_have_no_weights(level: str) -> None:
    empty = torch.zeros(0)
    assert len(importance_weights(empty, empty, empty.long(), level=level, cap=2.0)) == 0


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_ratio_that_no_float_holds_is_capped(level: str) -> None:
    found = importance_weights(
        torch.zeros(2), torch.full((2,), -2e4), ROW[:2], level=level, cap=3.0
    )
    assert found.tolist() == [3.0, 3.0]


def test_weights_carry_no_gradient() -> None:
    policy = POLICY.clone().requires_grad_()
    assert not importance_weights(policy, ENGINE, ROW, level="sequence", cap=2.0).requires_grad


@given(st.lists(st.floats(-5, 0), min_size=1, max_size=20), st.floats(1, 10))
def test_equal_logprobs_have_weight_one(logprobs, cap) -> None:
    same, row = torch.tensor(logprobs), torch.arange(len(logprobs)) // 3
    for level in LEVELS:
        found = importance_weights(same, same, row, level=level, cap=cap)
        torch.testing.assert_close(found, torch.ones_like(same))


def test_uncapped_token_weights_undo_the_engines_distribution() -> None:
    """E_mu[(pi / mu) f] = E_pi[f], exactly, over a small vocabulary."""
    torch.manual_seed(0)
    policy, engine = torch.randn(2, 7, dtype=torch.float64).log_softmax(-1)
    values, row = torch.randn(7, dtype=torch.float64), torch.arange(7)
    found = importance_weights(policy, engine, row, level="token", cap=1e9)
    torch.testing.assert_close((engine.exp() * found * values).sum(), (policy.exp() * values).sum())
