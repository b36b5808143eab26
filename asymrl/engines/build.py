"""Chooses the rollout engine and the policy for a machine, and builds them.

Replaces `auto` in a config with an engine and a backend, and explains the choice in words. Imports
a framework only once it is chosen.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from asymrl.config.schema import Config, ModelConfig, PolicyConfig
from asymrl.engines import lora, memory, pretrained
from asymrl.engines.distributed import World
from asymrl.engines.gpus import missing_for_triton
from asymrl.engines.policy import Policy
from asymrl.engines.rollout import RolloutEngine, check_weights_arrived
from asymrl.errors import UserError
from asymrl.types import frozen


@frozen
class Machine:
    """What the choice depends on: launched processes on how many nodes, GPUs visible to one process
    and the GiB of each, whether vLLM, DeepSpeed and Liger are installed, and what Triton lacks to
    run on the GPUs."""

    processes: int
    nodes: int = 1
    gpus: int
    gib: float = 0.0
    vllm: bool
    deepspeed: bool
    liger: bool = False
    missing_for_triton: str | None = None

    @property
    def local_processes(self) -> int:
        return self.processes // self.nodes


def detect_machine(world: World) -> Machine:
    gpus, gib = memory.cards()
    return Machine(
        processes=world.size,
        nodes=world.nodes,
        gpus=gpus,
        gib=gib,
        vllm=find_spec("vllm") is not None,
        deepspeed=find_spec("deepspeed") is not None,
        liger=find_spec("liger_kernel") is not None,
        missing_for_triton=missing_for_triton() if gpus else None,
    )


def describe_processes(machine: Machine) -> str:
    """Processes against GPUs, and how to use GPUs that stay idle; empty without a GPU."""
    if not machine.gpus:
        return ""
    here, idle = machine.local_processes, machine.gpus - machine.local_processes
    nodes = f" on {machine.nodes} nodes, {here} on this one" if machine.nodes > 1 else ""
    counts = f"; processes: {machine.processes}{nodes}, GPUs: {machine.gpus}"
    if not idle:
        return counts
    return (
        f"{counts}, of which {idle} stay idle: accelerate launch --num_processes "
        f"{machine.gpus * machine.nodes} uses all (`accelerate env` shows a default config that "
        "may have set another number)"
    )


def choose(config: Config, machine: Machine) -> tuple[Config, str]:
    """The config with `auto` replaced by an engine and a backend, and the reasons as one line.

    UserError if this machine, or this number of processes, cannot run what the config asks for.
    """
    engine, engine_why = choose_engine(config.rollout.engine, machine)
    backend, backend_why = choose_backend(config.policy.backend, machine)
    if engine == "hf" and config.rollout.tensor_parallel > 1:
        raise UserError("rollout.tensor_parallel > 1 requires rollout.engine=vllm (got hf)")
    if backend == "local" and config.policy.offload_optimizer:
        raise UserError(
            "policy.offload_optimizer=true requires policy.backend=deepspeed (got local)"
        )
    if config.policy.liger_kernel and not (machine.gpus and machine.liger):
        lacks = (
            "a GPU, and this machine has none" if not machine.gpus else "the package liger-kernel"
        )
        raise UserError(f"policy.liger_kernel=true requires {lacks}")
    rollout = config.rollout.model_copy(update={"engine": engine})
    offload = machine.gpus > 0 and offloads_during_rollouts(config, machine)
    policy = config.policy.model_copy(
        update={"backend": backend, "offload_during_rollouts": offload}
    )
    return (
        config.model_copy(update={"rollout": rollout, "policy": policy}),
        f"rollouts: {engine} ({engine_why}); policy: {backend} ({backend_why})"
        + ("" if backend == "local" else describe_optimizer(policy, machine))
        + ("" if backend == "local" else describe_processes(machine)),
    )


def offloads_during_rollouts(config: Config, machine: Machine) -> bool:
    """policy.offload_during_rollouts; for `auto`, by the memory estimate for this machine's GPUs,
    and True if that lacks the model's shape."""
    if config.model.shape is None and config.policy.offload_during_rollouts == "auto":
        return True
    return memory.offloads_during_rollouts(config, machine.processes, machine.gib, machine.nodes)


