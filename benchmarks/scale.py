"""Writes docs/scale.md: the estimated time of a step of 4B and 8B models on 1 to 16 GPUs, and the
same arithmetic beside public figures.

    python -m benchmarks.scale
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from asymrl.config.load import load_config
from asymrl.config.schema import Config
from asymrl.engines import memory, step_time
from asymrl.engines.step_time import H100, Machine, StepTime, rounded

PAGE = Path("docs/scale.md")
GIB = memory.CARD_80GB
GPUS_OF_A_NODE = 8
COUNTS = (1, 4, 8, 16)
SHAPES = {
    "Qwen3-8B": "{layers: 36, hidden: 4096, intermediate: 12288, heads: 32, kv_heads: 8, "
    "head_dim: 128, vocab: 151936, tied: false}",
    "Llama-3.1-8B": "{layers: 32, hidden: 4096, intermediate: 14336, heads: 32, kv_heads: 8, "
    "head_dim: 128, vocab: 128256, tied: false}",
}
MODELS = {"Qwen3-4B": [], "Qwen3-8B": [f"model.shape={SHAPES['Qwen3-8B']}"]}
PHASES = ("generate", "score", "update", "optimizer", "sync", "save")

TEXT = """# Step time on GPUs: an estimate

**Every number of a step on this page is an estimate: nothing ran on a GPU.**
`asymrl/engines/step_time.py` calculates them from data sheets and the assumptions below, and
`python -m benchmarks.scale` writes this page; a test compares the two. `train.py --config ...
--dry-run` prints the same estimate, as one line, for any config of vLLM and ZeRO-3.

Settings: `configs/qwen3_4b.yaml`, so 128 prompts x 8 rollouts of at most 4,096 tokens, 2
optimizer steps, micro-batches of 16,384 tokens, gradient checkpointing, a checkpoint every 10
steps, bf16. Responses are assumed to have {mean:,.0f} tokens on average and prompts
{prompt:,.0f}, and half of the groups both rewards. H100 SXM of 80 GB, {node} a node. Without
evaluations.

{steps}

"of it the tail" is the time in which fewer than a quarter of an engine's responses still run: the
longest responses keep the whole machine waiting, and more GPUs do not shorten them. So from 4 to
16 GPUs the compute phases take a quarter of the time, and the whole step {gain_4b} (4B) and
{gain_8b} (8B) of it. With `offload_optimizer`, AdamW runs on one CPU thread of each rank unless
`policy.threads` says otherwise.

## What would change it most

{changes}

## Beside public figures

The same arithmetic for the public measurements that come closest, as a check. The assumptions
were chosen before this comparison and not fitted to it:

{public}

- **NeMo-RL**: its documentation for v0.4, GRPO on policy, 2,048 rollouts a step and 512 an
  update, at most 4,096 tokens, 1,060 on average, vLLM without tensor parallelism, Megatron-core
  (97.7 s a step; 1,581 tokens/s and a mean of 1,019 in an earlier version). We assume 64 prompts
  x 32 rollouts, every group with both rewards, no recomputation, and a KL penalty.
- **prime-rl**: its automated benchmarks of January 2026, trainer only, rows of one length, FSDP,
  FlashAttention 3 (SFT: 2), recomputation. Its RL figure at 16,384 tokens is half of its own SFT
  figure with the same layers, and the estimate does not say which of the two a run of ours comes
  near.
- An earlier estimate by hand for Qwen3-4B on 4 x H100 was about 60 s, of them 30 generate, 6
  score, 14 update.

## Data sheets

{cards}

Peak: dense bf16 operations a second. Link: to the other GPUs of a node, one direction (NVLink 4:
900 GB/s both ways; PCIe where there is no NVLink). Host: PCIe, one direction. Network: {network}
GB/s a GPU (400 Gb/s InfiniBand each).

## Assumptions, none of them measured

{assumptions}

## What was measured

