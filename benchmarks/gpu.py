"""Measures on a GPU: rollouts compared with plain vLLM, the MFU of updates, the cost of a sync.

    python benchmarks/gpu.py [--prompts 64] [--samples 8] [--max-tokens 1024] [--rounds 5]
    python benchmarks/gpu.py --cpu     without a GPU: rollouts and update of the pocket model

The model has the shape of Qwen3-1.7B and random weights. Three parts, each in its own processes:

rollouts  tokens/s of our VLLMEngine, in one process with the model that sends it weights, and of
          vLLM's own `LLM.generate`, alternating: same prompts, number of samples and log-probs. No
          response ends early, so the seeds do not matter. Goal: at least 95%.
sync      seconds of the engine's sleep and of its next wake and load; the latter is compared with
          a copy of the same bytes on the device.
update    MFU (asymrl/engines/flops.py) of mini-batches with lognormal lengths, of which every row
          has a gradient, in bf16 with ZeRO-3 over all GPUs. Goal: at least 45%.

It begins with the estimate of asymrl/engines/memory.py for a run of this shape.

A run with --cpu only shows that the script works and what VLLMEngine adds to vLLM; its ratio says
nothing about GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from asymrl.algo.loss import policy_loss, ppo_clip
from asymrl.config.load import load_config
from asymrl.config.schema import Config, OptimConfig, PolicyConfig
from asymrl.engines import flops, memory, pretrained
from asymrl.engines.distributed import World, from_environment, join
from asymrl.engines.local import LocalPolicy
from asymrl.types import Batch, Problem, Request, Sampling

SHAPE: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}
PROMPT_TOKENS = 120
MARK = "result "
VLLM_MEMORY = 0.35  # share of the GPU, beside the model that sends weights
GOALS = {"rollouts": 0.95, "mfu": 0.45}


def main() -> None:
    arguments = read_arguments()
    if arguments.part:
        PARTS[arguments.part](arguments)
        return
    gpus, gib = memory.cards()
    if not arguments.cpu:
        if not gpus:
            sys.exit("this machine has no GPU; --cpu runs rollouts and updates of the pocket model")
        print(memory.verdict(memory_config(arguments), gpus, gib, memory.host_memory()), flush=True)
    with TemporaryDirectory() as folder:
        arguments.model = (
            pretrained.locate("pocket") if arguments.cpu else write_config(Path(folder))
        )
        rollouts(arguments)
        for part in ("update",) if arguments.cpu else ("sync", "update"):
            if with_part(part, arguments, gpus if part == "update" else 1).wait():
                sys.exit(f"{part} failed")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--cpu", action="store_true", help="rollouts and update of the pocket model"
    )
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--rows", type=int, default=64, help="rows of a mini-batch per GPU, all with a gradient"
    )
    parser.add_argument("--token-budget", type=int, default=16_384)
    parser.add_argument(
        "--backend",
        choices=("local", "deepspeed"),
        help="default: deepspeed, and local with --cpu; local uses one GPU",
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cpu and not arguments.part:
        arguments.prompts, arguments.max_tokens = 32, 32
    arguments.backend = arguments.backend or ("local" if arguments.cpu else "deepspeed")
    return arguments


def memory_config(arguments: argparse.Namespace) -> Config:
    """The settings of this benchmark that the memory of a run depends on."""
    names = {"layers": "num_hidden_layers", "hidden": "hidden_size", "vocab": "vocab_size"}
    names |= {"intermediate": "intermediate_size", "heads": "num_attention_heads"}
    names |= {"kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
    names |= {"tied": "tie_word_embeddings"}
    settings = [f"model.shape.{ours}={SHAPE[name]}" for ours, name in names.items()]
    settings += [
        f"data.max_prompt_tokens={PROMPT_TOKENS}",
        f"rollout.max_tokens={arguments.max_tokens}",
    ]
    settings += [f"policy.token_budget={arguments.token_budget}"]
    return load_config("qwen3_4b", [*settings, f"rollout.gpu_memory_utilization={VLLM_MEMORY}"])


def with_part(
    part: str, arguments: argparse.Namespace, gpus: int = 1, **pipes: Any
) -> subprocess.Popen[str]:
    """Start this script again, for one part, on so many GPUs if DeepSpeed shares its work."""
    names = ("prompts", "samples", "max_tokens", "rounds", "rows", "token_budget", "backend")
    pairs = [(f"--{n.replace('_', '-')}", str(getattr(arguments, n))) for n in names]
    options = [word for pair in pairs for word in pair] + (["--cpu"] if arguments.cpu else [])
    launcher = [sys.executable]
    if arguments.backend == "deepspeed" and gpus > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]
    command = [*launcher, __file__, "--part", part, "--model", arguments.model, *options]
    return subprocess.Popen(command, text=True, **pipes)


def write_config(folder: Path) -> str:
    """A model folder without weights: both sides initialise them randomly."""
    from transformers import Qwen3Config

    Qwen3Config(**SHAPE, architectures=["Qwen3ForCausalLM"], dtype="bfloat16").save_pretrained(
        folder
    )
    return str(folder)


def rollouts(arguments: argparse.Namespace) -> None:
    """Run the two sides in processes of their own, alternating, and compare their tokens/s."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    sides = {name: with_part(name, arguments, **pipes) for name in ("ours", "bare")}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(arguments.rounds + 1):  # round 0 warms up
        for name, side in sides.items():
            tokens, seconds = ask(side, number)
            if number:
                rates[name].append(tokens / seconds)
                print(f"round {number}: {name} {rates[name][-1]:,.0f} tokens/s", flush=True)
    for side in sides.values():
        side.communicate("end\n")
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["bare"])
    note = " (on a CPU: checks the script only)" if arguments.cpu else ""
    print(f"ratio {ratio:.3f} of plain LLM.generate, goal {GOALS['rollouts']}{note}", flush=True)


