"""The GPUs of this machine: how many CUDA can use, and what their kernels need at run time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import torch

from asymrl.errors import UserError, one_line


def count_gpus() -> int:
    """GPUs that this process can use; torch.cuda.is_available() then says whether there are any.

    UserError for GPUs that CUDA cannot use: torch counts them with NVML, which works with a driver
    that is too old for CUDA.
    """
    count = torch.cuda.device_count()
    if count and not torch.cuda.is_available():
        raise UserError(
            f"CUDA cannot use the GPUs of this machine ({count} found): the NVIDIA driver is "
            f"{driver_version()}, torch {torch.__version__} is built for CUDA {torch.version.cuda} "
            f"({reason_unusable()}); update the driver, or hide the GPUs with CUDA_VISIBLE_DEVICES="
        )
    return count


def driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return "of unknown version"
    return done.stdout.partition("\n")[0].strip()


def reason_unusable() -> str:
    """What CUDA says when it starts."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return one_line(error)
    return "CUDA gives no reason"


def missing_for_triton() -> str | None:
    """What this machine lacks for Triton, which compiles a C extension for each kernel at run time
    (triton/runtime/build.py): a C compiler or Python's headers. None if it has both."""
    named = os.environ.get("CC")
    if not any(map(shutil.which, [named] if named else ["gcc", "clang"])):
        return f"the C compiler CC={named}" if named else "a C compiler, gcc or clang"
    header = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h")
    return None if header.is_file() else f"Python's headers, {header}"
