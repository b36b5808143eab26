"""The data types of the loop: what one stage passes to the next.

All classes are frozen: a stage creates a new object and never changes its input. This module loads
no torch at run time (verifier workers import it), no framework and no config.

Axes: N prompts, G rollouts per prompt, R rows (rollouts in a batch), M response tokens of those
rows laid end to end, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, dataclass_transform, get_args

if TYPE_CHECKING:
    from torch import Tensor

Reason = Literal["correct", "wrong", "no_answer", "unparseable", "timeout", "crashed"]
REASONS: tuple[Reason, ...] = get_args(Reason)
Class = TypeVar("Class")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def frozen(cls: type[Class]) -> type[Class]:
    """Class decorator: a frozen, slotted, keyword-only dataclass."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


@frozen
class Problem:
    """One problem with its prompt rendered and tokenised. row: the data row as it was read."""

    id: str
    prompt_ids: tuple[int, ...]
    prompt_text: str
    gold: str
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    row: Mapping[str, Any] = field(default_factory=dict[str, Any])


@frozen
class Request:
    """Asks for `samples` rollouts of a problem. draw: running index of prompt draws in the run."""

    problem: Problem
    draw: int
    samples: int
    seed: int


@frozen
class Sampling:
    """How to sample. Every field is explicit, so a model's generation_config has no effect.

    temperature 0 is greedy; top_p 1 and top_k 0 are off; max_tokens includes the stop token.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_ids: tuple[int, ...]


@frozen
class Rollout:
    """One sampled response. `token_ids` ends with its stop token unless `truncated`.

    engine_logprobs, engine_entropy: one float per token, in nats, of the distribution at the
    sampling temperature before top-p and top-k; engine_entropy may be None.
    """

    draw: int
    sample: int
    token_ids: tuple[int, ...]
    text: str
    truncated: bool
    engine_logprobs: tuple[float, ...]
    engine_entropy: tuple[float, ...] | None


@frozen
class Verdict:
    """The verifier's judgement of one response. Only `correct` earns reward 1 and is truthy.

    error: why the verifier `crashed`.
    """

    reason: Reason
    answer: str | None
    seconds: float
    error: str | None = None

    @property
    def reward(self) -> float:
        return float(self.reason == "correct")

    def __bool__(self) -> bool:
        return self.reason == "correct"


@frozen
class Groups:
    """The input of an advantage estimator: N groups of G rollouts.

    rewards (N, G) float, 0 or 1. valid (N, G) bool: False where `rollout.truncation: mask` removed
    the rollout. lengths (N, G) int, in tokens. mean_logprobs (N, G): mean old log-prob per response
    token, in nats.
    """

    rewards: Tensor
    valid: Tensor
    lengths: Tensor
    mean_logprobs: Tensor


@frozen
class TokenGroups:
    """The input of a reweighter: M response tokens.

    advantages, logprobs, entropy (M,) float; log-probs and entropy are those of the generating
    policy, in nats. loss_mask (M,) float, 1 or 0: whether the token is in the loss. row, group (M,)
    int from 0: the rollout and the prompt draw that the token belongs to.
    """

    advantages: Tensor
    logprobs: Tensor
    entropy: Tensor
    loss_mask: Tensor
    row: Tensor
    group: Tensor


@frozen
class Tokens:
    """R rows of prompt and response, response tokens laid end to end: what a policy can score.

    sequences: token ids of each row. prompt_lengths (R,). group (R,): index 0..N-1 of the row's
    prompt draw. row (M,): the row that a response token is in. targets (M,): its token id.
    """

    sequences: Sequence[Sequence[int]]
    prompt_lengths: Tensor
    group: Tensor
    row: Tensor
    targets: Tensor


Scored = tuple["Tensor", "Tensor"]
"""logprobs (M,) and entropy (M,) of response tokens, in nats, under the generating policy."""


@frozen
class RolloutGroups:
    """Whole groups in draw order: the G rollouts of each request, by sample, with their verdicts.

    scored: of the response tokens laid end to end; None until the groups are scored.
    """

    requests: Sequence[Request]
    rollouts: Sequence[Rollout]
    verdicts: Sequence[Verdict]
    scored: Scored | None = None


@frozen
class Generated:
    """What a step generated, of which its batch may be a part (training/dynamic_sampling.py).

    draws: prompt draws used, one group each. tokens: of all responses. metrics: those that are over
    everything generated; empty if that is the batch. leftovers: groups for the next step, scored.
    """

    draws: int
    tokens: int
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    leftovers: RolloutGroups | None = None


@frozen
class Experience:
    """One rollout batch with everything an update needs, for R = N x G rollouts in draw order.

    rewards (R,) float, 0 or 1. valid (R,) bool: False where `rollout.truncation: mask` removed the
    rollout. scored: log-probs and entropy under the generating policy. advantages (R,). generated:
    what the step generated for it. reference_logprobs (M,): of the reference model, or None without
    a KL penalty.
    """

    requests: Sequence[Request]
    rollouts: Sequence[Rollout]
    verdicts: Sequence[Verdict]
    rewards: Tensor
    valid: Tensor
    tokens: Tokens
    scored: Scored
    groups: Groups
    advantages: Tensor
    generated: Generated
    reference_logprobs: Tensor | None = None


@frozen
class Batch(Tokens):
    """A mini-batch: Tokens with everything an optimizer step needs, flat over response tokens.

    advantages, old_logprobs, old_entropy, loss_mask (M,) float. loss_denominators (M,): what a
    token's loss is divided by, counted over the whole mini-batch on all ranks before any split.
    has_gradient (R,) bool: rows that can contribute a gradient; the update skips the others.
    accuracy_bin (R,) int: channel and group accuracy of the row (diagnostics.accuracy_bins).
    reference_logprobs (M,): of the reference model, or None without a KL penalty.
    The policy decides the physical layout: padding, packing, placement.
    """

    advantages: Tensor
    old_logprobs: Tensor
    old_entropy: Tensor
    loss_mask: Tensor
    loss_denominators: Tensor
    has_gradient: Tensor
    accuracy_bin: Tensor
    reference_logprobs: Tensor | None = None


@frozen
class LossInputs:
    """The input of a loss: one micro-batch of whole rows.

    All (M,), except `group` and `accuracy_bin` (R,) of the mini-batch, whose rows `row` counts.
    logprobs and entropy: of the current policy, with a graph. old_logprobs: of the generating
    policy. reference_logprobs: of the reference model, only if there is a KL penalty. minibatch:
    the whole mini-batch, on the CPU. tokens: which of its tokens these are, on the CPU.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    entropy: Tensor
    loss_mask: Tensor
    row: Tensor
    group: Tensor
    accuracy_bin: Tensor
    loss_denominators: Tensor
    reference_logprobs: Tensor | None
    minibatch: Batch
    tokens: Tensor