def ask(side: subprocess.Popen[str], number: int) -> list[float]:
    """Tokens and seconds of round `number` in a child process."""
    assert side.stdin and side.stdout
    side.stdin.write(f"{number}\n")
    side.stdin.flush()
    for line in side.stdout:
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise SystemExit(f"a child process ended with exit code {side.wait()}")


def answer(run: Callable[[int], int]) -> None:
    """In a child process: call `run` for each number that `ask` sends."""
    for line in sys.stdin:
        if line.strip() == "end":
            return
        start = time.perf_counter()
        tokens = run(int(line))
        print(MARK + json.dumps([tokens, time.perf_counter() - start]), flush=True)


def prompts(arguments: argparse.Namespace) -> list[list[int]]:
    """Random prompts, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    length, vocabulary = (20, 40) if arguments.cpu else (PROMPT_TOKENS, SHAPE["vocab_size"])
    return torch.randint(4, vocabulary, (arguments.prompts, length), generator=generator).tolist()


def sampling(arguments: argparse.Namespace) -> Sampling:
    return Sampling(
        temperature=1.0, top_p=1.0, top_k=0, max_tokens=arguments.max_tokens, stop_ids=()
    )


def engine_with_model(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Our engine, and a model in this process whose weights it has loaded."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from asymrl.engines.vllm import VLLMEngine, open_llm

    dtype, device = (torch.float32, "cpu") if arguments.cpu else (torch.bfloat16, "cuda")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(arguments.model)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    llm = open_llm(
        arguments.model,
        world=World(),
        dtype=dtype,
        max_model_len=PROMPT_TOKENS + arguments.max_tokens,
        max_rows=arguments.prompts * arguments.samples,
        gpu_memory_utilization=VLLM_MEMORY,
    )
    engine = VLLMEngine(llm, lambda ids: "")
    engine.load_weights(model.named_parameters())
    return engine, model


def ours(arguments: argparse.Namespace) -> None:
    engine, _ = engine_with_model(arguments)
    problems = [
        Problem(id="", prompt_ids=tuple(ids), prompt_text="", gold="", source="", meta={})
        for ids in prompts(arguments)
    ]

    def run(number: int) -> int:
        requests = [
            Request(problem=p, draw=n, samples=arguments.samples, seed=1000 * number + n)
            for n, p in enumerate(problems)
        ]
        return sum(len(r.token_ids) for r in engine.generate(requests, sampling(arguments)))

    answer(run)


def bare(arguments: argparse.Namespace) -> None:
    """Plain vLLM with its defaults, except for settings that change the work: no tokenizer, and
    log-probs of the sampled tokens. Here the samples of a prompt are one request."""
    from vllm import LLM, SamplingParams, TokensPrompt  # pyright: ignore

    on_cpu = {"enforce_eager": True, "kv_cache_memory_bytes": 2**30, "dtype": "float32"}
    on_gpu = {"gpu_memory_utilization": VLLM_MEMORY, "dtype": "bfloat16"}
    llm = LLM(
        arguments.model,
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=PROMPT_TOKENS + arguments.max_tokens,
        max_num_seqs=arguments.prompts * arguments.samples,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        **(on_cpu if arguments.cpu else on_gpu),
    )
    token_prompts = [TokensPrompt(prompt_token_ids=ids) for ids in prompts(arguments)]
    params = SamplingParams(
        n=arguments.samples,
        temperature=1.0,
        max_tokens=arguments.max_tokens,
        ignore_eos=True,
        detokenize=False,
        logprobs=0,
    )

    def run(number: int) -> int:
        torch.manual_seed(number)
        outputs = llm.generate(token_prompts, params, use_tqdm=False)
        return sum(len(one.token_ids) for output in outputs for one in output.outputs)

    answer(run)


def sync(arguments: argparse.Namespace) -> None:
    engine, model = engine_with_model(arguments)
    sleeps, loads, copies = [], [], []
    for _ in range(arguments.rounds):
        sleeps.append(timed(engine.sleep))
        loads.append(timed(lambda: engine.load_weights(model.named_parameters())))
        copies.append(timed(lambda: [p.detach().clone() for p in model.parameters()]))
    asleep, load, copy = map(statistics.median, (sleeps, loads, copies))
    print(f"sleep {asleep:.2f} s, wake and load {load:.2f} s, copy of the weights {copy:.2f} s")
    print(f"ratio {load / copy:.2f} (wake and load / copy of the same bytes)", flush=True)


def timed(function: Callable[[], object]) -> float:
    """Seconds until the device has finished."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def update(arguments: argparse.Namespace) -> None:
    """Update on the same mini-batch several times; the first one warms up."""
    world = from_environment()
    policy, batch = make_policy(arguments, world), make_batch(arguments, world)
    loss = partial(policy_loss, token_loss=ppo_clip)
    spans = [timed(lambda: policy.update(batch, loss)) for _ in range(arguments.rounds + 1)]
    seconds = statistics.median(spans[1:])
    if not world.first:
        return
    tokens = sum(map(len, batch.sequences))
    print(f"update, {arguments.backend}, processes: {world.size}: {tokens / seconds:,.0f} tokens/s")
    shares = flops.utilisation(policy.work, [], [batch], {"time/update": seconds})
    for share in shares.values():
        print(f"ratio {share:.3f} of {torch.cuda.get_device_name()}'s peak, goal {GOALS['mfu']}")
    if not shares:
        print("no MFU: the peak of this device is unknown", flush=True)


