"""One part of smoke_gpu.py, which starts it: `python benchmarks/smoke_parts.py PART FOLDER`.

Writes a line to FOLDER/rows.jsonl when a check begins and when it ends. Knows nothing of timeouts
and of other parts.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import subject
import torch
from gpu import timed
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from asymrl.algo.batch import tokenise
from asymrl.config.schema import Config, ShapeConfig
from asymrl.engines import build, memory, pretrained
from asymrl.engines.distributed import World, join
from asymrl.engines.gpu_memory import PHASES
from asymrl.engines.local import LocalPolicy
from asymrl.engines.policy import SECTIONS, Policy
from asymrl.engines.rollout import RolloutEngine, check_weights_arrived, make_rollout
from asymrl.errors import UserError, one_line
from asymrl.run import checkpoint
from asymrl.run.tracking import training_metrics
from asymrl.training.algorithm import build_algorithm
from asymrl.training.rollout import build_experience
from asymrl.training.setup import run_training, training_engine, training_sampling
from asymrl.types import Batch, LossFn, Problem, TrainerState, Verdict

WORLD = World()
STEPS = 3
MISMATCH = 0.02  # nats per token, of log-probs between engine and policy
GRADIENTS = 0.1  # relative norm of the difference between bf16 and fp32
FUSED = 0.001  # between fused layers and plain ones, both in fp32
OVER = 1.1  # times the estimate that a peak may reach
# Bytes per parameter: the update; the gathered state; a checkpoint and the model
ON_CARD, ON_HOST, ON_DISK = 32, 24, 20


def shape(**sizes: int) -> ShapeConfig:
    return ShapeConfig(**{"kv_heads": 8, "head_dim": 128, "vocab": 151_936, **sizes}, tied=True)


SHAPES = {
    "Qwen3-1.7B": shape(layers=28, hidden=2048, intermediate=6144, heads=16),
    "Qwen3-0.6B": shape(layers=28, hidden=1024, intermediate=3072, heads=16),
}
TINY = shape(
    layers=2, hidden=64, intermediate=96, heads=2, kv_heads=1, head_dim=32, vocab=subject.SMALL
)
ON_GPU = {"prompts": 16, "group_size": 8, "max_tokens": 256}
ON_CPU = {"prompts": 4, "group_size": 4, "max_tokens": 12}
PROMPT_TOKENS = 64


class Report:
    """The rows of a part, in a file that outlives it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.current = {"check": "start", "expected": ""}

    def begin(self, check: str, expected: str = "") -> None:
        self.current = {"check": check, "expected": expected}
        self._write(self.current)
        print(f"-- {check}", flush=True)

    def end(self, measured: str, ok: bool | None = None) -> None:
        """The check that began last has ended. ok: None for what is measured, and not checked."""
        self._write({**self.current, "measured": measured, "ok": ok})

    def row(self, check: str, measured: str, expected: str = "", ok: bool | None = None) -> None:
        """One more row of the check that began last."""
        self._write({"check": check, "expected": expected, "measured": measured, "ok": ok})

    def _write(self, row: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--wrong-weight", action="store_true")
    options = parser.parse_args()
    report = Report(options.folder / "rows.jsonl")
    try:
        run(report, options.part, options.folder, options.cpu, options.wrong_weight)
    except (UserError, torch.OutOfMemoryError) as error:
        report.end(one_line(error), False)


def run(report: Report, part: str, folder: Path, cpu: bool, wrong_weight: bool) -> None:
    report.begin("model")
    name, sizes = ("tiny", TINY) if cpu else choose_shape(folder)
    count = memory.count_parameters(sizes)
    config = make_config(part, folder, sizes, cpu)
    make_files(config, folder)
    config, _ = build.choose(config, build.detect_machine(WORLD))
    tokenizer = pretrained.load_tokenizer(config.model)
    device = "CPU" if cpu else torch.cuda.get_device_name()
    report.end(f"{name}, {count:,} parameters, on {device}")

    if part == "fused":
        check_fused_layers(report, config, tokenizer)
        return

    report.begin("gradients, bf16 against fp32", f"relative difference at most {GRADIENTS}")
    exact = exact_gradients(config, tokenizer)
    if config.policy.backend == "deepspeed":
        join(WORLD)
    engine = training_engine(config, tokenizer, WORLD, PROMPT_TOKENS + config.rollout.max_tokens)
    policy = build.build_policy(config, WORLD)
    batch, loss = make_batch(config, tokenizer, policy)
    policy.update(batch, loss)
    off = relative_difference(policy, exact)
    report.end(f"relative difference {off:.4f}", off <= GRADIENTS)
    del exact

    for number in (1, 2):
        check_sync(report, number, policy, engine, wrong_weight and number == 1)
        policy.update(batch, loss)

    report.begin(f"{STEPS} training steps", "mixed groups, finite gradients")
    run_dir = folder / "run"
    run_training(config, run_dir, lambda step, **_: {}, engine=engine, policy=policy)
    engine.sleep()
    report_steps(report, training_metrics(run_dir))
    check_checkpoint(report, run_dir, policy, batch, loss)


def choose_shape(folder: Path) -> tuple[str, ShapeConfig]:
    """The largest shape for which GPU, host and disk have room, else the smallest."""
    disk = shutil.disk_usage(folder).free / memory.GIB
    room = {ON_CARD: memory.cards()[1], ON_HOST: memory.host_memory(), ON_DISK: disk}
    most = memory.GIB * min(gib / size for size, gib in room.items())
    fitting = [one for one in SHAPES.items() if memory.count_parameters(one[1]) <= most]
    return (fitting or [*SHAPES.items()][-1:])[0]


def make_config(part: str, folder: Path, sizes: ShapeConfig, cpu: bool) -> Config:
    """The settings of the run: nothing is evaluated, and a checkpoint is saved at its end."""
    never = 10**9
    engine, backend = ("vllm", "deepspeed") if part == "stack" else ("hf", "local")
    batches = ON_CPU if cpu else ON_GPU
    reward = Path(__file__).with_name("smoke_reward.py")
    return Config.model_validate(
        {
            "model": {"path": str(folder / "model"), "shape": sizes.model_dump()},
            "data": {
                "train": str(folder / "problems.jsonl"),
                "chat_template": "none",
                "max_prompt_tokens": PROMPT_TOKENS,
            },
            "rollout": {
                **batches,
                "engine": engine,
                "sync_check_every": 1,
                "gpu_memory_utilization": 0.35,
            },
            "verifier": {"name": f"{reward}:even"},
            "advantage": {"name": "asym", "beta_pos": 0.5, "beta_neg": 0.5},
            "optim": {
                "lr": 1e-6,
                "minibatch_prompts": batches["prompts"] // 2,
                "betas": [0.9, 0.999],
                "max_grad_norm": 1e9,
            },
            "policy": {
                "backend": backend,
                "dtype": "bfloat16",
                "gradient_checkpointing": not cpu,
                "threads": 1 if cpu else 0,
            },
            "eval": {"every": never},
            "checkpoint": {"every": never},
            "tracking": {"rollouts_every": never, "logprob_gain_every": 0},
            "warn": {"truncated_above": 1, "entropy_above": 100, "mismatch_above": MISMATCH},
            "steps": STEPS,
        }
    )


def make_files(config: Config, folder: Path) -> None:
    """A model folder with random weights, its tokenizer, and problems of random words."""
    sizes = config.model.shape
    assert sizes
    settings = Qwen3Config(
        vocab_size=sizes.vocab,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        tie_word_embeddings=sizes.tied,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=subject.STOP,
        pad_token_id=subject.PAD,
    )
    torch.manual_seed(0)
    with torch.device(pretrained.default_device()):
        model: Any = Qwen3ForCausalLM(settings)
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    subject.make_tokenizer(sizes.vocab).save_pretrained(folder / "model")
    words = torch.randint(2, sizes.vocab, (4 * config.rollout.prompts, PROMPT_TOKENS // 2)).tolist()
    rows = [{"problem": " ".join(f"w{n}" for n in row), "answer": "even"} for row in words]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "problems.jsonl").write_text(lines)


def make_batch(config: Config, tokenizer: Any, policy: Policy) -> tuple[Batch, LossFn]:
    """A mini-batch of random responses, every second one right, and the loss of the run."""
    generator = torch.Generator().manual_seed(0)
    assert config.model.shape
    vocabulary = config.model.shape.vocab
    size = (config.optim.minibatch_prompts, PROMPT_TOKENS // 2)
    prompts = torch.randint(2, vocabulary, size, generator=generator)
    problems = [
        Problem(id=str(n), prompt_ids=tuple(ids), prompt_text="", gold="", source="")
        for n, ids in enumerate(prompts.tolist())
    ]
    algorithm = build_algorithm(config, problems)
    requests = algorithm.sample_prompts(first_draw=0, step=1)[: len(problems)]
    sampling = training_sampling(config, tokenizer)
    rollouts = []
    for request in requests:
        for sample in range(request.samples):
            count = 4 + sample % (sampling.max_tokens - 3)
            ids = torch.randint(2, vocabulary, (count,), generator=generator).tolist()
            logprobs = [0.0] * count  # not used: importance sampling is off
            rollouts.append(
                make_rollout(request, sample, ids, sampling, lambda _: "", logprobs=logprobs)
            )
    verdicts = [
        Verdict(reason="wrong" if n % 2 else "correct", answer=None, seconds=0.0)
        for n in range(len(rollouts))
    ]
    tokens = tokenise(requests, rollouts)
    experience = build_experience(
        requests,
        rollouts,
        verdicts,
        tokens=tokens,
        scored=policy.score(tokens),
        truncation="score",
        algorithm=algorithm,
        schedule=algorithm.init_schedule,
    )
    token_advantages, schedule = algorithm.to_token_advantages(experience), algorithm.init_schedule
    (batch,), loss = algorithm.to_minibatches(experience, token_advantages, schedule)
    return batch, loss


def exact_gradients(config: Config, tokenizer: Any, **changed: Any) -> dict[str, Tensor]:
    """By parameter, on the CPU: the gradient of the batch, in fp32 by the local policy. changed: of
    its settings."""
    exact = {"backend": "local", "dtype": "float32", **changed}
    settings = config.policy.model_copy(update=exact)
    policy = build.build_policy(config.model_copy(update={"policy": settings}), WORLD)
    assert isinstance(policy, LocalPolicy)
    batch = make_batch(config, tokenizer, policy)
    policy.backward(*batch)
    if torch.cuda.is_available():
        print(f"{timed(lambda: policy.backward(*batch)):.2f} s for a backward pass", flush=True)
    gradients = {name: gradient.cpu() for name, gradient in gradients_of(policy)}
    del policy
    gc.collect()
    torch.cuda.empty_cache()
    return gradients


def check_fused_layers(report: Report, config: Config, tokenizer: Any) -> None:
    """The gradients with fused layers against those without, both in fp32. Fused layers come last,
    because they also change models that are built later."""
    report.begin("gradients, fused layers against plain", f"relative difference at most {FUSED}")
    plain = exact_gradients(config, tokenizer)
    fused = exact_gradients(config, tokenizer, liger_kernel=True)
    off = norm_of_difference(fused, plain)
    report.end(f"relative difference {off:.6f}", off <= FUSED)


def gradients_of(policy: Any) -> Iterator[tuple[str, Any]]:
    """The gradients of the last update or backward pass. They are not clipped: the run's
    max_grad_norm is too large for that."""
    if isinstance(policy, LocalPolicy):
        for name, parameter in policy.named_parameters.items():
            yield name, parameter.grad
        return
    from deepspeed.utils import safe_get_full_grad  # pyright: ignore

    for name, parameter in policy.named_parameters.items():
        yield name, safe_get_full_grad(parameter)


def relative_difference(policy: Any, exact: dict[str, Tensor]) -> float:
    """Of the policy's gradients, as in norm_of_difference."""
    mine = {name: gradient.cpu() for name, gradient in gradients_of(policy)}
    return norm_of_difference(mine, exact)


def norm_of_difference(mine: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Norm of the difference as a share of the norm of the exact gradients."""
    difference = math.hypot(*(float((mine[name] - exact[name]).norm()) for name in exact))
    return difference / math.hypot(*(float(gradient.norm()) for gradient in exact.values()))


def check_sync(
    report: Report, number: int, policy: Policy, engine: RolloutEngine, wrong: bool
) -> None:
    """Send the policy's weights and compare every tensor. wrong: change an entry on its way."""
    report.begin(f"weight sync {number}", "every tensor equal")
    policy.sleep()
    named = policy.named_weights()
    seconds = timed(partial(engine.load_weights, with_wrong_entry(named) if wrong else named))
    try:
        check_weights_arrived(engine, policy.named_weights())
        count = sum(1 for _ in policy.named_weights())
        report.end(f"{count} tensors equal, sent in {seconds:.2f} s", True)
    except RuntimeError as error:
        report.end(one_line(error), False)
    engine.sleep()


def with_wrong_entry(named: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in named:
        if name == "model.norm.weight":
            tensor = tensor.clone()
            tensor[0] += 0.5
        yield name, tensor


def report_steps(report: Report, rows: Sequence[Mapping[str, float]]) -> None:
    """What the metrics of the run say."""

    def median(name: str) -> float:
        return statistics.median(row[name] for row in rows[1:])  # the first step warms up

    mixed = [1 - row["groups/all_solved"] - row["groups/none_solved"] for row in rows]
    norms = [row["optim/grad_norm"] for row in rows]
    whole = len(rows) == STEPS and min(mixed) > 0 and 0 < min(norms) <= max(norms) < math.inf
    report.end(
        f"{len(rows)} steps, {min(mixed):.0%} of groups mixed, gradient norm {max(norms):.2g}",
        whole,
    )
    mismatch = max(row["rollout/logprob_mismatch_mean"] for row in rows)
    report.row(
        "log-probs of engine and policy",
        f"differ by {mismatch:.4f} nats per token",
        f"less than {MISMATCH}",
        mismatch < MISMATCH,
    )
    for phase in PHASES:
        if (name := f"perf/gpu_memory_peak/{phase}") in rows[0]:
            peak = max(row[name] for row in rows)
            estimate = rows[0][f"perf/gpu_memory_estimate/{phase}"]
            report.row(
                f"peak memory, {phase}",
                f"{peak:.1f} GiB",
                f"at most {estimate:.1f} GiB, by estimate",
                peak <= OVER * estimate,
            )
    report.row("rollouts", f"{median('perf/rollout_tokens_per_s'):,.0f} tokens/s")
    mfu = f", MFU {median('perf/update_mfu'):.1%}" if "perf/update_mfu" in rows[0] else ""
    report.row("update", f"{median('perf/update_tokens_per_s'):,.0f} response tokens/s{mfu}")
    report.row("checked sync in a step", f"{median('time/sync'):.2f} s")


def check_checkpoint(
    report: Report, run_dir: Path, policy: Policy, batch: Batch, loss: LossFn
) -> None:
    """The checkpoint of the run holds the policy's state, and restores it after another update."""
    report.begin("checkpoint, saved and loaded", "bit for bit")
    saved = checkpoint.latest(run_dir)
    assert saved
    checkpoint.check_digests(saved)
    _, (state,) = checkpoint.load_checkpoint(saved)
    as_saved = same(policy.state(), state)
    policy.update(batch, loss)
    moved = not same(policy.state(), state)
    policy.load_state([state])
    restored = same(policy.state(), state)
    holds = {"as it was": as_saved, "changed by an update": moved, "restored": restored}
    wrong = [what for what, true in holds.items() if not true]
    size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file()) / memory.GIB
    report.end(f"not {', not '.join(wrong)}" if wrong else f"equal, {size:.2g} GiB", not wrong)


def same(one: TrainerState, other: TrainerState) -> bool:
    pairs = [(getattr(one, section), getattr(other, section)) for section in SECTIONS]
    return one.updates == other.updates and all(
        torch.equal(mine[name], theirs[name]) for mine, theirs in pairs for name in mine
    )


if __name__ == "__main__":
    main()
