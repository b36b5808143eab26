"""Estimates the memory of a run, and counts its batches: what --dry-run prints.

Calculates from the config and its `model.shape` alone: loads no model and needs no network, GPU or
framework. There are two estimates: one process (hf rollouts, local policy), and one of several GPUs
(vLLM beside a ZeRO-3 policy). docs/memory.md explains the formulas; none was checked on a GPU.
"""

from __future__ import annotations

import os
from math import ceil, log2

import torch

from asymrl.algo.logprobs import LARGEST_TILE
from asymrl.config.schema import ALL_LINEAR, Config, PolicyConfig, ShapeConfig
from asymrl.engines.gpu_memory import PHASES
from asymrl.engines.gpus import count_gpus
from asymrl.errors import UserError, counted
from asymrl.types import frozen

GIB = 2**30
FP32 = 4  # bytes
SMALL_MODEL = 200_000_000  # parameters; without a GPU, a run of a smaller model is one process

# DeepSpeed's defaults, in elements; engines/deepspeed.py does not change them
REDUCE_BUCKET = 500_000_000
REUSE_DISTANCE = 1_000_000_000  # parameters that are used again within this distance stay gathered
SUB_GROUP = 1_000_000_000  # parameters that the optimizer updates at a time
SYNC_BUCKET = 2**28  # parameters that engines/deepspeed.py gathers at a time for the engine

# Assumptions, none of them measured
CARDS = {24: 22.0, 48: 44.4, 80: 79.2}  # GB of a card -> the least GiB that CUDA reports for it
CARD_80GB = CARDS[80]
CONTEXT = 1.5  # GiB of CUDA context, libraries and NCCL buffers, once a process
WORKSPACE = 4.0  # GiB of activations and CUDA graphs in vLLM's share of the card
ASLEEP = 2.0  # GiB that vLLM keeps at sleep level 2: CUDA graphs, buffers outside its pool
MARGIN = 4.0  # GiB that must remain free if AdamW's state stays on the GPU during rollouts
SLACK = 0.1  # fragmentation of torch's caching allocator, as a share of an update's temporaries


