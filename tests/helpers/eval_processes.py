"""eval.py as a process, on problems of a file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

BIN = Path(sys.executable).parent


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
