"""Times saving and loading a checkpoint on ZeRO-3 ranks, beside DeepSpeed's own and a plain write.

Random weights at the shape of Qwen3-0.6B, in bf16 with fp32 master weights and moments. Ours also
writes the Hugging Face folder and the digests of all files, and flushes everything to disk;
DeepSpeed's does not. The plain write is one file a rank, together as large as our files, and
flushed. Each rank reports by how much its memory grew at the peak, pages of mapped files included.

    torchrun --nproc-per-node 2 benchmarks/checkpoint.py [--layers 28] [--folder runs/bench]
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import subject
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from asymrl.config.load import load_config
from asymrl.engines.deepspeed import DeepSpeedPolicy
from asymrl.engines.distributed import World, from_environment, join
from asymrl.run import checkpoint
from asymrl.types import Position, Sampling

GIB = 2**30
SHAPE = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}


def memory(field: str) -> int:
    """Bytes of this process, from /proc: VmRSS now, VmHWM at the peak since reset_peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field} in /proc/self/status")


def measured(world: World, action: Callable[[], object]) -> tuple[float, list[float]]:
    """Seconds of the slowest rank, and by rank the GiB by which its memory grew at the peak."""
    world.gather(None)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = memory("VmRSS"), time.monotonic()
    action()
    seconds = time.monotonic() - start
    ranks = world.gather((seconds, (memory("VmHWM") - before) / GIB))
    return max(seconds for seconds, _ in ranks), [grown for _, grown in ranks]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench/checkpoint"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    world = from_environment()
    join(world)
    config = load_config("pocket_asym", ["policy.dtype=bfloat16"])
    shape = Qwen3Config(**SHAPE, num_hidden_layers=arguments.layers)

    def load(dtype: torch.dtype) -> Qwen3ForCausalLM:
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        model = Qwen3ForCausalLM(shape)
        torch.set_default_dtype(torch.float32)
        return model

    policy = DeepSpeedPolicy(
        load, world=world, temperature=1.0, optim=config.optim, settings=config.policy
    )
    run, theirs = arguments.folder / "ours", arguments.folder / "deepspeed"
    if world.first:
        shutil.rmtree(arguments.folder, ignore_errors=True)
        run.mkdir(parents=True)
    tokenizer = subject.make_tokenizer(64)
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=16, stop_ids=(0,))
    definitions = checkpoint.build_definitions(config, sampling, tokenizer)
    policy.sleep()

    def save() -> None:
        checkpoint.save_checkpoint(
            config, run, policy, tokenizer, definitions, "", world, Position(step=1)
        )

    def resume() -> None:
        folder = checkpoint.latest(run)
        assert folder
        checkpoint.check_digests(folder, world)
        policy.load_state(checkpoint.load_checkpoint(folder)[1])

    def plain_write() -> None:
        size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) // world.size
        block = bytes(2**24)
        with (arguments.folder / f"plain-{world.rank}").open("wb") as file:
            for _ in range(size // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())

    rows = [
        ("save", *measured(world, save)),
        ("plain write", *measured(world, plain_write)),
        ("save, DeepSpeed", *measured(world, lambda: policy.engine.save_checkpoint(theirs))),
        ("load", *measured(world, resume)),
        ("load, DeepSpeed", *measured(world, lambda: policy.engine.load_checkpoint(theirs))),
    ]
    if world.first:
        parameters = sum(p.ds_numel for p in policy.named_parameters.values())
        print(f"{parameters:,} parameters on {world.size} ranks")
        for name, seconds, grown in rows:
            by_rank = ", ".join(f"{gib:.2f}" for gib in grown)
            print(f"{name:<16} {seconds:6.1f} s   memory of each rank + {by_rank} GiB")
        for file in sorted(run.glob("checkpoints/latest/trainer/*")):
            print(f"{file.name}: {file.stat().st_size / GIB:.2f} GiB")
        times = {name: seconds for name, seconds, _ in rows}
        for name, other in (
            ("save", "plain write"),
            ("save", "save, DeepSpeed"),
            ("load", "load, DeepSpeed"),
        ):
            print(f"ratio {times[name] / times[other]:.2f} ({name} / {other})")
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
