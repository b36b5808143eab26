"""What a run will hold in memory, and the arithmetic of its batches: what --dry-run prints.

Reckons from the config and its `model.shape` alone: no model, no network, no GPU, no framework.
Two estimates: one process (hf rollouts, local policy), and one GPU of several (vLLM beside a
ZeRO-3 policy). docs/memory.md goes through the arithmetic; nothing in it was measured on a GPU.
"""

from __future__ import annotations

from math import ceil

import torch

from asymrl.algo.logprobs import LARGEST_TILE
from asymrl.config.schema import Config, ShapeConfig
from asymrl.errors import UserError
from asymrl.types import frozen

GIB = 2**30
FP32, BF16 = 4, 2
SMALL = 100_000_000  # parameters; below that and without GPUs here, a run is one process

# DeepSpeed's own defaults, in elements: engines/deepspeed.py leaves them
REDUCE_BUCKET = 500_000_000
REUSE_DISTANCE = 1_000_000_000  # parameters used again within as many stay gathered
SUB_GROUP = 1_000_000_000  # of a rank's slices, stepped at a time
SYNC_BUCKET = 2**28  # engines/deepspeed.py: gathered at a time for the engine

# Assumptions, none measured
CARD_80GB = 79.2  # GiB that CUDA reports on an 80 GB card
CONTEXT = 1.5  # GiB: CUDA context, libraries, NCCL's buffers, once a process
WORKSPACE = 4.0  # GiB of vLLM's share that is neither weights nor KV cache: activations, graphs
ASLEEP = 2.0  # GiB that vLLM keeps at sleep level 2: CUDA graphs, buffers outside its pool
SLACK = 0.1  # of what comes and goes in an update: fragments in torch's caching allocator


@frozen
class Estimate:
    """Bytes of one process. The KV cache and the activations are upper bounds."""

    parameters: int
    policy: int
    engine: int
    kv_cache: int
    activations: int
    head: int

    @property
    def total(self) -> int:
        return self.policy + self.engine + self.kv_cache + self.activations + self.head


