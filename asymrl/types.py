"""The nouns of AsymRL: what one stage of the loop hands to the next.

Every value here is frozen: a stage makes a new value and never changes one it was given. This
module loads no torch at run time (verifier workers import it), no framework and no config.

Axes: N prompts, G rollouts a prompt, R rows (rollouts in a batch), M response tokens of those rows
laid end to end, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, dataclass_transform

if TYPE_CHECKING:
    from torch import Tensor


Reason = Literal["correct", "wrong", "no_answer", "unparseable", "timeout", "crashed"]
REASONS: tuple[Reason, ...] = (
    "correct",
    "wrong",
    "no_answer",
    "unparseable",
    "timeout",
    "crashed",
)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def frozen(cls: type) -> Any:
    """Class decorator: a frozen, slotted, keyword-only dataclass."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


@frozen
class Problem:
    """One problem, its prompt already rendered and tokenised."""

    id: str
    prompt_ids: tuple[int, ...]
    prompt_text: str
    gold: str
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@frozen
class Request:
    """`samples` rollouts wanted for prompt draw number `draw` (a running index)."""

    problem: Problem
    draw: int
    samples: int
    seed: int


@frozen
class Sampling:
    """How to sample, every field explicit, so that a model's generation_config changes nothing.

    temperature 0 is greedy; top_p 1 and top_k 0 are off; max_tokens counts the stop token.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_ids: tuple[int, ...]


@frozen
class Rollout:
    """One sampled response. `token_ids` ends with its stop token unless `truncated`.

    engine_logprobs, engine_entropy: one float a token (nats), of the distribution at the sampling
    temperature before top-p and top-k; the entropy is None where an engine does not give it.
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
    """What the verifier said of one response. Only `correct` earns the reward 1."""

    reason: Reason
    answer: str | None
    seconds: float

    @property
    def reward(self) -> float:
        return float(self.reason == "correct")


@frozen
class Groups:
    """All that an advantage estimator may see of N groups of G rollouts.

    rewards (N, G) float, 0 or 1; valid (N, G) bool, False where a rollout left its group
    (truncation: mask); lengths (N, G) int, in tokens; mean_logprobs (N, G), mean old log-prob per
    response token, nats.
    """

    rewards: Tensor
    valid: Tensor
    lengths: Tensor
    mean_logprobs: Tensor


@frozen
class TokenGroups:
    """All that a reweighter may see of M response tokens.

    advantages, logprobs, entropy, weight (M,) float: log-probs and entropy are of the generating
    policy, in nats; weight 0: not in the loss. row, group (M,) int from 0: the rollout and the
    prompt draw that a token is in.
    """

    advantages: Tensor
    logprobs: Tensor
    entropy: Tensor
    weight: Tensor
    row: Tensor
    group: Tensor


@frozen
class Tokens:
    """R rows of prompt + response, their response tokens laid end to end: what can be scored.

    sequences: per row, its token ids; prompt_lengths (R,); group (R,), the prompt draw's index
    0..N-1 of each row; row (M,), which row a response token is in; targets (M,), its token id.
    """

    sequences: Sequence[Sequence[int]]
    prompt_lengths: Tensor
    group: Tensor
    row: Tensor
    targets: Tensor


@frozen
class Batch(Tokens):
    """Tokens with everything that an update needs, flat over response tokens.

    advantages, old_logprobs, old_entropy, weight (M,) float; weight 0: not in the loss.
    denominators (M,): what a token's loss is divided by, counted over the whole mini-batch on all
    ranks before any split. live (R,) bool: rows that can have a gradient; the rest is skipped.
    cell (R,) int: the channel and group accuracy that a row counts under (diagnostics.cells).
    Physical layout (padding, packing, placement) is the policy's business.
    """

    advantages: Tensor
    old_logprobs: Tensor
    old_entropy: Tensor
    weight: Tensor
    denominators: Tensor
    live: Tensor
    cell: Tensor


@frozen
class LossInputs:
    """What a loss sees of one micro-batch. All (M,) but `group` and `cell`, which are (R,)."""

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    entropy: Tensor
    weight: Tensor
    row: Tensor
    group: Tensor
    cell: Tensor
    denominators: Tensor


@frozen
class LossOutputs:
    """A micro-batch's share of the mini-batch loss (a scalar: the shares add up to the loss).

    metrics: name -> (sum, count), so that means over micro-batches and ranks are exact; every
    count is in tokens of weight 1. maxima: name -> the largest value seen. by_cell: name -> sums
    by channel and group accuracy (diagnostics.cells), which add up over micro-batches.
    """

    loss: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor]]
    maxima: Mapping[str, Tensor]
    by_cell: Mapping[str, Tensor]


Scored = tuple["Tensor", "Tensor"]
"""logprobs (M,) and entropy (M,) of response tokens, nats, under the policy that generated."""

LossFn = Callable[[LossInputs], LossOutputs]


@frozen
class UpdateStats:
    """One optimizer step: means over the whole mini-batch, skipped rows counted in.

    by_cell: sums by channel and group accuracy (diagnostics.cells). updates: optimizer steps so
    far, this one included. non_finite: the loss or gradient for which the step was skipped; the
    policy is then as it was.
    """

    metrics: Mapping[str, float]
    by_cell: Mapping[str, Sequence[float]]
    grad_norm: float
    lr: float
    updates: int
    skipped_rows: int
    non_finite: str | None = None


@frozen
class TrainerState:
    """Full, named fp32 tensors on the CPU, so that world size and backend may change.

    weights, exp_avg, exp_avg_sq: Hugging Face parameter name -> tensor; updates: optimizer steps.
    The mappings may read a tensor only when it is asked for: a large model's would not fit into
    memory once for every rank.
    """

    weights: Mapping[str, Tensor]
    exp_avg: Mapping[str, Tensor]
    exp_avg_sq: Mapping[str, Tensor]
    updates: int


@frozen
class Position:
    """Where a run is: steps done, prompt draws taken, and what its schedule keeps."""

    step: int = 0
    draws: int = 0
    schedule: Mapping[str, float] = field(default_factory=dict)


@frozen
class Stopped:
    """A run that ended whole before its last step. code: the exit code of its process."""

    why: str
    code: int


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else, on any machine."""
    text = "/".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
