"""Computing the prompts of a mini-batch once gives the same gradient from fewer tokens."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM

from asymrl.algo.batch import make_groups, minibatches, tokenise
from asymrl.algo.loss import loss_denominators, policy_loss, ppo_clip
from asymrl.engines import local, shared_prefix
from asymrl.engines.local import LocalPolicy
from asymrl.types import Batch, Problem, Request, Rollout
from tests.helpers import policies
from tests.helpers.models import TINY, convolving_model

VOCABULARY = policies.VOCABULARY
LOSS = partial(policy_loss, token_loss=ppo_clip, entropy_bonus=0.05)


@pytest.fixture(autouse=True)
def always_share(monkeypatch) -> None:
    monkeypatch.setattr(shared_prefix, "MIN_TOKENS_SAVED", 0)


def batch(sizes: list[int], responses: list[int], has_gradient: list[bool] | None = None) -> Batch:
    """One prompt of each size in `sizes`, each with one response of each length in `responses`.

    has_gradient: by group, whether its rows have an advantage; by default all have one.
    """
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (count,), generator=generator).tolist())

    problems = [
        Problem(id="", prompt_ids=some(n), prompt_text="", gold="", source="") for n in sizes
    ]
    requests = [
        Request(problem=problem, draw=n, samples=len(responses), seed=0)
        for n, problem in enumerate(problems)
    ]
    rollouts = [
        Rollout(
            draw=n,
            sample=i,
            token_ids=some(length),
            text="",
            truncated=False,
            engine_logprobs=(),
            engine_entropy=None,
        )
        for n in range(len(sizes))
        for i, length in enumerate(responses)
    ]
    tokens = tokenise(requests, rollouts)
    old = -3 + 0.3 * torch.randn(len(tokens.targets), generator=generator)
    rewards = torch.arange(len(rollouts)).remainder(2).double()
    groups = make_groups(tokens, (old, old), rewards, torch.ones_like(rewards).bool())
    advantages = torch.randn(len(rollouts), generator=generator)
    if has_gradient is not None:
        advantages *= torch.tensor(has_gradient).repeat_interleave(len(responses))
    (made,) = minibatches(
        tokens,
        (old, old),
        advantages[tokens.row],
        groups,
        prompts=len(sizes),
        every_row=has_gradient is None,
        loss_denominators=partial(loss_denominators, aggregation="token_mean", constant_length=1),
    )
    return made


def windowed_model() -> MistralForCausalLM:
    """A token attends to itself and the four tokens before it."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        **TINY,
        initializer_range=0.3,
        sliding_window=5,
    )
    return MistralForCausalLM(config)


def policy(*, shares: bool, model: Any = None) -> LocalPolicy:
    made = policies.policy(model, token_budget=128)
    assert made.shares_prompts == (model is None or isinstance(model, MistralForCausalLM))
    made.shares_prompts &= shares
    return made


def gradient(trained: LocalPolicy, minibatch: Batch) -> torch.Tensor:
    trained.backward(minibatch, LOSS)
    return torch.cat([p.grad.flatten() for p in trained.module.parameters()])  # pyright: ignore


@pytest.mark.parametrize(
    ("sizes", "has_gradient"),
    [
        ([4, 4], None),
        ([1, 1, 1], None),  # no token before the prompt's last one
        ([1, 40, 7], None),  # more padding than prompt
        ([9, 3, 30, 5], [False, True, False, True]),
    ],
)
def test_shared_prompts_do_not_change_the_gradient(sizes, has_gradient) -> None:
    minibatch = batch(sizes, [1, 6, 13, 6], has_gradient)
    shared = gradient(policy(shares=True), minibatch)
    plain = gradient(policy(shares=False), minibatch)
    assert plain.norm() > 0
    assert (shared - plain).norm() <= 1e-5 * plain.norm()


