"""Small groups of rewards for the tests of estimators and diagnostics, in fp64."""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from asymrl.types import Groups


def build_groups(
    rewards: Tensor | Sequence[Sequence[float]],
    valid: Tensor | None = None,
    mean_logprobs: Tensor | Sequence[Sequence[float]] | None = None,
) -> Groups:
    """By default all rollouts are valid, and each rollout of a group has a different log-prob."""
    rewards = to_tensor(rewards)
    if mean_logprobs is None:
        order = torch.arange(rewards.shape[1]).to(rewards) - rewards.shape[1]
        mean_logprobs = (order / 8).expand_as(rewards)
    return Groups(
        rewards=rewards,
        valid=torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid,
        lengths=torch.ones_like(rewards, dtype=torch.long),
        mean_logprobs=to_tensor(mean_logprobs),
    )


def to_tensor(numbers: Tensor | Sequence[Sequence[float]]) -> Tensor:
    return numbers if isinstance(numbers, Tensor) else torch.tensor(numbers, dtype=torch.float64)


def with_correct(*counts: int, size: int = 8) -> Groups:
    """One group per count, each with that many correct rollouts, which come first."""
    order = torch.arange(size)
    return build_groups((order < torch.tensor(counts)[:, None]).double())


@st.composite
def random_groups(draw, *, mixed: bool = False) -> Groups:
    size = draw(st.integers(2, 12))
    counts = draw(st.lists(st.integers(mixed, size - mixed), min_size=1, max_size=5))
    return with_correct(*counts, size=size)
