"""What a launch decides on machines that are not here: GPUs that do not work, and how many
processes `accelerate launch` starts. Only the counts of devices are made up."""

import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands import launch
from accelerate.commands.config import config_args
from accelerate.utils.launch import prepare_multi_gpu_env

import eval as evaluation
import train
from asymrl.config.load import load_config
from asymrl.engines.build import choose, detect_machine
from asymrl.engines.distributed import from_environment
from asymrl.engines.gpus import missing_for_triton
from asymrl.engines.memory import CARD_80GB, GIB
from asymrl.errors import UserError
from asymrl.sweep import __main__ as sweep
from asymrl.types import frozen
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


def too_old() -> None:
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040)")


def set_gpus(monkeypatch, count: int, usable: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable and count > 0)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    card = SimpleNamespace(total_memory=int(CARD_80GB * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    monkeypatch.setattr(torch.version, "cuda", "13.0")


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
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: CUDA cannot use the GPUs of this machine (4 found): ")
    assert "driver is 550.54.15, torch 2.13.0+cu130 is built for CUDA 13.0 (The NVIDIA d" in error
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


@pytest.mark.parametrize("compiler", [None, "gcc", "clang"])
def test_triton_needs_a_c_compiler(compiler: str | None, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if compiler:
        (tmp_path / compiler).touch(0o755)
    assert missing_for_triton() == (None if compiler else "a C compiler, gcc or clang")
    monkeypatch.setenv("CC", "icx")
    assert missing_for_triton() == "the C compiler CC=icx"


def test_triton_needs_the_headers_of_python(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "true")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    assert missing_for_triton() == f"Python's headers, {tmp_path}/Python.h"


@frozen
class Launch:
    """`accelerate launch <flags> train.py` on a node with so many GPUs. processes: how many it
    starts there. default_config: of accelerate, made by `accelerate config`."""

    what: str
    gpus: int
    processes: int
    flags: str = ""
    usable: bool = True
    default_config: str = ""


TWO_NODES = "--num_machines 2 --machine_rank 0 --main_process_ip node0 --main_process_port 29511"
ONE_PROCESS = "{distributed_type: 'NO', num_processes: 1, num_machines: 1, mixed_precision: bf16}"
LAUNCHES = [
    Launch(what="no GPU", gpus=0, processes=1),
    Launch(what="1 GPU", gpus=1, processes=1),
    Launch(what="4 GPUs", gpus=4, processes=4),
    Launch(what="4 GPUs, driver too old", gpus=4, processes=1, usable=False),
    Launch(
        what="4 GPUs, accelerate's default config names 1 process",
        gpus=4,
        processes=1,
        default_config=ONE_PROCESS,
    ),
    Launch(what="4 GPUs", gpus=4, processes=8, flags="--num_processes 8"),
    Launch(what="2 nodes x 1 GPU", gpus=1, processes=1, flags=f"--num_processes 2 {TWO_NODES}"),
    Launch(
        what="2 nodes x 1 GPU",
        gpus=1,
        processes=1,
        flags=f"--multi_gpu --num_processes 2 {TWO_NODES}",
    ),
    Launch(what="2 nodes x 8 GPUs", gpus=8, processes=4, flags=TWO_NODES),
    Launch(what="2 nodes x 8 GPUs", gpus=8, processes=8, flags=f"--num_processes 16 {TWO_NODES}"),
]


def environment_of(flags: str, monkeypatch) -> dict[str, str]:
    """The variables that accelerate's launcher gives rank 0."""
    started = []
    for name in ("simple_launcher", "multi_gpu_launcher", "deepspeed_launcher"):
        monkeypatch.setattr(launch, name, lambda args, name=name: started.append((name, args)))
    launch.launch_command(launch.launch_command_parser().parse_args([*flags.split(), "train.py"]))
    ((name, args),) = started
    if name == "simple_launcher":
        return {}
    assert name == "multi_gpu_launcher"
    args.main_process_port = 0  # any free one: another launch may run on this machine
    prepare_multi_gpu_env(args)
    here, address = int(args.nproc_per_node), {"MASTER_ADDR": "node0", "MASTER_PORT": "29511"}
    size = here * (args.num_machines or 1)
    return address | {"RANK": "0", "WORLD_SIZE": f"{size}", "LOCAL_WORLD_SIZE": f"{here}"}


def decision(case: Launch, monkeypatch, tmp_path: Path) -> tuple[int, str]:
    """How many processes start on a node, and what train.py then prints."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "default_config.yaml"
    config.unlink(missing_ok=True)
    if case.default_config:
        config.write_text(case.default_config)
    for module in (launch, config_args):
        monkeypatch.setattr(module, "default_config_file", str(config))
    set_gpus(monkeypatch, case.gpus, case.usable)
    put_nvidia_smi(tmp_path, "12.4", monkeypatch)
    environment = environment_of(case.flags, monkeypatch)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    processes = int(environment.get("LOCAL_WORLD_SIZE", 1))
    try:
        machine = detect_machine(from_environment())
        machine = replace(machine, vllm=True, deepspeed=True, missing_for_triton=None)
        return processes, choose(load_config("qwen3_4b_asym"), machine)[1]
    except UserError as error:
        return processes, f"error: {error}"


def test_the_table_of_launch_decisions_is_what_happens(monkeypatch, tmp_path: Path) -> None:
    """In docs/nodes.md."""
    rows = []
    for case in LAUNCHES:
        processes, printed = decision(case, monkeypatch, tmp_path)
        assert processes == case.processes, case
        flags = f"`{case.flags}`" if case.flags else ""
        rows.append(f"| {case.what} | {flags} | {processes} | {printed} |")
    print(*rows, sep="\n")  # to copy
    assert "\n".join(rows) in (ROOT / "docs" / "nodes.md").read_text()


def test_vllm_on_a_gpu_without_a_compiler_is_one_sentence(monkeypatch) -> None:
    set_gpus(monkeypatch, 1)
    machine = replace(detect_machine(from_environment()), vllm=True, deepspeed=True)
    machine = replace(machine, missing_for_triton="a C compiler, gcc or clang")
    for override in ([], ["rollout.engine=vllm"]):
        with pytest.raises(UserError, match="not have a C compiler, gcc or clang: install it"):
            choose(load_config("qwen3_4b", override), machine)
    choose(load_config("qwen3_4b", ["rollout.engine=hf"]), machine)
