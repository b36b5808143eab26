"""What only a GPU can tell: rollouts against bare vLLM, MFU of the update, what a sync costs.

    python benchmarks/gpu.py [--prompts 64] [--samples 8] [--max-tokens 1024] [--rounds 5]
    python benchmarks/gpu.py --cpu     without a GPU: rollouts and update of the pocket model

The model has the shape of Qwen3-4B and random weights. Three parts, each in processes of its own:

rollouts  tokens/s of our VLLMEngine, in a process with the model that it gets its weights from, and
          of `LLM.generate` as vLLM ships it, by turns: same prompts, samples and log-probs asked
          for. No response ends early, so the seeds do not matter. Goal: at least 95%.
sync      seconds of the engine's sleep and of its next wake and load, and the latter against a
          copy of the same bytes on the device.
update    MFU (asymrl/engines/flops.py) of mini-batches of live rows with lognormal lengths.
          Goal: at least 45%.

On a CPU this shows that the script runs and that nothing is lost around vLLM; its ratio is no GPU
number.
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

from asymrl.algo.loss import ppo_clip
from asymrl.engines import flops, pretrained
from asymrl.engines.local import LocalPolicy
from asymrl.types import Batch, Problem, Request, Sampling

SHAPE: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}
PROMPT_TOKENS = 120
MARK = "result "
GOALS = {"rollouts": 0.95, "mfu": 0.45}


def main() -> None:
    arguments = read_arguments()
    if arguments.part:
        PARTS[arguments.part](arguments)
        return
    if not arguments.cpu and not torch.cuda.is_available():
        sys.exit("no GPU here; --cpu runs the rollouts on the pocket model")
    with TemporaryDirectory() as folder:
        arguments.model = (
            pretrained.locate(pretrained.POCKET) if arguments.cpu else write_config(Path(folder))
        )
        rollouts(arguments)
        for part in ("update",) if arguments.cpu else ("sync", "update"):
            if with_part(part, arguments).wait():
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
    parser.add_argument("--rows", type=int, default=64, help="live rows of a mini-batch")
    parser.add_argument("--token-budget", type=int, default=16_384)
    parser.add_argument("--backend", choices=("local", "deepspeed"), default="local")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cpu and not arguments.part:
        arguments.prompts, arguments.max_tokens = 32, 32
    return arguments


def with_part(part: str, arguments: argparse.Namespace, **pipes: Any) -> subprocess.Popen[str]:
    """This script again, for one part."""
    names = ("prompts", "samples", "max_tokens", "rounds", "rows", "token_budget", "backend")
    pairs = [(f"--{n.replace('_', '-')}", str(getattr(arguments, n))) for n in names]
    options = [word for pair in pairs for word in pair] + (["--cpu"] if arguments.cpu else [])
    command = [sys.executable, __file__, "--part", part, "--model", arguments.model, *options]
    return subprocess.Popen(command, text=True, **pipes)


def write_config(folder: Path) -> str:
    """A model folder without weights: both sides make random ones."""
    from transformers import Qwen3Config

    Qwen3Config(**SHAPE, architectures=["Qwen3ForCausalLM"], dtype="bfloat16").save_pretrained(
        folder
    )
    return str(folder)


def rollouts(arguments: argparse.Namespace) -> None:
    """Parent of the two sides: lets them take turns."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    sides = {name: with_part(name, arguments, **pipes) for name in ("ours", "bare")}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(arguments.rounds + 1):  # the first warms up
        for name, side in sides.items():
            tokens, seconds = ask(side, number)
            if number:
                rates[name].append(tokens / seconds)
                print(f"round {number}: {name} {rates[name][-1]:,.0f} tokens/s", flush=True)
    for side in sides.values():
        side.communicate("end\n")
    ratio = statistics.median(rates["ours"]) / statistics.median(rates["bare"])
    note = " (a check of the script on a CPU, no GPU number)" if arguments.cpu else ""
    print(f"ratio {ratio:.3f} of bare LLM.generate, goal {GOALS['rollouts']}{note}", flush=True)


def ask(side: subprocess.Popen[str], number: int) -> list[float]:
    assert side.stdin and side.stdout
    side.stdin.write(f"{number}\n")
    side.stdin.flush()
    for line in side.stdout:
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise SystemExit(f"the process ended with {side.wait()}")


def answer(run: Callable[[int], int]) -> None:
    """Child of `rollouts`: a run for each number that comes in."""
    for line in sys.stdin:
        if line.strip() == "end":
            return
        start = time.perf_counter()
        tokens = run(int(line))
        print(MARK + json.dumps([tokens, time.perf_counter() - start]), flush=True)


