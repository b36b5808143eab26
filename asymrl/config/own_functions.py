"""Checks what the user's own estimators, reweighters, losses and schedules return, before and in a
run.

Knows how such a function is called and what it must return; asymrl/by_path.py loads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from asymrl import by_path, verifiers
from asymrl.by_path import OwnFunction, blamed, is_by_path
from asymrl.errors import UserError, short_repr
from asymrl.types import Batch, Groups, LossInputs, TokenGroups

SECTIONS = ("verifier", "advantage", "reweight", "loss", "schedule")


def with_digests(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the digest of the file appended to every name by path, so that a run resumes
    with the same code only. ValueError if a function cannot be loaded, or its file has changed."""
    config = dict(config)
    for section in SECTIONS:
        settings = config.get(section)
        if isinstance(settings, dict) and is_by_path(name := settings.get("name")):
            try:
                own = verifiers.own.load(name) if section == "verifier" else by_path.load(name)
            except UserError as error:
                raise ValueError(f"{section}.name: {error}") from None
            config[section] = settings | {"name": own.name}
    return config


def call_own(key: str, own: OwnFunction, *inputs: Any, **params: Any) -> Any:
    """What the function returns, checked. UserError names the function, and its line if it raises.

    key: the section of the config that names it.
    """
    try:
        with blamed(own.path):
            result = own.call(*inputs, **params)
    except UserError as error:
        raise UserError(f"{key}.name: {error}") from error.__cause__
    check_result(f"{key}.name: {by_path.without_digest(own.name)}", result, inputs)
    return result


def check_result(function: str, result: Any, inputs: tuple[Any, ...]) -> None:
    """UserError unless `result` is what a function of these inputs must return: finite numbers of
    the right shape. An invalid rollout and a token outside the loss may have any number.

    function: its name, for the sentence.
    """
    start = f"{function} returned"
    match inputs:
        case (Groups(rewards=rewards, valid=valid),):
            check_tensor(start, result, rewards, "(N, G), as the rewards")
            for row in (~result.isfinite() & valid).any(1).nonzero().flatten().tolist():
                raise UserError(
                    f"{start} {short_repr(result[row].tolist())} for a group with the rewards "
                    f"{short_repr(rewards[row].tolist())}; every advantage must be finite, usually "
                    "0 where the formula has 0 / 0"
                )
        case (TokenGroups(advantages=advantages, loss_mask=loss_mask),):
            check_tensor(start, result, advantages, "(M,), as the advantages")
            wrong = ~result.isfinite() & (loss_mask > 0)
            if wrong.any():
                raise UserError(
                    f"{start} {result[wrong][0].item()} for a token with the advantage "
                    f"{advantages[wrong][0].item():g}; every advantage must be finite"
                )
        case (LossInputs(logprobs=logprobs, loss_mask=loss_mask),):
            check_tensor(start, result, logprobs, "(M,), one loss a token")
            if logprobs.requires_grad and not result.requires_grad:
                raise UserError(
                    f"{start} losses without a gradient; compute them from inputs.logprobs, "
                    "without detach() or torch.no_grad()"
                )
            wrong = ~result.isfinite() & (loss_mask > 0)
            if wrong.any():
                raise UserError(
                    f"{start} {result[wrong][0].item()} for a token with the log-prob "
                    f"{logprobs[wrong][0].item():g}; every loss must be finite"
                )
        case (state, _):
            has_keys = isinstance(result, Mapping) and state.keys() <= result.keys()
            if not has_keys or not all(is_finite(value) for value in result.values()):
                raise UserError(
                    f"{start} {short_repr(result)}; a schedule must return a dict of finite "
                    f"numbers with {', '.join(state)}"
                )


