"""What to do about an engine whose log-probs are not the policy's.

An engine with its own kernels samples from mu, close to but not the same as the policy pi that is
trained: the gradient is then biased. Truncated importance sampling weighs each token's policy
gradient by a capped pi / mu. This module does not know what sampled.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
