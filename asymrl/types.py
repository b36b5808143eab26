"""The nouns of AsymRL: what one stage of the loop hands to the next.

Every value here is frozen; a stage makes a new value and never changes one that it was given.
This module knows no torch at run time (verifier workers import it), no framework and no config.

Axes: N prompts, G rollouts a prompt, R rows (rollouts in a batch), M response tokens of those rows
laid end to end, V vocabulary.
"""

from __future__ import annotations

import re
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


GOES_ON = "what was saved is whole, and the same command goes on from it"
SENTENCE = 400  # characters


class UserError(Exception):
    """Bad input. Its text is the one sentence that the user sees: what, where, what is valid.

    Whatever a file put into it, it is one line, cut in its middle where it is long, and holds no
    control characters, so that a file can say nothing to a terminal, and no password of a URL.
    """

    def __init__(self, sentence: str) -> None:
        plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in masked(sentence))
        half = SENTENCE // 2 - 3
        super().__init__(plain if len(plain) <= SENTENCE else f"{plain[:half]} ... {plain[-half:]}")


class ToldByFirst(UserError):
    """The first process met it and has said it; here it only ends this one."""


def masked(text: str) -> str:
    """Without the user and password of a URL, and without what is given as a token or the like."""
    text = re.sub(r"(\w://)[^/\s@]+@", r"\1***@", text)
    return re.sub(r"(?i)((?:token|secret|password|api_?key)=)\S+", r"\1***", text)


def shown(given: Any) -> str:
    """A value of any size and depth, as a sentence may show it."""
    try:
        text = repr(given)
    except (RecursionError, ValueError):  # very deep; a number of very many digits
        return f"a very large {type(given).__name__}"
    return text if len(text) <= 100 else f"{text[:60]} ... {text[-30:]}"


def said(error: object) -> str:
    """What an error says, on one line and no longer than a sentence can bear."""
    text = " ".join(str(error).split())
    return text if len(text) <= 240 else f"{text[:240]} ..."


@dataclass_transform(kw_only_default=True, frozen_default=True)
def value(cls: type) -> Any:
    """Class decorator: a frozen, slotted, keyword-only dataclass."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


@value
class Problem:
    """One problem, its prompt already rendered and tokenised."""

    id: str
    prompt_ids: tuple[int, ...]
    prompt_text: str
    gold: str
    source: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@value
class Request:
    """`samples` rollouts wanted for prompt draw number `draw` (a running index)."""

    problem: Problem
    draw: int
    samples: int
    seed: int


@value
class Sampling:
    """How to sample, every field explicit, so that a model's generation_config changes nothing.

    temperature 0 is greedy; top_p 1 and top_k 0 are off; max_tokens counts the stop token.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_ids: tuple[int, ...]


@value
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


@value
class Verdict:
    """What the verifier said of one response. Only `correct` earns the reward 1."""

    reason: Reason
    answer: str | None
    seconds: float

    @property
    def reward(self) -> float:
        return float(self.reason == "correct")


@value
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


@value
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


@value
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


@value
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


@value
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


@value
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


@value
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


@value
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