@pytest.mark.parametrize("sizes", [[4, 4], [1, 40, 7], [9, 3, 30, 5]])
def test_shared_prompts_do_not_change_the_scores(sizes) -> None:
    tokens = batch(sizes, [1, 6, 13, 6])
    shared, plain = (policy(shares=shares) for shares in (True, False))
    assert shared_prefix.saves_time(tokens, range(len(tokens.sequences)))
    for mine, theirs in zip(shared.score(tokens), plain.score(tokens), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
        assert not mine.requires_grad
    assert all(parameter.grad is None for parameter in shared.module.parameters())


def test_shared_prompts_of_different_length_keep_their_distance_from_the_response() -> None:
    minibatch = batch([9, 3, 30, 5], [1, 6, 13, 6])
    shared = gradient(policy(shares=True, model=windowed_model()), minibatch)
    plain = gradient(policy(shares=False, model=windowed_model()), minibatch)
    assert (shared - plain).norm() <= 1e-5 * plain.norm()


def input_shapes(trained: LocalPolicy, minibatch: Batch) -> list[torch.Size]:
    """The shapes of the model's inputs in one backward call."""
    shapes = []
    embeddings = trained.module.model.get_input_embeddings()
    hook = embeddings.register_forward_hook(
        lambda module, inputs, output: shapes.append(inputs[0].shape)
    )
    trained.backward(minibatch, LOSS)
    hook.remove()
    return shapes


def test_a_prompt_is_computed_once_a_group() -> None:
    minibatch = batch([30, 30], [5] * 4)
    shared = sum(shape.numel() for shape in input_shapes(policy(shares=True), minibatch))
    plain = sum(shape.numel() for shape in input_shapes(policy(shares=False), minibatch))
    assert shared == 2 * 29 + 8 * 5  # a response begins with the prompt's last token
    assert plain == 8 * (29 + 5)


def test_prompts_are_not_shared_if_that_saves_too_few_tokens(monkeypatch) -> None:
    minibatch = batch([30, 30], [5] * 4)
    monkeypatch.setattr(shared_prefix, "MIN_TOKENS_SAVED", 2 * 3 * 29)
    assert (
        sum(shape.numel() for shape in input_shapes(policy(shares=True), minibatch))
        == 2 * 29 + 8 * 5
    )
    monkeypatch.setattr(shared_prefix, "MIN_TOKENS_SAVED", 2 * 3 * 29 + 1)
    assert sum(shape.numel() for shape in input_shapes(policy(shares=True), minibatch)) == 8 * (
        29 + 5
    )


def test_prompts_that_exceed_the_token_budget_together_are_computed_in_parts() -> None:
    minibatch, trained = batch([30, 8, 30], [5] * 4), policy(shares=True)
    trained.token_budget = 3 * 29
    whole = gradient(trained, minibatch)
    assert input_shapes(trained, minibatch)[0] == (3, 29)
    trained.token_budget = 3 * 29 - 1
    shapes = input_shapes(trained, minibatch)
    assert shapes[0] == (2, 29) and (1, 29) in shapes
    assert sum(shape.numel() for shape in shapes) == 3 * 29 + 12 * 5
    parts = gradient(trained, minibatch)
    assert (parts - whole).norm() <= 1e-6 * whole.norm()


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8), budget=st.integers(1, 200))
def test_parts_hold_whole_groups_and_each_row_once(lengths: list[int], budget: int) -> None:
    minibatch = batch(lengths, [1, 2])
    rows = list(range(2 * len(lengths)))
    parts = shared_prefix.split_rows(minibatch, rows, budget)
    assert sorted(row for part in parts for row in part) == rows
    for part in parts:
        prompts = {row // 2 for row in part}
        assert sorted(part) == sorted(row for p in prompts for row in (2 * p, 2 * p + 1))
        assert len(prompts) == 1 or len(prompts) * max(lengths[p] - 1 for p in prompts) <= budget


def test_prompts_of_skipped_groups_are_not_computed() -> None:
    minibatch = batch([30, 8], [5] * 4, has_gradient=[False, True])
    assert sum(shape.numel() for shape in input_shapes(policy(shares=True), minibatch)) == 7 + 4 * 5


def test_a_micro_batch_on_a_cpu_is_small_even_if_the_budget_is_large(monkeypatch) -> None:
    trained = policy(shares=False)
    trained.token_budget = 10**6
    monkeypatch.setattr(local, "CPU_TOKENS", 50)
    shapes = input_shapes(trained, batch([4, 4], [7] * 6))  # 12 rows of 10 tokens, without the last
    assert sum(shape[0] for shape in shapes) == 12
    assert max(shape.numel() for shape in shapes) <= 50


def test_layer_checkpointing_still_works_after_an_engine_set_eval_mode() -> None:
    trained = policy(shares=False)
    trained.module.model.gradient_checkpointing_enable({"use_reentrant": False})
    trained.module.model.eval()
    runs = []
    layer = trained.module.model.model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: runs.append(1))
    trained.backward(batch([3], [2]), LOSS)
    assert len(runs) == 2


def test_prompts_are_not_shared_if_a_layer_caches_more_than_keys_and_values() -> None:
    trained = policy(shares=True, model=convolving_model(VOCABULARY))
    assert gradient(trained, batch([9, 3], [5] * 4)).norm() > 0
