"""Policies with a tiny model, a mini-batch, and reference gradients, for tests of policies."""

import copy
import math
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from asymrl.algo.batch import make_groups, minibatches, tokenise
from asymrl.algo.loss import LOSSES, loss_denominators, policy_loss, ppo_clip
from asymrl.config.schema import ALL_LINEAR, LoRAConfig, OptimConfig, PolicyConfig
from asymrl.engines import lora
from asymrl.engines.distributed import from_environment, join
from asymrl.engines.local import LocalPolicy
from asymrl.engines.policy import SECTIONS, read_slice
from asymrl.types import Batch, Problem, Request, Rollout, TrainerState
from tests.helpers.models import tiny_model

VOCABULARY, STOP = 20, 7
LOSS = partial(policy_loss, token_loss=ppo_clip)
BONUS = partial(policy_loss, token_loss=ppo_clip, entropy_bonus=0.1)


# Parameters with which each token loss selects, clips or drops some tokens of `rollout_batch`.
EVERY_LOSS = {
    "ppo_clip": {"dual_clip": 1.1},
    "gspo": {"clip_low": 0.1, "clip_high": 0.1},
    "cispo": {"clip_low": 0.2, "clip_high": 0.2},
    "up": {},
    "clip_cov": {"share": 0.3, "cov_low": 0.05},
    "kl_cov": {"share": 0.3},
    "flash_reinforce": {"max_kl": 0.01},
}


def loss_named(name: str) -> Any:
    """A token loss with a bonus and a KL penalty; the batch has reference log-probs."""
    token_loss = partial(LOSSES[name], **EVERY_LOSS[name])
    return partial(policy_loss, token_loss=token_loss, entropy_bonus=0.05, kl_coef=0.1)


OPTIM = OptimConfig(lr=1e-3, betas=[0.9, 0.95], max_grad_norm=1e9, minibatch_prompts=3)


def arguments(temperature: float = 0.8, bf16: bool = False, **changed: Any) -> dict[str, Any]:
    """Arguments of every policy. changed: keys of the config's `optim` and `policy` sections."""
    optim = {key: changed.pop(key) for key in list(changed) if key in OptimConfig.model_fields}
    settings = {"token_budget": 64, "dtype": "bfloat16" if bf16 else "float32"} | changed
    return {
        "temperature": temperature,
        "optim": OPTIM.model_copy(update=optim),
        "settings": PolicyConfig(**settings),
    }


def policy(model: Any = None, reference: Any = None, **changed) -> LocalPolicy:
    model = model or tiny_model(VOCABULARY, STOP)
    return LocalPolicy(model, reference=reference, **arguments(**changed))


def zero3_policy(model: Any, reference: Any = None, **changed):
    from asymrl.engines.deepspeed import DeepSpeedPolicy

    world = from_environment()
    join(world)
    return DeepSpeedPolicy(
        lambda dtype: model.to(dtype),
        world=world,
        load_reference=(lambda dtype: reference.to(dtype)) if reference else None,
        **arguments(**changed),
    )


def sharded(model: Any = None, zero: Mapping[str, Any] | None = None, **settings):
    """A ZeRO-3 policy with fresh weights, equal on every rank. DeepSpeed would keep parameters as
    small as these gathered; here they are freed after use, like those of a large model. While it
    sleeps, the optimizer waits in other memory. zero: more keys of DeepSpeed's zero_optimization.
    """
    from asymrl.engines import deepspeed

    config = deepspeed.zero3_config

    def without_persistence(*sections: Any) -> dict[str, Any]:
        changed = config(*sections)
        changed["zero_optimization"] |= {"stage3_param_persistence_threshold": 0, **(zero or {})}
        return changed

    settings = {"offload_during_rollouts": True} | settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deepspeed, "zero3_config", without_persistence)
        return zero3_policy(model or tiny_model(VOCABULARY, STOP), **settings)


def offloaded(model: Any = None, **settings):
    """A ZeRO-3 policy with its optimizer on the CPU; DeepSpeed keeps small parameters gathered."""
    return zero3_policy(model or tiny_model(VOCABULARY, STOP), offload_optimizer=True, **settings)


needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None,
    reason="DeepSpeed is not installed: `make stack` installs it where there is no GPU",
)
SHARDED = [pytest.param(f, marks=needs_deepspeed, id=f.__name__) for f in (sharded, offloaded)]


