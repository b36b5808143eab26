"""What a run will hold in memory, and the arithmetic of its batches: what --dry-run prints.

Estimates from the config's `shape:` alone; no model, no network.
"""

from __future__ import annotations

from asymrl.config import Config, Shape
from asymrl.types import UserError, value

GIB = 2**30
FP32, BF16 = 4, 2


@value
class Estimate:
    """Bytes of one process. The KV cache and the activations are upper bounds."""

    parameters: int
    policy: int
    engine: int
    kv_cache: int
    activations: int

    @property
    def total(self) -> int:
        return self.policy + self.engine + self.kv_cache + self.activations


def count_parameters(shape: Shape) -> int:
    """Weights of a Qwen-like decoder: embeddings, attention, gated MLP, norms (not their extras,
    such as biases and the q and k norms: under 0.1% of the backbones here).
    """
    s = shape
    attention = s.hidden * s.head_dim * (2 * s.heads + 2 * s.kv_heads)
    layer = attention + 3 * s.hidden * s.intermediate + 2 * s.hidden
    embeddings = s.vocab * s.hidden * (1 if s.tied else 2)
    return embeddings + s.layers * layer + s.hidden


def estimate(config: Config) -> Estimate:
    """hf rollouts and a local policy on one device.

    Policy: fp32 weights, gradients and two AdamW moments. Activations: one micro-batch of
    token_budget tokens; with gradient checkpointing a layer's input each and one layer in full.
    """
    shape = config.model.shape
    if shape is None:
        raise UserError("model.shape is missing: a dry run reckons with it")
    parameters = count_parameters(shape)
    width = BF16 if config.policy.dtype == "bfloat16" else FP32
    tokens_a_row = config.data.max_prompt_tokens + config.rollout.max_tokens
    rows = min(config.rollout.max_rows, config.rollout.prompts * config.rollout.group_size)
    kv_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * width
    layer_token = width * (8 * shape.hidden + 3 * shape.intermediate)
    if config.policy.gradient_checkpointing:
        activation_token = width * shape.hidden * shape.layers + layer_token
    else:
        activation_token = layer_token * shape.layers
    return Estimate(
        parameters=parameters,
        policy=4 * FP32 * parameters,
        engine=width * parameters,
        kv_cache=rows * tokens_a_row * kv_token,
        activations=config.policy.token_budget * activation_token,
    )


def describe(config: Config) -> str:
    """Batch arithmetic and memory estimate, for people."""
    rollout, optim, found = config.rollout, config.optim, estimate(config)
    rollouts = rollout.prompts * rollout.group_size
    updates = rollout.prompts // optim.minibatch_prompts * optim.epochs
    return "\n".join(
        [
            f"a step: {rollout.prompts} prompts x {rollout.group_size} rollouts = {rollouts:,} "
            f"rollouts, at most {rollouts * rollout.max_tokens:,} response tokens",
            f"  in mini-batches of {optim.minibatch_prompts} prompts = "
            f"{optim.minibatch_prompts * rollout.group_size:,} rollouts: {updates} optimizer steps",
            f"the run: {config.steps} steps = {config.steps * rollout.prompts:,} prompt draws, "
            f"{config.steps * rollouts:,} rollouts, {config.steps * updates:,} optimizer steps",
            f"memory (hf rollouts, local policy, one device, {found.parameters:,} parameters):",
            f"  policy, fp32 weights, gradients, AdamW moments  {gib(found.policy)}",
            f"  engine, its own {config.policy.dtype} weights       {gib(found.engine)}",
            f"  KV cache, at most                               {gib(found.kv_cache)}",
            f"  activations of a micro-batch, about             {gib(found.activations)}",
            f"  together                                        {gib(found.total)}",
        ]
    )


def gib(size: int) -> str:
    return f"{size / GIB:9.3f} GiB"
