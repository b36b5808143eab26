"""Runs a training over and over in one folder, and kills it at random points, until it is through.

Not a test by itself: test_killed.py starts it. It imports all that training needs once, and forks a
process a start, so that most of a start's time is the run itself.

    python -m tests.helpers.killed KILLS SEED FOLDER train.py's arguments
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
    """The process that trains."""
    process = os.fork()
    if process:
        return process
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(train.main(arguments))


def kill(process: int, random_: random.Random, longest: float, folder: Path) -> int | None:
    """Kill it at a random time, or a moment after it began a checkpoint, if it lives that long;
    its exit code if it did not. One kill in four asks politely."""
    number = signal.SIGTERM if random_.random() < 0.25 else signal.SIGKILL
    saving = random_.random() < 0.5
    began, wait = time.monotonic(), random_.uniform(0, longest)
    while not os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        half = any(folder.glob("checkpoints/.step-*.tmp"))
        if time.monotonic() - began > wait and (half or not saving):
            time.sleep(random_.uniform(0, 0.02) if half else 0)
            os.kill(process, number)
            break
        time.sleep(0.0005)
    status = os.waitpid(process, 0)[1]
    return os.waitstatus_to_exitcode(status)


def check(folder: Path) -> None:
    """What a kill leaves: at most one step logged that no checkpoint has, and every one whole."""
    latest = checkpoint.latest(folder)
    saved = 0
    if latest:
        checkpoint.check_digests(latest)
        saved = checkpoint.load_position(latest)[0].step
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
