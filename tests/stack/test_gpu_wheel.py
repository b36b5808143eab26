"""Our engine arguments in vLLM's GPU wheel, if ASYMRL_VLLM_GPU_WHEEL names one:

pip download --no-deps vllm==0.32.0     # 330 MB
ASYMRL_VLLM_GPU_WHEEL=vllm-0.32.0-....whl python -m pytest tests/stack/test_gpu_wheel.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from transformers import Qwen3Config

from asymrl.engines.distributed import World
from asymrl.engines.vllm import engine_arguments
from tests.helpers.paths import ROOT
from tests.helpers.vllm import NEEDS_VLLM, SMALL

WHEEL = os.environ.get("ASYMRL_VLLM_GPU_WHEEL")
pytestmark = [
    *NEEDS_VLLM,
    pytest.mark.skipif(not WHEEL, reason="ASYMRL_VLLM_GPU_WHEEL does not name vLLM's GPU wheel"),
]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> tuple[Path, list[str]]:
    """The wheel's files but the extension modules, and the names of these."""
    folder = tmp_path_factory.mktemp("wheel")
    with ZipFile(str(WHEEL)) as wheel:
        extensions = [name for name in wheel.namelist() if name.endswith(".so")]
        wheel.extractall(folder, {*wheel.namelist()} - {*extensions})
    return folder, [name.partition(".")[0].replace("/", ".") for name in extensions]


@pytest.mark.parametrize(("size", "tensor_parallel"), [(1, 1), (4, 1), (4, 2)])
def test_the_gpu_wheel_makes_of_our_arguments_what_we_rely_on(
    unpacked, size: int, tensor_parallel: int, tmp_path: Path
) -> None:
    folder, extensions = unpacked
    shape: dict[str, Any] = SMALL | {
        "head_dim": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    Qwen3Config(**shape, architectures=["Qwen3ForCausalLM"]).save_pretrained(tmp_path)
    arguments = engine_arguments(
        str(tmp_path),
        world=World(size=size, tensor_parallel=tensor_parallel),
        gpu=True,
        dtype=torch.bfloat16,
        max_rows=512,
        max_model_len=1024,
        revision=None,
        trust_remote_code=False,
    )
    given = json.dumps({"arguments": arguments, "extensions": extensions})
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(size)}
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "helpers" / "gpu_wheel.py", folder, given],
        env=os.environ | launched,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "runner_v2": True,
        "async": True,
        "batched_tokens": 16384,
        "executor": "external_launcher" if size > 1 else "uni",
        "tensor_parallel": tensor_parallel,
        "worker": "vllm.v1.worker.gpu_worker.Worker",
        "cumem": True,
        "dtype": "torch.bfloat16",
        "head": "torch.float32",
        "graphs": "FULL_AND_PIECEWISE",
    }