def make_policy(arguments: argparse.Namespace, world: World) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(arguments.model)
    device = "cpu" if arguments.cpu else "cuda"
    optim = OptimConfig(lr=1e-6, betas=[0.9, 0.999], minibatch_prompts=1)
    settings = PolicyConfig(
        dtype="float32" if arguments.cpu else "bfloat16",
        token_budget=arguments.token_budget,
        gradient_checkpointing=not arguments.cpu,
    )
    if arguments.backend == "deepspeed":
        from asymrl.engines.deepspeed import DeepSpeedPolicy

        join(world)
        load = partial(AutoModelForCausalLM.from_config, config)
        return DeepSpeedPolicy(
            lambda dtype: load(dtype=dtype),
            world=world,
            temperature=1.0,
            optim=optim,
            settings=settings,
        )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return LocalPolicy(model, temperature=1.0, optim=optim, settings=settings)


def make_batch(arguments: argparse.Namespace, world: World) -> Batch:
    """One response a prompt, with lognormal lengths; the median is 0.6 of --max-tokens."""
    generator = torch.Generator().manual_seed(0)
    rows, maximum = arguments.rows * world.size, arguments.max_tokens
    spread = torch.randn(rows, generator=generator).mul(0.5).exp()
    lengths = (0.6 * maximum * spread).clamp(1, maximum).long()
    count = int(lengths.sum())
    all_prompts = prompts(arguments)
    targets = torch.randint(4, 40, (count,), generator=generator)
    parts = [part.tolist() for part in targets.split(lengths.tolist())]
    row_prompts = [all_prompts[n % len(all_prompts)] for n in range(rows)]
    return Batch(
        sequences=[prompt + part for prompt, part in zip(row_prompts, parts, strict=True)],
        prompt_lengths=torch.tensor([len(prompt) for prompt in row_prompts]),
        group=torch.arange(rows),
        row=torch.repeat_interleave(torch.arange(rows), lengths),
        targets=targets,
        advantages=torch.randn(count, generator=generator),
        old_logprobs=torch.zeros(count),
        old_entropy=torch.zeros(count),
        loss_mask=torch.ones(count),
        loss_denominators=torch.full((count,), float(count)),
        has_gradient=torch.ones(rows, dtype=torch.bool),
        accuracy_bin=torch.zeros(rows, dtype=torch.long),
    )


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "ours": ours,
    "bare": bare,
    "sync": sync,
    "update": update,
}

if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
