"""eval.py with vLLM, as users run it."""

import sys
from pathlib import Path

import pytest

from tests.helpers.eval_processes import command, finish, start
from tests.helpers.vllm import NEEDS_VLLM

__all__ = ["command"]

pytestmark = [*NEEDS_VLLM, pytest.mark.timeout(600)]


def test_vllm_and_hf_give_the_same_greedy_responses(command, tmp_path: Path) -> None:
    greedy = [sys.executable, *command, "--temperature", "0", "--limit", "20"]
    for engine in ("hf", "vllm"):
        output = finish(start(*greedy, "--engine", engine, "--output", str(tmp_path / engine)))
        assert f"samples: {engine} (as configured)" in output
    ours, theirs = ((tmp_path / engine / "some.jsonl").read_bytes() for engine in ("vllm", "hf"))
    assert ours == theirs and ours.count(b"\n") == 80


def test_a_resumed_vllm_evaluation_gives_the_same_samples(command, tmp_path: Path) -> None:
    """The engine is seeded for each chunk, so a chunk does not depend on earlier ones."""
    evaluate = [sys.executable, *command, "--limit", "20", "--engine", "vllm"]
    file = tmp_path / "some.jsonl"
    finish(start(*evaluate, "--output", str(tmp_path)))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    output = finish(start(*evaluate, "--output", str(tmp_path)))
    assert "of 80 responses exist already" in output
    assert file.read_bytes() == whole