def prompts(arguments: argparse.Namespace) -> list[list[int]]:
    """Equal on both sides."""
    generator = torch.Generator().manual_seed(0)
    length, vocabulary = (20, 40) if arguments.cpu else (PROMPT_TOKENS, SHAPE["vocab_size"])
    return torch.randint(4, vocabulary, (arguments.prompts, length), generator=generator).tolist()


def sampling(arguments: argparse.Namespace) -> Sampling:
    return Sampling(
        temperature=1.0, top_p=1.0, top_k=0, max_tokens=arguments.max_tokens, stop_ids=()
    )


def engine_with_model(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Our engine, given the weights of a model in this process."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from asymrl.engines.distributed import World
    from asymrl.engines.vllm import VLLMEngine

    dtype, device = (torch.float32, "cpu") if arguments.cpu else (torch.bfloat16, "cuda")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(arguments.model)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    engine = VLLMEngine(
        arguments.model,
        lambda ids: "",
        world=World(),
        dtype=dtype,
        max_model_len=PROMPT_TOKENS + arguments.max_tokens,
        max_rows=arguments.prompts * arguments.samples,
        gpu_memory_utilization=0.35,
    )
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
    """vLLM's own defaults but for what changes the work: no tokenizer, log-probs of the sampled
    token as sampled from. `n` samples a prompt are one request there."""
    from vllm import LLM, SamplingParams, TokensPrompt  # pyright: ignore

    on_cpu = {"enforce_eager": True, "kv_cache_memory_bytes": 2**30, "dtype": "float32"}
    on_gpu = {"gpu_memory_utilization": 0.35, "dtype": "bfloat16"}
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
    asked = [TokensPrompt(prompt_token_ids=ids) for ids in prompts(arguments)]
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
        outputs = llm.generate(asked, params, use_tqdm=False)
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
    """Seconds until the device has done it."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def update(arguments: argparse.Namespace) -> None:
    """Updates of one mini-batch, again and again; the first warms up."""
    policy, batch = make_policy(arguments), live_batch(arguments)
    loss = partial(ppo_clip, clip_low=0.2, clip_high=0.2, entropy_bonus=0.0)
    spans = [timed(lambda: policy.update(batch, loss)) for _ in range(arguments.rounds + 1)]
    seconds = statistics.median(spans[1:])
    tokens = sum(map(len, batch.sequences))
    print(f"update, {arguments.backend}: {tokens / seconds:,.0f} tokens/s of live rows")
    found = flops.utilisation(policy.work, None, [batch], {"time/update": seconds})
    for share in found.values():
        print(f"ratio {share:.3f} of {torch.cuda.get_device_name()}'s peak, goal {GOALS['mfu']}")
    if not found:
        print("no MFU: the peak of this device is not known", flush=True)


def make_policy(arguments: argparse.Namespace) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(arguments.model)
    device = "cpu" if arguments.cpu else "cuda"
    settings: dict[str, Any] = {
        "temperature": 1.0,
        "lr": 1e-6,
        "betas": (0.9, 0.999),
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "warmup_updates": 0,
        "token_budget": arguments.token_budget,
        "bf16": not arguments.cpu,
        "gradient_checkpointing": not arguments.cpu,
    }
    if arguments.backend == "deepspeed":
        from asymrl.engines import distributed as worlds
        from asymrl.engines.deepspeed import DeepSpeedPolicy

        worlds.join(worlds.World())
        load = partial(AutoModelForCausalLM.from_config, config)
        return DeepSpeedPolicy(
            lambda dtype: load(dtype=dtype),
            world=worlds.World(),
            offload_optimizer=False,
            **settings,
        )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return LocalPolicy(model, **settings)


def live_batch(arguments: argparse.Namespace) -> Batch:
    """One response a prompt, of lognormal length with a median of 0.6 of --max-tokens."""
    generator = torch.Generator().manual_seed(0)
    rows, most = arguments.rows, arguments.max_tokens
    spread = torch.randn(rows, generator=generator).mul(0.5).exp()
    lengths = (0.6 * most * spread).clamp(1, most).long()
    count = int(lengths.sum())
    questions = prompts(arguments)
    targets = torch.randint(4, 40, (count,), generator=generator)
    parts = [part.tolist() for part in targets.split(lengths.tolist())]
    asked = [questions[n % len(questions)] for n in range(rows)]
    return Batch(
        sequences=[question + part for question, part in zip(asked, parts, strict=True)],
        prompt_lengths=torch.tensor([len(question) for question in asked]),
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