@frozen
class PerGPU:
    """Bytes on each GPU, phase by phase and item by item, and on the whole node's host.

    kv_cache: on each GPU of an engine; sequence: what one of full length takes of it.
    """

    phases: dict[str, dict[str, int]]
    host: dict[str, int]
    kv_cache: int
    sequence: int

    @property
    def peak(self) -> int:
        return max(sum(items.values()) for items in self.phases.values())

    @property
    def sequences(self) -> int:
        """Of full length, that the KV cache of one engine holds at once."""
        return max(0, self.kv_cache // self.sequence)

    def spare(self, gib: float) -> float:
        """GiB left on a card at the peak; below 0, missing. vLLM needs room for one sequence."""
        spare = gib - self.peak / GIB
        return spare if self.sequences else min(spare, (self.kv_cache - self.sequence) / GIB)


def count_parameters(shape: ShapeConfig) -> int:
    """Weights of a Qwen-like decoder: embeddings, attention, gated MLP, norms (not their extras,
    such as biases and the q and k norms: under 0.1% of the backbones here).
    """
    s = shape
    return s.vocab * s.hidden * (1 if s.tied else 2) + s.layers * count_layer(s) + s.hidden


def count_layer(shape: ShapeConfig) -> int:
    s = shape
    attention = s.hidden * s.head_dim * (2 * s.heads + 2 * s.kv_heads)
    return attention + 3 * s.hidden * s.intermediate + 2 * s.hidden


def saved_by_layer(shape: ShapeConfig, width: int) -> int:
    """Bytes a token that a Qwen3 layer keeps for its backward; Qwen2, without q and k norms, less.

    With w the width of activations, D hidden, I intermediate, Q = heads x head_dim, K likewise:
        two norms         2 D (4 + 2w)     an fp32 copy, the normalised, the result
        queries           Q (4 + 2w)       an fp32 copy for their norm, the normalised, the rotated
        keys, values      K (4 + 2w) + K w
        attention result  Q w              input of the output projection
        MLP               4 I w            gate, silu(gate), up, their product
        statistics        4 (2 + 2 heads + kv_heads), fp32
    A test holds it against the tensors that transformers' layer saves.
    """
    s, w = shape, width
    queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
    norms = 2 * s.hidden * (FP32 + 2 * w)
    attention = (queries + keys) * (FP32 + 3 * w)
    return norms + attention + 4 * s.intermediate * w + FP32 * (2 + 2 * s.heads + s.kv_heads)


def activation_bytes(shape: ShapeConfig, width: int, tokens: int, checkpointing: bool) -> int:
    """Of one micro-batch: what the layers keep, gradients in flight, and the last norm.

    With checkpointing every layer keeps its input, and one layer at a time all of the above. In
    flight: gradients of three MLP tensors and two hidden states. Last: the norm before the head,
    the hidden states that go into it and their gradient.
    """
    s, layer = shape, saved_by_layer(shape, width)
    kept = s.layers * width * s.hidden + layer if checkpointing else s.layers * layer
    in_flight = width * (3 * s.intermediate + 2 * s.hidden)
    last = s.hidden * (FP32 + 4 * width)
    return tokens * (kept + in_flight + last)


def logits_bytes(shape: ShapeConfig, width: int, tokens: int) -> int:
    """Two fp32 tiles, and one of halves where the head is of halves (algo/logprobs.py)."""
    held = 2 * FP32 + (width if width < FP32 else 0)
    return held * min(LARGEST_TILE, tokens * shape.vocab)


def head_gradient_bytes(shape: ShapeConfig) -> int:
    """fp32, added up over the tiles."""
    return FP32 * shape.vocab * shape.hidden


def shape_of(config: Config) -> ShapeConfig:
    if config.model.shape is None:
        raise UserError("model.shape is missing: a dry run reckons with it")
    return config.model.shape


def width_of(config: Config) -> int:
    return BF16 if config.policy.dtype == "bfloat16" else FP32


def tokens_a_row(config: Config) -> int:
    return config.data.max_prompt_tokens + config.rollout.max_tokens


def tokens_a_micro_batch(config: Config) -> int:
    """A row that is longer than the budget is a micro-batch by itself."""
    return max(config.policy.token_budget, tokens_a_row(config))


def estimate(config: Config) -> Estimate:
    """hf rollouts and a local policy on one device.

    Policy: fp32 weights, gradients and two AdamW moments. Activations: one micro-batch.
    """
    shape, width, tokens = shape_of(config), width_of(config), tokens_a_micro_batch(config)
    parameters = count_parameters(shape)
    rows = min(config.rollout.max_rows, config.rollout.prompts * config.rollout.group_size)
    kv_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * width
    checkpointing = config.policy.gradient_checkpointing
    return Estimate(
        parameters=parameters,
        policy=4 * FP32 * parameters,
        engine=width * parameters,
        kv_cache=rows * tokens_a_row(config) * kv_token,
        activations=activation_bytes(shape, width, tokens, checkpointing),
        head=logits_bytes(shape, width, tokens) + head_gradient_bytes(shape),
    )


def per_gpu(config: Config, gpus: int, gib: float) -> PerGPU:
    """vLLM and ZeRO-3 on `gpus` cards of `gib` GiB. Each phase has what all of it can hold at
    once, at most: the items of a phase need not peak at the same moment.
    """
    room, sequence = kv_cache(config, gib)
    parameters = count_parameters(shape_of(config))
    width, offloaded = width_of(config), config.policy.offload_optimizer
    # master weights, two moments, gradients; offloaded, DeepSpeed has the gradients twice
    copies = 5 if offloaded else 4
    return PerGPU(
        phases={
            "generating": generating(config, gpus, room),
            "updating: forward and backward": backward(config, gpus),
            "updating: optimizer step": stepping(config, gpus),
        },
        host={
            "optimizer and gradients of all ranks": copies * FP32 * parameters,
            "trainer state, gathered by rank 0 to save": 3 * FP32 * parameters,
            f"its weights in {config.policy.dtype}": width * parameters,
        },
        kv_cache=room,
        sequence=sequence,
    )


def kv_cache(config: Config, gib: float) -> tuple[int, int]:
    """Bytes a GPU, of all of it and of one sequence of full length.

    vLLM gives it what its share of the card leaves beside weights and workspace; below 0, missing.
    Tensor parallelism splits the weights and the KV heads, which are at least one a GPU.
    """
    shape, split = shape_of(config), config.rollout.tensor_parallel
    width = width_of(config)
    share = int(config.rollout.gpu_memory_utilization * gib * GIB)
    room = share - width * ceil(count_parameters(shape) / split) - int(WORKSPACE * GIB)
    heads = ceil(shape.kv_heads / split)
    kv_token = 2 * shape.layers * heads * shape.head_dim * width
    return room, tokens_a_row(config) * kv_token


def generating(config: Config, gpus: int, room: int) -> dict[str, int]:
    shape, width = shape_of(config), width_of(config)
    parameters = count_parameters(shape)
    gathered = min(parameters, max(SYNC_BUCKET, shape.vocab * shape.hidden))
    return {
        "vLLM: weights": width * ceil(parameters / config.rollout.tensor_parallel),
        "vLLM: KV cache": room,
        "vLLM: activations, graphs (assumed)": int(WORKSPACE * GIB),
        "policy: weights, 1/N": width * ceil(parameters / gpus),
        "policy: gathered for the engine": width * gathered,
        "CUDA and NCCL (assumed)": int(CONTEXT * GIB),
    }


def throughout(config: Config, gpus: int) -> dict[str, int]:
    """What is there throughout an update. fp32 parameters have fp32 master weights beside them."""
    mine, width = ceil(count_parameters(shape_of(config)) / gpus), width_of(config)
    on_gpu = 0 if config.policy.offload_optimizer else FP32 * mine
    return {
        "weights, 1/N": width * mine,
        "master weights, fp32, 1/N": on_gpu,
        "AdamW's moments, fp32, 1/N": 2 * on_gpu,
        "gradients, fp32, 1/N": on_gpu,
        "reduce bucket, fp32": FP32 * REDUCE_BUCKET,
        "vLLM asleep (assumed)": int(ASLEEP * GIB),
        "CUDA and NCCL (assumed)": int(CONTEXT * GIB),
    }


def backward(config: Config, gpus: int) -> dict[str, int]:
    """Gathered: what will be used again within REUSE_DISTANCE, and one more, at most the embedding.
    Unreduced: gradients of embedding and head (one tensor if tied, made twice) and of a layer. A
    reduce-scatter copies its bucket; a gradient larger than that goes alone, cast to fp32.
    """
    shape, width, tokens = shape_of(config), width_of(config), tokens_a_micro_batch(config)
    parameters, embedding = count_parameters(shape), shape.vocab * shape.hidden
    transient = {
        "gathered parameters": width * min(parameters, REUSE_DISTANCE + embedding),
        "gradients before they are reduced": width * (2 * embedding + count_layer(shape)),
        "copy of the reduce bucket, fp32": FP32 * max(embedding, min(REDUCE_BUCKET, parameters)),
        "activations": activation_bytes(shape, width, tokens, config.policy.gradient_checkpointing),
        "tiles of logits": logits_bytes(shape, width, tokens),
        "gradient of the head, fp32": head_gradient_bytes(shape),
    }
    slack = {"allocator slack (assumed)": int(SLACK * sum(transient.values()))}
    return throughout(config, gpus) | transient | slack


def stepping(config: Config, gpus: int) -> dict[str, int]:
    """DeepSpeed flattens a sub-group's gradients into a copy, and AdamW needs a square root of
    the second moment: two fp32 arrays of the sub-group. Offloaded, both are on the host.
    """
    shape = shape_of(config)
    mine = ceil(count_parameters(shape) / gpus)
    sub_group = min(mine, SUB_GROUP + ceil(shape.vocab * shape.hidden / gpus))
    return throughout(config, gpus) | {
        "AdamW's temporaries, fp32": 0 if config.policy.offload_optimizer else 2 * FP32 * sub_group
    }


def cards() -> tuple[int, float]:
    """The GPUs that are here, and the GiB of the first."""
    gpus = torch.cuda.device_count()
    return gpus, torch.cuda.get_device_properties(0).total_memory / GIB if gpus else 0.0


def describe(config: Config, gpus: int, gib: float) -> str:
    """Batch arithmetic and memory estimate, for people. gpus: how many are here, each with gib
    GiB; where none are, cards of 80 GB are assumed.
    """
    memory = one_process(config) if is_one_process(config, gpus) else table(config, gpus, gib)
    return "\n".join([*batches(config), *memory])


def is_one_process(config: Config, gpus: int) -> bool:
    """hf or local is asked for; or no GPU is here and the model is the pocket one, or small."""
    if config.rollout.engine == "hf" or config.policy.backend == "local":
        return True
    small = config.model.path == "pocket" or count_parameters(shape_of(config)) < SMALL
    return gpus == 0 and small


def batches(config: Config) -> list[str]:
    rollout, optim = config.rollout, config.optim
    rollouts = rollout.prompts * rollout.group_size
    updates = rollout.prompts // optim.minibatch_prompts * optim.epochs
    return [
        f"a step: {rollout.prompts} prompts x {rollout.group_size} rollouts = {rollouts:,} "
        f"rollouts, at most {rollouts * rollout.max_tokens:,} response tokens",
        f"  in mini-batches of {optim.minibatch_prompts} prompts = "
        f"{optim.minibatch_prompts * rollout.group_size:,} rollouts: {updates} optimizer steps",
        f"the run: {config.steps} steps = {config.steps * rollout.prompts:,} prompt draws, "
        f"{config.steps * rollouts:,} rollouts, {config.steps * updates:,} optimizer steps",
    ]


def one_process(config: Config) -> list[str]:
    found = estimate(config)
    sizes = {
        "policy, fp32 weights, gradients, AdamW moments": found.policy,
        f"engine, its own {config.policy.dtype} weights": found.engine,
        "KV cache, at most": found.kv_cache,
        "activations of a micro-batch, about": found.activations,
        "head: a chunk's logits, gradient of its weight": found.head,
        "together": found.total,
    }
    return [
        f"memory (hf rollouts, local policy, one device, {found.parameters:,} parameters):",
        *(f"  {item:<47} {size / GIB:9.3f} GiB" for item, size in sizes.items()),
    ]


def table(config: Config, gpus: int, gib: float) -> list[str]:
    """A column for each number of GPUs that tensor_parallel divides, an item a line."""
    gib = gib if gpus else CARD_80GB
    split = config.rollout.tensor_parallel
    columns = sorted(n for n in {1, 2, 4, 8, split, gpus} if n and n % split == 0)
    found = {n: per_gpu(config, n, gib) for n in columns}
    first = found[columns[0]]
    here = f"{gpus} here" if gpus else "none here, so 80 GB cards are assumed"
    lines = [
        f"memory (vLLM and ZeRO-3, {count_parameters(shape_of(config)):,} parameters), GiB a GPU",
        f"GPUs: {here}, {gib:.1f} GiB each",
        row("N, the number of GPUs", columns, "d"),
    ]
    for phase, items in first.phases.items():
        of_phase = [found[n].phases[phase] for n in columns]
        lines.append(phase)
        lines += [row(f"  {item}", [part[item] / GIB for part in of_phase]) for item in items]
        lines.append(row("  together", [sum(part.values()) / GIB for part in of_phase]))
    lines.append(row("peak", [found[n].peak / GIB for n in columns]))
    lines += [verdict(config, n, gib) for n in columns]
    return [
        *lines,
        f"KV cache of an engine: {first.sequences:,} sequences of {tokens_a_row(config):,} tokens "
        f"at once; rollout.max_rows allows {config.rollout.max_rows}",
        "host memory of the node, GiB:",
        *(row(f"  {item}", [size / GIB]) for item, size in first.host.items()),
        row("  together", [sum(first.host.values()) / GIB]),
    ]


def row(label: str, numbers: list[float] | list[int], kind: str = ".2f") -> str:
    return f"{label:<44}" + "".join(f"{number:>9{kind}}" for number in numbers)


def verdict(config: Config, gpus: int, gib: float) -> str:
    name = f"{gpus} GPU{'s' if gpus > 1 else ''}"
    found = per_gpu(config, gpus, gib)
    spare = found.spare(gib)
    if spare >= 0:
        return f"{name}: fits with {spare:.1f} GiB to spare"
    return (
        f"{name}: does not fit, {-spare:.1f} GiB short; what helps: more GPUs, "
        "policy.offload_optimizer=true, a smaller policy.token_budget or "
        "rollout.gpu_memory_utilization"
    )
