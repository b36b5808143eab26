"""Estimates the time of a step on GPUs: what --dry-run prints and docs/scale.md shows.

Calculates from the config, its `model.shape`, data sheets and the assumptions below. **None of it
was measured on a GPU.** N GPUs, P parameters, w bytes each, T tokens of a row:

    generate   prefill: forward FLOPs / (N peak PREFILL), each prompt once. Then, for each token of
               the longest response: the larger of (weights + KV cache of the running responses) /
               (bandwidth MEMORY) and FLOPs / (peak PREFILL), plus DECODE_STEP
    score      forward FLOPs / (N peak COMPUTE), plus gathering the weights
    update     3 such passes, 4 with gradient checkpointing, on the rows of mixed groups, plus
               gathering the weights and reducing gradients in fp32, once a micro-batch
    optimizer  AdamW on a slice of P / N, and moving its state over PCIe where it is offloaded
    sync       gathering w P, copying it into vLLM; vLLM's sleep and waking
    save       a checkpoint, divided by `checkpoint.every`

Not counted: evaluations, verifying (which runs during generation), the first step's compilation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from math import ceil, exp, log

import torch

from asymrl.config.schema import Config
from asymrl.engines import memory
from asymrl.engines.flops import BF16_PEAKS, Work, forward_flops
from asymrl.types import frozen


@frozen
class Card:
    """A GPU by its maker's data sheet, in bytes a second: memory, link to each other GPU of its
    node (one direction), host (PCIe, one direction)."""

    name: str
    memory: float
    link: float
    host: float

    @property
    def peak(self) -> float:
        """Dense bf16 operations a second."""
        return BF16_PEAKS[self.name]


H100 = Card(name="H100", memory=3.35e12, link=450e9, host=64e9)  # SXM: NVLink 4, PCIe 5 x16
CARDS = {
    80: H100,
    48: Card(name="L40S", memory=0.864e12, link=32e9, host=32e9),  # no NVLink; PCIe 4 x16
    24: Card(name="RTX 4090", memory=1.008e12, link=32e9, host=32e9),
}
"""The cards that memory.assumed_card names by their GB."""
KNOWN = (
    *CARDS.values(),
    Card(name="H200", memory=4.8e12, link=450e9, host=64e9),
    Card(name="A100", memory=2.04e12, link=300e9, host=32e9),  # of 80 GB; NVLink 3, PCIe 4 x16
)
NETWORK = 50e9  # bytes a second of a GPU's own 400 Gb/s InfiniBand link

# Assumptions. The first four are shares of what the data sheet says.
COMPUTE = 0.33  # of peak in training passes; with a recomputed pass in 4, an MFU of .25
PREFILL = 0.4  # of peak in vLLM
MEMORY = 0.8  # of the memory's bandwidth
LINK = 0.7  # of the bandwidth of NVLink, PCIe and InfiniBand
OVERLAP = 0.5  # of communication that runs behind computation
DECODE_STEP = 0.002  # seconds that vLLM schedules, launches and samples for each token
ALL_REDUCE = 20e-6  # seconds of one inside an engine; a layer has 2
SLEEP_AND_WAKE = 1.5  # seconds
PADDING = 1.1  # padded tokens / tokens
ADAMW_BYTES = 60  # bytes that a step of AdamW reads and writes for a parameter
HOST_MEMORY = 10e9  # bytes a second that a CPU thread reads and writes
SAVING = 1e9  # bytes a second that a rank writes to disk and digests
PROMPT_SHARE = 1 / 8  # mean prompt / data.max_prompt_tokens
MIXED = 0.5  # share of groups with both rewards; the others have no gradient
SCALE = 0.255  # lengths are exponential with this mean, cut at 1: in units of max_tokens
RESPONSE_SHARE = SCALE * (1 - exp(-1 / SCALE))  # mean response / rollout.max_tokens: .25

POINTS = 64  # lengths for which the estimate stands
LABELS = {
    "generate": "generation",
    "score": "scoring",
    "update": "the update",
    "optimizer": "the optimizer step",
    "sync": "the weight sync",
    "save": "saving",
}


@frozen
class StepTime:
    """Seconds by phase, and within the phases by cause; response tokens of a step. tail: seconds of
    generation in which fewer than a quarter of the responses at a time still run."""

    phases: dict[str, dict[str, float]]
    tokens: float
    tail: float

    @property
    def by_phase(self) -> dict[str, float]:
        return {phase: sum(causes.values()) for phase, causes in self.phases.items()}

    @property
    def seconds(self) -> float:
        return sum(self.by_phase.values())

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def bottleneck(self) -> str:
        """The longest phase, with what takes most of it, in words."""
        phase = max(self.by_phase, key=self.by_phase.__getitem__)
        causes = self.phases[phase]
        return f"{LABELS[phase]} ({max(causes, key=causes.__getitem__)})"


@frozen
class Machine:
    """`gpus` cards of `gib` GiB on `nodes` nodes together."""

    card: Card
    gib: float
    gpus: int
    nodes: int = 1

    @property
    def between(self) -> float:
        """Bytes a second of a GPU in a collective of all GPUs: across nodes, each has its own link
        to the network, and rings use all links of a node."""
        here = self.gpus // self.nodes
        return LINK * (min(self.card.link, NETWORK * here) if self.nodes > 1 else self.card.link)


def find_card(name: str) -> Card | None:
    """The card with this CUDA name; None if unknown, as the slower variants of a name are."""
    if re.search("PCIe|PCIE|NVL|40GB", name):
        return None
    return next((card for card in KNOWN if re.search(rf"\b{card.name}\b", name)), None)


def card_here() -> Card | None:
    return find_card(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def work_of_shape(config: Config) -> Work:
    """flops.work_per_token without a model."""
    shape = memory.require_shape(config)
    matrices = shape.layers * (memory.count_layer(shape) - 2 * shape.hidden)
    adapters, head = memory.count_adapters(config), shape.vocab * shape.hidden
    work = Work(
        matrices=matrices + adapters,
        attention=shape.layers * shape.heads * shape.head_dim,
        head=head,
    )
    return replace(work, frozen_matrices=matrices, frozen_head=head) if adapters else work


def mean_lengths(config: Config) -> tuple[float, float]:
    """Tokens of a prompt and of a response, as assumed."""
    prompt = max(1.0, PROMPT_SHARE * config.data.max_prompt_tokens)
    return prompt, RESPONSE_SHARE * config.rollout.max_tokens


def running(share: float) -> float:
    """The share of responses that are longer than this share of max_tokens."""
    return exp(-share / SCALE)


def typical_rows(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Input tokens and response tokens of POINTS rows that stand for all."""
    prompt, mean = mean_lengths(config)
    shares = [min(1.0, -SCALE * log(1 - (n + 0.5) / POINTS)) for n in range(POINTS)]
    responses = torch.tensor(shares, dtype=torch.float64)
    responses *= mean / responses.mean()
    return prompt + responses, responses


