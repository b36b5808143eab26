"""eval.py as users run it: killed and resumed, and on two processes."""

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.eval_processes import command, finish, start

__all__ = ["command"]
FILES = ("some.jsonl", "settings.json", "summary.json")


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
    assert "of 240 responses exist already" in output
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
