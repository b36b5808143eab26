"""`make smoke-gpu` on a CPU: the same program with a tiny model."""

import re

import pytest
import torch

from benchmarks.smoke_gpu import main

CPU = ["--cpu", "--parts", "hf-local"]


def rows_of(output: str) -> dict[str, str]:
    """What was checked -> yes, NO, or nothing where it was only measured."""
    lines = re.findall(r"^hf-local +(\S.*?)  +\S.*?(?:  (yes|NO))?$", output, re.MULTILINE)
    return dict(lines)


@pytest.mark.slow
def test_every_check_passes_on_a_cpu(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(CPU) == 0
    output = capfd.readouterr().out
    assert output.splitlines()[-1] == "smoke-gpu: pass"
    assert rows_of(output) == {
        "model": "",
        "gradients, bf16 against fp32": "yes",
        "weight sync 1": "yes",
        "weight sync 2": "yes",
        "3 training steps": "yes",
        "log-probs of engine and policy": "yes",
        "rollouts": "",
        "update": "",
        "checked sync in a step": "",
        "checkpoint, saved and loaded": "yes",
    }


@pytest.mark.slow
def test_a_wrong_weight_in_the_engine_fails_its_check_and_no_other(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main([*CPU, "--wrong-weight"]) == 1
    output = capfd.readouterr().out
    last = output.splitlines()[-1]
    assert last.startswith("smoke-gpu: FAILED: hf-local: weight sync 1: weight sync failed: model.")
    assert [check for check, ok in rows_of(output).items() if ok == "NO"] == ["weight sync 1"]


def test_a_part_that_does_not_end_fails_by_name(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*CPU, "--seconds", "0.2"]) == 1
    last = capfd.readouterr().out.splitlines()[-1]
    assert last == "smoke-gpu: FAILED: hf-local: start: was still running after 0.2 s"


def test_without_a_gpu_it_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error: torch finds no GPU")


def test_a_part_without_its_libraries_is_skipped_and_alone_is_no_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.smoke_gpu.find_spec", lambda name: name != "vllm" or None)
    assert main(["--cpu", "--parts", "stack"]) == 2
    assert capsys.readouterr().out == "stack was skipped: this Python does not have vllm\n"