def pass_flops(config: Config, lengths: torch.Tensor, responses: torch.Tensor) -> float:
    """Of a forward pass over these rows."""
    return forward_flops(work_of_shape(config), lengths, responses)


def update_flops(config: Config, lengths: torch.Tensor, responses: torch.Tensor) -> float:
    """Of forward and backward passes over these rows, with what is recomputed."""
    work, passes = work_of_shape(config), 4 if config.policy.gradient_checkpointing else 3
    frozen_work = Work(matrices=work.frozen_matrices, head=work.frozen_head, attention=0)
    forward = forward_flops(work, lengths, responses)
    return passes * forward - forward_flops(frozen_work, lengths, responses)


def estimate_step(config: Config, machine: Machine, mixed: float = MIXED) -> StepTime:
    """Of a run of vLLM and ZeRO-3. mixed: share of groups with both rewards, as drawn. UserError
    without model.shape."""
    rollout = config.rollout
    batch = rollout.prompts * rollout.group_size
    drawn = batch / mixed if rollout.dynamic_sampling else batch
    causes, tail = generate(config, machine, drawn)
    phases = {
        "generate": causes,
        "score": score(config, machine, batch),
        "update": update(config, machine, batch if rollout.dynamic_sampling else mixed * batch),
        "optimizer": optimizer(config, machine),
        "sync": sync(config, machine),
        "save": save(config, machine),
    }
    return StepTime(phases=phases, tokens=drawn * mean_lengths(config)[1], tail=tail)