def try_own_loss(own: OwnFunction, params: Mapping[str, Any], *, kl_penalty: bool) -> None:
    """UserError if a loss of the user's own fails on a micro-batch, on one without tokens, or
    depends on how the mini-batch is split. kl_penalty: the inputs have reference log-probs."""
    inputs = example_loss_inputs(5, 4)
    if not kl_penalty:
        inputs = replace(inputs, reference_logprobs=None)
    rows = int(inputs.row.max()) + 1
    whole, first, second, _ = (
        call_own("loss", own, some_rows(inputs, low, high), **params)
        for low, high in ((0, rows), (0, rows // 2), (rows // 2, rows), (0, 0))
    )
    if not torch.allclose(torch.cat([first, second]), whole, rtol=1e-4, atol=1e-6):
        raise UserError(
            f"loss.name: {by_path.without_digest(own.name)} returned other losses for two halves "
            "of a mini-batch than for the whole; a statistic of several rows must come from "
            "inputs.minibatch, because a micro-batch is any part of it"
        )


def some_rows(inputs: LossInputs, low: int, high: int) -> LossInputs:
    """The micro-batch with the rows from low to high, with a graph to log-probs and entropy."""
    here = (inputs.row >= low) & (inputs.row < high)
    per_token = {
        name: getattr(inputs, name)[here]
        for name in ("logprobs", "old_logprobs", "advantages", "entropy", "loss_mask", "row")
    }
    reference = inputs.reference_logprobs
    return replace(
        inputs,
        **per_token
        | {name: per_token[name].clone().requires_grad_() for name in ("logprobs", "entropy")},
        loss_denominators=inputs.loss_denominators[here],
        reference_logprobs=None if reference is None else reference[here],
        tokens=inputs.tokens[here],
    )


def check_tensor(start: str, result: Any, like: Tensor, shape: str) -> None:
    if not isinstance(result, Tensor) or result.shape != like.shape:
        returned, what = short_repr(result), "it must be a torch.Tensor of shape"
        if isinstance(result, Tensor):
            returned, what = f"a tensor of shape {tuple(result.shape)}", "the shape must be"
        raise UserError(f"{start} {returned}; {what} {tuple(like.shape)} = {shape}")


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def example_groups(prompts: int, group_size: int) -> Groups:
    """Groups with 0, 1, ... group_size, 0, 1, ... correct responses."""
    correct = torch.arange(prompts).unsqueeze(1) % (group_size + 1)
    rewards = (torch.arange(group_size) < correct).double()
    return Groups(
        rewards=rewards,
        valid=torch.ones_like(rewards, dtype=torch.bool),
        lengths=torch.ones_like(rewards, dtype=torch.long),
        mean_logprobs=-torch.ones_like(rewards),
    )


def example_tokens(prompts: int, group_size: int) -> TokenGroups:
    """Two tokens of each rollout; the first one of a group is correct."""
    row = torch.arange(prompts * group_size).repeat_interleave(2)
    ones = torch.ones(len(row))
    return TokenGroups(
        advantages=torch.where(row % group_size == 0, ones, -ones),
        logprobs=-ones,
        entropy=ones,
        loss_mask=ones,
        row=row,
        group=row // group_size,
    )


def example_loss_inputs(prompts: int, group_size: int) -> LossInputs:
    """The tokens of `example_tokens` as one micro-batch, at ratios around 1."""
    tokens = example_tokens(prompts, group_size)
    rows = torch.arange(prompts * group_size)
    count, group = len(tokens.row), rows // group_size
    minibatch = Batch(
        sequences=[[0, 0, 0]] * len(rows),
        prompt_lengths=torch.ones_like(rows),
        group=group,
        row=tokens.row,
        targets=torch.zeros(count, dtype=torch.long),
        advantages=tokens.advantages,
        old_logprobs=tokens.logprobs,
        old_entropy=tokens.entropy,
        loss_mask=tokens.loss_mask,
        loss_denominators=torch.full((count,), float(count)),
        has_gradient=torch.ones(len(rows), dtype=torch.bool),
        accuracy_bin=torch.zeros_like(rows),
        reference_logprobs=tokens.logprobs,
    )
    return LossInputs(
        logprobs=(tokens.logprobs + torch.linspace(-0.5, 0.5, count)).requires_grad_(),
        old_logprobs=tokens.logprobs,
        advantages=tokens.advantages,
        entropy=tokens.entropy,
        loss_mask=tokens.loss_mask,
        row=tokens.row,
        group=group,
        accuracy_bin=minibatch.accuracy_bin,
        loss_denominators=minibatch.loss_denominators,
        reference_logprobs=tokens.logprobs,
        minibatch=minibatch,
        tokens=torch.arange(count),
    )