@frozen
class GPUMemoryEstimate:
    """Bytes on each GPU, by phase and item, and in the memory of the whole node.

    kv_cache: on each GPU of an engine. sequence: the part of it that one sequence of full length
    takes.
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
        """How many sequences of full length fit into one engine's KV cache."""
        return max(0, self.kv_cache // self.sequence)

    def spare(self, gib: float) -> float:
        """GiB that remain free on a card of `gib` GiB at the peak; negative if it does not fit.

        vLLM needs room for one sequence; if that does not fit, the result is negative too.
        """
        spare = gib - self.peak / GIB
        return spare if self.sequences else min(spare, (self.kv_cache - self.sequence) / GIB)


def count_parameters(shape: ShapeConfig) -> int:
    """Parameters of a Qwen-like decoder: embeddings, attention, gated MLP and norms.

    Leaves out biases and the q and k norms: under 0.1% of the backbones used here.
    """
    s = shape
    return s.vocab * s.hidden * (1 if s.tied else 2) + s.layers * count_layer(s) + s.hidden


def count_layer(shape: ShapeConfig) -> int:
    s = shape
    attention = s.hidden * s.head_dim * (2 * s.heads + 2 * s.kv_heads)
    return attention + 3 * s.hidden * s.intermediate + 2 * s.hidden


def adapted_linears(config: Config) -> list[tuple[int, int]]:
    """(in, out) of the linear layers of a block that get adapters; [] without LoRA. A name that
    Qwen-like models do not have counts as the largest layer."""
    s, lora = require_shape(config), config.policy.lora
    queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
    sizes = {
        "q_proj": (s.hidden, queries),
        "k_proj": (s.hidden, keys),
        "v_proj": (s.hidden, keys),
        "o_proj": (queries, s.hidden),
        "gate_proj": (s.hidden, s.intermediate),
        "up_proj": (s.hidden, s.intermediate),
        "down_proj": (s.intermediate, s.hidden),
    }
    if lora is None:
        return []
    names = [*sizes] if lora.targets == ALL_LINEAR else sorted(set(lora.targets))
    return [sizes.get(name, (s.hidden, s.intermediate)) for name in names]


def count_adapters(config: Config) -> int:
    """Parameters of LoRA: rank x (in + out) for each adapted linear layer; 0 without LoRA."""
    shape, lora = require_shape(config), config.policy.lora
    width = sum(inputs + outputs for inputs, outputs in adapted_linears(config))
    return shape.layers * lora.rank * width if lora else 0


def count_trained(config: Config) -> int:
    """Parameters that have gradients and moments: the adapters with LoRA, otherwise all."""
    return count_adapters(config) or count_parameters(require_shape(config))


def has_reference(config: Config) -> bool:
    """Whether a KL penalty needs a copy of the model; with LoRA, the frozen weights are it."""
    return bool(config.loss.kl_coef) and config.policy.lora is None


def can_share_weights(policy: PolicyConfig) -> bool:
    """Whether an hf engine can generate with the tensors that a local policy trains: in fp32, and
    without LoRA, because the engine needs merged weights."""
    return policy.dtype == "float32" and policy.lora is None


def saved_by_layer(shape: ShapeConfig, width: int) -> int:
    """Bytes per token that a Qwen3 layer saves for its backward pass.

    w = width: bytes of an activation; D: hidden; I: intermediate; Q = heads x head_dim;
    K = kv_heads x head_dim:
        two norms          2 D (4 + 2w)  an fp32 copy, the normalised, the result
        queries            Q (4 + 2w)    an fp32 copy for the norm, the normalised, the rotated
        keys, values       K (4 + 2w) + K w
        attention result   Q w           the input of the output projection
        MLP                4 I w         gate, silu(gate), up, their product
        statistics         4 (2 + 2 heads + kv_heads), fp32
    A Qwen2 layer has no q and k norms and saves less. A test compares this with the tensors that
    transformers' layers save.
    """
    s, w = shape, width
    queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
    norms = 2 * s.hidden * (FP32 + 2 * w)
    attention = (queries + keys) * (FP32 + 3 * w)
    return norms + attention + 4 * s.intermediate * w + FP32 * (2 + 2 * s.heads + s.kv_heads)


def activation_bytes(
    shape: ShapeConfig, width: int, tokens: int, checkpointing: bool, ranks: int = 0
) -> int:
    """Activations of a micro-batch: what the layers save, gradients in flight, the last norm.

    ranks: of LoRA, summed over the adapted layers of a block. An adapter saves its A x; that
    frozen weights save less is not counted.

    With checkpointing every layer saves its input, and one layer at a time saves all its
    activations. In flight are gradients of three MLP tensors and two hidden states. At the end: the
    norm before the head, the hidden states that enter the head, and their gradient.
    """
    s, layer = shape, saved_by_layer(shape, width) + width * ranks
    saved = s.layers * width * s.hidden + layer if checkpointing else s.layers * layer
    in_flight = width * (3 * s.intermediate + 2 * s.hidden)
    last = s.hidden * (FP32 + 4 * width)
    return tokens * (saved + in_flight + last)


def logits_bytes(shape: ShapeConfig, width: int, tokens: int) -> int:
    """Two fp32 tiles, and a 16-bit one if the head is 16-bit (algo/logprobs.py)."""
    bytes_per_logit = 2 * FP32 + (width if width < FP32 else 0)
    return bytes_per_logit * min(LARGEST_TILE, tokens * shape.vocab)


def require_shape(config: Config) -> ShapeConfig:
    if config.model.shape is None:
        raise UserError("a dry run requires model.shape, which is missing in the config")
    return config.model.shape


def parameter_width(config: Config) -> int:
    """Bytes of a parameter or activation."""
    return getattr(torch, config.policy.dtype).itemsize


def tokens_per_row(config: Config) -> int:
    return config.data.max_prompt_tokens + config.rollout.max_tokens


def tokens_per_micro_batch(config: Config) -> int:
    """The token budget, or one row if that is longer: such a row is a micro-batch by itself."""
    return max(config.policy.token_budget, tokens_per_row(config))


def estimate_one_process(config: Config) -> dict[str, int]:
    """Bytes by item, for hf rollouts and a local policy on one device.

    Activations and head are those of one micro-batch; KV cache and activations are upper bounds. In
    bf16, the local policy casts its fp32 weights (autocast), and some activations stay fp32.
    """
    shape, width, policy = require_shape(config), parameter_width(config), config.policy
    tokens, parameters = tokens_per_micro_batch(config), count_parameters(shape)
    adapters = count_adapters(config)
    rows = min(config.rollout.max_rows, config.rollout.prompts * config.rollout.group_size)
    kv_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * width
    activations = activation_bytes(
        shape, FP32, tokens, policy.gradient_checkpointing, total_rank(config)
    )
    head = logits_bytes(shape, width, tokens)
    if adapters:
        weights = {
            f"policy: frozen weights, {policy.dtype}": width * parameters,
            "policy: adapters, fp32, gradients, AdamW's moments": 4 * FP32 * adapters,
        }
    else:
        weights = {"policy: fp32 weights, gradients, AdamW's moments": 4 * FP32 * parameters}
        head += FP32 * shape.vocab * shape.hidden
    if width < FP32:
        what = "adapters" if adapters else "weights"
        weights[f"policy: bf16 copies of its {what}"] = width * count_trained(config)
    if has_reference(config):
        weights["reference of the KL penalty: fp32 weights"] = FP32 * parameters
    if not can_share_weights(policy):
        weights[f"engine: its own {policy.dtype} weights"] = width * parameters
    return {
        **weights,
        "KV cache, at most": rows * tokens_per_row(config) * kv_token,
        "activations of a micro-batch, approximately": activations,
        "head: logits of a chunk" + ("" if adapters else ", gradient of its weight"): head,
    }


def total_rank(config: Config) -> int:
    """The ranks of the adapters of a block, summed."""
    return config.policy.lora.rank * len(adapted_linears(config)) if config.policy.lora else 0


def estimate_per_gpu(config: Config, gpus: int, gib: float, nodes: int = 1) -> GPUMemoryEstimate:
    """vLLM and ZeRO-3 on `gpus` cards of `gib` GiB each, on that many nodes together.

    The items of a phase need not peak at the same moment, so their sum is an upper bound.
    """
    shape, width, policy = require_shape(config), parameter_width(config), config.policy
    parameters, embedding = count_parameters(shape), shape.vocab * shape.hidden
    tokens, shard = tokens_per_micro_batch(config), ceil(parameters / gpus)
    adapters, trained = count_adapters(config), ceil(count_trained(config) / gpus)
    kv_cache, sequence = kv_cache_bytes(config, gib)
    context = {"CUDA and NCCL (assumed)": int(CONTEXT * GIB)}
    generating = {
        "vLLM: weights": width * ceil(parameters / config.rollout.tensor_parallel),
        "vLLM: KV cache": kv_cache,
        "vLLM: activations, graphs (assumed)": int(WORKSPACE * GIB),
        "policy: weights, 1/N": width * shard,
        "policy: gathered for the engine": width * min(parameters, max(SYNC_BUCKET, embedding)),
    }
    models = 2 if has_reference(config) else 1
    context |= node_copy(models * width * parameters, gpus, nodes)
    if has_reference(config):
        context["reference of the KL penalty, 1/N"] = width * shard
    if adapters:  # DeepSpeed keeps parameters this small gathered
        context["adapters"] = width * adapters
        largest = max(inputs * outputs for inputs, outputs in adapted_linears(config))
        generating["policy: merging a weight, fp32"] = 3 * FP32 * largest
    # what a GPU holds during a whole update; fp32 parameters have fp32 master weights too
    on_gpu = 0 if policy.offload_optimizer else FP32 * trained
    bucket = adapters or REDUCE_BUCKET  # LoRA's is set to what there is to reduce
    offloaded = offloads_during_rollouts(config, gpus, gib, nodes)
    generating["policy: optimizer, fp32, 1/N"] = 0 if offloaded else 3 * on_gpu
    updating = {
        "weights, 1/N": width * shard,
        "master weights, fp32, 1/N": on_gpu,
        "AdamW's moments, fp32, 1/N": 2 * on_gpu,
        "gradients, fp32, 1/N": on_gpu,
        "reduce bucket, fp32": FP32 * bucket,
        "vLLM asleep (assumed)": int(ASLEEP * GIB),
    }
    # Gathered: parameters that are used again within REUSE_DISTANCE, and one more module, at most
    # the embedding. Not yet reduced: the gradients of embedding and head (with tied embeddings, one
    # tensor that exists twice) and of a layer. A reduce-scatter copies its bucket; a gradient
    # larger than the bucket is reduced alone, cast to fp32.
    # With LoRA, only adapters have gradients.
    unreduced = ceil(adapters / shape.layers) or 2 * embedding + count_layer(shape)
    largest_reduced = adapters or max(embedding, min(REDUCE_BUCKET, parameters))
    checkpointing, ranks = policy.gradient_checkpointing, total_rank(config)
    backward = {
        "gathered parameters": width * min(parameters, REUSE_DISTANCE + embedding),
        "gradients before they are reduced": width * unreduced,
        "copy of the reduce bucket, fp32": FP32 * largest_reduced,
        "activations": activation_bytes(shape, width, tokens, checkpointing, ranks),
        "tiles of logits": logits_bytes(shape, width, tokens),
        "gradient of the head, fp32": 0 if adapters else FP32 * embedding,
    }
    slack = {"allocator slack (assumed)": int(SLACK * sum(backward.values()))}
    # DeepSpeed copies the gradients of a sub-group into one flat tensor, on the host if offloaded;
    # fused AdamW needs nothing beside its moments.
    sub_group = min(trained, SUB_GROUP + ceil(embedding / gpus))
    copied = 0 if policy.offload_optimizer else FP32 * sub_group
    stepping = {"copy of a sub-group's gradients, fp32": copied}
    # Master weights and two moments: during rollouts, or only while a checkpoint is saved. With
    # offload_optimizer, always, and DeepSpeed holds the gradients twice.
    optimizer = gpus * 3 * pinned_bytes(trained) if offloaded else 3 * FP32 * trained * gpus
    if policy.offload_optimizer:
        optimizer = 5 * FP32 * trained * gpus
    saved = parameters if config.checkpoint.merged else adapters
    return GPUMemoryEstimate(
        phases={
            "generating": generating | context,
            "updating: forward and backward": updating | context | backward | slack,
            "updating: optimizer step": updating | context | stepping,
        },
        host={
            "optimizer of all ranks": optimizer,
            f"weights in {policy.dtype}, gathered to save": width * saved,
        },
        kv_cache=kv_cache,
        sequence=sequence,
    )


def estimate_by_phase(config: Config, processes: int) -> dict[str, float]:
    """Upper bounds in GiB on each of this machine's GPUs in the phases of the loop. {} without a
    GPU or without model.shape.

    sync counts as generating, because vLLM wakes; score counts as an update. One process frees no
    memory between phases, so each phase has the whole estimate, plus CUDA's context.
    """
    gpus, gib = cards()
    if not gpus or config.model.shape is None:
        return {}
    if is_one_process(config, gpus):
        return dict.fromkeys(PHASES, sum(estimate_one_process(config).values()) / GIB + CONTEXT)
    estimate = estimate_per_gpu(config, processes, gib)
    generating, *updating = [sum(items.values()) / GIB for items in estimate.phases.values()]
    return dict(zip(PHASES, (generating, max(updating), max(updating), generating), strict=True))


def node_copy(size: int, gpus: int, nodes: int) -> dict[str, int]:
    """Of weights of `size` bytes, the share of a GPU in the copy that each of several nodes has."""
    return {"policy: the node's copy of the weights": size * nodes // gpus} if nodes > 1 else {}


def offloads_during_rollouts(config: Config, gpus: int, gib: float, nodes: int = 1) -> bool:
    """Whether AdamW's state leaves the GPU while vLLM is awake: policy.offload_during_rollouts, and
    for `auto`, unless the estimate leaves MARGIN free with the state on the GPU."""
    policy = config.policy
    if policy.offload_optimizer or policy.offload_during_rollouts != "auto":
        return policy.offload_during_rollouts is True and not policy.offload_optimizer
    stays = policy.model_copy(update={"offload_during_rollouts": False})
    estimate = estimate_per_gpu(config.model_copy(update={"policy": stays}), gpus, gib, nodes)
    return estimate.spare(gib) < MARGIN


def pinned_bytes(shard: int) -> int:
    """Bytes of pinned host memory for one fp32 state of a rank: torch rounds each buffer, one a
    sub-group, up to a power of two."""
    groups, rest = divmod(shard, SUB_GROUP)
    counts = ((SUB_GROUP, groups), (rest, 1))
    return sum(count * 2 ** ceil(log2(FP32 * size)) for size, count in counts if size)


def kv_cache_bytes(config: Config, gib: float) -> tuple[int, int]:
    """Bytes on a GPU of the whole KV cache, and of one sequence of full length.

    The cache gets what weights and workspace leave of vLLM's share of the card; negative if they
    take more. Tensor parallelism splits the weights, and the KV heads down to one a GPU.
    """
    shape, split = require_shape(config), config.rollout.tensor_parallel
    width = parameter_width(config)
    share = int(config.rollout.gpu_memory_utilization * gib * GIB)
    kv_cache = share - width * ceil(count_parameters(shape) / split) - int(WORKSPACE * GIB)
    kv_token = 2 * shape.layers * ceil(shape.kv_heads / split) * shape.head_dim * width
    return kv_cache, tokens_per_row(config) * kv_token


def cards() -> tuple[int, float]:
    """The number of GPUs on this machine, and the GiB of the first one (0.0 without a GPU)."""
    gpus = count_gpus()
    return gpus, torch.cuda.get_device_properties(0).total_memory / GIB if gpus else 0.0


def describe(config: Config, gpus: int, gib: float) -> str:
    """The batch arithmetic and the memory estimate as text. gpus: the number of GPUs on this
    machine, each with `gib` GiB; without any, the estimate assumes some (assumed_card)."""
    one_process = is_one_process(config, gpus)
    memory = describe_one_process(config) if one_process else describe_gpus(config, gpus, gib)
    return "\n".join([*describe_batches(config), *memory])


def host_memory() -> float:
    """GiB of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def verdict(config: Config, gpus: int, gib: float, host: float) -> str:
    """Whether the run fits, and on what, in one sentence. gpus: of this machine, each with `gib`
    GiB. host: GiB of this machine's own memory."""
    if is_one_process(config, gpus):
        return one_process_verdict(config, *(("GPU", gib) if gpus else ("CPU", host)))
    card = gib if gpus else CARDS[assumed_card(config)]
    estimates = {n: estimate_per_gpu(config, n, card) for n in gpu_counts(config, gpus)}
    spare = {n: estimate.spare(card) for n, estimate in estimates.items()}
    fitting = [n for n in spare if spare[n] >= 0]
    somewhere = f"fits on {one_of(fitting)} of {card:.0f} GiB" if fitting else ""
    if not gpus:
        nowhere = f"does not fit on {one_of([*spare])} of {card:.0f} GiB"
        needed = sum(estimate_one_process(config).values()) / GIB
        return (
            f"{somewhere or nowhere}; this machine has none, and on its CPU, as one process, the "
            f"run needs up to {needed:.1f} GiB of memory, and it has {host:.1f}"
        )
    if gpus not in fitting:
        short = f", short by {-spare[gpus]:.1f} GiB on each" if gpus in spare else ""
        elsewhere = f"; it {somewhere}" if somewhere else ""
        return (
            f"does not fit on {gpus} x {card:.0f} GiB, the GPUs of this machine{short}{elsewhere}"
        )
    needed = sum(estimates[gpus].host.values()) / GIB
    if needed > host:
        return (
            f"does not fit: the run needs up to {needed:.0f} GiB of the machine's own memory, "
            f"which has {host:.0f}"
        )
    return (
        f"fits on {gpus} x {card:.0f} GiB, the GPUs of this machine, with {spare[gpus]:.1f} GiB to "
        f"spare on each; the run needs up to {needed:.0f} of the machine's own {host:.0f} GiB"
    )


def one_process_verdict(config: Config, device: str, gib: float) -> str:
    needed = sum(estimate_one_process(config).values()) / GIB
    if needed <= gib:
        return (
            f"fits on this machine's {device}, as one process: it needs at most {needed:.2f} of "
            f"{gib:.1f} GiB"
        )
    checkpointing = config.policy.gradient_checkpointing
    return (
        f"does not fit on this machine's {device}: one process needs up to {needed:.1f} GiB, and "
        f"it has {gib:.1f}; lower policy.token_budget, rollout.max_rows or rollout.max_tokens"
        + ("" if checkpointing else ", or set policy.gradient_checkpointing=true")
    )


def one_of(counts: list[int]) -> str:
    """The numbers of GPUs as words: "1, 2 or 4 GPUs"."""
    *first, last = counts
    if not first:
        return f"{last} GPU" + "s" * (last > 1)
    return f"{', '.join(map(str, first))} or {last} GPUs"


def is_one_process(config: Config, gpus: int) -> bool:
    """Whether the config asks for hf or local; without a GPU, also for small models."""
    if config.rollout.engine == "hf" or config.policy.backend == "local":
        return True
    return gpus == 0 and count_parameters(require_shape(config)) < SMALL_MODEL


def describe_batches(config: Config) -> list[str]:
    rollout, optim = config.rollout, config.optim
    rollouts = rollout.prompts * rollout.group_size
    updates = rollout.prompts // optim.minibatch_prompts * optim.epochs
    batch, least = ("the batch of ", "at least ") if rollout.dynamic_sampling else ("", "")
    return [
        f"{batch}each step: {rollout.prompts} prompts x {rollout.group_size} rollouts = "
        f"{rollouts:,} rollouts, at most {rollouts * rollout.max_tokens:,} response tokens",
        f"  in mini-batches of {optim.minibatch_prompts} prompts = "
        f"{optim.minibatch_prompts * rollout.group_size:,} rollouts: "
        f"{counted(updates, 'optimizer step')}",
        f"the run: {counted(config.steps, 'step')} = "
        f"{least}{config.steps * rollout.prompts:,} prompt draws, "
        f"{least}{config.steps * rollouts:,} rollouts, "
        f"{counted(config.steps * updates, 'optimizer step')}",
    ]


def describe_one_process(config: Config) -> list[str]:
    sizes = estimate_one_process(config)
    sizes |= {"total": sum(sizes.values())}
    return [
        f"memory (hf rollouts, local policy, one device, {describe_parameters(config)}):",
        *(f"  {item:<48} {size / GIB:9.3f} GiB" for item, size in sizes.items()),
    ]


def describe_gpus(config: Config, gpus: int, gib: float) -> list[str]:
    """One line for each item, one column for each number of GPUs that tensor_parallel divides."""
    assumed = assumed_card(config)
    gib = gib if gpus else CARDS[assumed]
    columns = gpu_counts(config, gpus)
    estimates = [estimate_per_gpu(config, n, gib) for n in columns]
    first = estimates[0]
    none = f"none on this machine, assuming {assumed} GB cards"
    machine = f"{gpus} on this machine" if gpus else none
    lines = [
        f"memory (vLLM rollouts, ZeRO-3 policy, {describe_parameters(config)}), in GiB on each GPU",
        f"GPUs: {machine}, {gib:.1f} GiB each",
        format_row("N, the number of GPUs", columns, "d"),
    ]
    for phase in first.phases:
        by_column = [estimate.phases[phase] for estimate in estimates]
        lines.append(phase)
        for item in by_column[0]:
            lines.append(format_row(f"  {item}", [items[item] / GIB for items in by_column]))
        lines.append(format_row("  total", [sum(items.values()) / GIB for items in by_column]))
    lines.append(format_row("peak", [estimate.peak / GIB for estimate in estimates]))
    for n, estimate in zip(columns, estimates, strict=True):
        lines.append(describe_fit(n, estimate.spare(gib)))
    return [
        *lines,
        f"KV cache of one engine: {first.sequences:,} sequences of {tokens_per_row(config):,} "
        f"tokens at a time (rollout.max_rows is {config.rollout.max_rows})",
        "host memory of the node, in GiB",
        *(
            format_row(f"  {item}", [estimate.host[item] / GIB for estimate in estimates])
            for item in first.host
        ),
        format_row("  total", [sum(estimate.host.values()) / GIB for estimate in estimates]),
        format_row(
            "a checkpoint: each rank's state, in GiB",
            [3 * FP32 * ceil(count_trained(config) / n) / GIB for n in columns],
        ),
    ]


def describe_parameters(config: Config) -> str:
    parameters = f"{count_parameters(require_shape(config)):,} parameters"
    adapters = count_adapters(config)
    return f"{parameters} and {adapters:,} of adapters" if adapters else parameters


def assumed_card(config: Config) -> int:
    """The GB of the cards that the estimate assumes without a GPU: 80; with LoRA, which is for the
    card that one has, the smallest in CARDS of which as few as possible are enough."""
    if config.policy.lora is None:
        return 80
    gpus = config.rollout.tensor_parallel
    fits = (gb for gb, gib in CARDS.items() if estimate_per_gpu(config, gpus, gib).spare(gib) >= 0)
    return next(fits, 80)


def gpu_counts(config: Config, gpus: int) -> list[int]:
    """The numbers of GPUs to estimate for, those that tensor_parallel divides."""
    split = config.rollout.tensor_parallel
    return sorted(n for n in {1, 2, 4, 8, split, gpus} if n and n % split == 0)


def format_row(label: str, numbers: list[float] | list[int], kind: str = ".2f") -> str:
    return f"{label:<44}" + "".join(f"{number:>9{kind}}" for number in numbers)


def describe_fit(gpus: int, spare: float) -> str:
    name = f"{gpus} GPU{'s' if gpus > 1 else ''}"
    if spare >= 0:
        return f"{name}: fits with {spare:.1f} GiB to spare"
    return (
        f"{name}: does not fit, short by {-spare:.1f} GiB; to fit, use more GPUs, "
        "policy.offload_optimizer=true, a smaller policy.token_budget or a smaller "
        "rollout.gpu_memory_utilization"
    )