def generate(config: Config, machine: Machine, rows: float) -> tuple[dict[str, float], float]:
    """Seconds by cause, and those of the tail. An engine runs as many responses as fit; when its
    queue is empty, the last ones end one by one."""
    rollout, (prompt, mean) = config.rollout, mean_lengths(config)
    work, card, engines = (
        work_of_shape(config),
        machine.card,
        machine.gpus // rollout.tensor_parallel,
    )
    rows *= ceil(rollout.prompts / engines) / rollout.prompts  # of the engine with most prompts
    cache, sequence = memory.kv_cache_bytes(config, machine.gib)
    fitting = cache / sequence * memory.tokens_per_row(config) / (prompt + mean)
    at_once = max(1.0, min(rows, rollout.max_rows, fitting))
    prefill = forward_flops(work, torch.tensor([prompt]), torch.tensor([1.0]))
    prefill *= rows / rollout.group_size / (card.peak * PREFILL * rollout.tensor_parallel)
    causes = {"reading the weights": 0.0, "reading the KV cache": 0.0, "computing": prefill}
    causes["steps of vLLM itself"] = 0.0
    steps = [((rows - at_once) * mean / at_once, at_once, prompt + mean)]
    width = rollout.max_tokens / POINTS
    for n in range(POINTS):
        left = at_once * running((n + 0.5) / POINTS)
        if left >= 0.5:
            steps.append((width, left, prompt + (n + 0.5) * width))
    tail = 0.0
    for count, active, context in steps:
        for cause, seconds in decode(config, machine, active, context):
            causes[cause] += count * seconds
            tail += count * seconds if active < at_once / 4 else 0.0
    return causes, tail


def decode(
    config: Config, machine: Machine, active: float, context: float
) -> Iterator[tuple[str, float]]:
    """One token for each of `active` responses with `context` tokens, seconds by cause."""
    shape, split, card = memory.require_shape(config), config.rollout.tensor_parallel, machine.card
    work = work_of_shape(config)
    speed = card.memory * MEMORY
    weights = memory.parameter_width(config) * memory.count_parameters(shape) / split / speed
    _, sequence = memory.kv_cache_bytes(config, machine.gib)
    cache = active * context * sequence / memory.tokens_per_row(config) / speed
    per_token = 2 * (work.matrices + work.head + 2 * work.attention * context)
    compute = active * per_token / split / (card.peak * PREFILL)
    if compute > weights + cache:
        yield "computing", compute
    else:
        yield "reading the weights", weights
        yield "reading the KV cache", cache
    within = 2 * shape.layers * ALL_REDUCE if split > 1 else 0.0
    yield "steps of vLLM itself", DECODE_STEP + within


def score(config: Config, machine: Machine, rows: float) -> dict[str, float]:
    passes = 2 if config.loss.kl_coef else 1
    flops = passes * pass_flops(config, *typical_rows(config)) * rows / POINTS
    gathers = passes * micro_batches(config, machine, rows)
    return computed(machine, flops, gathers * gather_seconds(config, machine))


def update(config: Config, machine: Machine, rows: float) -> dict[str, float]:
    """All optimizer steps of a rollout batch, without AdamW itself."""
    epochs = config.optim.epochs
    flops = epochs * update_flops(config, *typical_rows(config)) * rows / POINTS
    steps = config.rollout.prompts // config.optim.minibatch_prompts
    count = steps * epochs * micro_batches(config, machine, rows / steps)
    return computed(machine, flops, count * update_communication(config, machine))


def update_communication(config: Config, machine: Machine) -> float:
    """Seconds of gathering weights and reducing gradients for a micro-batch."""
    parameters = memory.count_parameters(memory.require_shape(config))
    again = max(0, parameters - memory.REUSE_DISTANCE) / parameters  # gathered for the backward
    gradients = memory.FP32 * memory.count_trained(config) * other_ranks(machine.gpus)
    return (1 + again) * gather_seconds(config, machine) + gradients / machine.between


def computed(machine: Machine, flops: float, communication: float) -> dict[str, float]:
    """Seconds of passes, and those of communication that do not run behind them."""
    compute = PADDING * flops / (machine.gpus * machine.card.peak * COMPUTE)
    return {
        "computing": compute,
        "communication": communication - OVERLAP * min(compute, communication),
    }