def describe_optimizer(policy: PolicyConfig, machine: Machine) -> str:
    """Where the optimizer is during rollouts; empty without a GPU."""
    if not machine.gpus:
        return ""
    if policy.offload_optimizer:
        return ", optimizer on the CPU"
    where = "in host memory" if policy.offload_during_rollouts else "on the GPU"
    return f", optimizer {where} during rollouts"


def choose_engine(
    engine: str, machine: Machine, setting: str = "rollout.engine ="
) -> tuple[str, str]:
    """hf or vllm, and why. setting: how the user selects the engine, for error messages."""
    if machine.gpus and machine.local_processes > machine.gpus:
        on_node = f" of this node, one of {machine.nodes}" if machine.nodes > 1 else ""
        raise UserError(
            f"{machine.local_processes} processes were launched on {machine.gpus} GPUs{on_node}, "
            "and each process needs its own GPU: use --num_processes "
            f"{machine.gpus * machine.nodes} or fewer"
        )
    match engine:
        case "auto" | "vllm" if machine.vllm and machine.missing_for_triton:
            raise UserError(
                "vLLM compiles kernels when it runs on a GPU, but this machine does not have "
                f"{machine.missing_for_triton}: install it (Debian and Ubuntu: build-essential and "
                f"python3-dev), or use {setting} hf"
            )
        case "auto" if machine.gpus and machine.vllm:
            return "vllm", "this machine has a GPU and vLLM is installed"
        case "auto" if machine.gpus:
            return "hf", "vLLM is not installed; `make setup` installs it"
        case "auto":
            return "hf", "no GPU; on a CPU a step takes longer with vLLM"
        case "vllm" if not machine.vllm:
            raise UserError(
                f"{setting} vllm, but vLLM is not installed: `make setup` installs it on a "
                "GPU machine, `make stack` installs its CPU build on Linux x86-64"
            )
        case _:
            return engine, "as configured"


def choose_backend(backend: str, machine: Machine) -> tuple[str, str]:
    """local or deepspeed, and why."""
    if backend == "local" and machine.processes > 1:
        raise UserError(
            f"policy.backend = local trains in one process, but {machine.processes} processes were "
            "launched: launch with --num_processes 1, or set policy.backend=deepspeed"
        )
    if (backend == "deepspeed" or machine.processes > 1) and not machine.deepspeed:
        what = (
            "policy.backend=deepspeed"
            if backend == "deepspeed"
            else f"training on {machine.processes} processes"
        )
        raise UserError(
            f"{what} requires DeepSpeed, which is not installed: `make setup` installs it on a GPU "
            "machine, `make stack` elsewhere"
        )
    match backend:
        case "auto" if machine.processes > 1:
            return "deepspeed", f"{machine.processes} processes share it"
        case "auto" if machine.gpus and machine.deepspeed:
            return "deepspeed", "it can move the optimizer off the GPU during rollouts"
        case "auto" if machine.gpus:
            return "local", "DeepSpeed is not installed; `make setup` installs it"
        case "auto":
            return "local", "one process and no GPU"
        case _:
            return backend, "as configured"


@frozen
class VLLMSettings:
    """The settings of an engine that only vLLM has.

    max_model_len: tokens of a prompt with its response. gpu_memory_utilization: share of the GPU's
    memory. enforce_eager: no CUDA graphs. per_sample_seeds: seed each sample by itself;
    None: on GPUs.
    """

    max_model_len: int
    gpu_memory_utilization: float
    enforce_eager: bool = False
    per_sample_seeds: bool | None = None


