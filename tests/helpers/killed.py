"""Starts a training in one folder again and again, and kills it at random, until it has finished.

A program that test_killed.py starts. It imports everything that training needs once and forks a
process for each start, so that most of the time of a start is the run itself.

    python -m tests.helpers.killed KILLS SEED FOLDER [arguments of train.py ...]
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM  # noqa: F401

import train
from asymrl.engines import (  # noqa: F401
    hf,
    local,
    pretrained,
)
from asymrl.run import checkpoint
from asymrl.run.exit_codes import UNFINISHED
from tests.helpers.first_letter import registered

ENDS = (0, UNFINISHED, -signal.SIGKILL, -signal.SIGTERM)


def start(arguments: list[str], log: Path) -> int:
    """Fork a process that trains; its id."""
    process = os.fork()
    if process:
        return process
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(train.main(arguments))


def kill(process: int, random_: random.Random, longest: float, folder: Path) -> int | None:
    """Kill the process at a random time, half of the time during a save; its exit code, which is 0
    if it finished first. One signal in four is SIGTERM, the others SIGKILL."""
    number = signal.SIGTERM if random_.random() < 0.25 else signal.SIGKILL
    saving = random_.random() < 0.5
    began, wait = time.monotonic(), random_.uniform(0, longest)
    while not os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        unfinished = any(folder.glob("checkpoints/.step-*.tmp"))
        if time.monotonic() - began > wait and (unfinished or not saving):
            time.sleep(random_.uniform(0, 0.02) if unfinished else 0)
            os.kill(process, number)
            break
        time.sleep(0.0005)
    status = os.waitpid(process, 0)[1]
    return os.waitstatus_to_exitcode(status)


def check(folder: Path) -> None:
    """After a kill the last checkpoint is undamaged and at most one step is logged beyond it."""
    last = checkpoint.latest(folder)
    saved = 0
    if last:
        checkpoint.check_digests(last)
        saved = checkpoint.load_position(last).step
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("\n")]
    assert steps == list(range(len(steps))), steps
    assert not steps or steps[-1] <= saved + 1, (steps[-1], saved)


def main(kills: int, seed: int, root: Path, arguments: list[str]) -> None:
    random_ = random.Random(seed)
    whole, log = root / "whole", root / "log"
    began = time.monotonic()
    process = start([*arguments, "--output-dir", str(whole)], log)
    assert os.waitpid(process, 0)[1] == 0, log.read_text()
    longest = time.monotonic() - began
    done, runs, codes, during_save = 0, 0, {}, 0
    while done < kills:
        folder = root / f"run-{runs}"
        runs += 1
        code = None
        while code != 0:
            most = longest if done < kills else 1e9
            process = start([*arguments, "--output-dir", str(folder)], log)
            code = kill(process, random_, most, folder)
            assert code in ENDS, log.read_text()[-3000:]
            codes[code] = codes.get(code, 0) + 1
            done += code != 0
            during_save += any(folder.glob("checkpoints/.step-*.tmp"))
            check(folder)
        print(json.dumps({"folder": str(folder)}), flush=True)
    print(json.dumps({"kills": done, "runs": runs, "codes": codes, "mid_save": during_save}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with registered():
        main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
