"""What a launch decides on machines that are not here: GPUs that do not work, and how many
processes `accelerate launch` starts. Only the counts of devices are made up."""

import subprocess
from pathlib import Path

import pytest
import torch

import eval as evaluation
import train
from asymrl.sweep import __main__ as sweep
from tests.helpers.paths import ROOT

NVIDIA_SMI = """#!/bin/sh
case "$1" in
  -L) echo "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)" ;;
  --query-gpu=driver_version) echo 550.54.15 ;;
  *) echo "| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: {cuda}     |" ;;
esac
"""


def put_nvidia_smi(folder: Path, cuda: str, monkeypatch) -> None:
    """A program of that name on the path, of a driver that runs this CUDA."""
    program = folder / "nvidia-smi"
    program.write_text(NVIDIA_SMI.format(cuda=cuda))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def set_gpus(monkeypatch, count: int, usable: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable and count > 0)


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (train.main, ["--config", "pocket"]),
        (train.main, ["--config", "qwen3_4b", "--dry-run"]),
        (evaluation.main, ["--ckpt", "org/model"]),
        (sweep.main, ["pocket"]),
    ],
)
def test_gpus_that_cuda_cannot_use_are_one_sentence(
    main, arguments, monkeypatch, tmp_path: Path, capsys
) -> None:
    set_gpus(monkeypatch, 4, usable=False)
    put_nvidia_smi(tmp_path, "12.4", monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: CUDA cannot use the GPUs of this machine (4 found): ")
    assert "driver is 550.54.15, torch" in error and "is built for CUDA 13.0 (" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("cuda", "works"), [("12.4", False), ("13.0", True), ("14.1", True)])
def test_make_setup_names_a_driver_that_is_too_old(
    cuda: str, works: bool, monkeypatch, tmp_path: Path
) -> None:
    put_nvidia_smi(tmp_path, cuda, monkeypatch)
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    command = ["make", f"VENV={tmp_path}/venv", "PYTHON=true", "setup"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "venv").exists()  # PYTHON=true makes none
    assert ("the NVIDIA driver runs CUDA 12, but" in done.stderr) is not works
    assert ("NVIDIA GPU: vLLM and CUDA torch" in done.stdout) is works
