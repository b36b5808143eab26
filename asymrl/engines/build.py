"""Which rollout engine and which policy a run gets: by its config, and by what the machine has.

Loads neither; says what it chose and why.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch

from asymrl.config.schema import Config
from asymrl.engines.distributed import World
from asymrl.errors import UserError
from asymrl.types import frozen


@frozen
class Machine:
    """What there is: processes launched, GPUs seen by one of them, and the two packages."""

    processes: int
    gpus: int
    vllm: bool
    deepspeed: bool


def machine(world: World) -> Machine:
    return Machine(
        processes=world.size,
        gpus=torch.cuda.device_count(),
        vllm=find_spec("vllm") is not None,
        deepspeed=find_spec("deepspeed") is not None,
    )


def choose(config: Config, here: Machine) -> tuple[Config, str]:
    """The config with engine and backend filled in, and the sentence that says why.

    UserError for what this machine, or this number of processes, cannot do.
    """
    engine, engine_why = choose_engine(config.rollout.engine, here)
    backend, backend_why = choose_backend(config, here)
    if engine == "hf" and config.rollout.tensor_parallel > 1:
        raise UserError("rollout.tensor_parallel is of vllm, and rollout.engine is hf")
    if backend == "local" and config.policy.offload_optimizer:
        raise UserError("policy.offload_optimizer is of deepspeed, and policy.backend is local")
    chosen = config.model_copy(
        update={
            "rollout": config.rollout.model_copy(update={"engine": engine}),
            "policy": config.policy.model_copy(update={"backend": backend}),
        }
    )
    return chosen, f"rollouts: {engine} ({engine_why}); policy: {backend} ({backend_why})"


def choose_engine(asked: str, here: Machine, setting: str = "rollout.engine =") -> tuple[str, str]:
    """hf or vllm, and why. setting: how the user asked, for messages."""
    if here.gpus and here.processes > here.gpus:
        raise UserError(
            f"{here.processes} processes were launched on {here.gpus} GPUs; each needs its own: "
            f"--num_processes {here.gpus} at most"
        )
    match asked:
        case "auto" if here.gpus and here.vllm:
            return "vllm", "there is a GPU and vLLM is installed"
        case "auto" if here.gpus:
            return "hf", "vLLM is not installed; `make setup` installs it"
        case "auto":
            return "hf", "no GPU, and on a CPU transformers samples small models faster than vLLM"
        case "vllm" if not here.vllm:
            raise UserError(
                f"{setting} vllm, but vLLM is not installed: `make setup` installs it on a "
                "GPU machine, `make stack` its CPU build on Linux x86-64"
            )
        case _:
            return asked, "as configured"


def choose_backend(config: Config, here: Machine) -> tuple[str, str]:
    asked = config.policy.backend
    if asked == "local" and here.processes > 1:
        raise UserError(
            f"{here.processes} processes were launched, and policy.backend = local trains in one: "
            "launch with --num_processes 1, or set policy.backend=deepspeed"
        )
    if (asked == "deepspeed" or here.processes > 1) and not here.deepspeed:
        raise UserError(
            f"{'policy.backend = deepspeed' if asked == 'deepspeed' else 'several processes'} "
            "need DeepSpeed, which is not installed: `make setup` installs it on a GPU machine, "
            "`make stack` elsewhere"
        )
    match asked:
        case "auto" if here.processes > 1:
            return "deepspeed", f"{here.processes} processes share it"
        case "auto" if here.gpus and here.deepspeed:
            return "deepspeed", "on a GPU its optimizer makes room for the rollouts"
        case "auto" if here.gpus:
            return "local", "DeepSpeed is not installed; `make setup` installs it"
        case "auto":
            return "local", "one process and no GPU"
        case _:
            return asked, "as configured"
