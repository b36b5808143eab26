"""eval.py as users run it: killed and resumed, and on two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

BIN = Path(sys.executable).parent
FILES = ("some.jsonl", "settings.json", "summary.json")


@pytest.fixture(scope="module")
def command(model_folder: Path, tmp_path_factory) -> list[str]:
    """An evaluation of 60 problems, saved after every 2."""
    folder = tmp_path_factory.mktemp("data")
    rows = ({"id": str(n), "problem": f"What is {n}?", "answer": str(n)} for n in range(60))
    (folder / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--ckpt", str(model_folder), "--data-dir", str(folder), "--benchmarks", "some"]
    return ["eval.py", *arguments, "--avg-at", "4", "--max-tokens", "24", "--chunk", "8"]


def start(*arguments: str) -> subprocess.Popen[str]:
    """A process in this environment, without the variables of an outer launcher."""
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment["OMP_NUM_THREADS"] = "1"
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    out = subprocess.PIPE
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=200)
    assert (process.returncode == 0) == (code == 0), output[-6000:]
    return output


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finish(start(sys.executable, *command, "--output", str(folder)))
    assert (folder / "some.jsonl").read_bytes().count(b"\n") == 240
    return folder


def test_a_killed_and_resumed_evaluation_writes_the_same_bytes(command, whole, tmp_path) -> None:
    process = start(sys.executable, *command, "--output", str(tmp_path))
    file, deadline = tmp_path / "some.jsonl", time.monotonic() + 120
    while not (file.exists() and file.read_bytes().count(b"\n") >= 24):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    saved = file.read_bytes().count(b"\n")
    assert saved < 240 and not (tmp_path / "summary.json").exists()
    output = finish(start(sys.executable, *command, "--output", str(tmp_path)))
    assert "of 240 responses are there already" in output
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_two_processes_give_the_numbers_of_one(command, whole, tmp_path) -> None:
    launch = ["torchrun", "--nproc-per-node", "2"]
    output = finish(start(*launch, *command, "--output", str(tmp_path)))
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
    assert output.count("every sample, and summary.json") == 1  # only rank 0 prints
    output = finish(start(*launch, *command, "--output", str(tmp_path), "--seed", "1"), code=2)
    assert output.count("differ in seed (0 there, 1 here)") == 1
