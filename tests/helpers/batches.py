"""Requests, rollouts and batches of given lengths."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asymrl.algo.batch import make_groups, tokenise
from asymrl.types import (
    Batch,
    Experience,
    Generated,
    Groups,
    Problem,
    Reason,
    Request,
    Rollout,
    Scored,
    Tokens,
    Verdict,
)


def requests_and_rollouts(lengths: list[list[int]]) -> tuple[list[Request], list[Rollout]]:
    """Group n has responses of lengths[n] tokens; a token id encodes draw, sample and position."""
    requests = [
        Request(
            problem=Problem(
                id=str(n), prompt_ids=tuple(range(n + 1)), prompt_text="", gold="", source=""
            ),
            draw=10 + n,
            samples=len(group),
            seed=0,
        )
        for n, group in enumerate(lengths)
    ]
    rollouts = [
        Rollout(
            draw=10 + n,
            sample=i,
            token_ids=tuple(1000 * n + 100 * i + t for t in range(length)),
            text="",
            truncated=False,
            engine_logprobs=(0.0,) * length,
            engine_entropy=None,
        )
        for n, group in enumerate(lengths)
        for i, length in enumerate(group)
    ]
    return requests, rollouts


def tokens_of(prompts: list[int], responses: list[int]) -> Tokens:
    lengths = torch.tensor(responses)
    return Tokens(
        sequences=[[0] * (p + r) for p, r in zip(prompts, responses, strict=True)],
        prompt_lengths=torch.tensor(prompts),
        group=torch.zeros(len(prompts), dtype=torch.long),
        row=torch.repeat_interleave(torch.arange(len(prompts)), lengths),
        targets=torch.zeros(int(lengths.sum()), dtype=torch.long),
    )


def batch_of(prompts: list[int], responses: list[int], has_gradient: list[bool]) -> Batch:
    tokens = tokens_of(prompts, responses)
    zeros = torch.zeros(len(tokens.targets))
    return Batch(
        sequences=tokens.sequences,
        prompt_lengths=tokens.prompt_lengths,
        group=tokens.group,
        row=tokens.row,
        targets=tokens.targets,
        advantages=zeros,
        old_logprobs=zeros,
        old_entropy=zeros,
        loss_mask=zeros,
        loss_denominators=zeros,
        has_gradient=torch.tensor(has_gradient),
        accuracy_bin=torch.zeros(len(has_gradient), dtype=torch.long),
    )


def experience_of(
    requests: list[Request],
    rollouts: list[Rollout],
    scored: Scored,
    rewards: list[float],
    valid: list[bool] | None = None,
    advantages: Callable[[Groups], Tensor] = lambda groups: torch.zeros(groups.rewards.numel()),
    reasons: Sequence[Reason] = (),
) -> Experience:
    """As the loop builds it; verdicts follow the rewards unless `reasons` are given."""
    tokens = tokenise(requests, rollouts)
    mask = torch.tensor(valid or [True] * len(rewards))
    groups = make_groups(tokens, scored, torch.tensor(rewards), mask)
    names: Sequence[Reason] = reasons or ["correct" if r else "wrong" for r in rewards]
    return Experience(
        requests=requests,
        rollouts=rollouts,
        verdicts=[Verdict(reason=name, answer=None, seconds=0.0) for name in names],
        rewards=torch.tensor(rewards),
        valid=mask,
        tokens=tokens,
        scored=scored,
        groups=groups,
        advantages=advantages(groups),
        generated=Generated(draws=len(requests), tokens=len(tokens.targets)),
    )