def micro_batches(config: Config, machine: Machine, rows: float) -> int:
    """On each rank."""
    tokens = PADDING * rows * sum(mean_lengths(config)) / machine.gpus
    return ceil(tokens / memory.tokens_per_micro_batch(config))


def other_ranks(ranks: int) -> float:
    """The share of a sharded tensor that other ranks have."""
    return (ranks - 1) / ranks


def gather_seconds(config: Config, machine: Machine) -> float:
    """All weights once, within a node."""
    size = memory.parameter_width(config) * memory.count_parameters(memory.require_shape(config))
    return size * other_ranks(machine.gpus // machine.nodes) / (LINK * machine.card.link)


def optimizer(config: Config, machine: Machine) -> dict[str, float]:
    policy, card = config.policy, machine.card
    slice_ = memory.count_trained(config) / machine.gpus
    steps = config.rollout.prompts // config.optim.minibatch_prompts * config.optim.epochs
    moved, speed = 0.0, card.memory * MEMORY
    if policy.offload_optimizer:  # fp32 gradients to the host, new weights back
        moved = steps * (memory.FP32 + memory.parameter_width(config)) * slice_
        speed = HOST_MEMORY * (policy.threads or 1)
    elif memory.offloads_during_rollouts(config, machine.gpus, machine.gib, machine.nodes):
        moved = 2 * 3 * memory.FP32 * slice_  # master weights and moments, there and back
    return {
        "AdamW": steps * ADAMW_BYTES * slice_ / speed,
        "moving its state over PCIe": moved / (card.host * LINK),
    }


def sync(config: Config, machine: Machine) -> dict[str, float]:
    size = memory.parameter_width(config) * memory.count_parameters(memory.require_shape(config))
    copies = 4 * size / (machine.card.memory * MEMORY)  # read and write twice
    return {
        "gathering and copying": size * other_ranks(machine.gpus) / machine.between + copies,
        "vLLM's sleep and waking": SLEEP_AND_WAKE,
    }


def save(config: Config, machine: Machine) -> dict[str, float]:
    state = 3 * memory.FP32 * memory.count_trained(config) / machine.gpus
    shape, every = memory.require_shape(config), config.checkpoint.every
    folder = memory.parameter_width(config) * memory.count_parameters(shape)
    return {"writing": (state + folder) / SAVING / every}


def machines(config: Config, gpus: int, gib: float) -> list[Machine]:
    """This machine, if it has GPUs; otherwise those of the memory estimate. Only of known cards,
    and only where the run fits; none for a run of one process."""
    if memory.is_one_process(config, gpus):
        return []
    assumed = memory.assumed_card(config)
    card = card_here() if gpus else CARDS[assumed]
    gib = gib if gpus else memory.CARDS[assumed]
    counts = [gpus] if gpus else memory.gpu_counts(config, gpus)
    return [
        Machine(card=card, gib=gib, gpus=count)
        for count in counts
        if card and memory.estimate_per_gpu(config, count, gib).spare(gib) >= 0
    ]


def describe(config: Config, gpus: int, gib: float) -> list[str]:
    """The estimate as a line for the dry run; [] where there is none. gpus: of this machine, each
    with `gib` GiB."""
    fitting = machines(config, gpus, gib)
    if not fitting:
        return []
    first, *more = [(machine, estimate_step(config, machine)) for machine in fitting]
    machine, step = first
    parts = ", ".join(f"{phase} {rounded(seconds)}" for phase, seconds in step.by_phase.items())
    others = ", ".join(f"{rounded(step.seconds)} on {machine.gpus}" for machine, step in more)
    return [
        "step time (estimate; nothing ran on a GPU), if responses have "
        f"{mean_lengths(config)[1]:,.0f} tokens on average: about {rounded(step.seconds)} s on "
        f"{machine.gpus} x {machine.card.name}: {parts}; "
        f"{rounded(step.tokens_per_second)} response tokens/s; the bottleneck is {step.bottleneck}"
        + (f"; {others}" if more else "")
    ]


def rounded(number: float) -> str:
    """To two digits, and at most one after the point."""
    return f"{float(f'{number:.2g}'):,.1f}".removesuffix(".0")