def build_engine(
    name: str,
    model: ModelConfig,
    tokenizer: Any,
    *,
    world: World,
    dtype: torch.dtype,
    max_rows: int,
    vllm: VLLMSettings,
) -> RolloutEngine:
    """The rollout engine `hf` or `vllm`. hf starts with the model's weights, vLLM without any.

    max_rows: sequences sampled at a time. world, vllm: not used by hf.
    """
    match name:
        case "hf":
            from asymrl.engines.hf import HFEngine

            return HFEngine(pretrained.load_model(model, dtype), tokenizer.decode, max_rows)
        case "vllm":
            from asymrl.engines.vllm import VLLMEngine, open_llm

            llm = open_llm(
                pretrained.locate(model.path),
                world=world,
                dtype=dtype,
                max_rows=max_rows,
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                max_model_len=vllm.max_model_len,
                gpu_memory_utilization=vllm.gpu_memory_utilization,
                enforce_eager=vllm.enforce_eager,
            )
            return VLLMEngine(llm, tokenizer.decode, per_sample_seeds=vllm.per_sample_seeds)
        case _:
            raise AssertionError(f"unknown rollout engine {name!r}")


def load_pretrained_weights(engine: RolloutEngine, model: ModelConfig) -> None:
    """Load the model's own weights into an engine that started without any, and check them, one
    tensor at a time on the GPU if there is one, because sums over billions of weights are slow."""
    weights = pretrained.load_model(model, engine.weight_dtype, device="cpu")
    engine.load_weights((name, tensor.detach()) for name, tensor in weights.named_parameters())
    device = pretrained.default_device()
    named = ((name, tensor.detach().to(device)) for name, tensor in weights.named_parameters())
    check_weights_arrived(engine, named)


def load_trainable(
    config: Config, dtype: torch.dtype, adapter_dtype: torch.dtype | None = None
) -> Any:
    """The config's model in `dtype`; with policy.lora frozen, with adapters in adapter_dtype, by
    default the same."""
    model = pretrained.load_model(config.model, dtype)
    if config.policy.lora is None:
        return model
    return lora.add_adapters(
        model,
        config.policy.lora,
        seed=config.seed,
        dtype=adapter_dtype or dtype,
        revision=config.model.revision,
    )


def model_to_share(engine: RolloutEngine, config: Config) -> Any:
    """The engine's model, if the policy can train it in place, so that a run holds the weights
    once; None if each needs its own."""
    from asymrl.engines.hf import HFEngine

    shares = config.policy.backend == "local" and memory.can_share_weights(config.policy)
    return engine.model if shares and isinstance(engine, HFEngine) else None


def build_policy(config: Config, world: World, model: Any = None) -> Policy:
    """The policy `local` or `deepspeed` with its optimizer; for a KL penalty with a reference, the
    config's model, which the frozen weights of LoRA already are.

    model: the one to train, from model_to_share; by default a new copy of the config's.
    """
    load, load_reference = partial(load_trainable, config), None
    if config.loss.kl_coef and not config.policy.lora:
        load_reference = partial(pretrained.load_model, config.model)
    temperature, optim, settings = config.rollout.temperature, config.optim, config.policy
    match settings.backend:
        case "local":
            from asymrl.engines.local import LocalPolicy

            dtype = getattr(torch, settings.dtype) if settings.lora else torch.float32
            return LocalPolicy(
                load(dtype, adapter_dtype=torch.float32) if model is None else model,
                temperature=temperature,
                optim=optim,
                settings=settings,
                reference=load_reference(torch.float32) if load_reference else None,
                total_updates=config.total_updates,
            )
        case "deepspeed":
            from asymrl.engines.deepspeed import DeepSpeedPolicy

            return DeepSpeedPolicy(
                load,
                world=world,
                temperature=temperature,
                optim=optim,
                settings=settings,
                load_reference=load_reference,
                total_updates=config.total_updates,
            )
        case backend:
            raise AssertionError(f"unknown policy backend {backend!r}")
