"""What to do about an engine whose log-probs are not the policy's.

An engine with its own kernels samples from mu, close to but not the same as the policy pi that is
trained: the gradient is then biased. Truncated importance sampling weighs each token's policy
gradient by a capped pi / mu. This module does not know what sampled.

The token-level PPO-clip loss, and what its tokens are divided by.

The loss of a mini-batch is one sum over its tokens,

    loss = sum_m weight_m * token_loss_m / denominator_m,

with denominators counted on the whole mini-batch before any split. So a micro-batch, on whatever
rank, adds its share and nothing is averaged: loss and gradient do not depend on the split.
This module does not know of ranks, of optimizers or of where the log-probs come from.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from asymrl.algo.diagnostics import NUM_ACCURACY_BINS
from asymrl.types import LossInputs, LossOutputs

LEVELS = ("off", "token", "sequence")


def importance_weights(
    policy_logprobs: Float[Tensor, "M"],
    engine_logprobs: Float[Tensor, "M"],
    row: Int[Tensor, "M"],
    *,
    level: str,
    cap: float,
) -> Float[Tensor, "M"]:
    """min(pi / mu, cap) a token, detached; to be multiplied into the tokens' advantages.

        token      pi / mu of the token alone (Yao et al. 2025, "Your efficient RL framework
                   secretly brings you off-policy RL training"; biased, low variance)
        sequence   the product over the tokens of its row (the whole response's ratio)
        off        1

    policy_logprobs: of the policy that is about to be trained, before its update, nats;
    engine_logprobs: of the same tokens as they were sampled; `row` (any integers from 0) says
    which response a token is in. The ratio is only capped from above: small ones stay.
    """
    assert level in LEVELS, f"{level!r} is not one of {LEVELS}"
    assert cap >= 1, f"the cap is {cap}, and is at least 1"
    if level == "off":
        return torch.ones_like(policy_logprobs)
    log_ratio = (policy_logprobs - engine_logprobs).detach().double()
    if level == "sequence":
        of_row = log_ratio.new_zeros(int(row.max()) + 1 if len(row) else 0)
        log_ratio = of_row.index_add(0, row, log_ratio)[row]
    return log_ratio.exp().clamp(max=cap).to(policy_logprobs.dtype)


AGGREGATIONS = ("token_mean", "prompt_mean", "seq_mean", "constant")
MAX_LOG_RATIO = 20.0


def loss_denominators(
    loss_mask: Float[Tensor, "M"],
    row: Int[Tensor, "M"],
    group: Int[Tensor, "R"],
    *,
    aggregation: str,
    constant_length: int,
) -> Float[Tensor, "M"]:
    """What each token's loss is divided by, given the whole mini-batch (over all ranks).

    token_mean   tokens of the mini-batch: every token counts the same (AsymGRPO, Appendix G)
    prompt_mean  tokens of the prompt's rows x prompts (the DAPO paper, arXiv 2503.14476)
    seq_mean     tokens of the row x rows: a mean of row means (AsymGRPO, Eq. 12; GRPO)
    constant     rows x constant_length (Dr. GRPO, arXiv 2503.20783)

    `row` maps tokens to rows, `group` rows to prompts (any integers). Only tokens with weight > 0
    are counted, and only rows and prompts that have one. All other tokens get 1, never 0.
    `constant_length`, in tokens, is read by `constant` alone and is then at least 1.
    """
    assert aggregation in AGGREGATIONS, f"{aggregation!r} is not one of {AGGREGATIONS}"
    assert aggregation != "constant" or constant_length >= 1, "constant_length is at least 1"
    counted = (loss_mask > 0).long()
    _, prompt = group.unique(return_inverse=True)  # (R,), 0 .. number of prompts - 1
    tokens_of_row = torch.zeros_like(prompt).index_add(0, row, counted)
    tokens_of_prompt = torch.zeros_like(prompt).index_add(0, prompt, tokens_of_row)
    num_rows, num_prompts = (tokens_of_row > 0).sum(), (tokens_of_prompt > 0).sum()
    match aggregation:
        case "token_mean":
            of_row = counted.sum().expand_as(prompt)
        case "prompt_mean":
            of_row = tokens_of_prompt[prompt] * num_prompts
        case "seq_mean":
            of_row = tokens_of_row * num_rows
        case _:
            of_row = (num_rows * constant_length).expand_as(prompt)
    return torch.where(counted > 0, of_row[row], 1).to(loss_mask.dtype)


def ppo_clip(
    inputs: LossInputs, *, clip_low: float, clip_high: float, entropy_bonus: float
) -> LossOutputs:
    """Token-level PPO-clip (arXiv 1707.06347, Eq. 7; AsymGRPO, Eq. 12) with an entropy bonus.

        rho        = exp(logprob - old_logprob)
        token_loss = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) - entropy_bonus * H

    H, in nats, is aggregated as the policy loss is. There is no dual clip: with A < 0 the loss
    grows with rho, as the paper has it (verl bounds it at 3 |A| unless told otherwise). There is
    no KL term. The log ratio is clamped to +-20, so that rho is finite; beyond, the gradient is 0.

    Metrics, as (sum, count) over tokens with weight > 0, detached:
    loss/clip_fraction_low (A < 0 and rho < 1 - clip_low), loss/clip_fraction_high (A > 0 and
    rho > 1 + clip_high): tokens whose policy gradient the clip removes. Both are 0 where A = 0, so
    that rows without an advantage add nothing to a sum. Maxima: loss/ratio_max. By cell: pressure,
    the sum of |d loss / d logprob| of the policy term: |A| rho / denominator where not clipped.
    A micro-batch without tokens gives a loss of 0 with a graph, counts of 0 and a maximum of 0.
    """
    raw = inputs.logprobs - inputs.old_logprobs
    log_ratio = raw.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio, advantages = log_ratio.exp(), inputs.advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    token_loss = -torch.minimum(ratio * advantages, clipped * advantages)
    if entropy_bonus:  # left out at 0, so that no gradient of the entropy is computed
        token_loss = token_loss - entropy_bonus * inputs.entropy
    loss = (inputs.loss_mask * token_loss / inputs.loss_denominators).sum()

    with torch.no_grad():
        counted = inputs.loss_mask > 0
        count = counted.sum()
        of_tokens = {
            "loss/clip_fraction_low": ((advantages < 0) & (ratio < 1 - clip_low)).to(ratio.dtype),
            "loss/clip_fraction_high": ((advantages > 0) & (ratio > 1 + clip_high)).to(ratio.dtype),
        }
        sums = {name: torch.where(counted, x, 0.0).sum() for name, x in of_tokens.items()}
        ratio_max = F.pad(torch.where(counted, ratio, 0.0), (0, 1)).max()
        moves = torch.where(advantages > 0, ratio <= 1 + clip_high, ratio >= 1 - clip_low)
        moves &= raw.abs() <= MAX_LOG_RATIO
        pressure = inputs.loss_mask * advantages.abs() * ratio * moves / inputs.loss_denominators
        cells = pressure.new_zeros(NUM_ACCURACY_BINS).index_add(
            0, inputs.accuracy_bin[inputs.row], pressure
        )
    return LossOutputs(
        loss=loss,
        metrics={name: (total, count) for name, total in sums.items()},
        maxima={"loss/ratio_max": ratio_max},
        by_accuracy_bin={"pressure": cells},
    )