@frozen
class LossOutputs:
    """A micro-batch's share of the mini-batch loss (a scalar; the shares add up to the loss).

    metrics: name -> (sum, count), so that means over micro-batches and ranks are exact; counts are
    in tokens of the loss mask. maxima: name -> largest value. by_accuracy_bin: name -> sums by
    channel and group accuracy, which add up over micro-batches.
    """

    loss: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor]]
    maxima: Mapping[str, Tensor]
    by_accuracy_bin: Mapping[str, Tensor]


LossFn = Callable[[LossInputs], LossOutputs]


@frozen
class UpdateStats:
    """One optimizer step: means over the whole mini-batch, skipped rows included.

    by_accuracy_bin: sums by channel and group accuracy. updates: optimizer steps so far, this one
    included. non_finite: the name of a loss or gradient that was not finite, or None. If it is set,
    the step was skipped and the policy is unchanged.
    """

    metrics: Mapping[str, float]
    by_accuracy_bin: Mapping[str, Sequence[float]]
    grad_norm: float
    lr: float
    updates: int
    skipped_rows: int
    non_finite: str | None = None


@frozen
class TrainerState:
    """One rank's part of the weights and AdamW's moments, by Hugging Face name: fp32, on the CPU.

    A tensor is flat: the rank's slice of the flattened parameter. In rank order, the slices of all
    ranks are the whole parameter, so a state moves between numbers of ranks and backends. shapes:
    of the whole parameters. updates: optimizer steps. The mappings may read a slice from disk when
    it is accessed.
    """

    shapes: Mapping[str, tuple[int, ...]]
    weights: Mapping[str, Tensor]
    exp_avg: Mapping[str, Tensor]
    exp_avg_sq: Mapping[str, Tensor]
    updates: int


@frozen
class Position:
    """Where a run is: finished steps, prompt draws used, the state of its schedule, and the groups
    that `rollout.dynamic_sampling.leftover: keep` left for the next step."""

    step: int = 0
    draws: int = 0
    schedule: Mapping[str, float] = field(default_factory=dict[str, float])
    leftovers: RolloutGroups | None = None


@frozen
class Stopped:
    """Why a run ended before its last step, and the exit code of its process."""

    why: str
    code: int


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends only on `parts`, and is the same on every machine."""
    text = "/".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
