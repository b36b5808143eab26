"""Whether this GPU machine trains as the tests on a CPU promise: at most 10 minutes, no network.

    python benchmarks/smoke_gpu.py [--parts hf-local stack]
    python benchmarks/smoke_gpu.py --cpu     the same program on a tiny model, without a GPU

Three parts, each in a process of its own, on one GPU, with random weights of a real shape:

hf-local  hf rollouts and the local policy: torch and transformers are enough
stack     vLLM rollouts and the DeepSpeed policy, as on a GPU node
fused     gradients and time of policy.liger_kernel=true against false, in fp32; not with --cpu

The first two compare bf16 gradients with fp32 ones, sync weights twice and check every tensor, take
three steps of the training loop, save a checkpoint and load it again, and measure memory, speed
and the difference between the log-probs of engine and policy (smoke_parts.py).

The last line is `smoke-gpu: pass` or `smoke-gpu: FAILED: ...`, the exit code 0 or 1; 2 if nothing
can run here. A part that hangs, crashes or is out of memory fails, and the other one still runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("transformers", "safetensors", "numpy", "pydantic", "omegaconf", "yaml", "rich")
LIBRARIES += ("jaxtyping", "filelock", "tabulate")
PARTS = {"hf-local": LIBRARIES, "stack": (*LIBRARIES, "vllm", "deepspeed")}
PARTS["fused"] = (*LIBRARIES, "liger_kernel")
SECONDS = {"hf-local": 200, "stack": 300, "fused": 90}  # after which a part counts as hung

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    if not options.cpu and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    chosen = [part for part in options.parts if not (options.cpu and part == "fused")]
    missing = {part: [name for name in PARTS[part] if find_spec(name) is None] for part in chosen}
    rows: list[Row] = []
    for part in chosen:
        if not missing[part]:
            print(f"\n== {part}", flush=True)
            rows += [{"part": part, **row} for row in run_part(part, options)]
    if rows:
        print(table(rows))
    for part, names in missing.items():
        if names:
            print(f"{part} was skipped: this Python does not have {', '.join(names)}", flush=True)
    if not rows:
        return 2
    failed = [
        f"{row['part']}: {row['check']}: {row['measured']}" for row in rows if row["ok"] is False
    ]
    print(f"smoke-gpu: FAILED: {'; '.join(failed)}" if failed else "smoke-gpu: pass", flush=True)
    return 1 if failed else 0


NO_GPU = (
    "error: torch finds no GPU that it can use on this machine; --cpu runs the same program on a "
    "tiny model"
)


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="a tiny model, without a GPU")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--seconds", type=float, help="of a part, after which it counts as hung")
    parser.add_argument(
        "--wrong-weight",
        action="store_true",
        help="send one in the first sync: the check must fail",
    )
    return parser.parse_args(arguments)


def run_part(part: str, options: argparse.Namespace) -> list[Row]:
    """The rows of a part, run in a process of its own; if it does not end well, one more row."""
    seconds = options.seconds or SECONDS[part]
    with TemporaryDirectory(prefix="smoke-gpu-") as folder:
        command = [sys.executable, str(ROOT / "benchmarks" / "smoke_parts.py"), part, folder]
        command += ["--cpu"] * options.cpu + ["--wrong-weight"] * options.wrong_weight
        settings = environment(options.cpu)
        process = subprocess.Popen(command, env=settings, start_new_session=True)
        try:
            code = process.wait(seconds)
            problem = f"ended with exit code {code}; see its error above" if code else None
        except subprocess.TimeoutExpired:
            problem = f"was still running after {seconds:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        rows, last = read_rows(Path(folder) / "rows.jsonl")
    if problem is None and last["check"] not in [row["check"] for row in rows]:
        problem = "the process ended in it"
    return rows if problem is None else [*rows, last | {"measured": problem, "ok": False}]


def environment(cpu: bool) -> dict[str, str]:
    """This process's, without a network for transformers, and with the root on Python's path."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
    no_gpu = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"} if cpu else {}
    return os.environ | settings | no_gpu


def read_rows(file: Path) -> tuple[list[Row], Row]:
    """The checks of a part that have ended, and the one that began last."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    begun = [{"check": "start", "expected": ""}, *(row for row in rows if "measured" not in row)]
    return [row for row in rows if "measured" in row], begun[-1]


def table(rows: Sequence[Row]) -> str:
    """The rows as text. A check that only measures has neither yes nor no."""
    header = ("part", "checked", "measured", "expected or estimated", "ok")
    marks = {True: "yes", False: "NO", None: ""}
    keys = ("part", "check", "measured", "expected")
    cells = [[*(row[key] for key in keys), marks[row["ok"]]] for row in rows]
    lines = [header, *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    texts = ["  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(["", *(text.rstrip() for text in texts), ""])


if __name__ == "__main__":
    sys.exit(main())
