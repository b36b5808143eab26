"""The soft penalty on long responses. Pure function of their lengths."""

from jaxtyping import Float, Int
from torch import Tensor


def overlong_penalty(
    lengths: Int[Tensor, "N G"], *, max_tokens: int, buffer: int, penalty: float
) -> Float[Tensor, "N G"]:
    """What is subtracted from the advantage of a rollout of so many tokens; fp64.

        0                                                     length <= max_tokens - buffer
        penalty (length - (max_tokens - buffer)) / buffer     above, so `penalty` at max_tokens

    The size is that of DAPO's soft overlong punishment at penalty 1 (arXiv 2503.14476, Eq. 13, with
    L_max = max_tokens and L_cache = buffer). DAPO adds it, negative, to rewards of +1 and -1 before
    the group's mean and std are taken. Here rewards stay 0 and 1, because every estimator is a
    function of the group's accuracy p, and the penalty is subtracted after the estimator. So

    - it is in units of the advantage: DAPO's is divided by the group's std, which without penalties
      is 2 sqrt(p (1 - p)), so the two are the same size at p = 1/2 and DAPO's is larger elsewhere;
    - it changes no other rollout's advantage: DAPO's lowers the mean, which raises the others;
    - reweightings that read the sign of A, such as `quadrant`, see the advantage after the penalty,
      so a correct response with a penalty above its advantage counts as wrong there;
    - it also reaches groups with p = 0 and p = 1, and advantages of a group no longer sum to 0.
    """
    assert 1 <= buffer <= max_tokens, (
        f"buffer must be from 1 to max_tokens = {max_tokens} (got {buffer})"
    )
    excess = (lengths - (max_tokens - buffer)).double() / buffer
    return penalty * excess.clamp(0, 1)
