"""The loss of a mini-batch: a token loss, an entropy bonus, a KL penalty, and what divides them.

    loss = sum_m loss_mask_m * (L_m - entropy_bonus * H_m + kl_coef * KL_m) / loss_denominator_m

L_m is the token loss, a function of `LossInputs` with keyword-only parameters, which are its keys
in the config's section `loss`. To add one, write the function and add a line to LOSSES at the
bottom. An `assert` on a parameter becomes the error message for a bad value in a config.

Common to all token losses:
- They return one number a token, (M,), with a graph to `inputs.logprobs`. rho is the probability
  ratio exp(logprob - old_logprob), A the token's advantage.
- A micro-batch holds whole rows, so a row's mean is exact. A statistic of more rows is computed
  from `inputs.minibatch`, the whole mini-batch under the generating policy: one computed from a
  micro-batch would depend on the split.
- Where A = 0 the gradient is 0: such rows are skipped.
- The log ratio is clamped to +-20, so that rho stays finite; beyond that rho has no gradient.

The denominators are counted over the whole mini-batch before it is split. Each micro-batch, on any
rank, adds its share and nothing is averaged afterwards, so loss and gradient do not depend on the
split. This module does not know ranks, optimizers, or which model computed the log-probs.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from asymrl.algo.diagnostics import NUM_ACCURACY_BINS
from asymrl.types import Batch, LossInputs, LossOutputs

AGGREGATIONS = ("token_mean", "prompt_mean", "seq_mean", "constant")
IMPORTANCE_LEVELS = ("off", "token", "sequence")
MAX_LOG_RATIO = 20.0
KLEstimator = Literal["k1", "k2", "k3"]
TokenLoss = Callable[[LossInputs], Tensor]


def ppo_clip(
    inputs: LossInputs, *, clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float = 0.0
) -> Float[Tensor, "M"]:
    """PPO-clip by token (arXiv 1707.06347, Eq. 7; AsymGRPO, Eq. 12).

        L = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)

    dual_clip (arXiv 1912.09729): with c = dual_clip, the loss where A < 0 is at most c |A|, so it
    has no gradient where rho > c. 0, the default and the paper's form, is off; verl has c = 3 on.
    clip_low must be in (0, 1], clip_high above 0, dual_clip 0 or above 1.
    """
    _check_clip(clip_low, clip_high)
    assert dual_clip == 0 or dual_clip > 1, f"dual_clip must be 0 or above 1 (got {dual_clip})"
    ratio, advantages = probability_ratio(inputs), inputs.advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    if not dual_clip:
        return loss
    return torch.where(advantages < 0, loss.clamp(max=-dual_clip * advantages), loss)


def gspo(
    inputs: LossInputs, *, clip_low: float = 3e-4, clip_high: float = 4e-4
) -> Float[Tensor, "M"]:
    """GSPO (arXiv 2507.18071): PPO-clip with one ratio for a whole response.

        s = exp(mean_t log rho_t)          L = -min(s A, clip(s, 1 - clip_low, 1 + clip_high) A)

    The mean is over the row's tokens in the loss. Each token's log-prob gets the gradient -s A of
    the response, as in the paper's token form (GSPO-token), so token-level advantages are allowed;
    with one token a row this is `ppo_clip`. The method averages over responses: the row has
    `loss.aggregation: seq_mean`. The clip's defaults are the paper's.
    """
    _check_clip(clip_low, clip_high)
    log_ratio = (inputs.logprobs - inputs.old_logprobs).detach()
    log_ratio = row_means(log_ratio, inputs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    own = inputs.logprobs - inputs.logprobs.detach()  # 0, with the gradient of the log-prob
    ratio, advantages = (log_ratio + own).exp(), inputs.advantages
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def cispo(
    inputs: LossInputs, *, clip_low: float = 1.0, clip_high: float = 4.0
) -> Float[Tensor, "M"]:
    """CISPO (arXiv 2506.13585): a capped ratio as a weight, so that every token keeps a gradient.

        L = -sg(clip(rho, 1 - clip_low, 1 + clip_high)) A log pi

    sg stops the gradient. Without the clip it is that of -rho A. The defaults have no lower bound
    and cap rho at 5, as TRL does after ScaleRL; verl's are 0.2 and 0.2. The paper does not give its
    numbers. The value depends on log pi and not only on the ratio; only its gradient has a meaning.
    """
    _check_clip(clip_low, clip_high)
    weight = probability_ratio(inputs).detach().clamp(1 - clip_low, 1 + clip_high)
    return -weight * inputs.advantages * inputs.logprobs


def up(inputs: LossInputs, *, clip_low: float = 0.2, dual_clip: float = 3.0) -> Float[Tensor, "M"]:
    """UP (arXiv 2607.06987; from third-party notes): no ratio and no clip where A > 0.

        L = -A log pi                                     for A > 0
        L = `ppo_clip` with a dual clip                   for A <= 0

    So correct responses are imitated however far the policy has moved. clip_low and dual_clip, of
    which the notes say no number, are GRPO's and verl's.
    """
    clipped = ppo_clip(inputs, clip_low=clip_low, dual_clip=dual_clip)
    advantages = inputs.advantages
    return torch.where(advantages > 0, -advantages * inputs.logprobs, clipped)


def clip_cov(
    inputs: LossInputs,
    *,
    share: float = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    clip_low: float = 1.0,
    clip_high: float = 1.0,
) -> Float[Tensor, "M"]:
    """Clip-Cov (arXiv 2505.22617; its official code): no gradient for a few of the tokens whose
    covariance of log-prob and advantage is high.

        cov = (A - mean A) (log pi - mean log pi)        L = 0 for n of the tokens with
        n   = max(1, floor(share * tokens))                  cov_low < cov < cov_high,
                                                         L = `ppo_clip` for all others

    Means and tokens are those of the mini-batch, under the generating policy. The code takes them
    from a micro-batch and the current policy, and picks the n at random among candidates that the
    ratio clip has left; here a digit far behind the point of cov picks them, so that the choice
    depends on no seed, order or split. Tokens tied with the n-th are dropped too. The
    denominators count the dropped tokens. share must be in
    (0, 1].
    """
    _check_share(share)
    assert cov_low < cov_high, f"cov_low must be below cov_high (got {cov_low} and {cov_high})"
    cov = covariance(inputs.minibatch)
    lottery = torch.where((cov > cov_low) & (cov < cov_high), (cov * 1e5).frac(), -1.0)
    dropped = _largest(lottery, share, inputs.minibatch) & (lottery >= 0)
    loss = ppo_clip(inputs, clip_low=clip_low, clip_high=clip_high)
    return torch.where(_here(dropped, inputs), 0.0, loss)


def kl_cov(inputs: LossInputs, *, share: float = 2e-3, coef: float = 1.0) -> Float[Tensor, "M"]:
    """KL-Cov (arXiv 2505.22617; its official code): holds back the tokens with the highest
    covariance of log-prob and advantage.

        cov = (A - mean A) (log pi - mean log pi)
        L   = -rho A + coef |log rho|       for the n = max(1, floor(share * tokens)) highest cov
        L   = -rho A                        for all others; there is no clip

    Means and tokens are those of the mini-batch, under the generating policy (the code's: of a
    micro-batch, under the current one); tokens tied with the n-th are taken too, and tokens with
    A = 0 get no penalty, because such rows are skipped. The penalty has no
    gradient while rho = 1, so it acts from the second update on a rollout batch. Defaults: the
    repository's for 7B; for 32B share is 2e-4, and verl has share 2e-4 and coef 0.1.
    """
    _check_share(share)
    assert coef >= 0, f"coef must be at least 0 (got {coef})"
    chosen = _largest(covariance(inputs.minibatch), share, inputs.minibatch)
    # a row without an advantage is skipped, so its tokens get no penalty
    chosen = _here(chosen, inputs) & (inputs.advantages != 0)
    ratio = probability_ratio(inputs)
    return -ratio * inputs.advantages + coef * torch.where(chosen, ratio.log().abs(), 0.0)


def flash_reinforce(inputs: LossInputs, *, max_kl: float = 3e-3) -> Float[Tensor, "M"]:
    """FlashREINFORCE (September 2026; its README and code): the ratio without a clip, for responses
    whose policy has not moved far.

        d = p log(p / q) + (1 - p) log((1 - p) / (1 - q)),   p = old probability, q = current
        L = -rho A if mean_t d <= max_kl, else 0

    d is the KL divergence between the events "this token" and "another token"; the mean is over the
    row's tokens in the loss. p is to be the probability with which the engine sampled: set
    `loss.importance_sampling: token` where the engine's differs from the policy's. The denominators
    count dropped responses. max_kl must be above 0, in nats.
    """
    assert max_kl > 0, f"max_kl must be above 0 (got {max_kl})"
    with torch.no_grad():
        old, new = inputs.old_logprobs.double(), inputs.logprobs.double()
        others = (_one_minus_exp(old), _one_minus_exp(new))
        divergence = old.exp() * (old - new) + others[0] * (others[0] / others[1]).log()
        kept = row_means(divergence, inputs) <= max_kl
    return torch.where(kept, -probability_ratio(inputs) * inputs.advantages, 0.0)


def policy_loss(
    inputs: LossInputs,
    *,
    token_loss: TokenLoss,
    entropy_bonus: float = 0.0,
    kl_coef: float = 0.0,
    kl_estimator: KLEstimator = "k3",
) -> LossOutputs:
    """A micro-batch's share of the loss at the top of this module, and its metrics.

    H, in nats, and KL (`kl_to_reference`) are aggregated like the token loss. At a coefficient of 0
    their gradient is not computed.

    Metrics are detached (sum, count) pairs over tokens with loss_mask > 0:
    loss/clip_fraction_low (A < 0) and loss/clip_fraction_high (A > 0) count the tokens whose
    gradient the token loss removes, in `ppo_clip` those with rho < 1 - clip_low and those with
    rho > 1 + clip_high; loss/kl is the KL estimate, only with kl_coef. Maxima: loss/ratio_max. By
    accuracy bin: pressure, the sum of |d loss / d logprob| of the token loss; in `ppo_clip`, on a
    token that is not clipped, this is |A| rho / denominator. For a micro-batch without tokens, the
    loss is 0 but still has an autograd graph, and the counts and the maximum are 0.
    """
    weights = inputs.loss_mask / inputs.loss_denominators
    token_losses = token_loss(inputs)
    loss = (weights * token_losses).sum()
    slope = torch.zeros_like(token_losses)
    if loss.requires_grad and inputs.logprobs.requires_grad:
        (slope,) = torch.autograd.grad(
            loss, inputs.logprobs, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    with torch.no_grad():
        in_loss, advantages = inputs.loss_mask > 0, inputs.advantages
        removed = in_loss & (slope == 0)
        ratio = torch.where(in_loss, probability_ratio(inputs), 0.0)
        pressure = slope.new_zeros(NUM_ACCURACY_BINS).index_add(
            0, inputs.accuracy_bin[inputs.row], slope.abs()
        )
        metrics = {
            "loss/clip_fraction_low": (removed & (advantages < 0)).to(slope.dtype).sum(),
            "loss/clip_fraction_high": (removed & (advantages > 0)).to(slope.dtype).sum(),
        }
    if entropy_bonus:
        loss = loss - entropy_bonus * (weights * inputs.entropy).sum()
    if kl_coef:
        kl = kl_to_reference(inputs, estimator=kl_estimator)
        loss = loss + kl_coef * (weights * kl).sum()
        metrics["loss/kl"] = torch.where(in_loss, kl.detach(), 0.0).sum()
    return LossOutputs(
        loss=loss,
        metrics={name: (total, in_loss.sum()) for name, total in metrics.items()},
        maxima={"loss/ratio_max": F.pad(ratio, (0, 1)).max()},
        by_accuracy_bin={"pressure": pressure},
    )


def kl_to_reference(inputs: LossInputs, *, estimator: KLEstimator) -> Float[Tensor, "M"]:
    """Estimates of KL(policy || reference) at each sampled token (Schulman 2020, "Approximating KL
    divergence"), with d = log reference - log policy:

        k1  -d                  unbiased; its gradient is 0 on average, so it penalises nothing
        k2  d^2 / 2             biased; its gradient is that of the KL divergence on average
        k3  exp(d) - d - 1      unbiased, never negative; its gradient is that of the KL in the
                                other direction, KL(reference || policy), on average

    Averages are over tokens that the policy itself samples, as at the first update of a batch. d is
    clamped to +-20.
    """
    assert inputs.reference_logprobs is not None, "a KL penalty needs the reference's log-probs"
    difference = inputs.reference_logprobs - inputs.logprobs
    difference = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    match estimator:
        case "k1":
            return -difference
        case "k2":
            return 0.5 * difference.square()
        case _:
            return difference.exp() - difference - 1


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


def probability_ratio(inputs: LossInputs) -> Float[Tensor, "M"]:
    """rho, with the log ratio clamped to +-20."""
    log_ratio = inputs.logprobs - inputs.old_logprobs
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def row_means(values: Float[Tensor, "M"], inputs: LossInputs) -> Float[Tensor, "M"]:
    """For each token, the mean over its row's tokens in the loss; 0 in a row without any."""
    in_loss = (inputs.loss_mask > 0).to(values.dtype)
    zeros = values.new_zeros(len(inputs.accuracy_bin))
    sums = zeros.index_add(0, inputs.row, values * in_loss)
    counts = zeros.index_add(0, inputs.row, in_loss)
    return (sums / counts.clamp(min=1))[inputs.row]


def covariance(minibatch: Batch) -> Float[Tensor, "M"]:
    """(A - mean A) (log pi - mean log pi) of each token, in fp64; means over tokens in the loss."""
    in_loss = minibatch.loss_mask > 0
    advantages, logprobs = minibatch.advantages.double(), minibatch.old_logprobs.double()
    return (advantages - advantages[in_loss].mean()) * (logprobs - logprobs[in_loss].mean())


def _largest(values: Float[Tensor, "M"], share: float, minibatch: Batch) -> Bool[Tensor, "M"]:
    """The n = max(1, floor(share * tokens)) largest values of the tokens in the loss, and ties."""
    in_loss = minibatch.loss_mask > 0
    count = int(in_loss.sum())
    if not count:
        return in_loss
    n = max(1, int(share * count + 1e-9))
    return in_loss & (values >= values[in_loss].topk(n).values[-1])


def _here(of_minibatch: Tensor, inputs: LossInputs) -> Tensor:
    """The values of this micro-batch's tokens, on its device."""
    return of_minibatch[inputs.tokens].to(inputs.logprobs.device, non_blocking=True)


def _one_minus_exp(logprobs: Float[Tensor, "M"]) -> Float[Tensor, "M"]:
    """1 - exp(logprobs), at least 1e-12, without cancellation near 0."""
    return (-torch.expm1(logprobs)).clamp(min=1e-12)


def _check_clip(clip_low: float, clip_high: float) -> None:
    assert 0 < clip_low <= 1, f"clip_low must be above 0 and at most 1 (got {clip_low:g})"
    assert clip_high > 0, f"clip_high must be above 0 (got {clip_high:g})"


def _check_share(share: float) -> None:
    assert 0 < share <= 1, f"share must be above 0 and at most 1 (got {share:g})"


LOSSES: dict[str, Callable[..., Tensor]] = {
    "ppo_clip": ppo_clip,
    "gspo": gspo,
    "cispo": cispo,
    "up": up,
    "clip_cov": clip_cov,
    "kl_cov": kl_cov,
    "flash_reinforce": flash_reinforce,
}
