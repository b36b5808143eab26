"""Properties of the advantage estimators, in fp64."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from asymrl.algo.advantages import (
    ADVANTAGES,
)
from asymrl.types import Groups

SETTINGS = {
    "asym": {"beta_pos": 0.9, "beta_neg": 0.4},
    "ent_increase": {"beta_pos": 0.5, "beta_neg": 0.5},
    "ent_decrease": {"beta_pos": 0.5, "beta_neg": 0.5},
    "w_reinforce": {"positive_weight": 0.1, "negative_weight": 1.0},
    "qae": {"quantile": 0.4},
    "a_grae": {"alpha": 1.0},
    "unlikeliness": {"beta": 0.25},
}
EXACT = {"rtol": 0, "atol": 1e-10}


def make_groups(
    rewards: Tensor, valid: Tensor | None = None, mean_logprobs: Tensor | None = None
) -> Groups:
    """By default every rollout of a group has a log-prob of its own."""
    if mean_logprobs is None:
        order = torch.arange(rewards.shape[1]).to(rewards) - rewards.shape[1]
        mean_logprobs = (order / 8).expand_as(rewards)
    return Groups(
        rewards=rewards,
        valid=torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid,
        lengths=torch.ones_like(rewards, dtype=torch.long),
        mean_logprobs=mean_logprobs,
    )


def with_correct(*counts: int, size: int = 8) -> Groups:
    """One group a count, its correct rollouts first."""
    order = torch.arange(size)
    return make_groups((order < torch.tensor(counts)[:, None]).double())


def estimate(name: str, groups: Groups) -> Tensor:
    return ADVANTAGES[name](groups, **SETTINGS.get(name, {}))


@st.composite
def random_groups(draw, *, mixed: bool = False) -> Groups:
    size = draw(st.integers(2, 12))
    counts = draw(st.lists(st.integers(mixed, size - mixed), min_size=1, max_size=5))
    return with_correct(*counts, size=size)