On a CPU, not a GPU: how the time of a step grows ([performance.md](performance.md), `make
bench-scaling`). The exponents of an update are .97 in response length, .94 in group size, .89 in
prompts, .52 in vocabulary and, from 5M to 138M parameters, .90 in parameters; those of generation
1.17, .85, .72, .47 and .84. The estimate has 1 for tokens and parameters, as products have; below
it are fixed costs of small models, and above it, attention. Which tensors are gathered and reduced,
and when, was read in DeepSpeed's source ([memory.md](memory.md)). `make bench-gpu` and `make
smoke-gpu` measure tokens/s and MFU on a machine with GPUs.
"""


def machine(gpus: int) -> Machine:
    return Machine(card=H100, gib=GIB, gpus=gpus, nodes=max(1, gpus // GPUS_OF_A_NODE))


def fitting(overrides: Sequence[str], gpus: int) -> tuple[Config, str, float]:
    """The config that fits on so many GPUs, what it sets for that, and the GiB to spare."""
    for extra in ([], ["policy.offload_optimizer=true"]):
        config = load_config("qwen3_4b", [*overrides, *extra])
        nodes = machine(gpus).nodes
        spare = memory.estimate_per_gpu(config, gpus, GIB, nodes).spare(GIB)
        if spare >= 0:
            break
    return config, "".join(extra).removeprefix("policy."), spare


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True)


def step_table(name: str) -> str:
    rows = []
    for gpus in COUNTS:
        config, setting, spare = fitting(MODELS[name], gpus)
        if spare < 0:
            rows.append([gpus, f"does not fit, short by {-spare:.1f} GiB"])
            continue
        step = step_time.estimate_step(config, machine(gpus))
        phases = [rounded(step.by_phase[phase]) for phase in PHASES]
        generate, *others = phases
        rows.append([gpus, rounded(step.seconds), generate, rounded(step.tail), *others])
        rows[-1] += [rounded(step.tokens_per_second), rounded(step.tokens_per_second / gpus)]
        rows[-1] += [step.bottleneck, setting]
    header = ["GPUs", "a step", "generate", "of it the tail", *PHASES[1:], "response tokens/s"]
    header += ["a GPU", "bottleneck", "needs"]
    caption = f"{name}, estimate: seconds of a step and of its phases, at most two digits of each"
    return f"{caption}\n\n{markdown(header, rows)}"


def step_of(overrides: Sequence[str], gpus: int) -> StepTime:
    return step_time.estimate_step(fitting(overrides, gpus)[0], machine(gpus))


def gain(name: str) -> str:
    """The time on 16 GPUs as a share of that on 4."""
    few, many = step_of(MODELS[name], 4).seconds, step_of(MODELS[name], 16).seconds
    return f"{many / few:.2f}".removeprefix("0")


def change_table() -> str:
    """Estimates of other settings."""
    changes = {
        "as above": [],
        "at most 8,192 tokens, 2,048 on average": ["rollout.max_tokens=8192"],
        "at most 2,048 tokens, 512 on average": ["rollout.max_tokens=2048"],
        "256 prompts": ["rollout.prompts=256", "optim.minibatch_prompts=128"],
        "no gradient checkpointing, micro-batches of 5,120 tokens": [
            "policy.gradient_checkpointing=false",
            "policy.token_budget=5120",
        ],
        "the optimizer on the CPU": ["policy.offload_optimizer=true"],
        "the optimizer in host memory during rollouts": ["policy.offload_during_rollouts=true"],
        "one engine of 4 GPUs": ["rollout.tensor_parallel=4"],
        "two engines of 2 GPUs": ["rollout.tensor_parallel=2"],
    }
    rows = []
    for name, overrides in changes.items():
        step = step_of(overrides, 4)
        phases = [rounded(step.by_phase[phase]) for phase in PHASES]
        rows.append([name, rounded(step.seconds), *phases, rounded(step.tokens_per_second)])
    caption = (
        "Qwen3-4B on 4 GPUs, estimate: seconds of a step with one assumption or setting changed"
    )
    return f"{caption}\n\n{markdown(['', 'a step', *PHASES, 'response tokens/s'], rows)}"


def nemo() -> float:
    """Tokens of prompts and responses a second on each GPU."""
    overrides = [f"model.shape={SHAPES['Llama-3.1-8B']}", "rollout.prompts=64"]
    overrides += ["rollout.group_size=32", "optim.minibatch_prompts=16", "loss.kl_coef=0.01"]
    overrides += ["policy.gradient_checkpointing=false"]
    config = load_config("qwen3_4b_grpo", overrides)
    step = step_time.estimate_step(config, machine(16), mixed=1.0)
    tokens = 64 * 32 * sum(step_time.mean_lengths(config))
    return tokens / step.seconds / 16


def trainer(length: int, gpus: int, overrides: Sequence[str] = ()) -> float:
    """Tokens a second of forward and backward passes on rows of this length, one a rank."""
    config, where = load_config("qwen3_4b", [*overrides]), machine(gpus)
    row = torch.tensor([float(length)])
    flops = gpus * step_time.update_flops(config, row, row) / step_time.PADDING  # no padding here
    parts = step_time.computed(where, flops, step_time.update_communication(config, where))
    return gpus * length / sum(parts.values())


def public_table() -> str:
    lora = ["policy.lora={rank: 16, alpha: 32.0, targets: all-linear}"]
    figures = [
        ("NeMo-RL, Llama-3.1-8B, a whole step", "16 H100", "tokens/s a GPU", 1_562, nemo()),
        ("prime-rl, Qwen3-4B, RL, rows of 16,384", "8 H100", "tokens/s", 26_030, trainer(2**14, 8)),
        ("the same, SFT", "8 H100", "tokens/s", 49_720, trainer(2**14, 8)),
        ("the same, RL, rows of 65,536", "8 H100", "tokens/s", 28_970, trainer(2**16, 8)),
        ("LoRA of rank 16, rows of 16,384", "1 H100", "tokens/s", 6_230, trainer(2**14, 1, lora)),
    ]
    rows = [
        [what, where, unit, f"{measured:,}", rounded(ours), f"{ours / measured:.2f}"]
        for what, where, unit, measured, ours in figures
    ]
    header = ["", "on", "", "measured by others", "our estimate", "estimate / measured"]
    return f"Estimate beside figures of other programs\n\n{markdown(header, rows)}"


def card_table() -> str:
    rows = [
        [
            card.name,
            f"{card.peak / 1e12:.0f}e12",
            *(f"{speed / 1e9:,.0f}" for speed in (card.memory, card.link, card.host)),
        ]
        for card in step_time.KNOWN
    ]
    header = ["", "peak", "memory, GB/s", "link, GB/s", "host, GB/s"]
    return f"What the makers say, for the estimate\n\n{markdown(header, rows)}"


def assumption_table() -> str:
    s = step_time
    rows = [
        ["training passes", f"{s.COMPUTE:.0%} of peak", "an MFU of 25% with recomputation, the "
         "middle of an estimate of 20 to 30% for layers that are not fused"],
        ["vLLM's products", f"{s.PREFILL:.0%} of peak", ""],
        ["GPU memory", f"{s.MEMORY:.0%} of its bandwidth", ""],
        ["NVLink, PCIe, InfiniBand", f"{s.LINK:.0%} of their bandwidth", ""],
        ["communication hidden behind passes", f"{s.OVERLAP:.0%}", "at most that of the passes"],
        ["a token of every running response", f"{s.DECODE_STEP * 1000:.0f} ms", "scheduling, "
         "launching and sampling in vLLM, in addition to weights and KV cache"],
        ["an all-reduce in an engine", f"{s.ALL_REDUCE * 1e6:.0f} us", "two a layer, with "
         "tensor_parallel"],
        ["vLLM's sleep and waking", f"{s.SLEEP_AND_WAKE} s", ""],
        ["padding", f"{s.PADDING - 1:.0%}", "measured for such lengths: 8 to 15% "
         "([performance.md](performance.md))"],
        ["AdamW", f"{s.ADAMW_BYTES} bytes a parameter", "read and written, with temporaries"],
        ["AdamW on the CPU", f"{s.HOST_MEMORY / 1e9:.0f} GB/s a thread", ""],
        ["a checkpoint", f"{s.SAVING / 1e9:.0f} GB/s a rank", "written and digested"],
        ["lengths", "exponential", "cut at max_tokens, with a mean of "
         f"{s.RESPONSE_SHARE:.2f} of it"],
        ["prompts", f"{s.PROMPT_SHARE} of max_prompt_tokens", ""],
        ["groups with both rewards", f"{s.MIXED:.0%}", "dynamic sampling draws 1 / this"],
    ]  # fmt: skip
    return f"Assumptions of the estimate\n\n{markdown(['what', 'assumed', 'why'], rows)}"


def page() -> str:
    config = load_config("qwen3_4b")
    prompt, mean = step_time.mean_lengths(config)
    return TEXT.format(
        mean=mean,
        prompt=prompt,
        node=GPUS_OF_A_NODE,
        steps="\n\n".join(step_table(name) for name in MODELS),
        gain_4b=gain("Qwen3-4B"),
        gain_8b=gain("Qwen3-8B"),
        changes=change_table(),
        public=public_table(),
        cards=card_table(),
        network=f"{step_time.NETWORK / 1e9:.0f}",
        assumptions=assumption_table(),
    )


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
