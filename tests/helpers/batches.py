"""Requests, rollouts and batches of given lengths."""

import torch

from asymrl.types import Batch, Problem, Request, Rollout, Tokens


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