def rollout_batch(advantages: list[float], bonus: float = 0.0) -> Batch:
    """3 prompts x 4 responses of different lengths; random old log-probs, so the ratio is not 1.

    advantages: 12, one a response.
    """
    generator = torch.Generator().manual_seed(0)
    requests, rollouts = [], []
    for n in range(3):
        prompt = tuple(torch.randint(VOCABULARY, (2 + 3 * n,), generator=generator).tolist())
        problem = Problem(id=str(n), prompt_ids=prompt, prompt_text="", gold="", source="")
        requests.append(Request(problem=problem, draw=n, samples=4, seed=0))
        for i in range(4):
            length = 1 + (5 * n + 3 * i) % 9
            ids = tuple(torch.randint(VOCABULARY, (length,), generator=generator).tolist())
            rollouts.append(
                Rollout(
                    draw=n,
                    sample=i,
                    token_ids=ids,
                    text="",
                    truncated=False,
                    engine_logprobs=(),
                    engine_entropy=None,
                )
            )
    tokens = tokenise(requests, rollouts)
    old = -3 + 0.3 * torch.randn(len(tokens.targets), generator=generator)
    scored, valid = (old, torch.ones_like(old)), torch.ones(12, dtype=torch.bool)
    (batch,) = minibatches(
        tokens,
        scored,
        torch.tensor(advantages, dtype=torch.float64)[tokens.row],
        make_groups(tokens, scored, torch.tensor([1.0, 0, 0, 1] * 3), valid),
        prompts=3,
        every_row=bonus > 0,
        loss_denominators=partial(loss_denominators, aggregation="token_mean", constant_length=9),
        reference_logprobs=old.flip(0),
    )
    return batch


MIXED = [0.5, -1.0, 0, 2.0, 0, 0, 0, 0, 1.0, -0.3, -0.3, -0.3]


def gradients(trained: Any) -> torch.Tensor:
    """The flat gradient of the last update, of what is trained; of a ZeRO-3 policy, before
    clipping."""
    parameters = [p for p in trained.module.parameters() if p.requires_grad]
    if isinstance(trained, LocalPolicy):
        return torch.cat([p.grad.flatten() for p in parameters])
    import deepspeed.utils  # pyright: ignore

    full: Any = deepspeed.utils.safe_get_full_grad
    return torch.cat([full(p).flatten() for p in parameters])


def parts_of(trained: Any) -> list[TrainerState]:
    """Copies of the parts of the state of all ranks, on every rank."""
    return from_environment().gather(copy.deepcopy(trained.state()))


def state_of(trained: Any) -> TrainerState:
    """A copy of the whole state, its tensors in the shapes of their parameters."""
    parts = parts_of(trained)
    shapes = parts[0].shapes
    whole = {
        section: {
            name: read_slice(parts, section, name, 0, math.prod(shape)).view(shape)
            for name, shape in shapes.items()
        }
        for section in SECTIONS
    }
    return TrainerState(shapes=shapes, **whole, updates=parts[0].updates)


def dense_gradients(batch: Batch, bonus: float, model: Any = None) -> torch.Tensor:
    """The gradient of LOSS or BONUS, a row at a time, from full logits, without skipping rows.

    model: by default the tiny model, with the weights of a fresh policy."""
    model = model or tiny_model(VOCABULARY, STOP)
    for r, sequence in enumerate(batch.sequences):
        of_row = batch.row == r
        ids, start = torch.tensor([list(sequence)]), int(batch.prompt_lengths[r])
        logprobs = (model(input_ids=ids).logits[0, start - 1 : -1] / 0.8).log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        chosen = logprobs.gather(1, ids[0, start:, None])[:, 0]
        ratio = (chosen - batch.old_logprobs[of_row]).exp()
        a = batch.advantages[of_row]
        surrogate = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
        ((-surrogate - bonus * entropy).sum() / len(batch.targets)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def adapted_model(
    targets: Any = ALL_LINEAR, *, start: bool = False, dtype: Any = torch.float32
) -> Any:
    """The tiny model with LoRA adapters. start: B = 0, as at the start of a run; otherwise B is
    random, so that the adapters change every log-prob."""
    settings = LoRAConfig(rank=4, alpha=6.0, targets=targets)
    model = lora.add_adapters(tiny_model(VOCABULARY, STOP).to(dtype), settings, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in lora.named_trained(model).items():
        if name.endswith("lora_B.weight") and not start:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Whether the relative norm of the difference is within the tolerance."""
    return bool((actual - expected).norm() <= tolerance * expected.norm())
