"""The policy loss: token-level PPO-clip, its denominators, and importance weights.

The loss of a mini-batch is one sum over its tokens,

    loss = sum_m loss_mask_m * token_loss_m / loss_denominator_m.

The denominators are counted over the whole mini-batch before it is split. Each micro-batch, on any
rank, adds its share and nothing is averaged afterwards, so loss and gradient do not depend on the
split. This module does not know ranks, optimizers, or which model computed the log-probs.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from asymrl.algo.diagnostics import NUM_ACCURACY_BINS
from asymrl.types import LossInputs, LossOutputs

AGGREGATIONS = ("token_mean", "prompt_mean", "seq_mean", "constant")
IMPORTANCE_LEVELS = ("off", "token", "sequence")
MAX_LOG_RATIO = 20.0


def loss_denominators(
    loss_mask: Float[Tensor, "M"],
    row: Int[Tensor, "M"],
    group: Int[Tensor, "R"],
    *,
    aggregation: str,
    constant_length: int,
) -> Float[Tensor, "M"]:
    """What each token's loss is divided by, computed from the whole mini-batch (all ranks).

    token_mean   tokens of the mini-batch: every token counts the same (AsymGRPO, Appendix G)
    prompt_mean  tokens of the prompt's rows x prompts (the DAPO paper, arXiv 2503.14476)
    seq_mean     tokens of the row x rows: a mean of row means (AsymGRPO, Eq. 12; GRPO)
    constant     rows x constant_length (Dr. GRPO, arXiv 2503.20783)

    `row` maps tokens to rows, `group` maps rows to prompts (any integers). Only tokens with
    loss_mask > 0 are counted, and only rows and prompts that have such a token. All other tokens
    get 1, never 0. Only `constant` uses `constant_length` (tokens); it must then be at least 1.
    """
    valid = aggregation in AGGREGATIONS
    assert valid, f"aggregation must be one of {AGGREGATIONS} (got {aggregation!r})"
    assert aggregation != "constant" or constant_length >= 1, "constant_length must be at least 1"
    in_loss = (loss_mask > 0).long()
    _, prompt = group.unique(return_inverse=True)  # (R,), 0 .. number of prompts - 1
    row_tokens = torch.zeros_like(prompt).index_add(0, row, in_loss)
    prompt_tokens = torch.zeros_like(prompt).index_add(0, prompt, row_tokens)
    num_rows, num_prompts = (row_tokens > 0).sum(), (prompt_tokens > 0).sum()
    match aggregation:
        case "token_mean":
            denominators = in_loss.sum().expand_as(prompt)
        case "prompt_mean":
            denominators = prompt_tokens[prompt] * num_prompts
        case "seq_mean":
            denominators = row_tokens * num_rows
        case _:
            denominators = (num_rows * constant_length).expand_as(prompt)
    return torch.where(in_loss > 0, denominators[row], 1).to(loss_mask.dtype)


def ppo_clip(
    inputs: LossInputs, *, clip_low: float, clip_high: float, entropy_bonus: float
) -> LossOutputs:
    """Token-level PPO-clip (arXiv 1707.06347, Eq. 7; AsymGRPO, Eq. 12) with an entropy bonus.

        rho        = exp(logprob - old_logprob)
        token_loss = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) - entropy_bonus * H

    H, in nats, is aggregated like the policy loss. There is no KL term and no dual clip: with A < 0
    the loss grows with rho, as in the paper (verl bounds it at 3 |A| by default). The log ratio is
    clamped to +-20 so that rho stays finite; beyond that the gradient is 0.

    Metrics are detached (sum, count) pairs over tokens with loss_mask > 0:
    loss/clip_fraction_low (A < 0 and rho < 1 - clip_low) and loss/clip_fraction_high (A > 0 and
    rho > 1 + clip_high) count the tokens whose policy gradient the clip removes. Both are 0 where
    A = 0, so rows without an advantage add nothing to the sums. Maxima: loss/ratio_max. By accuracy
    bin: pressure, the sum of |d loss / d logprob| of the policy term; on a token that is not
    clipped this is |A| rho / denominator. For a micro-batch without tokens, the loss is 0 but still
    has an autograd graph, and the counts and the maximum are 0.
    """
    raw_log_ratio = inputs.logprobs - inputs.old_logprobs
    log_ratio = raw_log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio, advantages = log_ratio.exp(), inputs.advantages
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    token_loss = -torch.minimum(ratio * advantages, clipped_ratio * advantages)
    if entropy_bonus:  # at 0 no gradient of the entropy is computed
        token_loss = token_loss - entropy_bonus * inputs.entropy
    loss = (inputs.loss_mask * token_loss / inputs.loss_denominators).sum()

    with torch.no_grad():
        in_loss = inputs.loss_mask > 0
        clip_low_hits = (advantages < 0) & (ratio < 1 - clip_low)
        clip_high_hits = (advantages > 0) & (ratio > 1 + clip_high)
        ratio_max = F.pad(torch.where(in_loss, ratio, 0.0), (0, 1)).max()
        unclipped = torch.where(advantages > 0, ratio <= 1 + clip_high, ratio >= 1 - clip_low)
        unclipped &= raw_log_ratio.abs() <= MAX_LOG_RATIO
        token_pressure = inputs.loss_mask * advantages.abs() * ratio * unclipped
        token_pressure = token_pressure / inputs.loss_denominators
        pressure = token_pressure.new_zeros(NUM_ACCURACY_BINS).index_add(
            0, inputs.accuracy_bin[inputs.row], token_pressure
        )

        def total(hits: Tensor) -> Tensor:
            return torch.where(in_loss, hits.to(ratio.dtype), 0.0).sum()

        metrics = {
            "loss/clip_fraction_low": (total(clip_low_hits), in_loss.sum()),
            "loss/clip_fraction_high": (total(clip_high_hits), in_loss.sum()),
        }
    return LossOutputs(
        loss=loss,
        metrics=metrics,
        maxima={"loss/ratio_max": ratio_max},
        by_accuracy_bin={"pressure": pressure},
    )


def importance_weights(
    policy_logprobs: Float[Tensor, "M"],
    engine_logprobs: Float[Tensor, "M"],
    row: Int[Tensor, "M"],
    *,
    level: str,
    cap: float,
) -> Float[Tensor, "M"]:
    """Truncated importance weights min(pi / mu, cap), detached: factors for the tokens' advantages.

        token      pi / mu of the token alone (Yao et al. 2025, "Your efficient RL framework
                   secretly brings you off-policy RL training"; biased, low variance)
        sequence   the product of pi / mu over the tokens of the row (the whole response's ratio)
        off        1

    A rollout engine with its own kernels samples from mu, which is close to the policy pi but not
    equal to it; without the weights the gradient is biased. policy_logprobs: of the policy before
    the update, in nats. engine_logprobs: of the same tokens, as the engine sampled them. row: the
    response of each token (any integers from 0). Ratios are capped from above only.
    """
    assert level in IMPORTANCE_LEVELS, f"level must be one of {IMPORTANCE_LEVELS} (got {level!r})"
    assert cap >= 1, f"cap must be at least 1 (got {cap})"
    if level == "off":
        return torch.ones_like(policy_logprobs)
    log_ratio = (policy_logprobs - engine_logprobs).detach().double()
    if level == "sequence":
        row_sums = log_ratio.new_zeros(int(row.max()) + 1 if len(row) else 0)
        log_ratio = row_sums.index_add(0, row, log_ratio)[row]
    return log_ratio.exp().clamp(max=cap).to(policy_logprobs.dtype)
